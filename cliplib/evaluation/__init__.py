"""How good a classifier is, with an interval on every number.

All intervals come from a cluster bootstrap over groups (`cliplib.evaluation.bootstrap`). They speak of the test rows
that might have been drawn, with the classifier held fixed; they do not contain the variation of training it anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.errors import CliplibError
from cliplib.evaluation.bootstrap import (
    Floats,
    Ints,
    Statistic,
    auroc_statistic,
    bin_of,
    bootstrap,
    check_labels,
    check_proba,
    group_codes,
    group_sums,
    intervals,
    mean_of_defined,
    ratio,
    tail_of,
)

logger = logging.getLogger(__name__)

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss", "brier", "ece")
PER_CLASS = ("sensitivity", "specificity", "precision", "f1", "auroc")
ECE_BINS = 15


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    Attributes
    ----------
    metrics : DataFrame
        One row per metric (`METRICS`); columns value, low, high.
    per_class : DataFrame
        One row per class; for each of `PER_CLASS` the columns x, x_low, x_high, and support (rows of that class).
        NaN where a number is undefined, such as the precision of a class that is never predicted.
    confusion : int64 (k, k)
        Rows are true classes, columns predicted ones. Of repeats, their sum.
    classes : tuple of str
    n, n_groups, n_repeats, n_boot : int
        Rows, groups of rows, repeats averaged, bootstrap draws.
    level : float
        Of the intervals.
    """

    metrics: pd.DataFrame
    per_class: pd.DataFrame
    confusion: Ints
    classes: tuple[str, ...]
    n: int
    n_groups: int
    n_repeats: int
    n_boot: int
    level: float

    def numbers(self) -> dict[str, Any]:
        """Everything as plain values for JSON; undefined numbers are None."""

        def triple(row: pd.Series, name: str = "value", prefix: str = "") -> dict[str, float | None]:
            cells = {"value": row[name], "low": row[f"{prefix}low"], "high": row[f"{prefix}high"]}
            return {key: None if np.isnan(cell) else float(cell) for key, cell in cells.items()}

        numbers: dict[str, Any] = {str(name): triple(row) for name, row in self.metrics.iterrows()}
        numbers |= {key: getattr(self, key) for key in ("n", "n_groups", "n_repeats", "n_boot", "level")}
        numbers["classes"] = list(self.classes)
        numbers["confusion"] = self.confusion.tolist()
        numbers["per_class"] = {
            str(name): {key: triple(row, key, f"{key}_") for key in PER_CLASS} | {"support": int(row["support"])}
            for name, row in self.per_class.iterrows()
        }
        return numbers


def evaluate(
    y_true: ArrayLike,
    proba: ArrayLike,
    classes: Sequence[str],
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Evaluation:
    """Evaluate predicted probabilities.

    The prediction is the class of the highest probability. Balanced accuracy is the mean sensitivity, macro F1 the
    mean F1, AUROC that of the second class against the first when there are two and else the mean of each class
    against the rest; all three leave out classes of which the sample or the draw at hand has no row (F1: nor a
    prediction). Log loss is in nats, with probabilities cut at the float64 epsilon as scikit-learn does. Brier is the
    sum over classes of squared errors (Brier, Mon. Weather Rev. 78, 1950), from 0 to 2. ECE is the expected
    calibration error of the highest probability in 15 bins of equal width (Guo et al., ICML 2017, section 2): fixed
    bins make it a function of sums per group.

    Intervals are percentile intervals, with two exceptions. Proportions of exactly 0 or 1 get a binomial bound over
    groups (`bootstrap.intervals`); a macro average or AUROC of exactly 1 keeps an interval without width, which says
    only that no draw contained an error. ECE is biased upwards, its draws twice over, so percentiles would never
    reach down to a small true value: its low end is the value less the resampled sum over bins of absolute changes,
    which bounds the error by the triangle inequality, and its high end the basic one, ``2 value - low percentile``
    (Davison and Hinkley, 1997, section 5.2).

    Parameters
    ----------
    y_true : int (n,)
        Indices into `classes`.
    proba : float (n, k)
        Rows sum to 1.
    classes : sequence of str
        The k names, in the order of the columns.
    groups : (n,), optional
        Rows of one group are drawn together; without it each row is its own group.
    n_boot, seed, level
        Draws, their seed, and the level of the intervals.

    Raises
    ------
    CliplibError
        When shapes, labels, probabilities or groups do not fit together.
    """
    return evaluate_repeats(
        y_true, np.asarray(proba)[None], classes, groups=groups, n_boot=n_boot, seed=seed, level=level
    )


def evaluate_repeats(
    y_true: ArrayLike,
    proba: ArrayLike,
    classes: Sequence[str],
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Evaluation:
    """Evaluate the out-of-fold probabilities of repeated cross-validation, float ``(n_repeats, n, k)``.

    Each metric is computed per repeat over all its out-of-fold rows and averaged over the repeats that define it; the
    bootstrap draws groups, the same ones in all repeats, and averages likewise. So repeating steadies the value but
    does not narrow the interval as more data would. Training sets of folds overlap, which the interval does not know
    of (Bates, Hastie and Tibshirani, J. Am. Stat. Assoc. 119, 2024). Otherwise as `evaluate`.
    """
    stack = np.asarray(proba)
    if stack.ndim != 3 or not len(stack):
        raise CliplibError(f"proba must have one row per label and one column per class, not shape {stack.shape[1:]}.")
    names = tuple(str(name) for name in classes)
    k, y = len(names), check_labels(y_true, len(names))
    repeats = [check_proba(p, len(y)) for p in stack]
    if stack.shape[2] != k or len(set(names)) != k:
        raise CliplibError(f"{k} distinct class names are needed for {stack.shape[2]} probability columns: {names}.")
    codes, n_groups = group_codes(groups, len(y))

    draws, sizes = [], []
    for p in repeats:
        statistic, size = _metrics_statistic(y, p, codes, n_groups)
        draws.append(bootstrap(statistic, n_groups, n_rows=len(y), n_boot=n_boot, seed=seed))
        sizes.append(size)
    found = mean_of_defined(np.stack(draws), axis=0)
    first = len(METRICS)
    for name, absent in zip(names, np.isnan(found[1:, first : first + k]).mean(axis=0), strict=True):
        if absent:
            logger.warning(
                "%.1f %% of the draws have no row of class %r: its intervals leave them out.", 100 * absent, name
            )
    table = intervals(found[:, :-1], level=level, proportion_groups=np.min(sizes, axis=0))
    ece, tail = METRICS.index("ece"), tail_of(level)
    value, change = found[0, ece], np.quantile(found[1:, -1], 1 - tail)
    table[ece, 1:] = max(0.0, value - change), max(value, 2 * value - np.quantile(found[1:, ece], tail))
    per_class = {
        column: table[first + i * k : first + (i + 1) * k, j]
        for i, key in enumerate(PER_CLASS)
        for j, column in enumerate((key, f"{key}_low", f"{key}_high"))
    }
    confusion = sum(np.bincount(y * k + p.argmax(axis=1), minlength=k * k).reshape(k, k) for p in repeats)
    return Evaluation(
        metrics=pd.DataFrame(table[:first], pd.Index(METRICS, name="metric"), ["value", "low", "high"]),
        per_class=pd.DataFrame(per_class | {"support": np.bincount(y, minlength=k)}, pd.Index(names, name="class")),
        confusion=np.asarray(confusion, dtype=np.int64),
        classes=names,
        n=len(y),
        n_groups=n_groups,
        n_repeats=len(repeats),
        n_boot=n_boot,
        level=level,
    )


def _metrics_statistic(y: Ints, proba: Floats, codes: Ints, n_groups: int) -> tuple[Statistic, Ints]:
    """From weights all numbers, last the change of ECE's gaps; and the groups under each fraction bar."""
    n, k = proba.shape
    eye, rows = np.eye(k), np.arange(n)
    predicted, confidence = proba.argmax(axis=1), proba.max(axis=1)
    truth, guess = eye[y], eye[predicted]
    # Within a bin only the sum of (confidence - correct) matters, so one column per bin is sufficient for ECE.
    gaps = np.zeros((n, ECE_BINS))
    gaps[rows, bin_of(confidence, ECE_BINS)] = confidence - (predicted == y)
    eps = np.finfo(np.float64).eps
    loss = -np.log(np.clip(proba[rows, y], eps, 1 - eps))
    brier = ((proba - truth) ** 2).sum(axis=1)
    columns = np.column_stack([truth, guess, truth * guess, loss, brier, gaps])
    sums = group_sums(columns, codes, n_groups)
    mean_gap = gaps.mean(axis=0)
    areas = [auroc_statistic(y == c, proba[:, c], codes) for c in range(k)]

    def statistic(weights: Floats) -> Floats:
        true, said, hit, losses, gap = np.split(weights @ sums, [k, 2 * k, 3 * k, 3 * k + 2], axis=1)
        total = true.sum(axis=1, keepdims=True)
        sensitivity, f1 = ratio(hit, true), ratio(2 * hit, true + said)
        specificity = ratio(total - true - said + hit, total - true)
        auroc = np.column_stack([area(weights) for area in areas])
        overall = [
            hit.sum(axis=1, keepdims=True) / total,
            mean_of_defined(sensitivity, axis=1)[:, None],
            mean_of_defined(f1, axis=1)[:, None],
            auroc[:, 1:] if k == 2 else mean_of_defined(auroc, axis=1)[:, None],
            losses / total,
            np.abs(gap).sum(axis=1, keepdims=True) / total,
        ]
        change = np.abs(gap / total - mean_gap).sum(axis=1, keepdims=True)
        return np.hstack([*overall, sensitivity, specificity, ratio(hit, said), f1, auroc, change])

    of_class, outside = (sums[:, :k] > 0).sum(axis=0), (group_sums(1 - truth, codes, n_groups) > 0).sum(axis=0)
    sizes = np.zeros(len(METRICS) + len(PER_CLASS) * k, dtype=np.int64)
    sizes[0] = n_groups
    sizes[len(METRICS) : len(METRICS) + 3 * k] = np.concatenate(
        [of_class, outside, (sums[:, k : 2 * k] > 0).sum(axis=0)]
    )
    return statistic, sizes


def summary(results: Mapping[str, Evaluation], metrics: Sequence[str] = ("accuracy", "macro_f1")) -> pd.DataFrame:
    """Several evaluations below each other: one row each, indexed by "method".

    Columns: each metric's value under its name, and the ends of its interval under ``<metric>_low``, ``<metric>_high``.
    """
    ends = {"value": "", "low": "_low", "high": "_high"}
    rows = {
        name: {m + end: r.metrics.at[m, column] for m in metrics for column, end in ends.items()}
        for name, r in results.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
