"""Kinds of tumour compared within planes: axial, coronal and sagittal slices.

A kind that has more slices in one plane can be recognised by the plane. Here a
classifier is trained on as many slices of each kind in each plane, and is tested plane
by plane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.probes.out_of_fold import fit_with_groups
from study.equal_numbers import kinds_of
from study.folds import FoldedTable
from study.series import Names, balanced_over_draws, drawn_patients

PLANES = ("axial", "coronal", "sagittal")

Training = Callable[[Names, Names, Bools, np.random.Generator], Bools]
"""Of kinds (n,), planes (n,), rows to choose among (n,): the rows that are chosen."""


def as_many_in_each_plane(
    kinds: Names, planes: Names, rows: Bools, rng: np.random.Generator
) -> Bools:
    """Return as many rows of each kind in each plane, drawn, (n,).

    They are as many as the kind with fewest rows has there.
    """
    chosen = np.zeros(len(rows), bool)
    for plane in np.unique(planes[rows]):
        here = rows & (planes == plane)
        fewest = min((here & (kinds == kind)).sum() for kind in np.unique(kinds))
        chosen |= _drawn(kinds, here, fewest, rng)
    return chosen


def as_many_of_any_plane(
    kinds: Names, planes: Names, rows: Bools, rng: np.random.Generator
) -> Bools:
    """Return rows of each kind, drawn without a look at the plane, (n,).

    They are as many as `as_many_in_each_plane` returns.
    """
    matched = as_many_in_each_plane(kinds, planes, rows, rng)
    return _drawn(kinds, rows, matched.sum() // len(np.unique(kinds)), rng)


def _drawn(kinds: Names, rows: Bools, n: int, rng: np.random.Generator) -> Bools:
    """Return n of the rows of each kind, (n,)."""
    chosen = np.zeros(len(rows), bool)
    for kind in np.unique(kinds):
        own = np.flatnonzero(rows & (kinds == kind))
        chosen[rng.permutation(own)[:n]] = True
    return chosen


def hits_in_draws(
    table: FoldedTable,
    planes: Names,
    probe: Any,
    n_patients: int,
    training: Training,
    draws: int,
    seed: int,
) -> Floats:
    """Return whether each row is right in each draw, (draws, n); NaN if not drawn.

    Each draw takes the patients that `study.equal_numbers.hits_in_draws` takes. A
    classifier is trained on those of their rows, of the other folds, that `training`
    chooses; all rows of the fold are tested.
    """
    kinds = kinds_of(table)
    hits = np.full((draws, len(table)), np.nan)
    for draw in range(draws):
        drawn = drawn_patients(kinds, table.groups, n_patients, [seed, draw])
        for fold in np.unique(table.folds[drawn]):
            tested = drawn & (table.folds == fold)
            rng = np.random.default_rng([seed, draw, int(fold)])
            chosen = training(kinds, planes, drawn & ~tested, rng)
            fitted = fit_with_groups(probe, table.select(chosen))
            said = fitted.predict(table.features[tested])
            hits[draw, tested] = said == table.labels[tested]
    return hits


def mean_over_cells(
    hits: Floats, cells: Names, groups: Ints, *, seed: int = 0
) -> dict[str, float]:
    """Return value, low and high of the mean over cells, and then over draws.

    As `study.series.balanced_over_draws`, of which the arguments are; rows that no draw
    has are left out first, so that their patients do not count.
    """
    there = ~np.isnan(hits).all(axis=0)
    return balanced_over_draws(hits[:, there], cells[there], groups[there], seed=seed)


def difference_of_means(
    first: Floats, second: Floats, cells: Names, groups: Ints, *, seed: int = 0
) -> dict[str, float]:
    """Return value, low and high of one mean over cells less another.

    `first` and `second`, (draws, n), need not have the same rows. A patient of both is
    drawn for both.
    """
    signed = np.concatenate([first, -second], axis=1)
    of_both = np.concatenate([np.char.add("first ", cells), cells])
    half = mean_over_cells(signed, of_both, np.tile(groups, 2), seed=seed)
    # The mean over twice as many cells is half the difference.
    return {name: 2 * value for name, value in half.items()}
