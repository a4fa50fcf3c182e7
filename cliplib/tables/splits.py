"""Splits, folds and subsets that keep groups whole.

A group is what must never be separated: near-duplicates of one image, images of one
patient. Wherever groups are given by name, splits do not depend on the order of rows.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.validation import has_fit_parameter
from tqdm.auto import tqdm

from cliplib.images.arrays import Features, Floats, Ints
from cliplib.tables.groups import number_groups

if TYPE_CHECKING:
    from joblib import Memory

MOST_GROUPS_TO_WEIGH = 5_000
"""With more of them scikit-learn's StratifiedGroupKFold takes a second and longer."""


class _Table(Protocol):
    """What is needed of a `FeatureTable`, whose module imports this one."""

    @property
    def features(self) -> Features: ...
    @property
    def labels(self) -> Ints: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> Ints: ...
    @property
    def folds(self) -> Ints: ...


def group_codes(groups: ArrayLike | None, n: int, *, at_least: int = 2) -> Ints:
    """Give each group of n rows a number.

    Parameters
    ----------
    groups
        Names or numbers (n,) of any kind; without them each row is its own group.
    n
        Number of rows.
    at_least
        Number of groups that are needed: two can be kept apart.

    Returns
    -------
    Ints
        Codes (n,) from 0, in the order of the sorted names.

    Raises
    ------
    ValueError
        Where a row has no group (None, NaN or empty), or there are too few groups.
    """
    names = np.arange(n) if groups is None else groups
    codes = number_groups(names, by_name=True)
    if codes.shape != (n,) or codes.max(initial=-1) + 1 < at_least:
        raise ValueError(
            f"Each of {n} images needs a group, and at least two of them must differ."
        )
    return codes


def class_indices(y: ArrayLike) -> Ints:
    """Return labels (n,) that are indices into classes; ValueError for names."""
    labels = np.asarray(y)
    if labels.dtype.kind not in "iu":
        raise ValueError(
            "Labels must be numbers of classes here, from 0, and not their names."
        )
    if labels.ndim != 1:
        raise ValueError(f"Labels must be (n,), and not {labels.shape}.")
    return labels


def stratified_subset(
    labels: ArrayLike, splits: ArrayLike, limit: int, *, seed: int = 0
) -> Ints:
    """Draw about `limit` rows, by class and published split.

    Each class keeps its share in each split, and two rows at least; 0 keeps all rows.

    Returns
    -------
    Ints
        Row numbers, in increasing order.

    Raises
    ------
    ValueError
        If `limit` is no whole number from 0 on.
    """
    if not isinstance(limit, Integral) or limit < 0:
        raise ValueError(
            f"limit={limit!r} must be a whole number: about so many images, 0 for all."
        )
    rows = pd.DataFrame({"label": np.asarray(labels), "split": np.asarray(splits)})
    if limit == 0 or limit >= len(rows):
        return np.arange(len(rows))
    shuffled = rows.sample(frac=1, random_state=seed)
    strata = shuffled.groupby(["split", "label"])["label"]
    wanted = np.maximum(2, limit * strata.transform("size") // len(rows))
    return np.sort(shuffled.index[strata.cumcount() < wanted])


def group_train_test_split(
    y: ArrayLike, groups: ArrayLike | None = None, *, parts: int = 5, seed: int = 0
) -> tuple[Ints, Ints]:
    """Hold out about one in `parts` groups of each class, and one at least.

    A class's groups are ordered by size and every `parts`-th is taken, from a random
    start (systematic sampling), so that its rows are held out in like proportion. A
    group of several classes is decided with the rarest of them (the order of Sechidis
    et al. 2011). Scikit-learn's grouped folds would need seconds for thousands of
    groups, and may leave a rare class out.

    Returns
    -------
    train_rows, test_rows : Ints
        Row numbers, in increasing order; every class is on both sides.

    Raises
    ------
    ValueError
        Where a class has a single group, or no such split was found.
    """
    labels = np.asarray(y)
    codes = group_codes(groups, len(labels))
    _check_number_of_groups(labels, codes, 2, "to hold some out")
    rows_of = _rows_by_group_and_class(labels, codes)
    sizes = rows_of.sum(axis=1)
    has_class = (rows_of > 0).toarray()
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(sizes))
    by_size = shuffled[np.argsort(sizes[shuffled], kind="stable")]
    held_out = np.zeros(len(sizes), bool)
    decided = np.zeros(len(sizes), bool)
    for label in np.argsort(has_class.sum(axis=0), kind="stable"):
        members = by_size[has_class[by_size, label]]
        undecided = members[~decided[members]]
        start = rng.integers(min(parts, max(1, len(undecided))))
        # A single one is held out only if the class has none on that side yet.
        if len(undecided) > 1 or not held_out[members].any():
            held_out[undecided[start::parts]] = True
        decided[members] = True
    one_sided = ~(has_class[held_out].any(axis=0) & has_class[~held_out].any(axis=0))
    if one_sided.any():
        raise ValueError(
            f"Class {np.unique(labels)[one_sided][0]} is on one side of the split"
            " only, since its groups hold other classes, too: try another seed."
        )
    is_test = held_out[codes]
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def fold_numbers(
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_splits: int = 5,
    seed: int = 0,
    published: ArrayLike | None = None,
) -> Ints:
    """Deal whole groups into folds of like size and like shares of the classes.

    Rows alone are dealt by scikit-learn's StratifiedKFold, groups by its
    StratifiedGroupKFold; more than 5,000 groups one after another, the largest first,
    each to the fold that has least of its classes.

    Parameters
    ----------
    y
        Classes (n,) of any kind. A group may hold several.
    groups
        Groups (n,); without them each row is its own.
    n_splits
        Number of folds.
    seed
        Equal seeds give equal folds.
    published
        Fold numbers (n,), 1 to `n_splits`, that a data set's author gives, 0 where
        none: these groups keep theirs, all others are dealt into the same folds.

    Returns
    -------
    Ints
        Fold numbers (n,), 0 to n_splits - 1.

    Raises
    ------
    ValueError
        Where a class has fewer groups than there are folds, or a group is in two
        published folds.
    """
    labels = np.asarray(y)
    codes = group_codes(groups, len(labels))
    _check_number_of_groups(labels, codes, n_splits, f"for {n_splits} folds")
    folds = np.full(len(labels), -1)
    if published is not None:
        names = np.arange(len(labels)) if groups is None else np.asarray(groups)
        folds = _published_folds(names, codes, np.asarray(published), n_splits) - 1
    to_deal = folds < 0
    if to_deal.any():
        folds[to_deal] = _deal(labels[to_deal], codes[to_deal], n_splits, seed)
    return folds


def group_folds(
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_splits: int = 5,
    seed: int = 0,
    published: ArrayLike | None = None,
) -> Iterator[tuple[Ints, Ints]]:
    """Yield train_rows and test_rows of each fold of `fold_numbers`, in its order."""
    folds = fold_numbers(y, groups, n_splits=n_splits, seed=seed, published=published)
    for fold in range(n_splits):
        yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def out_of_fold_proba(
    estimator: Any,
    table: _Table,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    seed: int = 0,
    memory: Memory | None = None,
    progress: bool = True,
) -> Floats:
    """Predict each row by a classifier that was fitted without its fold.

    A `KernelProbe` fits all folds at once: see its `prepare_folds`.

    Parameters
    ----------
    estimator
        A scikit-learn classifier; a `fit` that takes `groups` gets those of its rows.
    table
        The features, and by default the groups and the published folds.
    groups
        Other groups (n,), such as ``table.copies`` or ``np.arange(len(table))``; the
        published folds are set aside then.
    n_splits, seed
        As in `fold_numbers`.
    memory
        A ``joblib.Memory`` that keeps the answer. Its key holds the estimator's class
        with the source of its module, its parameters, features, labels, groups, folds.
        Of a KernelProbe it keeps a matrix (n, n) as well, which other folds of the same
        features then spare.
    progress
        Show a bar that counts folds.

    Returns
    -------
    Floats
        Probabilities (n, k), columns in the order of ``table.classes``; 0 for a class
        that a fold's training rows lack.
    """
    published = table.folds if groups is None else None
    codes = group_codes(table.groups if groups is None else groups, len(table.labels))
    names = np.asarray(table.classes)[table.labels]
    # Here, because the folds of label numbers could not name the class.
    _check_number_of_groups(names, codes, n_splits, f"for {n_splits} folds")
    folds = list(
        group_folds(
            table.labels, codes, n_splits=n_splits, seed=seed, published=published
        )
    )
    predict: Any = _predict_folds
    if memory is not None:
        predict = memory.cache(_predict_folds, ignore=["memory", "progress"])
    by_fold = predict(
        clone(estimator),
        np.ascontiguousarray(table.features),
        table.labels,
        codes,
        folds,
        len(table.classes),
        _module_source(estimator),
        memory,
        progress=progress,
    )
    proba = np.zeros((len(table.labels), len(table.classes)))
    for (_, test_rows), test_proba in zip(folds, by_fold, strict=True):
        proba[test_rows] = test_proba
    return proba


def _rows_by_group_and_class(labels: Any, codes: Ints) -> csr_array:
    """Count rows by group and class, (n_groups, k), both in sorted order."""
    label_codes = np.unique(labels, return_inverse=True)[1]
    # Sparse: a group has few of the classes.
    return csr_array((np.ones(len(codes), np.int64), (codes, label_codes)))


def _check_number_of_groups(labels: Any, codes: Ints, needed: int, why: str) -> None:
    """Refuse a class of fewer than `needed` groups, by its name."""
    n_groups = (_rows_by_group_and_class(labels, codes) > 0).sum(axis=0)
    for label, count in zip(np.unique(labels), n_groups, strict=True):
        if count < needed:
            raise ValueError(
                f"Class {label} has too few images {why}, near-duplicates counted once:"
                f" add some, or leave it out (groups: {count}, needed: {needed})."
            )


def _published_folds(names: Any, codes: Ints, published: Any, n_splits: int) -> Ints:
    """Return the published fold of each row's group, 1 to n_splits, 0 where none."""
    if (
        published.shape != codes.shape
        or not np.isin(published, range(n_splits + 1)).all()
    ):
        raise ValueError(
            f"published must hold one fold for each of {len(codes)} images, 1 to"
            f" {n_splits}, or 0 where there is none."
        )
    given = published > 0
    fold_of_group = np.zeros(codes.max() + 1, np.int64)
    fold_of_group[codes[given]] = published[given]
    contradictory = given & (published != fold_of_group[codes])
    if contradictory.any():
        row = np.flatnonzero(contradictory)[0]
        raise ValueError(
            f"Group {names[row]} has images in the published folds {published[row]} and"
            f" {fold_of_group[codes[row]]}: a group must be in one."
        )
    return np.asarray(fold_of_group[codes])


def _deal(labels: Any, codes: Ints, n_splits: int, seed: int) -> Ints:
    """Deal whole groups into folds of like size and class, (n,) from 0."""
    names, first_row, group_of_row = np.unique(
        codes, return_index=True, return_inverse=True
    )
    if len(names) == len(labels) and not _too_few(labels, group_of_row, n_splits):
        # The same for groups of one row, a thousand times as fast.
        by_row = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
        folds = np.empty(len(labels), np.int64)
        folds[first_row] = _folds_of(by_row, labels[first_row])
        return folds
    if len(names) > MOST_GROUPS_TO_WEIGH:
        return _weigh_very_many(labels, group_of_row, n_splits, seed)
    return _weigh(labels, group_of_row, n_splits, seed)


def _too_few(labels: Any, groups: Ints, n_splits: int) -> bool:
    """Return whether scikit-learn refuses to deal so few groups, or rows of a class."""
    largest_class = np.unique(labels, return_counts=True)[1].max()
    return bool(min(len(np.unique(groups)), largest_class) < n_splits)


def _weigh(labels: Any, group_of_row: Ints, n_splits: int, seed: int) -> Ints:
    """Deal groups one after another, each to the fold that it suits best."""
    if _too_few(labels, group_of_row, n_splits):  # beside published folds, or left over
        names, place = np.unique(group_of_row, return_inverse=True)
        order = np.random.default_rng(seed).permutation(max(len(names), n_splits))
        return np.asarray(order[place] % n_splits)
    by_group = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    return _folds_of(by_group, labels, group_of_row)


def _weigh_very_many(labels: Any, group_of_row: Ints, n_splits: int, seed: int) -> Ints:
    """Deal groups, the largest first, each to the fold with least of its classes.

    That is the fold to which the group adds least to the squares of all folds' shares
    of the classes; among equals it is the one of fewest rows. StratifiedGroupKFold
    compares the mean standard deviation of these shares, and takes 15 times as long.
    """
    by_class = _rows_by_group_and_class(labels, group_of_row)
    sizes = by_class.sum(axis=1)
    weights = 1 / by_class.sum(axis=0) ** 2.0
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    rows_dealt = np.zeros((n_splits, len(weights)))
    fold_sizes = [0] * n_splits
    folds = np.empty(len(sizes), np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        own = slice(by_class.indptr[group], by_class.indptr[group + 1])
        classes = by_class.indices[own]
        rows = by_class.data[own]
        added = (rows_dealt[:, classes] * (rows * weights[classes])).sum(axis=1)
        costs = zip(added.tolist(), fold_sizes, range(n_splits), strict=True)
        fold = min(costs)[-1]
        folds[group] = fold
        rows_dealt[fold, classes] += rows
        fold_sizes[fold] += int(sizes[group])
    return folds[group_of_row]


def _folds_of(splitter: Any, labels: Any, groups: Ints | None = None) -> Ints:
    """Return the fold of each row, (n,) from 0, by a splitter of scikit-learn."""
    folds = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        for fold, (_, test) in enumerate(splitter.split(labels, labels, groups)):
            folds[test] = fold
    return folds


def _predict_folds(
    estimator: Any,
    features: Features,
    labels: Ints,
    codes: Ints,
    folds: list[tuple[Ints, Ints]],
    n_classes: int,
    source: str,
    memory: Memory | None,
    *,
    progress: bool,
) -> list[Floats]:
    """Return probabilities (n_test, k) of each fold; `source` is part of the key."""
    if getattr(estimator, "fits_folds_at_once", False):
        prepare = _prepare_folds if memory is None else memory.cache(_prepare_folds)
        shared = prepare(estimator, features, source)
        answers = estimator.predict_folds(shared, labels, folds, codes)
    else:
        answers = _fit_each_fold(estimator, features, labels, codes, folds)
    by_fold = []
    bar = tqdm(answers, "folds", total=len(folds), disable=not progress)
    for classes, known in bar:
        proba = np.zeros((len(known), n_classes))
        proba[:, classes] = known
        by_fold.append(proba)
    return by_fold


def _prepare_folds(estimator: Any, features: Features, source: str) -> Features:
    """Compute what the fits of all folds share; `source` is part of the key."""
    return np.asarray(estimator.prepare_folds(features))


def _fit_each_fold(
    estimator: Any,
    features: Features,
    labels: Ints,
    codes: Ints,
    folds: list[tuple[Ints, Ints]],
) -> Iterator[tuple[Ints, Floats]]:
    """Yield, for each fold, the classes of its training rows, and probabilities."""
    takes_groups = has_fit_parameter(estimator, "groups")
    for train_rows, test_rows in folds:
        options = {"groups": codes[train_rows]} if takes_groups else {}
        fitted = clone(estimator).fit(
            features[train_rows], labels[train_rows], **options
        )
        yield fitted.classes_, fitted.predict_proba(features[test_rows])


def _module_source(estimator: Any) -> str:
    """Return the source of the module that defines an estimator, or ""."""
    try:
        return inspect.getsource(sys.modules[type(estimator).__module__])
    except (OSError, TypeError):
        return ""
