"""What the probabilities of a classifier are worth: temperature, reliability, abstention."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from cliplib.evaluation import EDGES
from cliplib.intervals import ratio_intervals
from cliplib.splits import class_indices


def fit_temperature(logits: ArrayLike, y: ArrayLike) -> float:
    """Return the temperature, 0.01 to 100, of least log loss for logits (n, k).

    Logarithms of probabilities will do (Guo et al. 2017, section 4.2). If every row is right, the
    loss falls towards a certainty that the rows cannot vouch for: it stays at 1.
    """
    labels = class_indices(y)
    z = np.maximum(np.asarray(logits, float), -700)  # log 0 stays finite
    if (z.argmax(axis=1) == labels).all():
        logging.getLogger(__name__).warning(
            "All validation rows are right: nothing to calibrate."
        )
        return 1.0

    def log_loss(log_temperature: float) -> float:
        log_proba = log_softmax(z / np.exp(log_temperature), axis=1)
        return -float(log_proba[np.arange(len(z)), labels].mean())

    bounds = (np.log(0.01), np.log(100))
    return float(
        np.exp(minimize_scalar(log_loss, bounds=bounds, options={"xatol": 1e-6}).x)
    )


def reliability(y: ArrayLike, proba: ArrayLike, **options: Any) -> pd.DataFrame:
    """Compare accuracy with confidence, the highest probability, bin by bin (Guo et al. 2017)."""
    p = np.asarray(proba, float)
    right = p.argmax(axis=1) == class_indices(y)
    sure = np.minimum(p.max(axis=1), 1)[:, None]
    inside = (EDGES[:-1] < sure) & (sure <= EDGES[1:])
    found = ratio_intervals(inside & right[:, None], inside, **options)
    found.columns = ["accuracy", "accuracy_low", "accuracy_high"]
    found = found.assign(
        bin_low=EDGES[:-1], bin_high=EDGES[1:], count=inside.sum(axis=0)
    )
    return found.assign(confidence=(inside * sure).sum(axis=0) / found["count"])


def risk_coverage(right: ArrayLike, confidence: ArrayLike) -> pd.DataFrame:
    """Measure what abstaining on the least confident rows buys (El-Yaniv and Wiener 2010).

    Returns for each confidence, highest first: threshold, coverage (share of rows at
    least so confident) and risk (share of errors among them).
    """
    sure = -np.asarray(confidence)
    values, block, sizes = np.unique(sure, return_inverse=True, return_counts=True)
    answered = np.cumsum(sizes)
    risk = (
        np.cumsum(np.bincount(block, weights=1 - np.asarray(right, float))) / answered
    )
    return pd.DataFrame(
        {"threshold": -values, "coverage": answered / answered[-1], "risk": risk}
    )
