"""Frozen CLIP features, light classifiers on top, and an evaluation that a sceptic believes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cliplib.aid.decision_aid import DecisionAid
    from cliplib.audit import Audit, audit_dataset, find_near_duplicates
    from cliplib.cache import FeatureCache
    from cliplib.data import DATASETS, dataset_spec, load_dataset
    from cliplib.encoder import ClipEncoder
    from cliplib.evaluation import Evaluation, evaluate
    from cliplib.extract import load_features
    from cliplib.features import FeatureTable
    from cliplib.images import load_image
    from cliplib.intervals import compare, compare_all, ratio_intervals
    from cliplib.probes import KernelProbe, LinearProbe, MLPProbe
    from cliplib.retrieval import search
    from cliplib.splits import out_of_fold_proba
    from cliplib.zeroshot import zero_shot, zero_shot_weights

__version__ = "0.2.0"

_HOME = {
    "DATASETS": "data",
    "Audit": "audit",
    "ClipEncoder": "encoder",
    "DecisionAid": "aid.decision_aid",
    "Evaluation": "evaluation",
    "FeatureCache": "cache",
    "FeatureTable": "features",
    "KernelProbe": "probes",
    "LinearProbe": "probes",
    "MLPProbe": "probes",
    "audit_dataset": "audit",
    "compare": "intervals",
    "compare_all": "intervals",
    "dataset_spec": "data",
    "evaluate": "evaluation",
    "find_near_duplicates": "audit",
    "load_dataset": "data",
    "load_features": "extract",
    "load_image": "images",
    "out_of_fold_proba": "splits",
    "ratio_intervals": "intervals",
    "search": "retrieval",
    "zero_shot": "zeroshot",
    "zero_shot_weights": "zeroshot",
}

__all__ = [
    "DATASETS",
    "Audit",
    "ClipEncoder",
    "DecisionAid",
    "Evaluation",
    "FeatureCache",
    "FeatureTable",
    "KernelProbe",
    "LinearProbe",
    "MLPProbe",
    "audit_dataset",
    "compare",
    "compare_all",
    "dataset_spec",
    "evaluate",
    "find_near_duplicates",
    "load_dataset",
    "load_features",
    "load_image",
    "out_of_fold_proba",
    "ratio_intervals",
    "search",
    "zero_shot",
    "zero_shot_weights",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch alone takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'cliplib' has no attribute {name!r}")
    value = getattr(import_module(f"cliplib.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List what is offered, imported or not."""
    return sorted(__all__)
