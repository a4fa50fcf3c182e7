"""Tables of the findings on a folder of images, for page and PDF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cliplib.aids.external import ExternalTest
from cliplib.reports.findings import Findings
from cliplib.reports.methods import MethodComparison
from cliplib.reports.templates import points

# Rows of an audit's summary, and what they are called.
COPIES = {
    "byte_copies": "files that repeat another byte for byte",
    "exact_copies": "pairs with the same pixels",
    "near_pairs": "pairs that look nearly the same",
    "mirrored_pairs": "pairs of which one is mirrored",
    "turned_pairs": "pairs of which one is turned",
    "label_conflicts": "pairs with two labels",
    "val_leaks": "validation images with a copy in training",
    "test_leaks": "test images with a copy in training or validation",
}


def of_values(values: Mapping[str, Any]) -> pd.DataFrame:
    """Return values by name as one column."""
    return pd.DataFrame({"value": pd.Series(values, dtype=object)})


def of_copies(findings: Findings) -> pd.DataFrame:
    """Return how many copies of each kind there are."""
    return findings.audit.summary.loc[[*COPIES]].rename(COPIES)


def of_merged(findings: Findings) -> pd.DataFrame:
    """Return the declared groups that copies join, with images that show it."""
    merged = findings.grouping.merged
    groups = merged["group_a"] + " and " + merged["group_b"]
    alike = merged["image_a"] + " and " + merged["image_b"]
    return pd.DataFrame({"groups": groups, "images that look the same": alike})


def of_shortcuts(findings: Findings) -> pd.DataFrame:
    """Return how far probes get that see no object, and what swaps cost CLIP's."""
    columns = ["where", "right", "part of CLIP's gain over chance", "lost if swapped"]
    rows = {
        shortcut.name: [
            shortcut.place,
            shortcut.accuracy,
            shortcut.relative_gain,
            shortcut.swap_cost,
        ]
        for shortcut in findings.shortcuts
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def of_file_fields(findings: Findings) -> pd.DataFrame:
    """Return the most frequent value of each field of the files that varies."""
    fields = findings.audit.fields.astype(str)
    by_class = fields.groupby(findings.images.table.label_names)
    frequent = by_class.agg(lambda values: values.value_counts().index[0])
    return frequent.loc[:, fields.nunique() > 1]


def of_methods(findings: Findings) -> pd.DataFrame:
    """Return the metrics of every method, and by how much the best is better."""
    results = findings.results
    found = results.evaluations
    columns: dict[str, dict[str, Any]] = {
        metric.replace("_", " "): {name: found[name].estimate(metric) for name in found}
        for metric in ("accuracy", "balanced_accuracy", "macro_f1", "auroc")
    }
    others = [name for name in found if name != results.best]
    gains = {name: points(results.gain_over(name)) for name in others}
    columns["the best is better by"] = gains
    return pd.DataFrame(columns)


def of_classes(results: MethodComparison) -> pd.DataFrame:
    """Return how much of each class the best probe finds."""
    found = results.evaluation
    return pd.DataFrame(
        {
            "images": found.support,
            "found (sensitivity)": results.sensitivity,
            "right (precision)": found.by_class("precision"),
        }
    )


def of_external(results: MethodComparison, external: ExternalTest) -> pd.DataFrame:
    """Return how much of each class is found here and in another folder."""
    return pd.DataFrame(
        {
            "images": external.evaluation.support,
            "found here": results.sensitivity,
            "found elsewhere": external.evaluation.by_class("sensitivity"),
        }
    )
