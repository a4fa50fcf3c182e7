"""Tables of the findings on a folder of images, for page and PDF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cliplib.aids.external import ExternalTest
from cliplib.reports.findings import Findings
from cliplib.reports.methods import MethodComparison
from cliplib.reports.templates import points

# Descriptions of the rows of `Audit.summary`.
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
    """Return values as one column, with their names as the index."""
    return pd.DataFrame({"value": pd.Series(values, dtype=object)})


def of_copies(findings: Findings) -> pd.DataFrame:
    """Return the number of copies of each kind."""
    return findings.audit.summary.loc[[*COPIES]].rename(COPIES)


def of_merged(findings: Findings) -> pd.DataFrame:
    """Return pairs of declared groups that copies join, with two such copies."""
    merged = findings.grouping.merged
    groups = merged["group_a"] + " and " + merged["group_b"]
    alike = merged["image_a"] + " and " + merged["image_b"]
    return pd.DataFrame({"groups": groups, "images that look the same": alike})


def of_shortcuts(findings: Findings) -> pd.DataFrame:
    """Return the accuracy of probes that see no object, and the costs of swaps."""
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
    """Return the most frequent value in each class of the file fields that vary."""
    fields = findings.audit.fields.astype(str)
    by_class = fields.groupby(findings.images.table.label_names)
    frequent = by_class.agg(lambda values: values.value_counts().index[0])
    return frequent.loc[:, fields.nunique() > 1]


def of_methods(findings: Findings) -> pd.DataFrame:
    """Return the metrics of every method, and the best probe's gain over each."""
    results = findings.results
    rows: dict[str, dict[str, Any]] = {}
    for name, evaluation in results.evaluations.items():
        rows[name] = {
            metric.replace("_", " "): evaluation.estimate(metric)
            for metric in ("accuracy", "balanced_accuracy", "macro_f1", "auroc")
        }
        if name != results.best:
            rows[name]["the best is better by"] = points(results.gain_over(name))
    return pd.DataFrame.from_dict(rows, orient="index")


def of_classes(results: MethodComparison) -> pd.DataFrame:
    """Return the sensitivity and precision of the best probe for each class."""
    evaluation = results.evaluation
    return pd.DataFrame(
        {
            "images": evaluation.support,
            "found (sensitivity)": results.sensitivity,
            "right (precision)": evaluation.by_class("precision"),
        }
    )


def of_external(results: MethodComparison, external: ExternalTest) -> pd.DataFrame:
    """Return the sensitivity for each class, here and on images of another folder."""
    return pd.DataFrame(
        {
            "images": external.evaluation.support,
            "found here": results.sensitivity,
            "found elsewhere": external.evaluation.by_class("sensitivity"),
        }
    )
