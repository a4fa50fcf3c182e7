"""Frozen CLIP features, light classifiers on top, and an evaluation for sceptics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Where each public name lives. Modules are imported when a name is asked for: torch
# alone takes seconds. Type checkers need the same list as imports, below.
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
    "VisionEncoder": "others",
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

__version__ = "0.2.0"
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from cliplib.aid.decision_aid import DecisionAid as DecisionAid
    from cliplib.audit import Audit as Audit
    from cliplib.audit import audit_dataset as audit_dataset
    from cliplib.audit import find_near_duplicates as find_near_duplicates
    from cliplib.cache import FeatureCache as FeatureCache
    from cliplib.data import DATASETS as DATASETS
    from cliplib.data import dataset_spec as dataset_spec
    from cliplib.data import load_dataset as load_dataset
    from cliplib.encoder import ClipEncoder as ClipEncoder
    from cliplib.evaluation import Evaluation as Evaluation
    from cliplib.evaluation import evaluate as evaluate
    from cliplib.extract import load_features as load_features
    from cliplib.features import FeatureTable as FeatureTable
    from cliplib.images import load_image as load_image
    from cliplib.intervals import compare as compare
    from cliplib.intervals import compare_all as compare_all
    from cliplib.intervals import ratio_intervals as ratio_intervals
    from cliplib.others import VisionEncoder as VisionEncoder
    from cliplib.probes import KernelProbe as KernelProbe
    from cliplib.probes import LinearProbe as LinearProbe
    from cliplib.probes import MLPProbe as MLPProbe
    from cliplib.retrieval import search as search
    from cliplib.splits import out_of_fold_proba as out_of_fold_proba
    from cliplib.zeroshot import zero_shot as zero_shot
    from cliplib.zeroshot import zero_shot_weights as zero_shot_weights


def __getattr__(name: str) -> Any:
    """Import the module of a public name, and keep the name."""
    if name not in _HOME:
        raise AttributeError(f"module 'cliplib' has no attribute {name!r}")
    value = getattr(import_module(f"cliplib.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List what is offered, imported or not."""
    return __all__
