"""Frozen CLIP features, light classifiers on top, and an evaluation that a sceptic believes."""

from cliplib.audit import audit
from cliplib.classifier import Classifier, load_probe, save_probe
from cliplib.data import DATASETS, dataset_spec, load_dataset
from cliplib.encoder import ClipEncoder
from cliplib.evaluation import Evaluation, evaluate
from cliplib.features import FeatureTable, load_features
from cliplib.images import FeatureCache, load_image
from cliplib.probes import LinearProbe, MLPProbe
from cliplib.resampling import compare, compare_all, cross_validate, ratio_intervals
from cliplib.zeroshot import search, zero_shot_proba, zero_shot_weights

__all__ = [
    "DATASETS",
    "Classifier",
    "ClipEncoder",
    "Evaluation",
    "FeatureCache",
    "FeatureTable",
    "LinearProbe",
    "MLPProbe",
    "audit",
    "compare",
    "compare_all",
    "cross_validate",
    "dataset_spec",
    "evaluate",
    "load_dataset",
    "load_features",
    "load_image",
    "load_probe",
    "ratio_intervals",
    "save_probe",
    "search",
    "zero_shot_proba",
    "zero_shot_weights",
]
