"""Folds that an author published for some groups of images, and ours for the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

import cliplib
from cliplib.data.arrays import Floats, Ints
from cliplib.features.groups import number_groups
from cliplib.features.splits import assign_folds, check_number_of_groups, fold_numbers
from cliplib.features.table import FeatureTable
from cliplib.probes.out_of_fold import fit_folds, predict_fits, rows_of_folds


@dataclass(frozen=True, eq=False, repr=False)
class FoldedTable(FeatureTable):
    """A feature table with folds for cross-validation.

    Attributes
    ----------
    folds
        The fold of each row, (n,), from 1; 0 where none is published.
    """

    folds: Ints = field(kw_only=True)

    def select(self, index: int | slice | ArrayLike) -> FoldedTable:
        """Return the table of some rows, with their folds."""
        folds = np.atleast_1d(self.folds[index])  # type: ignore[index]
        return with_folds(super().select(index), folds)

    def with_groups(self, groups: ArrayLike) -> FoldedTable:
        """Return the table with other groups, without folds, which may divide these."""
        return with_folds(super().with_groups(groups), np.zeros(len(self)))


def with_folds(table: FeatureTable, folds: ArrayLike) -> FoldedTable:
    """Return a table with folds (n,) in place of any that it has."""
    return FoldedTable(**{**vars(table), "folds": np.asarray(folds, np.int64)})


def completed_folds(table: FeatureTable, n_splits: int = 5, seed: int = 0) -> Ints:
    """Return the fold of each row, (n,) from 0: the published one, less 1, or ours.

    Groups without a published fold are assigned to the same folds. A table without any
    gets those of `fold_numbers`.

    Raises
    ------
    ValueError
        Where a class has fewer groups than there are folds, a group is in two published
        folds, or more folds are published.
    """
    labels, groups = table.label_names, number_groups(table.groups, by_name=True)
    published = getattr(table, "folds", np.zeros(len(table), np.int64))
    if not published.any():
        return fold_numbers(labels, groups, n_splits=n_splits, seed=seed)
    check_number_of_groups(labels, groups, n_splits, f"for {n_splits} folds")
    is_torn = pd.Series(published).groupby(groups).nunique() > 1
    if is_torn.any() or published.max() > n_splits:
        raise ValueError(
            f"Published folds must be from 1 to {n_splits}, one for each group of "
            "images, or 0 where there is none."
        )
    folds = published - 1
    left = np.flatnonzero(published == 0)
    if len(left):
        groups_left = number_groups(groups[left], by_name=True)
        folds[left] = _assign_left(labels[left], groups_left, n_splits, seed)
    return folds


def _assign_left(labels: Any, group_of_row: Ints, n_splits: int, seed: int) -> Ints:
    """Assign groups that may be few to folds: the fold of each row, (n,) from 0."""
    n_groups = group_of_row.max() + 1
    largest_class = np.unique(labels, return_counts=True)[1].max()  # its rows
    if min(n_groups, largest_class) >= n_splits:
        return assign_folds(labels, group_of_row, n_splits, seed)
    # Groups in random order go to the folds in turn. Of fewer groups than folds, each
    # draws one of n_splits places, so that every fold may get one.
    places = np.random.default_rng(seed).permutation(max(n_groups, n_splits))
    return np.asarray(places[group_of_row] % n_splits)


def out_of_fold_proba(
    estimator: Any,
    table: FeatureTable,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    seed: int = 0,
) -> Floats:
    """Return `cliplib.out_of_fold_proba`, in the published folds if a table has any.

    With other `groups`, (n,), these are set aside.
    """
    if groups is not None:
        return cliplib.out_of_fold_proba(
            estimator, table, groups=groups, n_splits=n_splits, seed=seed
        )
    folds = rows_of_folds(completed_folds(table, n_splits, seed))
    return predict_fits(fit_folds(estimator, table, folds), table)
