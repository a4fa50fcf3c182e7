"""What the patients' numbers of J. Cheng's collection tell: series and examinations.

Numbers have two forms, "MR048294B" and "100360". The form alone defines the two series;
nothing else is claimed about them. MR numbers that differ in a last letter are taken
for repeat examinations of one patient, as others have done.
"""

from __future__ import annotations

import pandas as pd

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
