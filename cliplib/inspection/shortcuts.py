"""Shortcuts: probes that see no object, and still tell the classes apart.

If such a probe is nearly as good as CLIP's, CLIP's may use no more than it does, such
as a border, a time stamp or a camera by which the classes differ. Geirhos et al.
(Nature Machine Intelligence 2, 2020, 665-673) call this shortcut learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cliplib.data.arrays import Floats
from cliplib.data.cache import ResultCache, map_images
from cliplib.data.image import ImageSource
from cliplib.data.threads import one_thread
from cliplib.evaluation.intervals import Estimate
from cliplib.evaluation.metrics import evaluate
from cliplib.features.groups import one_of_each_group
from cliplib.features.table import FeatureTable
from cliplib.inspection.image_statistics import (
    PATCHES,
    image_statistics,
    statistic_columns,
)
from cliplib.probes.out_of_fold import fit_folds, predict_fits, table_folds

# Statistics that are no evidence of a shortcut: the colour of a fruit is content.
COLOURS = ("colour moments", "thumbnail")
# Statistics of the whole image.
WHOLE = ("brightness", "sharpness", "block edges", *COLOURS)
# Fields of files that are numbers.
NUMBERS = ("aspect", "quality")
# Largest number of a field's values that get a column; the most frequent ones do.
MOST_VALUES = 20
# A missing estimate: all comparisons with it are false, and tables show a dash.
NOT_MEASURED = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True, eq=False)
class Shortcut:
    """How well a probe does that sees no object.

    Attributes
    ----------
    name
        What the probe reads: one of `statistic_columns`, or a column of `Audit.fields`.
    accuracy, balanced
        Its accuracy and its balanced accuracy, out of fold by group.
    relative_gain
        Its gain in balanced accuracy over chance, as a share of CLIP's gain.
    most_separable_class, auroc
        Number of the class that it tells best from all others, and the area under the
        ROC curve of this class.
    examples
        Rows of correctly classified images: the two most confident ones of each class.
    swap_cost
        Probability of the right class that CLIP's probe loses if an image gets this
        statistic from an image of another class; NaN if it was not measured. See
        `cliplib.inspection.swaps`.
    """

    name: str
    accuracy: Estimate
    balanced: Estimate
    relative_gain: Estimate
    most_separable_class: int
    auroc: float
    examples: list[int]
    swap_cost: Estimate = NOT_MEASURED

    @property
    def place(self) -> str:
        """Where the probe looks, for use in a sentence: "in the top left corner"."""
        if self.name in PATCHES:
            return f"{'at' if 'edge' in self.name else 'in'} the {self.name}"
        if self.name == "border":
            return "along the border"
        return "in the whole picture" if self.name in WHOLE else "in the file"


def probe_shortcuts(
    table: FeatureTable,
    images: Sequence[ImageSource],
    fields: pd.DataFrame,
    of_clip: Estimate,
    *,
    n_splits: int = 5,
    seed: int = 0,
    cache: ResultCache | None = None,
) -> list[Shortcut]:
    """Classify images by what shows no object, in folds that keep groups whole.

    Each probe is a logistic regression on one statistic of the image or one field of
    the file, in which classes have equal weights. A statistic or field that is the same
    for all images has no probe.

    Parameters
    ----------
    table
        Labels, classes and groups of n images; the features are not used.
    images
        The images, (n,).
    fields
        Metadata of the image files: see `Audit.fields`.
    of_clip
        Balanced accuracy of CLIP's probe in the same folds.
    n_splits, seed
        Number of folds, and random seed of their draw.
    cache
        Cache of the images' statistics.

    Returns
    -------
    list of Shortcut
        A result for each probe, the largest share of CLIP's gain first.
    """
    inputs = _inputs(images, fields, cache)
    folds = table_folds(table, n_splits, seed)
    probe = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=0.1, class_weight="balanced", max_iter=200, tol=1e-3),
    )
    with one_thread():  # on so few numbers, two threads take four times as long
        proba_by_name = {}
        for name, numbers in inputs.items():
            inputs_table = table.with_features(numbers)
            fits = fit_folds(probe, inputs_table, folds)
            proba_by_name[name] = predict_fits(fits, inputs_table)

    chance = 1 / len(table.classes)
    shortcuts = []
    for name, proba in proba_by_name.items():
        predicted = proba.argmax(axis=1)
        evaluation = evaluate(
            table.labels, predicted, table.classes, groups=table.groups, seed=seed
        )
        balanced = evaluation.estimate("balanced_accuracy")
        areas = [
            roc_auc_score(table.labels == label, proba[:, label])
            for label in range(len(table.classes))
        ]
        shortcut = Shortcut(
            name=name,
            accuracy=evaluation.estimate("accuracy"),
            balanced=balanced,
            relative_gain=relative_gain(balanced, of_clip, chance),
            most_separable_class=int(np.argmax(areas)),
            auroc=max(areas),
            examples=_most_confident(table, proba),
        )
        shortcuts.append(shortcut)
    return sorted(shortcuts, key=_strength, reverse=True)


def _inputs(
    images: Sequence[ImageSource], fields: pd.DataFrame, cache: ResultCache | None
) -> dict[str, Floats]:
    """Return the inputs (n, m) of each probe for n images, by name.

    Inputs that are the same for all images are left out.
    """
    (statistics,) = map_images(images, image_statistics, cache=cache)
    inputs: dict[str, Floats] = {
        name: statistics[:, columns] for name, columns in statistic_columns().items()
    }
    inputs |= {name: _encode_field(fields[name]) for name in fields}
    return {name: x for name, x in inputs.items() if np.ptp(x, axis=0).any()}


def strongest(shortcuts: Sequence[Shortcut]) -> Shortcut | None:
    """Return the first sorted shortcut that is not a colour, or None without one."""
    return next((s for s in shortcuts if s.name not in COLOURS), None)


def _strength(shortcut: Shortcut) -> tuple[float, float]:
    """Return what shortcuts are sorted by: relative gain, then balanced accuracy."""
    share = shortcut.relative_gain.value
    return (-np.inf if np.isnan(share) else share), shortcut.balanced.value


def _encode_field(values: pd.Series) -> Floats:
    """Encode a field of n files as numbers, (n, m).

    Each of the most frequent values is a column of 0 and 1. A numerical field is added
    as a column, and a size as the logarithms of width and height.
    """
    texts = values.astype(str)
    frequent = texts.value_counts().index[:MOST_VALUES]
    columns = pd.get_dummies(texts, dtype=float)[frequent]
    if values.name in NUMBERS:
        columns["itself"] = values.astype(float)
    if values.name == "size":
        sides = texts.str.split(" × ", expand=True).astype(float)
        columns[["width", "height"]] = np.log(sides)
    return np.asarray(columns, float)


def relative_gain(reached: Estimate, of_clip: Estimate, chance: float) -> Estimate:
    """Return the gain of an accuracy over chance, as a share of CLIP's gain.

    CLIP's gain is held fixed: the interval is that of `reached` alone. The result is
    NaN if CLIP is not significantly better than chance.
    """
    if of_clip.low <= chance:
        return NOT_MEASURED
    gain = of_clip.value - chance
    return Estimate(*((number - chance) / gain for number in reached))


def _most_confident(table: FeatureTable, proba: Floats) -> list[int]:
    """Return the rows of each class's two most confident right answers, if any.

    The two rows are of different groups.
    """
    examples: list[int] = []
    predicted = proba.argmax(axis=1)
    for label in range(len(table.classes)):
        rows = np.flatnonzero((table.labels == label) & (predicted == label))
        by_confidence = rows[np.argsort(-proba[rows, label], kind="stable")]
        examples += one_of_each_group(by_confidence, table.groups)[:2].tolist()
    return examples
