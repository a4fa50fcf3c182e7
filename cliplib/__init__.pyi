"""The public names, and where each lives."""

from .aids.decision_aid import DecisionAid as DecisionAid
from .data.cache import ResultCache as ResultCache
from .data.datasets import load_dataset as load_dataset
from .data.image import load_image as load_image
from .encoders.clip import ClipEncoder as ClipEncoder
from .encoders.encoder import Encoder as Encoder
from .encoders.encoder import FunctionEncoder as FunctionEncoder
from .encoders.vision import VisionEncoder as VisionEncoder
from .encoders.vision import load_encoder as load_encoder
from .evaluation.comparison import compare as compare
from .evaluation.intervals import ratio_intervals as ratio_intervals
from .evaluation.metrics import Evaluation as Evaluation
from .evaluation.metrics import evaluate as evaluate
from .features.audit import Audit as Audit
from .features.audit import audit_dataset as audit_dataset
from .features.duplicates import find_near_duplicates as find_near_duplicates
from .features.encode import encode as encode
from .features.table import FeatureTable as FeatureTable
from .inspection.search import search as search
from .inspection.zero_shot import zero_shot as zero_shot
from .inspection.zero_shot import zero_shot_weights as zero_shot_weights
from .probes.kernel import KernelProbe as KernelProbe
from .probes.linear import LinearProbe as LinearProbe
from .probes.mlp import MLPProbe as MLPProbe
from .probes.nearest import nearest_neighbour as nearest_neighbour
from .probes.out_of_fold import out_of_fold_proba as out_of_fold_proba
from .reports.measure import measure as measure
from .reports.report import report as report
from .reports.verdict import verdict as verdict

__version__: str
