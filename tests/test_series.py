"""Series, examinations and folds by the patients' numbers."""

from __future__ import annotations

import pandas as pd

from study.precomputed import __main__ as precomputed
from study.series import folds_of_stems, series_of, stems_of, with_series


def slices() -> pd.DataFrame:
    numbers = ["MR1", "MR1", "MR1B", "MR1B", "MR1C", "100", "200"]
    folds = [1, 1, 2, 2, 2, 4, 5]
    files = [f"glioma/{row}.jpg" for row in range(len(numbers))]
    return pd.DataFrame({"file": files, "patient": numbers, "fold": folds})


def test_a_number_tells_series_and_stem():
    numbers = pd.Series(["MR048294B", "MR048294", "100360"])
    assert series_of(numbers).tolist() == ["MR", "MR", "plain"]
    assert stems_of(numbers).tolist() == ["MR048294", "MR048294", "100360"]


def test_a_stem_lies_whole_in_the_fold_of_most_of_its_slices():
    found = with_series(slices())
    assert found["fold"].tolist() == [2, 2, 2, 2, 2, 4, 5]
    assert found["author_fold"].tolist() == [1, 1, 2, 2, 2, 4, 5]
    assert found["patient"].tolist() == ["MR1"] * 5 + ["100", "200"]
    assert found["examination"].tolist() == slices()["patient"].tolist()


def test_of_equally_common_folds_the_lowest_is_taken():
    stems, folds = pd.Series(["MR1"] * 4), pd.Series([3, 3, 1, 1])
    assert folds_of_stems(stems, folds).tolist() == [1, 1, 1, 1]


def test_committed_patients_are_whole_and_the_mr_series_holds_gliomas_only():
    listed = pd.read_csv(precomputed.HERE / "brain_tumor_mri_patients.csv")
    assert listed["patient"].nunique() == 209
    assert listed["examination"].nunique() == 233
    patients = listed.groupby("patient")
    assert (patients[["fold", "series"]].nunique() == 1).all(axis=None)
    assert (listed.groupby("examination")["author_fold"].nunique() == 1).all()
    assert (listed.groupby("examination")["patient"].nunique() == 1).all()
    of_mr = listed[listed["series"] == "MR"]
    assert set(of_mr["id"].str.split("/").str[1]) <= {"glioma"}
