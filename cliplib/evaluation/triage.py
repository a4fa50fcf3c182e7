"""What to do with a score: thresholds that flag, and refusal by confidence.

A threshold is chosen on validation rows and then frozen; the functions that measure take it as given.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

from cliplib.errors import CliplibError
from cliplib.evaluation.bootstrap import (
    Floats,
    Ints,
    bootstrap,
    check_labels,
    check_proba,
    check_score,
    group_codes,
    group_sums,
    intervals,
    labels_of,
    ratio,
)


def operating_point(
    y_true: ArrayLike, score: ArrayLike, *, sensitivity: float | None = None, specificity: float | None = None
) -> float:
    """Choose the threshold, on validation rows, that reaches one of the two and costs the other least.

    Parameters
    ----------
    y_true : int (n,)
        1 for the condition that is looked for, else 0.
    score : float (n,)
        A row is flagged when its score is at least the threshold.
    sensitivity, specificity : float
        Exactly one of them: the least share of positives that must be flagged, or of negatives that must not.

    Returns
    -------
    float
        The highest threshold of sufficient sensitivity, or the lowest of sufficient specificity, among the scores
        (and one just above them all).

    Raises
    ------
    CliplibError
        When not exactly one target in (0, 1] is given, or either class is absent.
    """
    y, s = _binary(y_true, score)
    targets = [t for t in (sensitivity, specificity) if t is not None]
    if len(targets) != 1 or not 0 < targets[0] <= 1:
        raise CliplibError("Give exactly one target between 0 and 1: either sensitivity=… or specificity=….")
    thresholds = np.append(np.unique(s), np.nextafter(s.max(), np.inf))
    # Numbers of scores below each threshold; 1e-12 keeps a target such as 0.95 from failing by rounding.
    missed, cleared = (np.searchsorted(np.sort(s[y == c]), thresholds) / (y == c).sum() for c in (1, 0))
    if sensitivity is not None:
        return float(thresholds[1 - missed >= sensitivity - 1e-12][-1])
    return float(thresholds[cleared >= targets[0] - 1e-12][0])


def at_threshold(
    y_true: ArrayLike,
    score: ArrayLike,
    threshold: float,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Measure a frozen threshold on test rows.

    Parameters
    ----------
    y_true, score
        As in `operating_point`.
    threshold : float
        Rows with at least this score are flagged.
    groups, n_boot, seed, level
        As in `cliplib.evaluation.evaluate`.

    Returns
    -------
    DataFrame
        Rows sensitivity, specificity, ppv and npv (precision among flagged and among other rows, at the prevalence of
        these rows), flagged and spared (shares of all rows); columns value, low, high. NaN where undefined.
    """
    y, s = _binary(y_true, score)
    codes, n_groups = group_codes(groups, len(y))
    cells = group_sums(np.eye(4)[2 * y + (s >= threshold)], codes, n_groups)

    def fractions(counts: Floats) -> tuple[Floats, Floats]:
        tn, fp, fn, tp = counts.T
        total = counts.sum(axis=1)
        parts, wholes = (tp, tn, tp, tn, tp + fp, tn + fn), (tp + fn, tn + fp, tp + fp, tn + fn, total, total)
        return np.column_stack(parts), np.column_stack(wholes)

    draws = bootstrap(lambda w: ratio(*fractions(w @ cells)), n_groups, n_rows=len(y), n_boot=n_boot, seed=seed)
    sizes = (fractions(cells)[1] > 0).sum(axis=0)
    names = pd.Index(["sensitivity", "specificity", "ppv", "npv", "flagged", "spared"], name="metric")
    return pd.DataFrame(intervals(draws, level=level, proportion_groups=sizes), names, ["value", "low", "high"])


def roc_points(y_true: ArrayLike, score: ArrayLike) -> pd.DataFrame:
    """Corners of the ROC curve: threshold, sensitivity, specificity, one row each, from the strictest threshold on."""
    false_positive_rate, sensitivity, thresholds = roc_curve(*_binary(y_true, score))
    return pd.DataFrame({"threshold": thresholds, "sensitivity": sensitivity, "specificity": 1 - false_positive_rate})


def _binary(y_true: ArrayLike, score: ArrayLike) -> tuple[Ints, Floats]:
    y = check_labels(y_true, 2)
    if y.min() == y.max():
        raise CliplibError(f"All {len(y)} rows have label {y[0]}: both 0 and 1 are needed.")
    return y, check_score(score, len(y))


def risk_coverage(
    y_true: ArrayLike, proba: ArrayLike, *, confidence: ArrayLike | None = None
) -> tuple[pd.DataFrame, float]:
    """What refusing the least confident rows buys (El-Yaniv and Wiener, J. Mach. Learn. Res. 11, 2010).

    Parameters
    ----------
    y_true : int (n,)
    proba : float (n, k)
    confidence : float (n,), optional
        By default the highest probability.

    Returns
    -------
    curve : DataFrame
        One row per distinct confidence, highest first: threshold (rows of at least this confidence are answered),
        coverage (their share), risk (the share of errors among them).
    aurc : float
        Area under it, the mean risk over coverages 1/n, 2/n, … (Geifman et al., ICLR 2019); rows of equal confidence,
        which a threshold cannot separate, enter with the risk of their last.
    """
    p = check_proba(proba)
    y = labels_of(y_true, p)
    sure = p.max(axis=1) if confidence is None else check_score(confidence, len(y))
    values, block = np.unique(-sure, return_inverse=True)
    sizes = np.bincount(block)
    answered = np.cumsum(sizes)
    risk = np.cumsum(np.bincount(block, weights=p.argmax(axis=1) != y)) / answered
    curve = pd.DataFrame({"threshold": -values, "coverage": answered / len(y), "risk": risk})
    return curve, float((risk * sizes).sum() / len(y))
