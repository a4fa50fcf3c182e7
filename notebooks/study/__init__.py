"""What only this report's notebooks need; no other part imports it."""

from study.data import DATASETS as DATASETS
from study.data import dataset_spec as dataset_spec
from study.data import load_dataset as load_dataset
from study.features import MissingImages as MissingImages
from study.features import load_available as load_available
from study.features import load_features as load_features
