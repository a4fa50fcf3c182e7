"""Shortcuts: probes that see no object, and still tell the classes apart.

Where such a probe is nearly as good as CLIP, CLIP may see no more than it does: the
classes differ by a border, a time stamp, a camera (Geirhos et al., Nature Machine
Intelligence 2, 2020, 665-673, call what is learned then a shortcut).
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

# Statistics that inform only: the colour of a fruit is content.
COLOURS = ("colour moments", "thumbnail")
# Statistics of a whole image.
WHOLE = ("brightness", "sharpness", "block edges", *COLOURS)
# Fields whose order counts, beside their values.
NUMBERS = ("aspect", "quality")
# Of a field's values, the most frequent have a column each.
MOST_VALUES = 20
# No comparison with it is true, and tables show it as a dash: it needs no case.
NOT_MEASURED = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True, eq=False)
class Shortcut:
    """How well a probe does that sees no object.

    Attributes
    ----------
    name
        What it reads: one of `statistic_columns`, or a column of `Audit.fields`.
    accuracy, balanced
        Shares of right answers out of fold by group, of all images and as the mean over
        classes.
    relative_gain
        What part it reaches of CLIP's gain in balanced accuracy over chance.
    most_separable_class, auroc
        The class that it tells best from all others, as its number, and the area under
        the ROC curve of that.
    examples
        Rows of images that the probe gets right, of each class the two surest, if any.
    swap_cost
        How much of the probability of the right class CLIP's probe loses when this is
        that of an image of another class; NaN where that was not measured: see
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
        """Where it looks, as in a sentence: "in the bottom left corner"."""
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
    the file, classes weighted alike. A field with one value has no probe.

    Parameters
    ----------
    table
        Labels, classes and groups of n images; its features are not read.
    images
        The images, (n,).
    fields
        What their files say of themselves: see `Audit.fields`.
    of_clip
        CLIP's balanced accuracy, out of the same folds.
    n_splits, seed
        Of the folds.
    cache
        Where statistics of images are kept.

    Returns
    -------
    list of Shortcut
        All probes, the one with the largest share of CLIP's gain first.
    """
    inputs = _inputs(images, fields, cache)
    folds = table_folds(table, n_splits, seed)
    probe = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=0.1, class_weight="balanced", max_iter=200, tol=1e-3),
    )
    with one_thread():  # on so few numbers, two take four times as long
        proba = {}
        for name, numbers in inputs.items():
            read = table.with_features(numbers)
            proba[name] = predict_fits(fit_folds(probe, read, folds), read)

    chance = 1 / len(table.classes)
    shortcuts = []
    for name, probabilities in proba.items():
        found = evaluate(
            table.labels,
            probabilities.argmax(axis=1),
            table.classes,
            groups=table.groups,
            seed=seed,
        )
        balanced = found.estimate("balanced_accuracy")
        areas = [
            roc_auc_score(table.labels == label, probabilities[:, label])
            for label in range(len(table.classes))
        ]
        shortcut = Shortcut(
            name=name,
            accuracy=found.estimate("accuracy"),
            balanced=balanced,
            relative_gain=relative_gain(balanced, of_clip, chance),
            most_separable_class=int(np.argmax(areas)),
            auroc=max(areas),
            examples=_surest(table, probabilities),
        )
        shortcuts.append(shortcut)
    return sorted(shortcuts, key=_strength, reverse=True)


def _inputs(
    images: Sequence[ImageSource], fields: pd.DataFrame, cache: ResultCache | None
) -> dict[str, Floats]:
    """Return what each probe reads of n images, (n, m), by name.

    What is the same for all images is left out.
    """
    (statistics,) = map_images(images, image_statistics, cache=cache)
    inputs: dict[str, Floats] = {
        name: statistics[:, columns] for name, columns in statistic_columns().items()
    }
    inputs |= {name: _encode_field(fields[name]) for name in fields}
    return {name: x for name, x in inputs.items() if np.ptp(x, axis=0).any()}


def strongest(shortcuts: Sequence[Shortcut]) -> Shortcut | None:
    """Return the first of those sorted that is no colour; None where there is none."""
    return next((s for s in shortcuts if s.name not in COLOURS), None)


def _strength(shortcut: Shortcut) -> tuple[float, float]:
    """Order by the share of CLIP's gain, and by accuracy where none is shown."""
    share = shortcut.relative_gain.value
    return (-np.inf if np.isnan(share) else share), shortcut.balanced.value


def _encode_field(values: pd.Series) -> Floats:
    """Return a field's most frequent values as columns of 0 and 1, (n, m).

    A size adds its width and height, a number itself.
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
    """Return what part a share reaches of CLIP's gain over chance, which is held fixed.

    It is NaN where no gain of CLIP is shown.
    """
    if of_clip.low <= chance:
        return NOT_MEASURED
    gain = of_clip.value - chance
    return Estimate(*((end - chance) / gain for end in reached))


def _surest(table: FeatureTable, proba: Floats) -> list[int]:
    """Return, class by class, the rows of the two surest right answers, if any.

    The two are of different groups.
    """
    examples: list[int] = []
    predicted = proba.argmax(axis=1)
    for label in range(len(table.classes)):
        rows = np.flatnonzero((table.labels == label) & (predicted == label))
        surest_first = rows[np.argsort(-proba[rows, label], kind="stable")]
        examples += one_of_each_group(surest_first, table.groups)[:2].tolist()
    return examples
