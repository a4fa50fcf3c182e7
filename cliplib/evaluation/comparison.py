"""Is one classifier better than another on the same rows: paired tests, corrected for how many are compared."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from cliplib.errors import CliplibError
from cliplib.evaluation.bootstrap import (
    Floats,
    bootstrap,
    check_labels,
    check_proba,
    group_codes,
    group_sums,
    intervals,
)


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same rows; fields as described in `compare`."""

    n: int
    n_groups: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p_mcnemar: float
    p_bootstrap: float

    def numbers(self) -> dict[str, float | int]:
        """The fields as a plain dictionary for JSON."""
        return asdict(self)


def compare(
    y_true: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compare the accuracies of two classifiers on the same rows.

    `p_mcnemar` is the exact two-sided McNemar test: a binomial test of the rows that only one of the two gets right
    (McNemar, Psychometrika 12, 1947; Dietterich, Neural Comput. 10, 1998). It takes rows as independent, which rows
    of one group are not, so with `groups` it is too sure and `p_bootstrap` is the one to report: the share of
    cluster-bootstrap differences at least as far from the observed one as that is from 0 (Davison and Hinkley, 1997,
    section 4.4), never below ``1 / (n_boot + 1)``.

    Parameters
    ----------
    y_true : int (n,)
    a, b : int (n,) or float (n, k)
        Predicted labels, or probabilities (the highest is the prediction).
    groups, n_boot, seed, level
        As in `evaluate`.

    Returns
    -------
    Comparison
        `difference` is accuracy of a minus accuracy of b, `low` and `high` its interval; `only_a` and `only_b` count
        the rows that only one gets right.

    Raises
    ------
    CliplibError
        When shapes, labels or groups do not fit together.
    """
    y = check_labels(y_true)
    right = []
    for name, given in (("a", a), ("b", b)):
        value = np.asarray(given)
        if value.ndim == 1 and value.shape != y.shape:
            raise CliplibError(f"Predictions {name} hold {len(value)} rows, but y_true {len(y)}: give one per label.")
        label = check_labels(value) if value.ndim == 1 else check_proba(value, len(y)).argmax(axis=1)
        right.append(label == y)
    codes, n_groups = group_codes(groups, len(y))
    gain = right[0].astype(np.float64) - right[1]
    sums = group_sums(np.column_stack([gain, np.ones(len(y))]), codes, n_groups)

    def statistic(weights: Floats) -> Floats:
        total = weights @ sums
        return total[:, :1] / total[:, 1:]

    draws = bootstrap(statistic, n_groups, n_rows=len(y), n_boot=n_boot, seed=seed)
    ((difference, low, high),) = intervals(draws, level=level)
    # Rounding must not decide ties between draws and the observed difference.
    farther = np.abs(draws[1:, 0] - difference) >= abs(difference) - 1e-12
    only_a, only_b = int((gain > 0).sum()), int((gain < 0).sum())
    return Comparison(
        n=len(y),
        n_groups=n_groups,
        accuracy_a=float(right[0].mean()),
        accuracy_b=float(right[1].mean()),
        difference=float(difference),
        low=float(low),
        high=float(high),
        only_a=only_a,
        only_b=only_b,
        p_mcnemar=float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
        p_bootstrap=float((1 + farther.sum()) / (1 + n_boot)),
    )


def holm(p: ArrayLike) -> Floats:
    """Holm's step-down correction of p values ``(m,)`` (Holm, Scand. J. Stat. 6, 1979)."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def compare_all(y_true: ArrayLike, predictions: Mapping[str, ArrayLike], **options: Any) -> pd.DataFrame:
    """Compare all pairs of two or more classifiers, p values corrected by `holm` for the number of pairs.

    Parameters
    ----------
    y_true : int (n,)
    predictions : mapping from name to int (n,) or float (n, k)
    **options
        groups, n_boot, seed, level of `compare`.

    Returns
    -------
    DataFrame
        One row per pair: a, b (names), the fields of `Comparison`, p_mcnemar_holm, p_bootstrap_holm. With groups,
        report the bootstrap's.
    """
    if len(predictions) < 2:
        raise CliplibError(f"A comparison needs at least two classifiers, not {len(predictions)}: {list(predictions)}.")
    rows = [
        {"a": a, "b": b} | compare(y_true, predictions[a], predictions[b], **options).numbers()
        for a, b in itertools.combinations(predictions, 2)
    ]
    table = pd.DataFrame(rows)
    return table.assign(**{f"{p}_holm": holm(table[p].to_numpy()) for p in ("p_mcnemar", "p_bootstrap")})
