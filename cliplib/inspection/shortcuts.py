"""Shortcuts: probes that see no object, and still tell the classes apart.

Where such a probe is nearly as good as CLIP, CLIP may see no more than it does: the
classes differ by a border, a time stamp, a camera (Geirhos et al., Nature Machine
Intelligence 2, 2020, 665-673, call what is learned then a shortcut).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cliplib.data.arrays import Floats, Ints
from cliplib.data.cache import FeatureCache, map_images
from cliplib.data.image import ImageSource
from cliplib.evaluation.intervals import (
    Share,
    bootstrap,
    clopper_pearson,
    group_sums,
    intervals,
)
from cliplib.features.splits import checked_groups, group_folds
from cliplib.features.table import FeatureTable
from cliplib.inspection.file_values import FIELDS, file_fields
from cliplib.inspection.pictures import PATCHES, PICTURE_COLUMNS, picture_statistics
from cliplib.probes.out_of_fold import predict_folds
from cliplib.probes.threads import one_thread

COLOURS = ("colour moments", "thumbnail")
"""Statistics that inform only: the colour of a fruit is content."""
NUMBERS = ("aspect", "quality")
"""Fields whose order counts, beside their values."""
MOST_VALUES = 20
"""Of a field's values, the most frequent have a column each."""


@dataclass(frozen=True, eq=False)
class Shortcut:
    """How well a probe does that sees no object.

    Attributes
    ----------
    name
        What it reads: a statistic of `PICTURE_COLUMNS`, or a field of `FIELDS`.
    of
        "file", "picture", or "colour", which informs only.
    predicted
        Its out-of-fold answers by group, (n,).
    accuracy, balanced
        Shares of right answers, of all images and as the mean over classes.
    chance
        The balanced accuracy of guessing, 1 / k.
    share_of_gain
        What part it reaches of CLIP's gain in balanced accuracy over chance; NaN where
        no gain of CLIP is shown.
    examples
        By class, rows of two images at most of which the probe is surest, and right.
    """

    name: str
    of: str
    predicted: Ints
    accuracy: Share
    balanced: Share
    chance: float
    share_of_gain: Share
    examples: Mapping[str, list[int]]

    @property
    def decides(self) -> bool:
        """Whether such a probe may stop the verdict's word; colour is often content."""
        return self.of != "colour"

    @property
    def place(self) -> str:
        """Where it looks, as in a sentence: "in the bottom left corner"."""
        if self.of == "file":
            return "in the file"
        if self.name in PATCHES:
            return f"{'at' if 'edge' in self.name else 'in'} the {self.name}"
        return "along the border" if self.name == "border" else "in the whole picture"


def probe_shortcuts(
    table: FeatureTable,
    images: Sequence[ImageSource],
    predicted: Ints,
    *,
    n_splits: int = 5,
    seed: int = 0,
    cache: FeatureCache | None = None,
) -> list[Shortcut]:
    """Classify images by what shows no object, in folds that keep groups whole.

    Each probe is a logistic regression on one statistic of the picture or one field of
    the file, classes weighted alike. A field with one value has no probe.

    Parameters
    ----------
    table
        Labels, classes and groups of n images; its features are not read.
    images
        The images, (n,).
    predicted
        CLIP's out-of-fold answers, (n,), in the same folds.
    n_splits, seed
        Of the folds.
    cache
        Where statistics of pictures are kept.

    Returns
    -------
    list of Shortcut
        All probes, the one with the largest share of CLIP's gain first.
    """
    (pictures,) = map_images(images, picture_statistics, cache=cache)
    inputs: dict[str, Floats] = {
        name: pictures[:, columns] for name, columns in PICTURE_COLUMNS.items()
    }
    fields = file_fields(images)
    inputs |= {name: _encode_field(fields[name]) for name in FIELDS}
    inputs = {name: x for name, x in inputs.items() if np.ptp(x, axis=0).any()}
    folds = list(
        group_folds(
            table.labels,
            table.groups,
            n_splits=n_splits,
            seed=seed,
            published=table.folds,
        )
    )
    probe = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=0.1, class_weight="balanced", max_iter=200, tol=1e-3),
    )
    n_classes = len(table.classes)
    with one_thread():  # on so few numbers, two take four times as long
        proba = {
            name: predict_folds(probe, x, table.labels, table.groups, folds, n_classes)
            for name, x in inputs.items()
        }
    answers = {name: p.argmax(axis=1) for name, p in proba.items()}
    shares = _shares(table, answers, predicted, seed)
    shortcuts = [
        Shortcut(
            name=name,
            of=_kind(name),
            predicted=answers[name],
            accuracy=shares["accuracy"][name],
            balanced=shares["balanced"][name],
            chance=1 / len(np.unique(table.labels)),
            share_of_gain=shares["share_of_gain"][name],
            examples=_surest(table, proba[name]),
        )
        for name in inputs
    ]
    return sorted(shortcuts, key=_strength, reverse=True)


def strongest(shortcuts: Sequence[Shortcut]) -> Shortcut | None:
    """Return the strongest probe that decides; None where there is none."""
    deciding = [shortcut for shortcut in shortcuts if shortcut.decides]
    return max(deciding, key=_strength, default=None)


def _strength(shortcut: Shortcut) -> tuple[float, float]:
    """Order by the share of CLIP's gain, and by accuracy where none is shown."""
    share = shortcut.share_of_gain.value
    return (-np.inf if np.isnan(share) else share), shortcut.balanced.value


def _kind(name: str) -> str:
    if name in COLOURS:
        return "colour"
    return "file" if name in FIELDS else "picture"


def _encode_field(values: pd.Series) -> Floats:
    """Return a field's most frequent values as columns of 0 and 1, (n, m).

    A size adds its width and height, a number itself.
    """
    texts = values.astype(str)
    frequent = texts.value_counts().index[:MOST_VALUES]
    columns = [(texts == value).to_numpy(float) for value in frequent]
    if values.name in NUMBERS:
        columns.append(values.to_numpy(float))
    if values.name == "size":
        sides = texts.str.split(" × ", expand=True).to_numpy(float)
        columns += list(np.log(sides).T)
    return np.column_stack(columns)


def _shares(
    table: FeatureTable, answers: Mapping[str, Ints], predicted: Ints, seed: int
) -> dict[str, dict[str, Share]]:
    """Return accuracy, balanced accuracy and share of CLIP's gain, by probe."""
    names = [*answers]
    present = np.unique(table.labels)
    is_class = table.labels[:, None] == present  # (n, k)
    methods = [*answers.values(), predicted]  # CLIP is the last
    is_hit = np.stack([answer == table.labels for answer in methods], axis=1)
    group_of_row = checked_groups(table.groups, len(table))
    n_true = group_sums(is_class, group_of_row)  # (groups, k)
    hits = group_sums(is_hit[:, :, None] & is_class[:, None, :], group_of_row)
    hits_flat = hits.reshape(len(hits), -1)
    chance = 1 / len(present)

    def statistic(weights: Floats) -> dict[str, Floats]:
        drawn = (weights @ hits_flat).reshape(len(weights), *hits.shape[1:])
        total = weights @ n_true  # (draws, k)
        balanced = np.nanmean(drawn / total[:, None, :], axis=2)  # (draws, methods)
        gain = balanced - chance
        clip_gain = np.where(gain[:, -1:] > 0, gain[:, -1:], np.nan)
        return {
            "accuracy": drawn.sum(axis=2) / total.sum(axis=1, keepdims=True),
            "balanced": balanced,
            "share_of_gain": gain / clip_gain,
        }

    n_groups = len(hits)
    resampled = bootstrap(statistic, np.arange(n_groups), seed=seed)
    balanced_of_clip = resampled["balanced"].draws[:, -1]
    if np.quantile(balanced_of_clip, 0.025) <= chance:  # a share of nothing
        resampled["share_of_gain"].value[:] = np.nan
    found = {}
    for measure, values in resampled.items():
        # Accuracies end at 1, as a share of a gain need not.
        is_share = measure != "share_of_gain"
        exact = clopper_pearson(values.value, n_groups) if is_share else None
        rows = intervals(values, n_groups, exact).iloc[:-1]  # without CLIP itself
        rows.index = pd.Index(names)
        found[measure] = {name: Share.of(rows.loc[name]) for name in names}
    return found


def _surest(table: FeatureTable, proba: Floats) -> dict[str, list[int]]:
    """Return, by class, rows of two images of other groups, surest and right first."""
    examples = {}
    predicted = proba.argmax(axis=1)
    for label, name in enumerate(table.classes):
        rows = np.flatnonzero((table.labels == label) & (predicted == label))
        by_sureness = rows[np.argsort(-proba[rows, label], kind="stable")]
        groups = pd.Series(table.groups[by_sureness])
        one_a_group = by_sureness[~groups.duplicated().to_numpy()]
        examples[name] = one_a_group[:2].tolist()
    return examples
