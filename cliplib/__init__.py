"""cliplib: frozen CLIP features, light classifiers on top, and an evaluation that a sceptic believes.

>>> from cliplib import ClipEncoder, LinearProbe, evaluate, load_features
>>> encoder = ClipEncoder.from_pretrained()  # or a hub id, or a folder
>>> table = load_features("trashnet", encoder)
>>> train, test = table.split("train"), table.split("test")
>>> probe = LinearProbe().fit(train.features, train.labels, groups=train.groups)
>>> evaluate(test.labels, probe.predict_proba(test.features), table.classes, groups=test.groups).metrics
"""

from cliplib import figures, zeroshot
from cliplib.audit import Audit, audit
from cliplib.data import DATASETS, DatasetSpec, HubSource, dataset_fingerprint, dataset_spec, decode, load_dataset
from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError, ImageError
from cliplib.evaluation import Evaluation, evaluate, evaluate_repeats, summary
from cliplib.evaluation.calibration import (
    TemperatureScaling,
    brier_score,
    expected_calibration_error,
    reliability_curve,
)
from cliplib.evaluation.comparison import Comparison, compare, compare_all
from cliplib.evaluation.crossval import cross_validate_probe, repeated_group_folds
from cliplib.evaluation.triage import at_threshold, operating_point, risk_coverage, roc_points
from cliplib.packs import load_features, load_pack, save_pack
from cliplib.probes import LinearProbe, MLPProbe, load_probe, save_probe, validation_split
from cliplib.store import FeatureStore
from cliplib.table import FeatureTable, stratified_subset
from cliplib.zeroshot import caption, recall_at_k, search, zero_shot_logits, zero_shot_proba, zero_shot_weights

__all__ = [
    "DATASETS",
    "Audit",
    "ClipEncoder",
    "CliplibError",
    "Comparison",
    "DatasetSpec",
    "Evaluation",
    "FeatureStore",
    "FeatureTable",
    "HubSource",
    "ImageError",
    "LinearProbe",
    "MLPProbe",
    "TemperatureScaling",
    "at_threshold",
    "audit",
    "brier_score",
    "caption",
    "compare",
    "compare_all",
    "cross_validate_probe",
    "dataset_fingerprint",
    "dataset_spec",
    "decode",
    "evaluate",
    "evaluate_repeats",
    "expected_calibration_error",
    "figures",
    "load_dataset",
    "load_features",
    "load_pack",
    "load_probe",
    "operating_point",
    "recall_at_k",
    "reliability_curve",
    "repeated_group_folds",
    "risk_coverage",
    "roc_points",
    "save_pack",
    "save_probe",
    "search",
    "stratified_subset",
    "summary",
    "validation_split",
    "zero_shot_logits",
    "zero_shot_proba",
    "zero_shot_weights",
    "zeroshot",
]
