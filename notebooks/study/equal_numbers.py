"""A comparison with equal numbers: as many patients of each kind, drawn many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cliplib.data.arrays import Floats
from study.folds import FoldedTable
from study.series import (
    MR_GLIOMA,
    OTHER_GLIOMA,
    Names,
    answers_by_fold,
    balanced_over_draws,
    drawn_patients,
)

LEFT_OUT = {"plain": MR_GLIOMA, "MR": OTHER_GLIOMA}
"""By the series of the gliomas that take part: the part that does not."""

Row = dict[str, Any]


def kinds_of(table: FoldedTable) -> Names:
    """Return the name of each row's class, (n,)."""
    return np.array(table.classes)[table.labels]


def hits_in_draws(
    table: FoldedTable, probe: Any, n_patients: int, draws: int, seed: int
) -> Floats:
    """Return whether each row is right in each draw, (draws, n); NaN if not drawn.

    Each draw takes `n_patients` of each kind; a classifier is tested by the same folds.
    """
    hits = np.full((draws, len(table)), np.nan)
    for draw in range(draws):
        drawn = drawn_patients(kinds_of(table), table.groups, n_patients, [seed, draw])
        part = table.select(drawn)
        proba = answers_by_fold(probe, part, np.ones(len(part), bool))
        hits[draw, drawn] = proba.argmax(axis=1) == part.labels
    return hits


def compare(
    views: Mapping[str, FoldedTable],
    parts: Names,
    probe_of: Callable[[str], Any],
    hits_of: Callable[[FoldedTable, Any, int], Floats],
    *,
    seed: int = 0,
) -> dict[tuple[str, str], Row]:
    """Return how well kinds are distinguished, by the gliomas' series and by view.

    Parameters
    ----------
    views
        The same slices shown in several ways, in the same order; the first is compared
        with.
    parts
        Of each slice, (n,), from `study.series.parts_of`.
    probe_of
        The classifier of a view, by its name.
    hits_of
        `hits_in_draws` of a table, a probe and a number of patients.
    seed
        Of the intervals' draws.

    Returns
    -------
    dict
        For each series and view the number of patients of a kind, that of slices, the
        balanced accuracy over draws with its interval over patients, and what it has
        less the first view. Patients are as many as the mixed series' gliomas have.
    """
    first = next(iter(views))
    groups = views[first].groups
    n_patients = len(np.unique(groups[parts == OTHER_GLIOMA]))
    rows: dict[tuple[str, str], Row] = {}
    for series, left_out in LEFT_OUT.items():
        kept = parts != left_out
        hits = {
            view: hits_of(table.select(kept), probe_of(view), n_patients)
            for view, table in views.items()
        }
        own = views[first].select(kept)

        def balanced(right: Floats, own: FoldedTable = own) -> dict[str, float]:
            return balanced_over_draws(right, kinds_of(own), own.groups, seed=seed)

        for view, right in hits.items():
            rows[series, view] = {
                "patients a kind": n_patients,
                "slices": len(own),
                "balanced accuracy": balanced(right),
                f"less the {first}": balanced(right - hits[first]),
            }
    return rows


def verdicts(
    rows: Mapping[tuple[str, str], Row], chance: float = 0.5
) -> dict[str, bool]:
    """Return which conditions the rows of `compare` meet, for glioma or meningioma."""
    tumour, opposite = "tumour, with a margin", "opposite side"
    across = rows["MR", opposite]["balanced accuracy"]
    within = rows["plain", opposite]["balanced accuracy"]
    crop = rows["plain", tumour]
    gain = crop["less the whole slice"]
    return {
        "the head names the series": across["low"] > chance,
        "within a series it does not": within["low"] <= chance <= within["high"],
        "the tumour tells the kind": crop["balanced accuracy"]["low"] > chance
        and gain["low"] > 0,
    }
