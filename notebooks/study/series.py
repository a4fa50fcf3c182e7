"""What the patients' numbers of J. Cheng's collection tell: series and examinations.

Numbers have two forms, "MR048294B" and "100360". The form alone defines the two series;
nothing else is claimed about them. MR numbers that differ in a last letter are taken
for repeat examinations of one patient, as others have done. Below it, how answers are
judged by series.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.evaluation.intervals import (
    bootstrap,
    intervals,
    ratio_intervals,
)
from cliplib.features.table import FeatureTable
from study.features import MissingImages
from study.folds import FoldedTable

Names = NDArray[np.str_]

MR, PLAIN = "MR", "plain"
LAST_LETTER = r"(?<=\d)[A-Z]$"


def series_of(numbers: pd.Series) -> pd.Series:
    """Return the series of each number, by its form: "MR" or "plain"."""
    is_mr = numbers.str.startswith("MR")
    return is_mr.map({True: MR, False: PLAIN})


def stems_of(numbers: pd.Series) -> pd.Series:
    """Return each number without a last letter: "MR048294" of "MR048294B"."""
    return numbers.str.replace(LAST_LETTER, "", regex=True)


def folds_of_stems(stems: pd.Series, folds: pd.Series) -> pd.Series:
    """Return for each slice the fold of most slices of its stem; of equals the lowest.

    `stems` and `folds` are of the same slices.
    """
    sizes = pd.crosstab(stems, folds)  # slices by stem and fold, folds in order
    return stems.map(sizes.idxmax(axis=1))


def with_series(originals: pd.DataFrame) -> pd.DataFrame:
    """Return Cheng's slices with patient, examination, series, fold and author_fold.

    `originals` has the patient's number, as a text, in `patient`, and the author's fold
    in `fold`. In the table returned, the patient is the number's stem, the examination
    the whole number, and the fold that of most slices of the stem, so that no patient
    lies in two. The author's own fold stays beside it.
    """
    numbers = originals["patient"]
    stems = stems_of(numbers)
    return originals.assign(
        patient=stems,
        examination=numbers,
        series=series_of(numbers),
        fold=folds_of_stems(stems, originals["fold"]),
        author_fold=originals["fold"],
    )


MR_GLIOMA, OTHER_GLIOMA = "mr_glioma", "other_glioma"
PARTS = (MR_GLIOMA, OTHER_GLIOMA, "meningioma", "pituitary")
"""The parts of Cheng's slices: gliomas by series, and the other two kinds."""
BALANCED = "balanced_without_mr"
"""The mean sensitivity of the kinds, the glioma-only series left out."""
TITLES = {
    MR_GLIOMA: "glioma, glioma-only series",
    OTHER_GLIOMA: "glioma, mixed series",
    BALANCED: "balanced, mixed series",
}
"""What tables and figures call parts and their mean."""


def parts_of(table: FeatureTable, series: pd.Series) -> Names:
    """Return the part, of `PARTS`, of each row, (n,); `series` is by id."""
    kinds = np.array(table.classes)[table.labels]
    is_mr = (series[table.ids] == MR).to_numpy()
    gliomas = np.where(is_mr, MR_GLIOMA, OTHER_GLIOMA)
    return np.where(kinds == "glioma", gliomas, kinds)


def require_patients(parts: Names, patients: Ints, fewest: int = 16) -> None:
    """Raise MissingImages where a part of `PARTS` has fewer patients, as with a limit.

    `parts` and `patients` are of the same slices, (n,) each.
    """
    counted = pd.Series(patients).groupby(parts).nunique().reindex(PARTS, fill_value=0)
    if counted.min() < fewest:
        raise MissingImages(
            f"Fewer than {fewest} patients of a type of tumour are here: raise the "
            "limit."
        )


def answers_by_fold(
    estimator: Any,
    table: FoldedTable,
    trained: Bools,
    shown: FeatureTable | None = None,
) -> Floats:
    """Return probabilities (n, k) of each row, by a classifier of the other folds.

    It is fitted on those rows of the other folds that `trained` (n,) marks; a `fit`
    that takes groups gets theirs. All rows need a fold. Where the same slices are
    `shown` in another way, with other features, the classifier is asked about these.
    """
    asked = table if shown is None else shown
    answers = np.zeros((len(table), len(table.classes)))
    for fold in np.unique(table.folds):
        tested = table.folds == fold
        part = table.select(trained & ~tested)
        takes_groups = "groups" in inspect.signature(estimator.fit).parameters
        options = {"groups": part.groups} if takes_groups else {}
        fitted = clone(estimator).fit(part.features, part.labels, **options)
        proba = fitted.predict_proba(asked.features[tested])
        answers[np.ix_(tested, fitted.classes_)] = proba
    return answers


def by_part(
    parts: Names, hits: Floats | Bools, groups: Ints, *, seed: int = 0
) -> pd.DataFrame:
    """Return n, value, low and high of each part's mean, and of the balanced one.

    Parameters
    ----------
    parts
        Of each row, (n,), from `parts_of`.
    hits
        Whether each row is right, or a difference of such answers, (n,).
    groups
        Patients, (n,), which are drawn again for the intervals.
    seed
        Of these draws.

    Returns
    -------
    pd.DataFrame
        A row for each part that is there, and for `BALANCED` if no kind is missing.
    """
    present = [part for part in PARTS if part in parts]
    own = np.stack([parts == part for part in present], axis=-1)  # (n, parts)
    above = pd.DataFrame(own * hits[:, None], columns=present)
    found = ratio_intervals(above, own, groups=groups, seed=seed)
    found.insert(0, "n", own.sum(axis=0))
    if set(PARTS[1:]) <= set(present):
        found.loc[BALANCED] = _balanced(parts, hits, groups, seed)
    return found


def _balanced(
    parts: Names, hits: Floats | Bools, groups: Ints, seed: int
) -> dict[str, float]:
    """Return n, value, low and high of the mean over kinds in the mixed series."""
    rows = parts != MR_GLIOMA
    found = balanced_over_draws(
        hits[rows].astype(float)[None], parts[rows], groups[rows], seed=seed
    )
    return {"n": rows.sum(), **found}


def balanced_over_draws(
    hits: Floats, kinds: Names, groups: Ints, *, seed: int = 0
) -> dict[str, float]:
    """Return value, low and high of a mean over kinds, and then over draws.

    Parameters
    ----------
    hits
        Whether each row is right in each draw, (draws, n), NaN where the draw lacks it;
        or differences of such answers.
    kinds
        Of each row, (n,).
    groups
        Patients, (n,): for the interval they are drawn again, the same in all draws.
    seed
        Of these draws of patients.
    """
    codes = pd.factorize(groups)[0]
    names = np.unique(kinds)
    cells = [(draw, name) for draw in hits for name in names]
    counted = np.stack([~np.isnan(draw) & (kinds == name) for draw, name in cells], -1)
    right = np.stack([np.nan_to_num(draw) for draw, _ in cells], -1) * counted

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {"mean": np.nanmean((weights @ right) / (weights @ counted), axis=1)}

    drawn = bootstrap(statistic, codes, seed=seed)["mean"]
    # The interval is as wide as the kind with fewest patients makes it.
    fewest = min(len(np.unique(codes[kinds == name])) for name in names)
    found = intervals(drawn, fewest).iloc[0]
    return {name: float(found[name]) for name in ("value", "low", "high")}


def drawn_patients(
    kinds: Names, groups: Ints, n_patients: int, seed: Sequence[int]
) -> Bools:
    """Return which rows, (n,), are of the patients drawn: so many of each kind.

    `kinds` (n,) and `groups` (n,), the patients, are of the rows. A kind of fewer
    patients gives all of them.
    """
    rng = np.random.default_rng(seed)
    is_drawn = np.zeros(len(kinds), bool)
    for name in np.unique(kinds):
        own = np.unique(groups[kinds == name])
        chosen = rng.permutation(own)[:n_patients]
        is_drawn |= (kinds == name) & np.isin(groups, chosen)
    return is_drawn
