"""Cluster bootstrap: the uncertainty of any statistic when rows come in groups (near-duplicates, one patient's scans).

Whole groups are drawn with replacement (Davison and Hinkley, *Bootstrap Methods and their Application*, 1997, section
3.8; Field and Welsh, J. R. Stat. Soc. B 69, 2007), so rows that say the same thing twice do not count twice. Nothing is
resampled row by row: a draw is a vector of multinomial weights over groups, and a statistic is computed from weighted
sums per group, for many draws in one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from cliplib.errors import CliplibError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]
"""From weights over groups ``(draws, groups)`` to one row of numbers per draw ``(draws, m)``."""

_CHUNK = 1 << 20  # weights held at once; more is no faster and only takes memory
_SUM_TOLERANCE = 1e-3  # probabilities stored as float16 pass; percentages and logits do not


def check_labels(y_true: ArrayLike, n_classes: int | None = None) -> Ints:
    """Return integer labels as int64 ``(n,)``.

    Raises
    ------
    CliplibError
        When they are not a non-empty one-dimensional array of integers from 0, below `n_classes` where given.
    """
    y = np.asarray(y_true)
    if y.ndim != 1 or not y.size or y.dtype.kind not in "iub":
        raise CliplibError(
            f"y_true must be a one-dimensional array of integer labels, not {y.dtype} of shape {y.shape}: "
            "give the index of each row's class."
        )
    y = y.astype(np.int64)
    if y.min() < 0 or (n_classes is not None and y.max() >= n_classes):
        allowed = "0, 1, …" if n_classes is None else f"0..{n_classes - 1}"
        raise CliplibError(
            f"y_true holds labels from {y.min()} to {y.max()}, but {allowed} are allowed: "
            "give indices into the classes, in the order of the probability columns."
        )
    return y


def check_proba(proba: ArrayLike, n: int | None = None) -> Floats:
    """Return probabilities as float64 ``(n, k)``.

    Raises
    ------
    CliplibError
        When they are not ``(n, k)`` with at least two columns, not finite, negative, or a row does not sum to 1.
    """
    p = np.asarray(proba, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2 or (n is not None and len(p) != n):
        raise CliplibError(
            f"proba must have shape ({'n' if n is None else n}, k) with one column per class, not {p.shape}: "
            "a binary score p becomes the two columns 1 - p and p."
        )
    if not np.isfinite(p).all():
        row = int(np.flatnonzero(~np.isfinite(p).all(axis=1))[0])
        raise CliplibError(f"proba holds NaN or infinity, first in row {row}: drop or repair those rows before.")
    off = np.abs(p.sum(axis=1) - 1.0)
    if p.min(initial=0.0) < 0 or off.max(initial=0.0) > _SUM_TOLERANCE:
        row = int(off.argmax())
        raise CliplibError(
            f"proba must hold non-negative rows that sum to 1 (row {row} sums to {p[row].sum():.4g}): "
            "give probabilities, not logits or percentages."
        )
    return p


def labels_of(y_true: ArrayLike, proba: Floats) -> Ints:
    """Return checked labels ``(n,)`` that go with checked probabilities ``(n, k)``."""
    y = check_labels(y_true, proba.shape[1])
    if len(y) != len(proba):
        raise CliplibError(f"y_true holds {len(y)} labels, but proba {len(proba)} rows: give one row per label.")
    return y


def check_score(score: ArrayLike, n: int) -> Floats:
    """Return one finite score per row as float64 ``(n,)``; raises CliplibError otherwise."""
    s = np.asarray(score, dtype=np.float64)
    if s.shape != (n,) or not np.isfinite(s).all():
        raise CliplibError(f"The score must be {n} finite numbers, one per label, not an array of shape {s.shape}.")
    return s


def group_codes(groups: ArrayLike | None, n: int) -> tuple[Ints, int]:
    """Number the groups 0, 1, …; without groups each row is its own.

    Returns
    -------
    codes : int64 (n,)
    n_groups : int

    Raises
    ------
    CliplibError
        When there is not one group per row, or only one group in all.
    """
    if groups is None:
        codes: Ints = np.arange(n)
    else:
        given = np.asarray(groups)
        if given.shape != (n,):
            raise CliplibError(f"groups must hold one group per row, {n} in all, not an array of shape {given.shape}.")
        codes = np.unique(given, return_inverse=True)[1].astype(np.int64)
    n_groups = int(codes.max(initial=-1)) + 1
    if n_groups < 2:
        raise CliplibError(f"An interval needs at least two groups of rows, not {n_groups}: check `groups`.")
    return codes, n_groups


def group_sums(rows: Floats, codes: Ints, n_groups: int) -> Floats:
    """Sum rows ``(n, m)`` within groups: ``(n_groups, m)``."""
    sums = np.zeros((n_groups, rows.shape[1]))
    np.add.at(sums, codes, rows)
    return sums


def bootstrap(statistic: Statistic, n_groups: int, *, n_rows: int, n_boot: int = 2000, seed: int = 0) -> Floats:
    """Compute a statistic on the sample as it is and on bootstrap draws of its groups.

    Parameters
    ----------
    statistic : callable
        From weights ``(draws, n_groups)`` to ``(draws, m)``; NaN where a draw leaves it undefined.
    n_groups, n_rows : int
        How many groups there are, and rows in all (the latter only bounds the memory of a chunk).
    n_boot : int
        Draws. At least 100: the ends of an interval cannot be read off fewer.
    seed : int
        The same seed and number of groups give the same draws, so statistics bootstrapped apart stay paired.

    Returns
    -------
    float64 (1 + n_boot, m)
        Row 0 is the statistic of the sample itself, by the same code as the draws.
    """
    if n_boot < 100:
        raise CliplibError(f"n_boot is {n_boot}, but an interval needs at least 100 draws (2,000 is usual).")
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // max(n_groups, n_rows))
    found = [statistic(np.ones((1, n_groups)))]
    for start in range(0, n_boot, chunk):
        size = min(chunk, n_boot - start)
        picked = rng.integers(0, n_groups, (size, n_groups)) + n_groups * np.arange(size)[:, None]
        weights = np.bincount(picked.ravel(), minlength=size * n_groups).reshape(size, n_groups)
        found.append(statistic(weights.astype(np.float64)))
    return np.concatenate(found)


def intervals(draws: Floats, *, level: float = 0.95, proportion_groups: Ints | None = None) -> Floats:
    """Turn draws into value, low and high by percentiles.

    Parameters
    ----------
    draws : float64 (1 + n_boot, m)
        From `bootstrap`. Undefined (NaN) draws are left out; a statistic without any defined draw has a NaN interval.
    level : float
        Of the interval, in (0, 1).
    proportion_groups : int64 (m,), optional
        For statistics that are proportions, the number of groups under the fraction bar; 0 for the others. A
        proportion of exactly 0 or 1 has the same value in every draw, and an interval of no width would claim
        certainty: there the exact binomial bound over groups stands in (Clopper and Pearson, Biometrika 26, 1934).

    Returns
    -------
    float64 (m, 3)
    """
    tail = tail_of(level)
    out = np.full((draws.shape[1], 3), np.nan)
    for j, column in enumerate(draws.T):
        value, defined = column[0], column[1:][~np.isnan(column[1:])]
        out[j, 0] = value
        if np.isnan(value) or not defined.size:
            continue
        out[j, 1:] = np.quantile(defined, [tail, 1 - tail])
        size = 0 if proportion_groups is None else int(proportion_groups[j])
        if size and value in (0.0, 1.0):
            bound = float(beta.ppf(1 - tail, 1, size))
            out[j, 1:] = (0.0, bound) if value == 0.0 else (1 - bound, 1.0)
    return out


def tail_of(level: float) -> float:
    """Probability beyond either end of an interval of that level; raises CliplibError outside (0, 1)."""
    if not 0 < level < 1:
        raise CliplibError(f"level is {level}, but the level of an interval lies between 0 and 1, such as 0.95.")
    return (1 - level) / 2


def auroc_statistic(positive: NDArray[np.bool_], score: Floats, codes: Ints) -> Callable[[Floats], Floats]:
    """Area under the ROC curve as a function of weights over groups.

    The area is the weighted share of (positive, negative) pairs in the right order, ties counting half (Hanley and
    McNeil, Radiology 143, 1982). The scores are sorted once; a draw then costs one running sum.

    Parameters
    ----------
    positive : bool (n,)
    score : float64 (n,)
    codes : int64 (n,)
        Group of each row.

    Returns
    -------
    callable
        From weights ``(draws, groups)`` to ``(draws,)``; NaN for a draw without positives or without negatives.
    """
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(score[negatives], kind="stable")]
    below, through = (np.searchsorted(score[negatives], score[positive], side) for side in ("left", "right"))
    positive_codes, negative_codes = codes[positive], codes[negatives]

    def area(weights: Floats) -> Floats:
        by_group = np.ascontiguousarray(weights.T)  # draws side by side: each gather below copies whole rows
        running = np.zeros((len(negative_codes) + 1, len(weights)))
        np.cumsum(by_group[negative_codes], axis=0, out=running[1:])
        chosen = by_group[positive_codes]
        won = np.einsum("pd,pd->d", chosen, running[below] + running[through]) / 2
        return ratio(won, chosen.sum(axis=0) * running[-1])

    return area


def ratio(part: Floats, whole: Floats) -> Floats:
    """Divide, with NaN for 0/0: an undefined fraction is neither 0 nor 1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def mean_of_defined(values: Floats, axis: int) -> Floats:
    """Mean along an axis without the NaN entries; NaN where there are only those."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis).astype(np.float64))


def bin_of(confidence: Floats, bins: int) -> Ints:
    """Index of the bin ``(low, high]`` of equal width that holds each confidence in [0, 1]."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
