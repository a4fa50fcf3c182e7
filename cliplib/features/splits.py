"""Splits and folds that keep groups whole.

A group is what must never be separated: near-duplicates of one image, images of one
patient. Wherever groups are given by name, splits do not depend on the order of rows.
Within this module, `group_of_row` (n,) holds the group number of each row, from 0
without a gap, in the order of the groups' sorted names.
"""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from cliplib.data.arrays import Bools, Ints
from cliplib.features.groups import number_groups

# Draws of groups to hold out, before it is told that a class cannot be divided.
MAX_DRAWS = 20
# With more of them StratifiedGroupKFold takes a second and longer.
MAX_GROUPS_FOR_SKLEARN = 5_000


def checked_groups(groups: ArrayLike | None, n: int, *, at_least: int = 2) -> Ints:
    """Return each row's group number, and refuse missing or too few groups.

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
        Group numbers (n,), from 0 without a gap, in the order of the sorted names.

    Raises
    ------
    ValueError
        Where there are not n entries, one is missing (None, NaN or empty), or too few
        differ.
    """
    names = np.arange(n) if groups is None else groups
    group_of_row = number_groups(names, by_name=True)
    n_groups = group_of_row.max(initial=-1) + 1
    if len(group_of_row) != n or n_groups < at_least:
        raise ValueError(
            f"groups must hold one group for each of {n} images, and at least"
            f" {at_least} different ones."
        )
    return group_of_row


def group_train_test_split(
    y: ArrayLike, groups: ArrayLike | None = None, *, parts: int = 5, seed: int = 0
) -> tuple[Ints, Ints]:
    """Hold out about one in `parts` groups of each class, and one at least.

    `y` (n,) holds labels of any kind, `groups` (n,) names or numbers; without them each
    row is its own group. Scikit-learn's grouped folds would need seconds for thousands
    of groups, and may leave a rare class out.

    Returns
    -------
    train_rows, test_rows : Ints
        Row numbers, in increasing order; every class is on both sides.

    Raises
    ------
    ValueError
        Where a class has a single group, no such split was found, or `seed` is no whole
        number.
    """
    if not isinstance(seed, Integral):
        raise ValueError(f"seed={seed!r} must be a whole number.")
    labels = np.asarray(y)
    group_of_row = checked_groups(groups, len(labels))  # numbers from 0
    check_number_of_groups(labels, group_of_row, 2, "to hold some out")
    counts = _count_by_group_and_class(labels, group_of_row)
    has_class = (counts > 0).toarray()  # (n_groups, k)
    rng = np.random.default_rng(seed)
    for _ in range(MAX_DRAWS):
        is_held_out = _draw_groups(counts, parts, rng)  # whether each group is
        in_train = has_class[~is_held_out].any(axis=0)
        in_test = has_class[is_held_out].any(axis=0)
        if (in_train & in_test).all():
            is_test = is_held_out[group_of_row]
            return np.flatnonzero(~is_test), np.flatnonzero(is_test)
    one_sided = np.unique(labels)[~(in_train & in_test)][0]
    raise ValueError(
        f"Class {one_sided} is on one side of the split only, since its groups hold"
        " other classes, too: give other groups, or more of them."
    )


def _draw_groups(counts: csr_array, parts: int, rng: np.random.Generator) -> Bools:
    """Draw the groups to hold out, about one in `parts` of each class.

    A class's groups are ordered by size and every `parts`-th is taken, from a random
    start (systematic sampling), so that about one in `parts` of its rows is held out,
    too. A group of several classes is decided with the rarest of them (the order of
    Sechidis et al. 2011).

    `counts` (n_groups, k) says how many rows of each class a group holds. Returned is
    whether each group, (n_groups,), is held out.
    """
    group_sizes = counts.sum(axis=1)
    has_class = (counts > 0).toarray()
    shuffled = rng.permutation(len(group_sizes))
    smallest_first = shuffled[np.argsort(group_sizes[shuffled], kind="stable")]
    is_held_out = np.zeros(len(group_sizes), bool)
    is_decided = np.zeros(len(group_sizes), bool)
    rarest_first = np.argsort(has_class.sum(axis=0), kind="stable")  # of fewest groups
    for label in rarest_first:
        groups_of_class = smallest_first[has_class[smallest_first, label]]
        undecided = groups_of_class[~is_decided[groups_of_class]]
        # A start beyond the last of those undecided would take none of them.
        n_starts = min(parts, max(1, len(undecided)))
        every_so_many = undecided[rng.integers(n_starts) :: parts]
        is_missing = not is_held_out[groups_of_class].any()
        # A single one is held out only if no other group of the class is yet.
        if len(undecided) > 1 or is_missing:
            is_held_out[every_so_many] = True
        is_decided[groups_of_class] = True
    return is_held_out


def fold_numbers(
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> Ints:
    """Assign whole groups to folds of like size and like shares of the classes.

    Groups are assigned by scikit-learn's StratifiedGroupKFold. Where each row is its
    own group, and beyond 5,000 groups, it is StratifiedKFold, to which a group is one
    entry, whatever its size, of the first of its classes.

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

    Returns
    -------
    Ints
        Fold numbers (n,), 0 to n_splits - 1.

    Raises
    ------
    ValueError
        Where a class has fewer groups than there are folds.
    """
    labels = np.asarray(y)
    group_of_row = checked_groups(groups, len(labels))
    check_number_of_groups(labels, group_of_row, n_splits, f"for {n_splits} folds")
    return assign_folds(labels, group_of_row, n_splits, seed)


def _count_by_group_and_class(labels: Any, group_of_row: Ints) -> csr_array:
    """Return how many rows of each class each group has, sparse (n_groups, k).

    The columns are the k different `labels` (n,), names or numbers, in sorted order.
    """
    class_of_row = np.unique(labels, return_inverse=True)[1]  # from 0 to k - 1
    # Sparse: a group has few of the classes. Ones at the same place are added.
    ones = np.ones(len(group_of_row), np.int64)
    return csr_array((ones, (group_of_row, class_of_row)))


def check_number_of_groups(
    labels: Any, group_of_row: Ints, needed: int, why: str
) -> None:
    """Raise a ValueError that names a class of fewer than `needed` groups.

    `why` says in its message what they are needed for, such as "for 5 folds".
    """
    counts = _count_by_group_and_class(labels, group_of_row)
    n_groups_of_class = (counts > 0).sum(axis=0)
    for label, n_groups in zip(np.unique(labels), n_groups_of_class, strict=True):
        if n_groups < needed:
            raise ValueError(
                f"Class {label} has too few images {why}, near-duplicates counted once:"
                f" add some, or leave it out (groups: {n_groups}, needed: {needed})."
            )


def assign_folds(labels: Any, group_of_row: Ints, n_splits: int, seed: int) -> Ints:
    """Return `fold_numbers` (n,), also where some classes have too few groups.

    A class must have as many groups as there are folds, or scikit-learn refuses.
    """
    # Here, since it takes most of a second, which a table that is read can do without.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    class_of_group = pd.Series(labels).groupby(group_of_row).min().to_numpy()
    n_groups = len(class_of_group)
    if n_groups == len(labels) or n_groups > MAX_GROUPS_FOR_SKLEARN:
        # One entry for each group: 1,000 times as fast, and as even by chance.
        by_group = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
        return _folds_of_splitter(by_group, class_of_group)[group_of_row]
    by_row = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    return _folds_of_splitter(by_row, labels, group_of_row)


def _folds_of_splitter(
    splitter: Any, labels: Any, group_of_row: Ints | None = None
) -> Ints:
    """Return each row's fold, (n,) from 0: the one that has it among its test rows.

    Folds are those of a scikit-learn splitter, which uses `group_of_row` if given.
    """
    folds = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        # A class may have few groups but those that count for another class.
        warnings.filterwarnings("ignore", "The least populated class")
        # It yields train_rows and test_rows of each fold. In place of features, of
        # which only the number counts, it gets the labels.
        splits = splitter.split(labels, labels, group_of_row)
        for fold, (_, test_rows) in enumerate(splits):
            folds[test_rows] = fold
    return folds
