"""Bootstrap by group, the intervals that it gives, and paired comparisons."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from cliplib.arrays import Floats, Ints
from cliplib.splits import class_indices, group_codes

Statistic = Callable[[Floats], Floats]


def bootstrap(
    statistic: Statistic, codes: Ints, *, n_boot: int = 2000, seed: int = 0
) -> Floats:
    """Compute a statistic on the sample and on draws of its groups, (1 + n_boot, m).

    It maps weights of the rows, (draws, n), to (draws, m); 0 / 0 and the mean of nothing are NaN.
    With equal seeds and numbers of groups the draws are equal, so statistics stay paired.
    """
    size, rng = codes.max() + 1, np.random.default_rng(seed)
    chunk = max(1, 2**20 // len(codes))
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        found = [statistic(np.ones((1, len(codes))))]
        for start in range(0, n_boot, chunk):
            draws = np.arange(min(chunk, n_boot - start))[:, None]
            picked = rng.integers(0, size, (len(draws), size)) + size * draws
            weights = np.bincount(picked.ravel(), minlength=picked.size)
            found.append(
                statistic(weights.reshape(picked.shape)[:, codes].astype(float))
            )
    return np.concatenate(found)


def intervals(draws: Floats, names: Any, counts: ArrayLike = 0) -> pd.DataFrame:
    """Turn draws (1 + n_boot, m) into value, low and high, by percentiles.

    A proportion of 0 or 1 is the same in every draw; where `counts`, the number of groups under its
    fraction bar, is given, the exact binomial bound stands in (Clopper and Pearson 1934).
    """
    value, n = draws[0], np.broadcast_to(counts, draws.shape[1])
    defined = np.where(
        np.isnan(value), 0, draws[1:]
    )  # what the sample lacks stays undefined
    ends = np.nanquantile(defined, [0.025, 0.975], axis=0)
    low, high = np.where(np.isnan(value), np.nan, ends)
    low, high = np.where(
        n == 1, [[0], [1]], [low, high]
    )  # one group says nothing of others
    bound = beta.ppf(0.975, 1, np.maximum(n, 1))
    high = np.where((n > 0) & (value == 0), bound, high)
    low = np.where((n > 0) & (value == 1), 1 - bound, low)
    return pd.DataFrame({"value": value, "low": low, "high": high}, index=names)


def ratio_intervals(
    numerator: Any,
    denominator: Any = 1,
    *,
    groups: ArrayLike | None = None,
    **options: int,
) -> pd.DataFrame:
    """Compute the sum of each column over that of the denominator: value, low, high.

    A mean has the denominator 1, a sensitivity counts hits over rows of the class. A row counts
    where its denominator is above 0. Both are (n,) or (n, m); truth values are proportions.
    """
    top, bottom = pd.DataFrame(numerator), np.asarray(denominator, float)
    whole = np.broadcast_to(bottom[:, None] if bottom.ndim == 1 else bottom, top.shape)
    part = np.where(whole > 0, top.to_numpy(float), 0)
    codes = group_codes(groups, len(top))
    draws = bootstrap(
        lambda weights: (weights @ part) / (weights @ whole), codes, **options
    )
    proportion = [dtype.kind == "b" for dtype in top.dtypes]
    n_groups = pd.DataFrame(whole > 0).groupby(codes).any().sum().to_numpy()
    return intervals(draws, top.columns, n_groups * proportion)


def auroc_statistic(positive: NDArray[np.bool_], score: Floats) -> Statistic:
    """Return the area under the ROC curve as a function of weights: scores are sorted once.

    It is the share of pairs in the right order, ties counting half (Hanley and McNeil 1982).
    """
    negatives = np.flatnonzero(~positive)[np.argsort(score[~positive], kind="stable")]
    below = np.searchsorted(score[negatives], score[positive], "left")
    through = np.searchsorted(score[negatives], score[positive], "right")

    def area(weights: Floats) -> Floats:
        running = np.zeros((len(negatives) + 1, len(weights)))
        np.cumsum(weights.T[negatives], axis=0, out=running[1:])
        chosen = weights.T[positive]
        won = np.einsum("pd,pd->d", chosen, running[below] + running[through]) / 2
        return np.asarray(won / (chosen.sum(axis=0) * running[-1]))

    return area


def compare(
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    **options: int,
) -> pd.Series:
    """Compare the accuracies of two classifiers on the same rows; predictions as in `evaluate`.

    The difference is a less b; p the share of paired bootstrap differences at least as far from the
    observed one as that is from 0 (Davison and Hinkley 1997, section 4.4).
    """
    labels, right = np.asarray(y), []
    for given in map(np.asarray, (a, b)):
        found = given if given.ndim == 1 else given.argmax(axis=-1)
        labels = labels if given.ndim == 1 else class_indices(labels)
        right.append((found == labels).reshape(-1, len(labels)).mean(axis=0))
    gap, codes = (right[0] - right[1])[:, None], group_codes(groups, len(labels))
    draws = bootstrap(
        lambda w: (w @ gap) / w.sum(axis=1, keepdims=True), codes, **options
    )
    row = intervals(draws, ["difference"]).iloc[0]
    # Rounding must not decide ties between draws and the observed difference.
    farther = np.abs(draws[1:, 0] - row.value) >= abs(row.value) - 1e-12
    return pd.Series(
        [*row, (1 + farther.sum()) / len(draws)], ["difference", "low", "high", "p"]
    )


def compare_all(
    y: ArrayLike, predictions: Mapping[str, ArrayLike], **options: Any
) -> pd.DataFrame:
    """Compare all pairs of classifiers: a, b, the fields of `compare`, and p_holm (Holm 1979)."""
    pairs = pd.DataFrame(
        list(itertools.combinations(predictions, 2)), columns=["a", "b"]
    )
    rows = [
        compare(y, predictions[a], predictions[b], **options)
        for a, b in pairs.to_numpy()
    ]
    table = pairs.join(pd.DataFrame(rows).reset_index(drop=True))
    ordered = table.p.sort_values(kind="stable")
    steps = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
    return table.assign(p_holm=steps)
