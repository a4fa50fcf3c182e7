"""Subgroups of a class: parts of it that have another origin, and another accuracy.

A class may consist of two archives that differ in file names, cameras or image sizes.
If a probe is right in one of them and wrong in the other, its accuracy for the class
hides this.
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
from cliplib.evaluation.intervals import NORMAL_QUANTILE, Estimate, share_with_interval
from cliplib.features.groups import one_of_each_group
from cliplib.features.table import FeatureTable
from cliplib.inspection.name_forms import name_forms

FORM = "form of name"
CLUSTER = "cluster"
# Difference in accuracy that a part of a class has to exceed to be reported.
LEAST_DIFFERENCE = 0.2
# Least number of groups of a part, and of the rest of its class, to be compared.
LEAST_GROUPS = 10
# Significance level of all comparisons together (Bonferroni).
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Subgroup:
    """A part of a class that differs from the rest of the class.

    Attributes
    ----------
    by
        What divides the class: "form of name", "camera", "size" or "cluster" (of deep
        features).
    class_name, name
        Names of the class and of its part.
    n_images
        Number of images of the part.
    accuracy, accuracy_of_rest
        Accuracy for the part, and for all other images of the class.
    examples
        Four rows of the part, then four of the rest.
    only_here
        Whether no other class has file names of this form, while the class also has
        file names of other forms.
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
    """Find parts of classes that differ in accuracy, or in the form of file names.

    A part is returned if its accuracy differs from that of the rest of its class by
    more than 20 points and significantly (5% for all comparisons together), or if only
    one class has file names of its form. Since any class can be divided into clusters,
    a cluster may just contain the harder images.

    Parameters
    ----------
    table
        Deep features, labels, ids and groups of n images.
    predicted
        Labels predicted out of fold, (n,).
    fields
        "camera" and "size" of the image files: see `Audit.fields`.
    seed
        Random seed of the clusters and the bootstrap draws.

    Returns
    -------
    list of Subgroup
        The subgroups, the largest difference first.
    """
    divisions = {
        FORM: np.array(name_forms(table.ids.tolist(), table.label_names.tolist())),
        **{name: fields[name].astype(str).to_numpy() for name in ("camera", "size")},
        CLUSTER: _clusters(table, seed),
    }
    is_correct = predicted == table.labels

    def accuracy(rows: Ints) -> Estimate:
        groups = table.groups[rows]
        return share_with_interval(is_correct[rows], groups=groups, seed=seed)

    candidates = list(_candidates(table, divisions))
    subgroups = []
    for by, label, name, part, rest in candidates:
        names_elsewhere = divisions[by][table.labels != label]
        subgroup = Subgroup(
            by=by,
            class_name=table.classes[label],
            name=name,
            n_images=len(part),
            accuracy=accuracy(part),
            accuracy_of_rest=accuracy(rest),
            examples=[*_spread_rows(table, part), *_spread_rows(table, rest)],
            only_here=by == FORM and name not in names_elsewhere,
        )
        differs = _is_large_and_significant(subgroup.difference, len(candidates))
        if subgroup.only_here or differs:
            subgroups.append(subgroup)
    return sorted(subgroups, key=lambda subgroup: -abs(subgroup.difference.value))


def _candidates(
    table: FeatureTable, divisions: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, int, str, Ints, Ints]]:
    """Yield each part of a class that can be compared with the rest of the class.

    The items are the name of the division, the class, the name of the part, its rows,
    and the rows of the rest. Both have at least `LEAST_GROUPS` groups.
    """
    for by, values in divisions.items():
        for label in np.unique(table.labels):
            in_class = table.labels == label
            names = np.unique(values[in_class])
            if len(names) == 2 and by != FORM:
                # The second part is the rest of the first: one comparison is enough.
                # Forms of names are both kept, as only one may be unique to the class.
                names = names[:1]
            for name in names:
                part = np.flatnonzero(in_class & (values == name))
                rest = np.flatnonzero(in_class & (values != name))
                n_groups = [len(np.unique(table.groups[rows])) for rows in (part, rest)]
                if min(n_groups) >= LEAST_GROUPS:
                    yield by, int(label), str(name), part, rest


def _clusters(table: FeatureTable, seed: int) -> Ints:
    """Divide each class into two clusters by its features: 0 and 1, (n,)."""
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


def _spread_rows(table: FeatureTable, rows: Ints) -> list[int]:
    """Return four of the given rows, of different groups, evenly from first to last."""
    row_of_each_group = one_of_each_group(rows, table.groups)
    places = np.linspace(0, len(row_of_each_group) - 1, 4).round().astype(int)
    return [int(row) for row in row_of_each_group[places]]


def _is_large_and_significant(difference: Estimate, n_comparisons: int) -> bool:
    """Tell whether a difference exceeds `LEAST_DIFFERENCE` and is significant.

    The standard error is derived from the interval. The significance level is divided
    by the number of comparisons.
    """
    if abs(difference.value) <= LEAST_DIFFERENCE:
        return False
    standard_error = (difference.high - difference.low) / (2 * NORMAL_QUANTILE)
    z = abs(difference.value) / max(standard_error, 1e-9)
    p_two_sided = 2 * norm.sf(z)
    return bool(p_two_sided < SIGNIFICANCE / n_comparisons)
