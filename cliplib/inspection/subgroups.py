"""Subgroups of a class: parts of it that came another way, and differ in accuracy.

A class may be made of two archives. Where they differ by names, cameras or sizes, and a
probe is right in one and wrong in the other, its accuracy is that of a mixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cliplib.data.arrays import Ints
from cliplib.evaluation.intervals import (
    NORMAL_QUANTILE,
    Estimate,
    share_with_interval,
)
from cliplib.features.groups import one_of_each_group
from cliplib.features.table import FeatureTable
from cliplib.inspection.name_forms import name_forms

FORM = "form of name"
CLUSTER = "cluster"
# Two parts of a class differ in accuracy where it differs by more.
LEAST_DIFFERENCE = 0.2
# A part of fewer groups is not looked at.
LEAST_GROUPS = 10
# Of all comparisons together (Bonferroni).
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Subgroup:
    """A part of a class that differs from the rest of it.

    Attributes
    ----------
    by
        "form of name", "camera", "size" or "cluster" (of deep features).
    class_name, name
        The class, and what its part is called.
    n_images
        Of the part.
    accuracy, accuracy_of_rest
        Of the part, and of all other images of the class.
    examples
        Four rows of the part, then four of the rest.
    only_here
        Whether no other class has names of this form, while the class has others.
    """

    by: str
    class_name: str
    name: str
    n_images: int
    accuracy: Estimate
    accuracy_of_rest: Estimate
    examples: list[int]
    only_here: bool

    @property
    def difference(self) -> Estimate:
        """Accuracy of the part less that of the rest."""
        return self.accuracy.minus(self.accuracy_of_rest)


def find_subgroups(
    table: FeatureTable, predicted: Ints, fields: pd.DataFrame, *, seed: int = 0
) -> list[Subgroup]:
    """Name parts of classes that differ in accuracy, or have names of their own form.

    A part is named where its accuracy and that of the rest differ by more than 20
    points, and by more than chance (5% of all comparisons together); or where names of
    its form are in one class only. Images of a class fall into clusters in any case:
    hard ones and easy ones.

    Parameters
    ----------
    table
        Deep features, labels, ids and groups of n images.
    predicted
        Out-of-fold answers, (n,).
    fields
        "camera" and "size" of their files: see `Audit.fields`.
    seed
        Of clusters and bootstrap draws.

    Returns
    -------
    list of Subgroup
        The largest difference first.
    """
    divisions = {
        FORM: np.array(name_forms(table.ids.tolist(), table.label_names.tolist())),
        **{name: fields[name].astype(str).to_numpy() for name in ("camera", "size")},
        CLUSTER: _clusters(table, seed),
    }
    is_correct = predicted == table.labels
    candidates = list(_candidates(table, divisions))
    found = []
    for by, label, name, part, rest in candidates:
        accuracy, accuracy_of_rest = (
            share_with_interval(is_correct[rows], groups=table.groups[rows], seed=seed)
            for rows in (part, rest)
        )
        subgroup = Subgroup(
            by=by,
            class_name=table.classes[label],
            name=name,
            n_images=len(part),
            accuracy=accuracy,
            accuracy_of_rest=accuracy_of_rest,
            examples=[*_four_of(table, part), *_four_of(table, rest)],
            only_here=by == FORM and name not in divisions[by][table.labels != label],
        )
        if subgroup.only_here or _is_large_and_significant(
            subgroup.difference, len(candidates)
        ):
            found.append(subgroup)
    return sorted(found, key=lambda subgroup: -abs(subgroup.difference.value))


def _candidates(
    table: FeatureTable, divisions: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, int, str, Ints, Ints]]:
    """Yield what divides, class, name of the part, its rows, and those of the rest.

    Both the part and the rest of its class have ten groups at least.
    """
    for by, values in divisions.items():
        for label in np.unique(table.labels):
            in_class = table.labels == label
            names = np.unique(values[in_class])
            if len(names) == 2 and by != FORM:
                # The second part is the rest of the first: one comparison is enough. A
                # form of names may be of this class only, and so each is looked at.
                names = names[:1]
            for name in names:
                part = np.flatnonzero(in_class & (values == name))
                rest = np.flatnonzero(in_class & (values != name))
                n_groups = [len(np.unique(table.groups[rows])) for rows in (part, rest)]
                if min(n_groups) >= LEAST_GROUPS:
                    yield by, int(label), str(name), part, rest


def _clusters(table: FeatureTable, seed: int) -> Ints:
    """Divide each class in two by its features, (n,): 0 and 1."""
    divide = make_pipeline(
        StandardScaler(),
        PCA(10, random_state=seed),
        KMeans(2, n_init=5, random_state=seed),
    )
    clusters = np.zeros(len(table), np.int64)
    for label in np.unique(table.labels):
        rows = np.flatnonzero(table.labels == label)
        if len(rows) >= 2 * LEAST_GROUPS:
            clusters[rows] = divide.fit_predict(table.features[rows])
    return clusters


def _four_of(table: FeatureTable, rows: Ints) -> list[int]:
    """Return four of some rows, of different groups, from first to last."""
    one_a_group = one_of_each_group(rows, table.groups)
    places = np.linspace(0, len(one_a_group) - 1, 4).round().astype(int)
    return [int(row) for row in one_a_group[places]]


def _is_large_and_significant(difference: Estimate, n_comparisons: int) -> bool:
    """Tell a difference of more than 20 points that is not chance.

    Its standard error follows from its interval; the level is divided by the number of
    comparisons.
    """
    if abs(difference.value) <= LEAST_DIFFERENCE:
        return False
    standard_error = (difference.high - difference.low) / (2 * NORMAL_QUANTILE)
    z = abs(difference.value) / max(standard_error, 1e-9)
    p_two_sided = 2 * norm.sf(z)
    return bool(p_two_sided < SIGNIFICANCE / n_comparisons)
