"""Kinds compared within planes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cliplib import FeatureTable
from study.folds import FoldedTable, with_folds
from study.planes import (
    PLANES,
    as_many_in_each_plane,
    as_many_of_any_plane,
    difference_of_means,
    hits_in_draws,
    mean_over_cells,
)
from study.precomputed import __main__ as precomputed

VERDICTS = precomputed.HERE.parents[1]


def drawn_counts(training, kinds, planes):
    rng = np.random.default_rng(0)
    chosen = training(kinds, planes, np.ones(len(kinds), bool), rng)
    return pd.crosstab(kinds[chosen], planes[chosen])


def test_a_matched_training_part_has_as_many_of_each_kind_in_each_plane():
    kinds = np.repeat(["glioma", "meningioma"], [40, 50])
    planes = np.repeat([*PLANES, *PLANES], [25, 10, 5, 5, 10, 35])
    matched = drawn_counts(as_many_in_each_plane, kinds, planes)
    assert matched.to_numpy().tolist() == [[5, 10, 5], [5, 10, 5]]
    of_any = drawn_counts(as_many_of_any_plane, kinds, planes)
    assert of_any.sum(axis=1).tolist() == [20, 20]
    assert of_any.loc["glioma", "axial"] > of_any.loc["meningioma", "axial"]


def table_told_by_plane(n: int = 60) -> tuple[FoldedTable, np.ndarray]:
    """Gliomas mostly axial, meningiomas mostly sagittal; features are the plane."""
    labels = np.arange(n) % 2
    is_rare = np.arange(n) % 10 < 2
    axial = (labels == 0) ^ is_rare
    table = FeatureTable.from_arrays(
        np.column_stack([axial, ~axial]).astype(np.float32),
        labels,
        classes=("glioma", "meningioma"),
        groups=np.arange(n),
    )
    planes = np.where(axial, "axial", "sagittal")
    return with_folds(table, np.arange(n) // 2 % 3), planes


def test_what_only_the_plane_tells_is_nothing_within_a_plane():
    table, planes = table_told_by_plane()
    hits = hits_in_draws(
        table,
        planes,
        KNeighborsClassifier(5),
        30,
        as_many_of_any_plane,
        draws=1,
        seed=0,
    )
    kinds = np.array(table.classes)[table.labels]
    assert mean_over_cells(hits, kinds, table.groups)["value"] == pytest.approx(0.8)
    cells = np.char.add(kinds, planes)
    assert mean_over_cells(hits, cells, table.groups)["value"] == pytest.approx(0.5)


def test_a_training_part_is_of_the_other_folds():
    table, planes = table_told_by_plane()
    asked = []

    def noting(kinds, planes, rows, rng):
        asked.append(rows)
        return rows

    own = table.with_features(np.eye(len(table), dtype=np.float32))
    hits_in_draws(own, planes, KNeighborsClassifier(1), 10, noting, draws=2, seed=0)
    assert len(asked) == 6
    assert all(len(np.unique(table.folds[rows])) == 2 for rows in asked)


def test_a_difference_counts_patients_of_both_once():
    rng = np.random.default_rng(0)
    cells, groups = np.repeat(["a", "b"], 50), np.arange(100) // 2
    first = rng.integers(2, size=(1, 100)).astype(float)
    second = first.copy()
    same = difference_of_means(first, second, cells, groups)
    assert same == pytest.approx({"value": 0, "low": 0, "high": 0})
    second[:] = np.nan
    second[:, ::5] = 0
    found = difference_of_means(first, second, cells, groups)
    means = [first[0, :50].mean(), first[0, 50:].mean()]
    assert found["value"] == pytest.approx(np.mean(means))
    assert found["low"] < found["value"] < found["high"]


def test_committed_verdicts_of_planes_agree_and_name_known_slices():
    listed = pd.read_csv(precomputed.HERE / "brain_tumor_mri_patients.csv")["id"]
    earlier, blind = (
        pd.read_csv(VERDICTS / name).set_index("id")
        for name in ("plane_verdicts.csv", "plane_verdicts_blind.csv")
    )
    for verdicts in (earlier, blind):
        assert set(verdicts["plane"]) == set(PLANES)
        assert verdicts.index.is_unique and set(verdicts.index) <= set(listed)
    of_both = earlier.join(blind.add_suffix("_blind"), how="inner")
    assert len(of_both) > 50
    assert (of_both["plane"] == of_both["plane_blind"]).all()
