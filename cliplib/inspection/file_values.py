"""What files say of themselves, and values of theirs that belong to one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cliplib.data.image import ImageSource, file_facts
from cliplib.features.table import FeatureTable

RARE = 1e-6
"""A value is of one class where chance would make it so less often than this."""
PURE = 0.95
"""A value is of one class if so many of the groups that have it are."""


def file_fields(images: Sequence[ImageSource]) -> pd.DataFrame:
    """Return what the files of n images say of themselves, a row for each.

    Columns are format, mode, size ("width × height"), aspect (width by height), quality
    (the mean of JPEG's first quantisation table, 0 for other formats), progressive,
    resolution, profile, exif, camera and software: texts, "" where a file says nothing.
    An OSError names an image that cannot be read.
    """
    facts = pd.DataFrame([file_facts(image) for image in images])
    fields = facts[["format", "mode"]].assign(
        size=facts["width"].astype(str) + " × " + facts["height"].astype(str),
        aspect=(facts["width"] / facts["height"]).round(2),
        quality=facts["quantisation"].round(1),
    )
    return fields.join(facts.loc[:, "progressive":"software"])


@dataclass(frozen=True)
class OneClassValue:
    """A value of a file's field that belongs to one class.

    Attributes
    ----------
    field, value
        A column of `file_fields`, and the text that it has.
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

    Groups count once, a group of several classes for that of its first row. The
    probability is binomial: that of so many groups with the value in the class, were
    each in it as often as all groups are.

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
    label_of_group = pd.Series(table.labels).groupby(table.groups).first()
    share_of_class = label_of_group.value_counts(normalize=True)
    found = []
    for field in fields:
        rows = pd.DataFrame(
            {
                "value": fields[field].astype(str),
                "label": table.labels,
                "group": table.groups,
            }
        )
        one_a_group = rows.drop_duplicates(["value", "group"])
        counts = pd.crosstab(one_a_group["value"], one_a_group["label"])
        for value, of_classes in counts.iterrows():
            label = of_classes.idxmax()
            n_groups = int(of_classes[label])
            if n_groups < PURE * of_classes.sum():
                continue
            chance = share_of_class[label]
            p = binomtest(n_groups, int(of_classes.sum()), chance, "greater").pvalue
            if p >= RARE:
                continue
            in_class = (rows["value"] == value) & (rows["label"] == label)
            others = (rows["value"] != value) & (rows["label"] != label)
            found.append(
                OneClassValue(
                    field=str(field),
                    value=str(value),
                    class_name=table.classes[label],
                    n_images=int(in_class.sum()),
                    n_groups=n_groups,
                    p=float(p),
                    rows=np.flatnonzero(in_class)[:2].tolist(),
                    others=np.flatnonzero(others)[:2].tolist(),
                )
            )
    return sorted(found, key=lambda value: value.p)
