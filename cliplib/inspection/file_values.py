"""Values in the metadata of image files that only one class has."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cliplib.features.table import FeatureTable

# p-value below which a value belongs to one class.
MAX_P = 1e-6
# Least share of the groups with a value that are of its class.
MIN_PURITY = 0.95


def values_of_one_class(fields: pd.DataFrame, table: FeatureTable) -> pd.DataFrame:
    """Find values of one field that belong to one class, however few files have them.

    A group counts once in each of its classes. The p-value is binomial, by groups, and
    assumes that the value is as frequent in all classes.

    Parameters
    ----------
    fields
        Metadata of the files of n images: see `Audit.fields`.
    table
        Labels, classes and groups of the images.

    Returns
    -------
    pd.DataFrame
        A row for each value, the smallest p-value first: field, value, class, images
        (number with the value in the class), of_all (number with the value), p
        (p-value) and rows (at most two images of the class with the value, then at most
        two of other classes without it).
    """
    group_labels = pd.DataFrame({"group": table.groups, "label": table.labels})
    class_shares = group_labels.drop_duplicates()["label"].value_counts(normalize=True)
    columns = ["field", "value", "class", "images", "of_all", "p", "rows"]
    records = []
    for field in fields:
        values = fields[field].astype(str).to_numpy()
        groups = group_labels.assign(value=values).drop_duplicates()
        group_counts = pd.crosstab(groups["value"], groups["label"])
        for value, counts_by_class in group_counts.iterrows():
            label = counts_by_class.idxmax()
            p = _p_value(counts_by_class, class_shares[label])
            if p >= MAX_P:
                continue
            has_value = values == value
            is_class = table.labels == label
            with_value = np.flatnonzero(has_value & is_class)
            without_value = np.flatnonzero(~has_value & ~is_class)
            rows = [*with_value[:2].tolist(), *without_value[:2].tolist()]
            counts = [len(with_value), has_value.sum()]
            records.append([field, value, table.classes[label], *counts, p, rows])
    return pd.DataFrame(records, columns=columns).sort_values("p", kind="stable")


def _p_value(group_counts: pd.Series, class_share: float) -> float:
    """Return the probability that chance gives one class as many groups with a value.

    `group_counts` are the numbers of groups with the value, by class. The class is the
    most frequent one; `class_share` is its share of all groups. The result is 1 if it
    has less than `MIN_PURITY` of the groups with the value.
    """
    n_in_class = int(group_counts.max())
    n = int(group_counts.sum())
    if n_in_class < MIN_PURITY * n:
        return 1.0
    return float(binomtest(n_in_class, n, class_share, "greater").pvalue)
