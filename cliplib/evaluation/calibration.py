"""Calibration of probabilities: temperature, reliability, abstention."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.utils import check_array, check_consistent_length

from cliplib.data.labels import label_indices
from cliplib.evaluation.inputs import is_correct
from cliplib.evaluation.intervals import ratio_intervals

# Logits below this, such as -inf for a probability of 0, are raised to it.
LEAST_LOGIT = -700.0
# `quantile_reliability` makes one bin for every 20 groups, but at most 10 bins.
GROUPS_PER_BIN = 20
MOST_BINS = 10


def fit_temperature(logits: ArrayLike, y: ArrayLike) -> float:
    """Return the temperature T that minimises the mean log loss of logits / T.

    Parameters
    ----------
    logits
        Logits, or logarithms of probabilities, (n, k).
    y
        Labels (n,), as column numbers of `logits`.

    Returns
    -------
    float
        The temperature, 0.01 to 100 (Guo et al. 2017, section 4.2). It is 1 if the
        largest logit is right in every row: there is no minimum then, as the loss falls
        with every lower temperature.

    Raises
    ------
    ValueError
        If logits and labels do not fit together, or a logit is NaN or +inf.
    """
    raised = check_array(np.maximum(np.asarray(logits, float), LEAST_LOGIT))
    labels = label_indices(y, range(raised.shape[1]))
    check_consistent_length(raised, labels)
    if (raised.argmax(axis=1) == labels).all():
        return 1.0

    def log_loss(log_temperature: float) -> float:
        log_proba = log_softmax(raised / np.exp(log_temperature), axis=1)
        return -float(log_proba[np.arange(len(labels)), labels].mean())

    bounds = (np.log(0.01), np.log(100))
    best = minimize_scalar(log_loss, bounds=bounds, options={"xatol": 1e-6})
    return float(np.exp(best.x))


def quantile_reliability(
    y: ArrayLike, proba: ArrayLike, groups: ArrayLike, *, seed: int = 0
) -> pd.DataFrame:
    """Compare accuracy with confidence in bins of equal numbers of rows.

    The confidence of a row is its highest probability. There is one bin for every
    twenty groups, but at least one and at most ten.

    Parameters
    ----------
    y
        Labels (n,), as column numbers of `proba`.
    proba
        Probabilities (n, k).
    groups
        Groups (n,) that the bootstrap draws keep together.
    seed
        Random seed of the draws.

    Returns
    -------
    pd.DataFrame
        A row for each bin, the least confident first: value, low and high of its
        accuracy (low and high are the 95% interval), and its mean confidence.

    Raises
    ------
    ValueError
        If probabilities are not (n, k), or do not fit the labels.
    """
    correct = is_correct(y, proba)
    confidence = np.max(proba, axis=1)
    n_bins = np.clip(len(np.unique(groups)) // GROUPS_PER_BIN, 1, MOST_BINS)
    # Ranks begin with 0, the least confident row. Ties keep the order of the rows.
    rank = pd.Series(confidence).rank(method="first").to_numpy(int) - 1
    bin_of_row = rank * n_bins // len(rank)
    is_in_bin = bin_of_row[:, None] == np.arange(n_bins)  # (n, bins)
    accuracy = ratio_intervals(
        is_in_bin & correct[:, None], is_in_bin, groups=groups, seed=seed
    )
    total_confidence = confidence @ is_in_bin
    return accuracy.assign(confidence=total_confidence / is_in_bin.sum(axis=0))


def risk_coverage(correct: ArrayLike, confidence: ArrayLike) -> pd.DataFrame:
    """Measure how abstaining on the least confident rows lowers the share of errors.

    Parameters
    ----------
    correct
        Whether each row (n,) is predicted correctly, as truth values or 0 and 1.
    confidence
        How confident the classifier is of each row, (n,), in any unit.

    Returns
    -------
    pd.DataFrame
        A row for each distinct confidence, the highest first: threshold (this
        confidence), coverage (share of rows that reach it) and risk (share of errors
        among these rows; El-Yaniv and Wiener 2010).

    Raises
    ------
    ValueError
        If the two differ in length, or contain NaN.
    """
    errors = 1 - np.asarray(correct, float)
    rows = pd.DataFrame({"threshold": np.asarray(confidence, float), "error": errors})
    if rows.isna().any(axis=None):
        raise ValueError("correct and confidence must not hold NaN.")
    # Equally confident rows are all answered, or none of them.
    by_confidence = rows.groupby("threshold")["error"].agg(
        n_rows="size", n_errors="sum"
    )
    # Numbers of rows, and of errors, that reach each threshold.
    answered = by_confidence.sort_index(ascending=False).cumsum()
    return pd.DataFrame(
        {
            "threshold": answered.index,
            "coverage": answered["n_rows"].to_numpy() / len(rows),
            "risk": (answered["n_errors"] / answered["n_rows"]).to_numpy(),
        }
    )
