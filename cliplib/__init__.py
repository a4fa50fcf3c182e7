"""Frozen CLIP features, light classifiers on top, and an evaluation for sceptics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Where each public name lives. Modules are imported when a name is asked for: torch
# alone takes seconds. Type checkers need the same list as imports, below.
_HOME = {
    "DATASETS": "images.data",
    "Audit": "tables.audit",
    "ClipEncoder": "encode.clip",
    "DecisionAid": "app.decision_aid",
    "Evaluation": "judge.evaluation",
    "FeatureCache": "images.cache",
    "FeatureTable": "tables.features",
    "KernelProbe": "probes.kernel",
    "LinearProbe": "probes.linear",
    "MLPProbe": "probes.mlp",
    "VisionEncoder": "encode.vision",
    "audit_dataset": "tables.audit",
    "compare": "judge.intervals",
    "compare_all": "judge.intervals",
    "dataset_spec": "images.data",
    "evaluate": "judge.evaluation",
    "find_near_duplicates": "tables.audit",
    "load_dataset": "images.data",
    "load_features": "tables.extract",
    "load_image": "images.image",
    "out_of_fold_proba": "tables.splits",
    "ratio_intervals": "judge.intervals",
    "search": "tools.search",
    "zero_shot": "tools.words",
    "zero_shot_weights": "tools.words",
}

__version__ = "0.2.0"
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from cliplib.app.decision_aid import DecisionAid as DecisionAid
    from cliplib.encode.clip import ClipEncoder as ClipEncoder
    from cliplib.encode.vision import VisionEncoder as VisionEncoder
    from cliplib.images.cache import FeatureCache as FeatureCache
    from cliplib.images.data import DATASETS as DATASETS
    from cliplib.images.data import dataset_spec as dataset_spec
    from cliplib.images.data import load_dataset as load_dataset
    from cliplib.images.image import load_image as load_image
    from cliplib.judge.evaluation import Evaluation as Evaluation
    from cliplib.judge.evaluation import evaluate as evaluate
    from cliplib.judge.intervals import compare as compare
    from cliplib.judge.intervals import compare_all as compare_all
    from cliplib.judge.intervals import ratio_intervals as ratio_intervals
    from cliplib.probes.kernel import KernelProbe as KernelProbe
    from cliplib.probes.linear import LinearProbe as LinearProbe
    from cliplib.probes.mlp import MLPProbe as MLPProbe
    from cliplib.tables.audit import Audit as Audit
    from cliplib.tables.audit import audit_dataset as audit_dataset
    from cliplib.tables.audit import find_near_duplicates as find_near_duplicates
    from cliplib.tables.extract import load_features as load_features
    from cliplib.tables.features import FeatureTable as FeatureTable
    from cliplib.tables.splits import out_of_fold_proba as out_of_fold_proba
    from cliplib.tools.search import search as search
    from cliplib.tools.words import zero_shot as zero_shot
    from cliplib.tools.words import zero_shot_weights as zero_shot_weights


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
