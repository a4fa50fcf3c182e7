"""Values of one field of a file that belong to one class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binom

from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.features.table import FeatureTable

RARE = 1e-6
"""A value is of one class where chance would make it so less often than this."""
PURE = 0.95
"""A value is of one class if so many of the groups that have it are."""


@dataclass(frozen=True)
class OneClassValue:
    """A value of a file's field that belongs to one class.

    Attributes
    ----------
    field, value
        One of `FIELDS`, and the text that it has.
    class_name
        The class that it belongs to.
    n_images, n_groups
        How many images and groups of the class have it.
    p
        How likely chance would give it to the class as often.
    rows, others
        Two images at most of the class with the value, and of other classes without.
    """

    field: str
    value: str
    class_name: str
    n_images: int
    n_groups: int
    p: float
    rows: list[int]
    others: list[int]


def values_of_one_class(
    fields: pd.DataFrame, table: FeatureTable
) -> list[OneClassValue]:
    """Find values of one field that belong to one class, however few files have them.

    Groups count once. The probability is binomial: that of so many groups with the
    value in the class, were each in it as often as all groups are.

    Parameters
    ----------
    fields
        What `file_fields` returns for the n images.
    table
        Their labels, classes and groups.

    Returns
    -------
    list of OneClassValue
        The least probable first.
    """
    everywhere = np.full(len(table), True)
    groups_of_class = _count_groups(table, everywhere)
    share_of_class = groups_of_class / groups_of_class.sum()
    found = []
    for field in fields:
        texts = fields[field].astype(str).to_numpy()
        for value in np.unique(texts):
            has_it = texts == value
            counts = _count_groups(table, has_it)
            label = int(counts.argmax())
            n_groups = int(counts[label])
            probability = _probability(counts, label, share_of_class)
            if probability >= RARE:
                continue
            in_class = has_it & (table.labels == label)
            others = np.flatnonzero(~has_it & (table.labels != label))
            found.append(
                OneClassValue(
                    field=str(field),
                    value=str(value),
                    class_name=table.classes[label],
                    n_images=int(in_class.sum()),
                    n_groups=n_groups,
                    p=probability,
                    rows=np.flatnonzero(in_class)[:2].tolist(),
                    others=others[:2].tolist(),
                )
            )
    return sorted(found, key=lambda value: value.p)


def _count_groups(table: FeatureTable, mask: Bools) -> Ints:
    """Return how many groups of each class have a row in a mask, (k,).

    A group of several classes counts for that of its first row.
    """
    rows = np.flatnonzero(mask)
    _, first = np.unique(table.groups[rows], return_index=True)
    return np.bincount(table.labels[rows[first]], minlength=len(table.classes))


def _probability(counts: Ints, label: int, share_of_class: Floats) -> float:
    """Return how likely chance gives a class a value as often; 1 if several have it.

    `counts` (k,) are the groups of each class that have the value.
    """
    if counts[label] < PURE * counts.sum():
        return 1.0
    as_often = binom.sf(counts[label] - 1, counts.sum(), share_of_class[label])
    return float(as_often)
