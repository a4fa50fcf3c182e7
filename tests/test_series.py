"""Series, examinations and folds by the patients' numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cliplib import FeatureTable
from study import MissingImages
from study.folds import FoldedTable, with_folds
from study.precomputed import __main__ as precomputed
from study.series import (
    PARTS,
    answers_by_fold,
    balanced_over_draws,
    by_part,
    drawn_patients,
    folds_of_stems,
    parts_of,
    require_patients,
    series_of,
    stems_of,
    with_series,
)


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


def test_committed_patients_are_whole_and_glioma_only_series_holds_gliomas_only():
    listed = pd.read_csv(precomputed.HERE / "brain_tumor_mri_patients.csv")
    assert listed["patient"].nunique() == 209
    assert listed["examination"].nunique() == 233
    patients = listed.groupby("patient")
    assert (patients[["fold", "series"]].nunique() == 1).all(axis=None)
    assert (listed.groupby("examination")["author_fold"].nunique() == 1).all()
    assert (listed.groupby("examination")["patient"].nunique() == 1).all()
    of_mr = listed[listed["series"] == "MR"]
    assert set(of_mr["id"].str.split("/").str[1]) <= {"glioma"}


def table_of(parts: list[str], folds: list[int]) -> FoldedTable:
    classes = ("glioma", "meningioma", "pituitary")
    kinds = ["glioma" if part.endswith("glioma") else part for part in parts]
    labels = np.array([classes.index(kind) for kind in kinds])
    features = np.eye(3, dtype=np.float32)[labels]
    table = FeatureTable.from_arrays(
        features, labels, classes=classes, groups=np.arange(len(parts))
    )
    return with_folds(table, folds)


def test_gliomas_are_parted_by_series():
    table = table_of([*PARTS], [1, 1, 1, 1])
    series = pd.Series(["MR", "plain", "plain", "plain"], table.ids)
    assert parts_of(table, series).tolist() == [*PARTS]


def test_a_type_with_few_patients_is_said_to_need_a_higher_limit():
    parts = np.repeat(PARTS, 3)
    patients = np.arange(12)
    require_patients(parts, patients, fewest=3)
    with pytest.raises(MissingImages, match="raise the limit"):
        require_patients(parts, patients, fewest=4)
    with pytest.raises(MissingImages, match="raise the limit"):
        require_patients(parts[3:], patients[3:], fewest=1)


def test_a_fold_is_answered_by_the_marked_rows_of_the_others():
    table = table_of(["meningioma", "pituitary"] * 4, [1, 1, 2, 2, 2, 2, 1, 1])
    neighbour = KNeighborsClassifier(1)
    every = np.ones(8, bool)
    assert (answers_by_fold(neighbour, table, every).argmax(1) == table.labels).all()
    no_pituitary = table.labels != 2
    assert set(answers_by_fold(neighbour, table, no_pituitary).argmax(1)) == {1}
    shuffled = table.with_features(np.eye(8, dtype=np.float32))  # each row is its own
    learned = answers_by_fold(neighbour, shuffled, every).argmax(1) == table.labels
    assert not learned.all()


def test_the_balanced_mean_leaves_glioma_only_series_out():
    parts = np.repeat([*PARTS], [40, 10, 20, 30])
    hits = np.concatenate(
        [np.ones(40), np.zeros(10), np.ones(20), np.repeat([1, 0], 15)]
    )
    found = by_part(parts, hits, np.arange(100))
    assert found["value"].tolist() == pytest.approx([1, 0, 1, 0.5, 0.5])
    assert found["n"].tolist() == [40, 10, 20, 30, 60]
    assert found.index.tolist() == [*PARTS, "balanced_without_mr"]
    balanced = found.loc["balanced_without_mr"]
    assert 0.4 < balanced["low"] < 0.5 < balanced["high"] < 0.6
    of_two = parts[40:70], hits[40:70], np.arange(30)
    assert "balanced_without_mr" not in by_part(*of_two).index


def test_draws_are_averaged_over_kinds_first():
    kinds = np.array(["a", "a", "a", "b"])
    hits = np.array([[1, 1, 1, 0], [1, np.nan, np.nan, 1]])
    found = balanced_over_draws(hits, kinds, np.arange(4))
    assert found["value"] == pytest.approx((0.5 + 1) / 2)


def test_patients_are_the_unit_of_the_interval():
    kinds = np.repeat(["a", "b"], 200)
    hits = np.tile(np.repeat([1.0, 0.0], 20), 10)[None]
    wide = balanced_over_draws(hits, kinds, np.arange(400) // 20)
    narrow = balanced_over_draws(hits, kinds, np.arange(400))
    assert wide["high"] - wide["low"] > 3 * (narrow["high"] - narrow["low"])


def test_whole_patients_are_drawn_of_each_kind():
    kinds = np.repeat(["a", "b"], [30, 6])
    groups = np.concatenate([np.arange(30) // 3, 100 + np.arange(6) // 3])
    drawn = drawn_patients(kinds, groups, 4, [0, 1])
    assert drawn[kinds == "a"].sum() == 12 and drawn[kinds == "b"].sum() == 6
    assert len(np.unique(groups[drawn & (kinds == "a")])) == 4
    assert (drawn == drawn_patients(kinds, groups, 4, [0, 1])).all()
    assert (drawn != drawn_patients(kinds, groups, 4, [0, 2])).any()
