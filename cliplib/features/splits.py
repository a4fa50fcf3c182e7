"""Splits and folds that keep groups whole.

A group is a set of images that must never be separated, such as near-duplicates or the
images of one patient. In this module `group_of_row` (n,) holds the group number of each
row, from 0 without a gap, in the order of the groups' sorted names. So splits of named
groups do not depend on the order of the rows.
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

# Number of draws of held-out groups after which a class counts as indivisible.
MAX_DRAWS = 20
# Largest number of groups for StratifiedGroupKFold, which takes a second for so many.
MAX_GROUPS_FOR_SKLEARN = 5_000


def checked_groups(groups: ArrayLike | None, n: int, *, at_least: int = 2) -> Ints:
    """Return each row's group number; refuse missing groups, or too few of them.

    Parameters
    ----------
    groups
        The group of each row, (n,), names or numbers; by default each row is a group.
    n
        Number of rows.
    at_least
        Smallest number of different groups.

    Returns
    -------
    Ints
        Group numbers (n,), from 0 without a gap, in the order of the sorted names.

    Raises
    ------
    ValueError
        If there are not n entries, one is missing (None, NaN or empty), or there are
        too few different groups.
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
    """Hold out about one in `parts` groups of each class, and at least one.

    `y` (n,) holds labels of any kind, `groups` (n,) names or numbers; by default each
    row is a group. Scikit-learn's grouped folds take seconds for thousands of groups,
    and may leave out a rare class.

    Returns
    -------
    train_rows, test_rows : Ints
        Row numbers, in increasing order. Every class is on both sides.

    Raises
    ------
    ValueError
        If a class has a single group, no such split is found, or `seed` is not a whole
        number.
    """
    if not isinstance(seed, Integral):
        raise ValueError(f"seed={seed!r} must be a whole number.")
    labels = np.asarray(y)
    group_of_row = checked_groups(groups, len(labels))
    check_number_of_groups(labels, group_of_row, 2, "to hold some out")
    counts = _count_by_group_and_class(labels, group_of_row)
    has_class = (counts > 0).toarray()  # (n_groups, k)
    rng = np.random.default_rng(seed)
    for _ in range(MAX_DRAWS):
        is_held_out = _draw_groups(counts, parts, rng)  # (n_groups,)
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
    """Return whether each group is held out, (n_groups,): one in `parts` of each class.

    `counts` (n_groups, k) says how many rows of each class a group holds.

    The groups of a class are ordered by size, and every `parts`-th of them is taken,
    from a random start on (systematic sampling): thus about one in `parts` of its rows
    is held out, too. Classes are treated from the rarest on, and a group of several
    classes is decided with the rarest of them (as in Sechidis et al. 2011).
    """
    group_sizes = counts.sum(axis=1)
    has_class = (counts > 0).toarray()
    shuffled = rng.permutation(len(group_sizes))
    smallest_first = shuffled[np.argsort(group_sizes[shuffled], kind="stable")]
    is_held_out = np.zeros(len(group_sizes), bool)
    is_decided = np.zeros(len(group_sizes), bool)
    n_groups_of_class = has_class.sum(axis=0)
    for label in np.argsort(n_groups_of_class, kind="stable"):
        groups_of_class = smallest_first[has_class[smallest_first, label]]
        undecided = groups_of_class[~is_decided[groups_of_class]]
        # The start is among the undecided groups, so that at least one is taken.
        start = rng.integers(min(parts, max(1, len(undecided))))
        # A single undecided group is held out only if the class has no such group yet.
        has_held_out = is_held_out[groups_of_class].any()
        if len(undecided) > 1 or not has_held_out:
            is_held_out[undecided[start::parts]] = True
        is_decided[groups_of_class] = True
    return is_held_out


def fold_numbers(
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> Ints:
    """Assign whole groups to folds of similar size and similar shares of the classes.

    Groups are assigned by scikit-learn's StratifiedGroupKFold. If each row is a group,
    or there are more than 5,000 groups, StratifiedKFold is used instead: it counts a
    group as one entry, whatever its size, of the first of its classes.

    Parameters
    ----------
    y
        Classes (n,) of any kind. A group may hold several.
    groups
        Groups (n,); by default each row is a group.
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
        If a class has fewer groups than there are folds.
    """
    labels = np.asarray(y)
    group_of_row = checked_groups(groups, len(labels))
    check_number_of_groups(labels, group_of_row, n_splits, f"for {n_splits} folds")
    return assign_folds(labels, group_of_row, n_splits, seed)


def _count_by_group_and_class(labels: Any, group_of_row: Ints) -> csr_array:
    """Return the number of rows by group and class, a sparse array (n_groups, k).

    The columns are the k different `labels` (n,), names or numbers, in sorted order.
    """
    _, class_of_row = np.unique(labels, return_inverse=True)  # 0 to k - 1
    # A csr_array adds entries of the same place.
    ones = np.ones(len(group_of_row), np.int64)
    return csr_array((ones, (group_of_row, class_of_row)))


def check_number_of_groups(
    labels: Any, group_of_row: Ints, needed: int, why: str
) -> None:
    """Raise a ValueError that names a class with fewer than `needed` groups.

    `why` says in the message what they are needed for, such as "for 5 folds".
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
    """Assign folds (n,) as `fold_numbers` does, also if some classes have few groups.

    Scikit-learn refuses if no class has as many groups as there are folds.
    """
    # Imported here, since that takes most of a second, and reading a table needs none.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    class_of_group = pd.Series(labels).groupby(group_of_row).min().to_numpy()
    n_groups = len(class_of_group)
    if n_groups == len(labels) or n_groups > MAX_GROUPS_FOR_SKLEARN:
        # With one entry for each group it is 1,000 times as fast. Of so many groups the
        # sizes even out by chance.
        by_group = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
        return _folds_of_splitter(by_group, class_of_group)[group_of_row]
    by_row = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    return _folds_of_splitter(by_row, labels, group_of_row)


def _folds_of_splitter(
    splitter: Any, labels: Any, group_of_row: Ints | None = None
) -> Ints:
    """Return each row's fold, (n,) from 0, by a scikit-learn splitter.

    It is the fold that has the row among its test rows.
    """
    folds = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        # A class may seem rare here, since a group counts for its first class alone.
        warnings.filterwarnings("ignore", "The least populated class")
        # The splitter wants features, but only counts them: labels stand in for them.
        splits = splitter.split(labels, labels, group_of_row)
        for fold, (_, test_rows) in enumerate(splits):
            folds[test_rows] = fold
    return folds
