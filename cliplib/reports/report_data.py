"""The findings for programs and spreadsheets: report.json, and tables of all files."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

import cliplib
from cliplib.evaluation.intervals import Estimate
from cliplib.reports.findings import Findings
from cliplib.reports.verdict import Verdict

# Packages whose versions are stated.
PACKAGES = ("torch", "transformers", "scikit-learn", "numpy", "pillow")
# Version of report.json's format; it grows when a key goes or changes its meaning.
FORMAT = 1


def report_json(findings: Findings, judged: Verdict) -> dict[str, Any]:
    """Return the content of report.json: verdict, warnings and versions.

    `report.schema.json`, beside this module, describes its format.
    """
    names = findings.names
    results = findings.results
    return {
        "format": FORMAT,
        "verdict": {
            "word": judged.word,
            "sentence": judged.sentence,
            **_plain_share(results.evaluation.estimate("accuracy")),
            "n": len(results.table),
            "groups": results.n_groups,
        },
        "warnings": [
            {
                "id": warning.id,
                "severity": warning.severity,
                "message": warning.message,
                "evidence": _plain_evidence(warning.evidence),
                "files": [names[row] for row in warning.rows] + list(warning.files),
            }
            for warning in judged.warnings
        ],
        "compared": [
            {
                "method": row.Index,
                **_plain_share(row.accuracy),
                **_plain_share(row.balanced, "balanced_"),
            }
            for row in judged.compared.itertuples()
        ],
        "made": provenance(findings),
    }


def _plain_share(share: Estimate, prefix: str = "") -> dict[str, float | None]:
    """Return an accuracy and its interval by name, such as "balanced_low"."""
    value, low, high = map(_plain, share)
    return {f"{prefix}accuracy": value, f"{prefix}low": low, f"{prefix}high": high}


def _plain_evidence(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return evidence as JSON can hold it.

    An estimate becomes three entries: NAME, NAME_low and NAME_high.
    """
    plain: dict[str, Any] = {}
    for name, value in evidence.items():
        if isinstance(value, Estimate):
            names = (name, f"{name}_low", f"{name}_high")
            plain |= zip(names, map(_plain, value), strict=True)
        else:
            plain[name] = _plain(value)
    return plain


def _plain(value: Any) -> Any:
    """Return a text or number as JSON can hold it, rounded; None for NaN."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if math.isnan(value):
        return None
    if abs(value) < 1e-6:  # such as a probability: six decimals would make it 0
        return float(f"{value:.6g}")
    return round(float(value), 6)


def provenance(findings: Findings) -> dict[str, str]:
    """Return what the numbers depend on: encoder, groups, seed, versions and so on."""
    basis = "declared" if findings.grouping.declared else "near-duplicates only"
    n_read = len(findings.images.table)
    n_files = n_read + len(findings.images.errors)
    return {
        "encoder": findings.aid.training.provenance["encoder"],
        "fingerprint of its weights": findings.encoder.fingerprint,
        "readout of the best probe": findings.results.probe_table.readout,
        "groups": findings.groups or basis,
        "seed": str(findings.results.seed),
        "images": f"{n_read} of {n_files} files",
        "cliplib": cliplib.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(terse=True),
        # Without the name of a build, such as "+cpu".
        **{name: version(name).split("+")[0] for name in PACKAGES},
    }


def answers_table(findings: Findings) -> pd.DataFrame:
    """Return the best probe's out-of-fold answer for each file, for a spreadsheet.

    Columns: image (a number from 1), file, label, answer, probability, group, suspect
    (the likely class of a label that looks wrong), copy_of (the first of its
    near-duplicates), seen ("yes" for images that the encoder was trained on), the
    columns of `Audit.fields`, and error (why a file cannot be read). Missing values are
    "". Unreadable files come last, with only file and error.
    """
    images = findings.images
    results = findings.results
    classes = np.array(images.table.classes)
    likely_labels = findings.suspects.set_index("row")["likely"]  # of some rows only
    was_seen = findings.training_overlap
    files = pd.Series(images.table.ids.astype(object))
    first_copy = files.groupby(images.table.copies).transform("first")
    read = pd.DataFrame(
        {
            "image": np.arange(1, len(files) + 1),
            "file": files,
            "label": images.table.label_names,
            "answer": classes[results.predicted],
            "probability": results.proba.max(axis=1),
            "group": results.table.groups,
            "suspect": likely_labels.map(lambda label: classes[label]),
            "copy_of": first_copy.where(first_copy != files, ""),
            "seen": "" if was_seen is None else np.where(was_seen, "yes", ""),
        },
        index=files.index,  # "suspect" is NaN in rows that it lacks
    )
    read = read.join(findings.audit.fields).assign(error="")
    unread = pd.DataFrame(images.unreadable.items(), columns=["file", "error"])
    # Objects, since in a column with missing numbers the integer 1 would become 1.0.
    answers = pd.concat([read.astype(object), unread], ignore_index=True)
    return answers.where(answers.notna(), "")


def copies_table(findings: Findings) -> pd.DataFrame:
    """Return all pairs of near-duplicates among the files, for a spreadsheet.

    Columns: file, label and split of image a, then of image b; kind ("exact", "near" or
    "cropped"), orientation (how b is turned or mirrored from a) and correlation (of
    their details, at most 1).
    """
    pairs = findings.audit.pairs
    named = pairs.rename(columns={"id_a": "file_a", "id_b": "file_b"})
    of_a = ["file_a", "label_a", "split_a"]
    of_b = ["file_b", "label_b", "split_b"]
    return named[[*of_a, *of_b, "kind", "orientation", "correlation"]]
