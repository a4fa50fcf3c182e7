"""Frozen CLIP features, light classifiers on top, and an evaluation that a sceptic believes."""

from cliplib.audit import audit
from cliplib.classifier import Classifier
from cliplib.data import DATASETS, dataset_spec, load_dataset
from cliplib.encoder import ClipEncoder
from cliplib.evaluation import Evaluation, evaluate
from cliplib.features import FeatureTable, load_features
from cliplib.images import FeatureCache, load_image
from cliplib.probes import KernelProbe, LinearProbe, MLPProbe
from cliplib.resampling import compare, compare_all, cross_validate, ratio_intervals
from cliplib.zeroshot import search, zero_shot, zero_shot_weights
