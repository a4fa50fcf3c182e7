"""The public names, and where each lives."""

from .app.decision_aid import DecisionAid as DecisionAid
from .encode.clip import ClipEncoder as ClipEncoder
from .encode.vision import VisionEncoder as VisionEncoder
from .images.cache import FeatureCache as FeatureCache
from .images.data import DATASETS as DATASETS
from .images.data import dataset_spec as dataset_spec
from .images.data import load_dataset as load_dataset
from .images.image import load_image as load_image
from .judge.evaluation import Evaluation as Evaluation
from .judge.evaluation import evaluate as evaluate
from .judge.intervals import compare as compare
from .judge.intervals import compare_all as compare_all
from .judge.intervals import ratio_intervals as ratio_intervals
from .probes.kernel import KernelProbe as KernelProbe
from .probes.linear import LinearProbe as LinearProbe
from .probes.mlp import MLPProbe as MLPProbe
from .probes.nearest import NearestNeighbour as NearestNeighbour
from .tables.audit import Audit as Audit
from .tables.audit import audit_dataset as audit_dataset
from .tables.audit import find_near_duplicates as find_near_duplicates
from .tables.extract import load_features as load_features
from .tables.features import FeatureTable as FeatureTable
from .tables.splits import out_of_fold_proba as out_of_fold_proba
from .tools.search import search as search
from .tools.words import zero_shot as zero_shot
from .tools.words import zero_shot_weights as zero_shot_weights

__version__: str
