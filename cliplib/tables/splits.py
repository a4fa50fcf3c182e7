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

from cliplib.images.arrays import Bools, Features, Floats, Ints
from cliplib.tables.groups import number_groups

if TYPE_CHECKING:
    from joblib import Memory

MAX_GROUPS_FOR_SKLEARN = 5_000
"""With more of them StratifiedGroupKFold takes a second and longer."""


class _Table(Protocol):
    """What `out_of_fold_proba` needs of a `FeatureTable`, whose module imports this."""

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
    """Return groups as numbers, and refuse missing or too few ones.

    Parameters
    ----------
    groups
        The group of each row, (n,), names or numbers; without them each row is its own.
    n
        Number of rows.
    at_least
        How many different groups there must be.

    Returns
    -------
    Ints
        Codes (n,) from 0 without a gap, in the order of the sorted names.

    Raises
    ------
    ValueError
        Where there are not n entries, one is missing (None, NaN or empty), or too few
        differ.
    """
    names = np.arange(n) if groups is None else groups
    codes = number_groups(names, by_name=True)
    if codes.shape != (n,) or codes.max(initial=-1) + 1 < at_least:
        raise ValueError(
            f"groups must hold one group for each of {n} images, and at least"
            f" {at_least} different ones."
        )
    return codes


def class_indices(y: ArrayLike) -> Ints:
    """Return `y` as an integer array (n,), indices into classes.

    ValueError for names of classes, or another shape.
    """
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
    """Draw about `limit` rows at random, so that classes and splits keep their shares.

    `labels` and `splits` (n,) hold each row's class and published split, "" for none.
    Each class keeps two rows at least in each split, where it has them. A limit of 0,
    or of more rows than there are, keeps all.

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
    shuffled = rows.sample(frac=1, random_state=seed)  # keeps row numbers as index
    strata = shuffled.groupby(["split", "label"])["label"]
    # Of each row: how many its stratum keeps, and how many of it come before this one.
    n_kept = np.maximum(2, limit * strata.transform("size") // len(rows))
    n_before = strata.cumcount()
    return np.sort(shuffled.index[n_before < n_kept])


def group_train_test_split(
    y: ArrayLike, groups: ArrayLike | None = None, *, parts: int = 5, seed: int = 0
) -> tuple[Ints, Ints]:
    """Hold out about one in `parts` groups of each class, and one at least.

    `y` (n,) holds labels of any kind; without `groups` (n,) each row is its own group.
    Scikit-learn's grouped folds would need seconds for thousands of groups, and may
    leave a rare class out.

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
    counts = _count_by_group_and_class(labels, codes)
    is_held_out = _draw_groups(counts, parts, seed)
    has_class = (counts > 0).toarray()
    in_train = has_class[~is_held_out].any(axis=0)
    in_test = has_class[is_held_out].any(axis=0)
    one_sided = np.unique(labels)[~(in_train & in_test)]
    if len(one_sided):
        raise ValueError(
            f"Class {one_sided[0]} is on one side of the split only, since its groups"
            " hold other classes, too: try another seed."
        )
    is_test = is_held_out[codes]
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _draw_groups(counts: csr_array, parts: int, seed: int) -> Bools:
    """Return which groups, (n_groups,), are held out: one in `parts` of each class.

    `counts` (n_groups, k) says how many rows of each class a group holds. A class's
    groups are ordered by size and every `parts`-th is taken, from a random start
    (systematic sampling), so that its rows are held out in like proportion. A group of
    several classes is decided with the rarest of them (the order of Sechidis et al.
    2011).
    """
    sizes = counts.sum(axis=1)
    has_class = (counts > 0).toarray()
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(sizes))
    by_size = shuffled[np.argsort(sizes[shuffled], kind="stable")]
    is_held_out = np.zeros(len(sizes), bool)
    is_decided = np.zeros(len(sizes), bool)
    rarest_first = np.argsort(has_class.sum(axis=0), kind="stable")
    for label in rarest_first:
        members = by_size[has_class[by_size, label]]
        undecided = members[~is_decided[members]]
        # Before the end of those undecided, so that one of them at least is taken.
        start = rng.integers(min(parts, max(1, len(undecided))))
        # A single one is held out only if no other group of the class is yet.
        if len(undecided) > 1 or not is_held_out[members].any():
            is_held_out[undecided[start::parts]] = True
        is_decided[members] = True
    return is_held_out


def fold_numbers(
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_splits: int = 5,
    seed: int = 0,
    published: ArrayLike | None = None,
) -> Ints:
    """Assign whole groups to folds of like size and like shares of the classes.

    Groups of one row each are assigned by scikit-learn's StratifiedKFold, others by its
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
        Folds (n,) that a data set's author gives, from 1 to `n_splits`, and 0 where
        none: published fold i is fold i - 1, and all other groups join these folds.

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
    folds = np.full(len(labels), -1)  # not assigned yet
    if published is not None:
        names = np.arange(len(labels)) if groups is None else np.asarray(groups)
        folds = _published_folds(names, codes, np.asarray(published), n_splits) - 1
    is_left = folds < 0
    if is_left.any():
        folds[is_left] = _assign_folds(labels[is_left], codes[is_left], n_splits, seed)
    return folds


def group_folds(
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_splits: int = 5,
    seed: int = 0,
    published: ArrayLike | None = None,
) -> Iterator[tuple[Ints, Ints]]:
    """Yield train_rows and test_rows, increasing, of fold 0, 1, … of `fold_numbers`."""
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
        The features and labels, and by default the groups and the published folds.
    groups
        Other groups (n,), such as ``table.copies`` or ``np.arange(len(table))``; the
        published folds are set aside then.
    n_splits, seed
        Number of folds, and seed of the draw that assigns groups to them.
    memory
        A ``joblib.Memory`` that keeps the answer, by the estimator's class with the
        source of its module, its parameters, features, labels, groups and folds. Of a
        KernelProbe it also keeps a matrix (n, n), by features and parameters alone.
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
    class_names = np.asarray(table.classes)[table.labels]
    # `fold_numbers` checks as well, but could only name the class by its number.
    _check_number_of_groups(class_names, codes, n_splits, f"for {n_splits} folds")
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


def _count_by_group_and_class(labels: Any, codes: Ints) -> csr_array:
    """Return how many rows of each class each group has, sparse (n_groups, k).

    The `codes` (n,) number the rows' groups from 0 to n_groups - 1; the k different
    `labels` (n,) are in sorted order.
    """
    label_codes = np.unique(labels, return_inverse=True)[1]
    # Sparse: a group has few of the classes.
    return csr_array((np.ones(len(codes), np.int64), (codes, label_codes)))


def _check_number_of_groups(labels: Any, codes: Ints, needed: int, why: str) -> None:
    """Raise a ValueError that names a class of fewer than `needed` groups.

    `why` ends the clause "too few images", such as "for 5 folds".
    """
    # A column for each class, in the order of np.unique.
    groups_of_class = (_count_by_group_and_class(labels, codes) > 0).sum(axis=0)
    for label, count in zip(np.unique(labels), groups_of_class, strict=True):
        if count < needed:
            raise ValueError(
                f"Class {label} has too few images {why}, near-duplicates counted once:"
                f" add some, or leave it out (groups: {count}, needed: {needed})."
            )


def _published_folds(names: Any, codes: Ints, published: Any, n_splits: int) -> Ints:
    """Return the published fold of each row's group, (n,) from 1, 0 where none.

    `published` (n,) may give it for some rows of a group alone; ValueError if it gives
    several. `codes` (n,) number the rows' groups, `names` (n,) serve the message.
    """
    if (
        published.shape != codes.shape
        or not np.isin(published, range(n_splits + 1)).all()
    ):
        raise ValueError(
            f"published must hold one fold for each of {len(codes)} images, 1 to"
            f" {n_splits}, or 0 where there is none."
        )
    has_fold = published > 0
    fold_of_group = np.zeros(codes.max() + 1, np.int64)
    fold_of_group[codes[has_fold]] = published[has_fold]
    fold_of_row = fold_of_group[codes]
    contradictory = has_fold & (published != fold_of_row)
    if contradictory.any():
        row = np.flatnonzero(contradictory)[0]
        raise ValueError(
            f"Group {names[row]} has images in the published folds {published[row]} and"
            f" {fold_of_row[row]}: a group must be in one."
        )
    return np.asarray(fold_of_row)


def _assign_folds(labels: Any, codes: Ints, n_splits: int, seed: int) -> Ints:
    """Return the fold of each row, (n,) from 0, the same for all rows of a group.

    Folds are of like size, with like shares of the classes; `codes` (n,) number groups.
    """
    groups, first_row, group_of_row = np.unique(
        codes, return_index=True, return_inverse=True
    )
    n_groups = len(groups)
    largest_class = np.unique(labels, return_counts=True)[1].max()
    # So few rows may be left where others have published folds.
    sklearn_refuses = min(n_groups, largest_class) < n_splits
    if n_groups == len(labels) and not sklearn_refuses:
        # Where each group is one row, this splitter does as well, 1,000 times as fast.
        by_row = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
        folds = np.empty(len(labels), np.int64)
        # In the order of groups, so that folds do not depend on the order of rows.
        folds[first_row] = _folds_of_splitter(by_row, labels[first_row])
        return folds
    if n_groups > MAX_GROUPS_FOR_SKLEARN:
        return _assign_many_groups(labels, group_of_row, n_splits, seed)
    if sklearn_refuses:
        # At random, but so that numbers of groups differ by one at most between folds.
        rng = np.random.default_rng(seed)
        places = rng.permutation(max(n_groups, n_splits))
        return np.asarray(places[group_of_row] % n_splits)
    by_group = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    return _folds_of_splitter(by_group, labels, group_of_row)


def _assign_many_groups(
    labels: Any, group_of_row: Ints, n_splits: int, seed: int
) -> Ints:
    """Assign thousands of groups to folds: return the fold of each row, (n,) from 0.

    Groups are taken one by one, the largest first. Each goes to the fold where it adds
    least to the sum of squares of all folds' shares of the classes; among equals, to
    the one of fewest rows. `group_of_row` (n,) numbers groups from 0 without a gap.
    StratifiedGroupKFold compares the mean standard deviation of these shares, and takes
    15 times as long.
    """
    counts = _count_by_group_and_class(labels, group_of_row)
    sizes = counts.sum(axis=1)
    # Of classes, (k,): squares of counts times these are squares of shares.
    weights = 1 / counts.sum(axis=0) ** 2.0
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    largest_first = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold_counts = np.zeros((n_splits, len(weights)))  # rows assigned, by class
    fold_sizes = [0] * n_splits
    fold_of_group = np.empty(len(sizes), np.int64)
    for group in largest_first:
        # The classes that the group holds, and how many rows of each.
        entries = slice(counts.indptr[group], counts.indptr[group + 1])
        classes = counts.indices[entries]
        rows = counts.data[entries]
        # Of (fold + group)² - fold² only the product differs from fold to fold.
        added = (fold_counts[:, classes] * (rows * weights[classes])).sum(axis=1)
        costs = zip(added.tolist(), fold_sizes, range(n_splits), strict=True)
        *_, fold = min(costs)  # least added, then fewest rows
        fold_of_group[group] = fold
        fold_counts[fold, classes] += rows
        fold_sizes[fold] += int(sizes[group])
    return fold_of_group[group_of_row]


def _folds_of_splitter(splitter: Any, labels: Any, groups: Ints | None = None) -> Ints:
    """Return in which test part of a scikit-learn splitter each row is, (n,) from 0."""
    folds = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        # Few rows of a class may be left where others have published folds.
        warnings.filterwarnings("ignore", "The least populated class")
        # Labels stand for the features, too, of which only the number counts.
        for fold, (_, test_rows) in enumerate(splitter.split(labels, labels, groups)):
            folds[test_rows] = fold
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
    """Return probabilities (n_test, n_classes) of the test rows of each fold.

    They are 0 for a class that the training rows lack. `folds` are train_rows and
    test_rows of each, `codes` (n,) the numbers of groups. `source`, the estimator's
    code, serves the memory alone, which finds answers by the arguments. Clones of the
    estimator are fitted, not itself.
    """
    if getattr(estimator, "fits_folds_at_once", False):
        prepare = _prepare_folds if memory is None else memory.cache(_prepare_folds)
        shared = prepare(estimator, features, source)
        answers = estimator.predict_folds(shared, labels, folds, codes)
    else:
        answers = _fit_each_fold(estimator, features, labels, codes, folds)
    by_fold = []
    bar = tqdm(answers, "folds", total=len(folds), disable=not progress)
    for trained_classes, proba_of_trained in bar:
        proba = np.zeros((len(proba_of_trained), n_classes))
        proba[:, trained_classes] = proba_of_trained
        by_fold.append(proba)
    return by_fold


def _prepare_folds(estimator: Any, features: Features, source: str) -> Features:
    """Return what the fits of all folds share: for a `KernelProbe` a matrix (n, n).

    `source`, the estimator's code, serves a memory alone, which finds answers by the
    arguments, and must find none of older code.
    """
    return np.asarray(estimator.prepare_folds(features))


def _fit_each_fold(
    estimator: Any,
    features: Features,
    labels: Ints,
    codes: Ints,
    folds: list[tuple[Ints, Ints]],
) -> Iterator[tuple[Ints, Floats]]:
    """Fit a clone to the training rows of each fold, and predict the test rows.

    Yields the c classes of the training rows, and probabilities (n_test, c) of the test
    rows. `codes` (n,) are the numbers of groups.
    """
    for train_rows, test_rows in folds:
        fitted = fit_with_groups(
            estimator, features[train_rows], labels[train_rows], codes[train_rows]
        )
        yield fitted.classes_, fitted.predict_proba(features[test_rows])


def fit_with_groups(
    estimator: Any, features: Features, labels: Ints, groups: Ints
) -> Any:
    """Return a clone of a classifier, fitted on features (n, d) and labels (n,).

    If its `fit` takes groups it gets these, (n,): probes hold out whole groups by them.
    """
    options = {"groups": groups} if has_fit_parameter(estimator, "groups") else {}
    return clone(estimator).fit(features, labels, **options)


def _module_source(estimator: Any) -> str:
    """Return the code of the module that defines an estimator, "" if it has no file.

    It is part of the key by which a `joblib.Memory` finds kept predictions, so that
    those of older code are not taken for today's.
    """
    try:
        return inspect.getsource(sys.modules[type(estimator).__module__])
    except (OSError, TypeError):
        return ""
