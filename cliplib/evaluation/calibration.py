"""Whether probabilities mean what they say, and the one-parameter remedy when they do not."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from cliplib.errors import CliplibError
from cliplib.evaluation.bootstrap import (
    Floats,
    bin_of,
    bootstrap,
    check_proba,
    group_codes,
    group_sums,
    intervals,
    labels_of,
    ratio,
)

logger = logging.getLogger(__name__)


def brier_score(y_true: ArrayLike, proba: ArrayLike) -> float:
    """Mean over rows of the squared errors summed over classes, 0 to 2 (Brier, Mon. Weather Rev. 78, 1950).

    Parameters
    ----------
    y_true : int (n,)
    proba : float (n, k)
    """
    p = check_proba(proba)
    y = labels_of(y_true, p)
    return float(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1).mean())


def expected_calibration_error(y_true: ArrayLike, proba: ArrayLike, bins: int = 15) -> float:
    """Mean over rows of a bin's distance between accuracy and mean confidence (Guo et al., ICML 2017, section 2).

    Confidence is the highest probability, bins have equal width. Biased upwards for few rows: noise in a bin is a
    distance too. `cliplib.evaluation.evaluate` gives an interval that takes account of it.

    Parameters
    ----------
    y_true : int (n,)
    proba : float (n, k)
    bins : int
    """
    curve = _bins(y_true, proba, bins)[1]
    return float(np.abs(curve[:, 1] - curve[:, 2]).sum() / curve[:, 0].sum())


def reliability_curve(
    y_true: ArrayLike,
    proba: ArrayLike,
    bins: int = 15,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Accuracy against confidence, bin by bin: the points of a reliability diagram (Guo et al., ICML 2017, section 2).

    Parameters
    ----------
    y_true : int (n,)
    proba : float (n, k)
    bins : int
        Of equal width over [0, 1].
    groups, n_boot, seed, level
        Of the cluster-bootstrap interval on each bin's accuracy, as in `cliplib.evaluation.evaluate`.

    Returns
    -------
    DataFrame
        One row per bin: bin_low, bin_high, count, confidence (mean), accuracy, accuracy_low, accuracy_high; NaN in an
        empty bin.
    """
    rows, totals = _bins(y_true, proba, bins)
    codes, n_groups = group_codes(groups, len(rows))
    inside = group_sums(rows[:, :bins], codes, n_groups)
    correct = group_sums(rows[:, 2 * bins :], codes, n_groups)

    def statistic(weights: Floats) -> Floats:
        return ratio(weights @ correct, weights @ inside)

    draws = bootstrap(statistic, n_groups, n_rows=len(rows), n_boot=n_boot, seed=seed)
    table = intervals(draws, level=level, proportion_groups=(inside > 0).sum(axis=0))
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "bin_low": edges[:-1],
            "bin_high": edges[1:],
            "count": totals[:, 0].astype(np.int64),
            "confidence": ratio(totals[:, 1], totals[:, 0]),
            "accuracy": table[:, 0],
            "accuracy_low": table[:, 1],
            "accuracy_high": table[:, 2],
        }
    )


def _bins(y_true: ArrayLike, proba: ArrayLike, bins: int) -> tuple[Floats, Floats]:
    """Per row and bin: membership, confidence, correctness ``(n, 3 bins)``; and their sums ``(bins, 3)``."""
    if bins < 1:
        raise CliplibError(f"bins is {bins}, but at least one bin is needed (15 is usual).")
    p = check_proba(proba)
    y, confidence = labels_of(y_true, p), p.max(axis=1)
    inside = np.eye(bins)[bin_of(confidence, bins)]
    rows = np.hstack([inside, inside * confidence[:, None], inside * (p.argmax(axis=1) == y)[:, None]])
    return rows, rows.sum(axis=0).reshape(3, bins).T


class TemperatureScaling:
    """Divide logits by one temperature that minimises the log loss of validation rows (Guo et al., 2017, section 4.2).

    The predicted class never changes, only how sure it is. Logarithms of probabilities serve as logits, from which they
    differ by a constant per row that the softmax takes out.

    Parameters
    ----------
    logits : bool
        Whether `fit` and `transform` are given logits rather than probabilities.

    Attributes
    ----------
    temperature_ : float
        Above 1 the classifier was too sure. Searched within `BOUNDS`; an optimum at their end is logged. When every
        validation row is predicted right, log loss falls without end as the temperature does, towards certainty that
        the rows cannot vouch for: then it stays at 1, which is logged too.
    """

    BOUNDS = (0.01, 100.0)

    def __init__(self, *, logits: bool = False) -> None:
        self.logits = logits

    def fit(self, scores: ArrayLike, y_true: ArrayLike) -> TemperatureScaling:
        """Find the temperature on validation scores float ``(n, k)`` and labels int ``(n,)``; returns itself."""
        z = self._logits(scores)
        y = labels_of(y_true, z)
        rows = np.arange(len(y))
        if (z.argmax(axis=1) == y).all():
            logger.warning("All %d validation rows are predicted right: the temperature stays at 1.", len(y))
            self.temperature_ = 1.0
            return self

        def loss(log_t: float) -> float:
            return -float(log_softmax(z / np.exp(log_t), axis=1)[rows, y].mean())

        low, high = np.log(self.BOUNDS)
        best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
        self.temperature_ = float(np.exp(best.x))
        if min(best.x - low, high - best.x) < 1e-3:
            logger.warning(
                "The temperature %.3g lies at the edge of its range: do the scores fit the labels?", self.temperature_
            )
        return self

    def transform(self, scores: ArrayLike) -> Floats:
        """Calibrated probabilities float64 ``(n, k)`` of scores ``(n, k)``."""
        if not hasattr(self, "temperature_"):
            raise CliplibError("This TemperatureScaling has no temperature yet: call fit on validation rows first.")
        return np.asarray(softmax(self._logits(scores) / self.temperature_, axis=1), dtype=np.float64)

    def _logits(self, scores: ArrayLike) -> Floats:
        if not self.logits:
            return np.log(np.clip(check_proba(scores), np.finfo(np.float64).tiny, None))
        z = np.asarray(scores, dtype=np.float64)
        if z.ndim != 2 or z.shape[1] < 2 or not np.isfinite(z).all():
            raise CliplibError(f"Logits must be finite, of shape (n, k) with one column per class, not {z.shape}.")
        return z
