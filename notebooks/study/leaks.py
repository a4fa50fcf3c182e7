"""Test images with a copy in training, by how alike the copy has to be."""

from __future__ import annotations

import pandas as pd

from cliplib.features.audit import Audit
from cliplib.features.duplicates import SAME_PIXELS
from cliplib.features.groups import connected_groups


def summary_by_level(audit: Audit) -> pd.Series:
    """Return an audit's counts, those of leaked test images by level of likeness.

    In the place of ``test_leaks`` are four counts of test images with a copy in the
    training or validation part: ``test_leaks_bytes``, of the same file; ``_exact``, of
    the same pixels; ``_near``, of what shows the same upright; and ``_reoriented``, or
    turned.
    """
    images = audit.images
    pairs = audit.pairs
    # A file that cannot be read has no digest: with its id instead, it has no copy.
    groups = {"bytes": images["digest"].fillna(images["id"])}
    alike = {
        "exact": pairs[pairs["kind"] == SAME_PIXELS],
        "near": pairs[pairs["orientation"] == ""],
        "reoriented": pairs,
    }
    for level, of_level in alike.items():
        connected = connected_groups(
            len(images), of_level["index_a"], of_level["index_b"]
        )
        groups[level] = pd.Series(connected)
    counts = audit.summary["count"].drop("test_leaks")
    is_test = images["split"] == "test"
    is_earlier = images["split"].isin(["train", "val"])
    for level, group in groups.items():
        is_leaked = group[is_test].isin(group[is_earlier])
        counts[f"test_leaks_{level}"] = is_leaked.sum()
    return counts
