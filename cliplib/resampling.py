"""Resampling by group: splits, cross-validation, the bootstrap, and the intervals it gives.

Rows of one group (near-duplicates, one patient's scans) are never separated: they fall on one side
of a split, and whole groups are drawn in the bootstrap (Davison and Hinkley, *Bootstrap Methods*,
1997, section 3.8). A draw is a vector of weights of the rows, so 2,000 draws are one product of
matrices. `options` are n_boot and seed.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter
from tqdm.auto import tqdm

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]


def group_codes(groups: ArrayLike | None, n: int) -> Ints:
    """Number the groups of n rows from 0; without groups each row is its own."""
    given = np.arange(n) if groups is None else np.asarray(groups)
    codes = np.unique(given, return_inverse=True)[1]
    if codes.shape != (n,) or codes.max(initial=0) == 0:
        raise ValueError(f"Each of {n} images needs a group, and at least two of them must differ.")
    return codes


def class_indices(y: ArrayLike) -> Ints:
    """Return labels (n,) that are indices into classes; ValueError for names."""
    labels = np.asarray(y)
    if labels.dtype.kind not in "iu":
        raise ValueError("Labels must be numbers of classes here, from 0, and not their names.")
    return labels


def group_train_test_split(
    y: ArrayLike, groups: ArrayLike | None = None, *, parts: int = 5, seed: int = 0
) -> tuple[Ints, Ints]:
    """Return row numbers (train, test): of each class one in `parts` groups, or else one group."""
    return next(group_folds(y, groups, n_splits=parts, n_repeats=1, seed=seed, fewest=2))


def stratified_subset(labels: ArrayLike, splits: ArrayLike, limit: int, *, seed: int = 0) -> Ints:
    """Draw about `limit` rows, by class and split, two of each at least; 0 keeps all."""
    rows = pd.DataFrame({"label": np.asarray(labels), "split": np.asarray(splits)})
    if limit == 0 or limit >= len(rows):
        return np.arange(len(rows))
    shuffled = rows.sample(frac=1, random_state=seed)
    parts = shuffled.groupby(["split", "label"])
    kept = np.maximum(2, limit * parts["label"].transform("size") // len(rows))
    return np.sort(shuffled.index[parts.cumcount() < kept])


def group_folds(
    y: Any, groups: Any = None, *, n_splits: int, n_repeats: int, seed: int, fewest: int = 0
) -> Iterator[tuple[Ints, Ints]]:
    """Yield (train, test) rows of repeated, shuffled, stratified folds; groups stay whole."""
    labels = np.asarray(y)
    codes = group_codes(groups, len(labels))
    sizes, rng = np.bincount(codes), np.random.default_rng(seed)
    strata = labels[np.unique(codes, return_index=True)[1]]  # a group's class: its first row's
    for _ in range(n_repeats):
        fold = np.zeros_like(sizes)
        for label in np.unique(labels):
            own = rng.permutation(np.flatnonzero(strata == label))
            if len(own) < (fewest or n_splits):
                few = f"Class {label} has too few images for {fewest or n_splits} folds"
                raise ValueError(f"{few}, near-duplicates counted once: add some, or leave it out.")
            own = own[np.argsort(-sizes[own], kind="stable")]  # like sizes go to different folds
            dealt = min(n_splits, len(own))  # with `fewest` the first folds alone may have some
            rounds = np.tile(np.arange(dealt), (len(own) // dealt + 1, 1))
            fold[own] = rng.permuted(rounds, axis=1).ravel()[: len(own)]
        for k in range(n_splits):
            yield np.flatnonzero(fold[codes] != k), np.flatnonzero(fold[codes] == k)


def cross_validate(
    estimator: Any,
    table: Any,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    n_repeats: int = 5,
    seed: int = 0,
) -> Floats:
    """Return a scikit-learn classifier's out-of-fold probabilities (n_repeats, n, k) of a table.

    `groups` are by default the table's; a `fit` that takes groups gets them.
    """
    X, labels, classes = table.features, table.labels, np.asarray(table.classes)
    codes = group_codes(table.groups if groups is None else groups, len(labels))
    found = np.zeros((n_repeats, len(labels), len(classes)))
    folds = group_folds(classes[labels], codes, n_splits=n_splits, n_repeats=n_repeats, seed=seed)
    takes_groups = has_fit_parameter(estimator, "groups")
    bar = tqdm(folds, "folds", n_splits * n_repeats)
    for i, (train, test) in enumerate(bar):
        options = {"groups": codes[train]} if takes_groups else {}
        probe = clone(estimator).fit(X[train], labels[train], **options)
        found[i // n_splits, test[:, None], probe.classes_] = probe.predict_proba(X[test])
    return found


def bootstrap(statistic: Statistic, codes: Ints, *, n_boot: int = 2000, seed: int = 0) -> Floats:
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
            found.append(statistic(weights.reshape(picked.shape)[:, codes].astype(float)))
    return np.concatenate(found)


def intervals(draws: Floats, names: Any, counts: ArrayLike = 0) -> pd.DataFrame:
    """Turn draws (1 + n_boot, m) into value, low and high, by percentiles.

    A proportion of 0 or 1 is the same in every draw; where `counts`, the number of groups under its
    fraction bar, is given, the exact binomial bound stands in (Clopper and Pearson 1934).
    """
    value, n = draws[0], np.broadcast_to(counts, draws.shape[1])
    defined = np.where(np.isnan(value), 0, draws[1:])  # what the sample lacks stays undefined
    ends = np.nanquantile(defined, [0.025, 0.975], axis=0)
    low, high = np.where(np.isnan(value), np.nan, ends)
    low, high = np.where(n == 1, [[0], [1]], [low, high])  # one group says nothing of others
    bound = beta.ppf(0.975, 1, np.maximum(n, 1))
    high = np.where((n > 0) & (value == 0), bound, high)
    low = np.where((n > 0) & (value == 1), 1 - bound, low)
    return pd.DataFrame({"value": value, "low": low, "high": high}, index=names)


def ratio_intervals(
    numerator: Any, denominator: Any = 1, *, groups: ArrayLike | None = None, **options: int
) -> pd.DataFrame:
    """Compute the sum of each column over that of the denominator: value, low, high.

    A mean has the denominator 1, a sensitivity counts hits over rows of the class. A row counts
    where its denominator is above 0. Both are (n,) or (n, m); truth values are proportions.
    """
    top, bottom = pd.DataFrame(numerator), np.asarray(denominator, float)
    whole = np.broadcast_to(bottom[:, None] if bottom.ndim == 1 else bottom, top.shape)
    part = np.where(whole > 0, top.to_numpy(float), 0)
    codes = group_codes(groups, len(top))
    draws = bootstrap(lambda weights: (weights @ part) / (weights @ whole), codes, **options)
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
    y: ArrayLike, a: ArrayLike, b: ArrayLike, *, groups: ArrayLike | None = None, **options: int
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
    draws = bootstrap(lambda w: (w @ gap) / w.sum(axis=1, keepdims=True), codes, **options)
    row = intervals(draws, ["difference"]).iloc[0]
    # Rounding must not decide ties between draws and the observed difference.
    farther = np.abs(draws[1:, 0] - row.value) >= abs(row.value) - 1e-12
    return pd.Series([*row, (1 + farther.sum()) / len(draws)], ["difference", "low", "high", "p"])


def compare_all(y: ArrayLike, predictions: Mapping[str, ArrayLike], **options: Any) -> pd.DataFrame:
    """Compare all pairs of classifiers: a, b, the fields of `compare`, and p_holm (Holm 1979)."""
    pairs = pd.DataFrame(list(itertools.combinations(predictions, 2)), columns=["a", "b"])
    rows = [compare(y, predictions[a], predictions[b], **options) for a, b in pairs.to_numpy()]
    table = pairs.join(pd.DataFrame(rows).reset_index(drop=True))
    ordered = table.p.sort_values(kind="stable")
    steps = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
    return table.assign(p_holm=steps)
