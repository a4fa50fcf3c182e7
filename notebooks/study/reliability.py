"""Reliability diagrams: accuracy in bins of equal width of confidence."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.evaluation.inputs import is_correct
from cliplib.evaluation.intervals import ratio_intervals
from cliplib.evaluation.metrics import CONFIDENCE_BIN_EDGES, confidence_bins


def reliability(
    y: ArrayLike,
    proba: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare accuracy with confidence, the highest probability (Guo et al. 2017).

    Rows are put into 15 bins of confidence, each of width 1/15.

    Parameters
    ----------
    y
        Labels (n,), column numbers of `proba`.
    proba
        Probabilities (n, k).
    groups
        Groups (n,) that bootstrap draws keep together; without them each row is its
        own.
    n_boot, seed
        Number and random seed of the draws.

    Returns
    -------
    pd.DataFrame
        A row for each bin (bin_low, bin_high]: accuracy, accuracy_low and accuracy_high
        (its 95% interval), bin_low, bin_high, count (of rows) and confidence (their
        mean). Accuracy and confidence of an empty bin are NaN.

    Raises
    ------
    ValueError
        Where probabilities are not (n, k), or do not fit the labels.
    """
    is_right = is_correct(y, proba)
    confidence = np.minimum(np.max(proba, axis=1), 1)  # rounding may take it beyond
    is_inside = confidence_bins(confidence[:, None])  # (n, bins)
    accuracy = ratio_intervals(
        is_inside & is_right[:, None],
        is_inside,
        groups=groups,
        n_boot=n_boot,
        seed=seed,
    )
    count = is_inside.sum(axis=0)
    total_confidence = (is_inside * confidence[:, None]).sum(axis=0)
    return pd.DataFrame(
        {
            "accuracy": accuracy["value"],
            "accuracy_low": accuracy["low"],
            "accuracy_high": accuracy["high"],
            "bin_low": CONFIDENCE_BIN_EDGES[:-1],
            "bin_high": CONFIDENCE_BIN_EDGES[1:],
            "count": count,
            "confidence": total_confidence / np.where(count, count, np.nan),
        }
    )
