"""What notebooks alone ask of evaluations: plain numbers, and all pairs compared."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib import Evaluation, compare
from cliplib.evaluation.metrics import PER_CLASS


def plain_numbers(evaluation: Evaluation) -> dict[str, Any]:
    """Return all that an evaluation holds as plain values; NaN where undefined.

    The keys are the metrics' names, each with value, low and high; ``per_class``, with
    the same for each class and each of `PER_CLASS`, and the class's support;
    ``classes``, ``confusion``, ``n`` and ``n_groups``.
    """
    per_class: dict[Any, dict[str, Any]] = {}
    for name, support in evaluation.support.items():
        per_class[name] = {"support": int(support)}
        for metric in PER_CLASS:
            row = evaluation.per_class[metric].loc[name]
            per_class[name][metric] = row.to_dict()
    return {
        **evaluation.metrics.to_dict("index"),
        "per_class": per_class,
        "classes": list(per_class),
        "confusion": evaluation.confusion.tolist(),
        "n": evaluation.n,
        "n_groups": evaluation.n_groups,
    }


def class_table(evaluation: Evaluation, *metrics: str) -> pd.DataFrame:
    """Return some of `PER_CLASS` in one table: x, x_low and x_high, and support.

    It has a row for each class.
    """
    tables = {metric: evaluation.per_class[metric] for metric in metrics}
    table = pd.concat(tables, axis="columns")  # columns (x, "value") and so on
    table.columns = pd.Index(
        [x if end == "value" else f"{x}_{end}" for x, end in table.columns]
    )
    return table.assign(support=evaluation.support)


def compare_all(
    y: ArrayLike, predictions: Mapping[str, ArrayLike], **options: Any
) -> pd.DataFrame:
    """Compare all pairs of two or more classifiers by `compare`.

    `predictions` maps their names to predicted labels (n,) or probabilities (n, k).
    `options` (groups, n_boot, seed) are those of `compare`.

    Returns
    -------
    pd.DataFrame
        A row for each pair: a and b (names), difference (accuracy of a less that of b),
        low, high, p, and p_holm, corrected for the number of pairs (Holm 1979).
    """
    rows = [
        {"a": a, "b": b, **compare(y, predictions[a], predictions[b], **options)}
        for a, b in itertools.combinations(predictions, 2)
    ]
    table = pd.DataFrame(rows)
    # Holm: the smallest p times the number of pairs, the next times one less, and so
    # on; none may be smaller than the one before it.
    ordered = table["p"].sort_values(kind="stable")
    n_hypotheses_left = np.arange(len(ordered), 0, -1)
    # pandas assigns by index: each corrected p goes to the row of its pair.
    table["p_holm"] = (ordered * n_hypotheses_left).cummax().clip(upper=1)
    return table
