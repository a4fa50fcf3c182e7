"""What files say of themselves, and values of theirs that belong to one class."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cliplib.features.table import FeatureTable

# A value is of one class where chance would make it so less often than this.
MAX_P = 1e-6
# A value is of one class if so many of the groups that have it are.
MIN_PURITY = 0.95


def values_of_one_class(fields: pd.DataFrame, table: FeatureTable) -> pd.DataFrame:
    """Find values of one field that belong to one class, however few files have them.

    A group counts once in each of its classes. The probability is binomial: that of so
    many groups with the value in the class, were each in it as often as all groups are.

    Parameters
    ----------
    fields
        What the files of n images say of themselves: see `Audit.fields`.
    table
        Their labels, classes and groups.

    Returns
    -------
    pd.DataFrame
        A row for each value, the least probable first: field, value, class, images (how
        many of the class have it), of_all (how many of all have it), p (how likely
        chance would give it to the class as often) and rows (two images at most of the
        class with the value, then two of other classes without).
    """
    known = pd.DataFrame({"group": table.groups, "label": table.labels})
    share_of_class = known.drop_duplicates()["label"].value_counts(normalize=True)
    columns = ["field", "value", "class", "images", "of_all", "p", "rows"]
    found = []
    for field in fields:
        values = fields[field].astype(str).to_numpy()
        groups = known.assign(value=values).drop_duplicates()
        counts = pd.crosstab(groups["value"], groups["label"])
        for value, groups_by_class in counts.iterrows():
            label = groups_by_class.idxmax()
            p = _chance_of_one_class(groups_by_class, share_of_class[label])
            if p >= MAX_P:
                continue
            has_value = values == value
            in_class = table.labels == label
            examples = np.flatnonzero(has_value & in_class)[:2].tolist()
            others = np.flatnonzero(~has_value & ~in_class)[:2].tolist()
            counted = [(has_value & in_class).sum(), has_value.sum()]
            told = [field, value, table.classes[label], *counted]
            found.append([*told, p, examples + others])
    return pd.DataFrame(found, columns=columns).sort_values("p", kind="stable")


def _chance_of_one_class(groups_by_class: pd.Series, share_of_class: float) -> float:
    """Return how likely chance would give one class so many of the groups of a value.

    `share_of_class` is the class's share of all groups. It is 1 where fewer than
    `MIN_PURITY` of the groups that have the value are of the class.
    """
    n_in_class = int(groups_by_class.max())
    n_in_all = int(groups_by_class.sum())
    if n_in_class < MIN_PURITY * n_in_all:
        return 1.0
    return float(binomtest(n_in_class, n_in_all, share_of_class, "greater").pvalue)
