"""Splits: groups stay whole, folds are balanced, seeds count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from cliplib.features.splits import (
    checked_groups,
    fold_numbers,
    group_train_test_split,
)
from cliplib.features.table import FeatureTable
from cliplib.probes.out_of_fold import (
    fit_folds,
    fit_with_groups,
    out_of_fold_proba,
    predict_fits,
    rows_of_folds,
    table_folds,
)
from study.subset import stratified_subset


def folds_of_groups(groups, folds):
    """Each group's folds, as a list of sets."""
    return [set(folds[groups == group]) for group in np.unique(groups)]


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_groups_never_stand_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    y, groups = rng.integers(0, 3, 120), rng.integers(0, 50, 120)
    tested = np.zeros(120, int)
    for train, test in table_folds(table(np.zeros((120, 1)), y, groups), 4, seed):
        assert not set(groups[train]) & set(groups[test])
        assert len(train) + len(test) == 120
        tested[test] += 1
    assert (tested == 1).all()
    train, test = group_train_test_split(y, groups, seed=seed)
    assert not set(groups[train]) & set(groups[test])
    assert set(y[train]) == set(y[test]) == {0, 1, 2}
    assert sorted([*train, *test]) == list(range(120))


def test_folds_are_balanced_by_size_and_class():
    rng = np.random.default_rng(0)
    sizes = rng.permutation([30] * 5 + [12] * 10 + [3] * 60)
    groups = np.repeat(np.arange(75), sizes)
    y = np.repeat(np.arange(75) % 3, sizes)
    folds = fold_numbers(y, groups)
    counts = np.array([np.bincount(folds[y == label], minlength=5) for label in (0, 1)])
    assert (counts.max(axis=1) <= 1.25 * counts.min(axis=1)).all()
    rows = np.bincount(fold_numbers(np.repeat([0, 1], [50, 100])))
    assert rows.tolist() == [30] * 5


def test_patients_with_two_classes_are_split_whatever_the_order_of_rows():
    patients = np.repeat(np.arange(50), 6)
    y = np.tile([0, 1, 1, 1, 1, 1], 50)  # each patient's first slice is healthy
    folds = fold_numbers(y, patients)
    assert np.bincount(folds).tolist() == [60] * 5
    order = np.random.default_rng(0).permutation(300)
    assert (fold_numbers(y[order], patients[order]) == folds[order]).all()
    _, test = group_train_test_split(y, patients)
    assert len(test) == 60
    shuffled_test = group_train_test_split(y[order], patients[order])[1]
    assert sorted(order[shuffled_test]) == test.tolist()


def test_single_rows_with_names_are_dealt_alike_in_any_order():
    y, names = np.arange(60) % 3, np.char.add("image ", np.arange(60).astype(str))
    order = np.random.default_rng(0).permutation(60)
    folds = fold_numbers(y, names)
    assert (fold_numbers(y[order], names[order]) == folds[order]).all()
    assert np.bincount(folds[y == 0]).tolist() == [4] * 5


def many_groups(seed=0):
    """30,000 rows in groups of 1 to 12, mostly of one class, of classes of any size."""
    rng = np.random.default_rng(seed)
    sizes = rng.geometric(0.4, 20_000).clip(max=12)
    groups = np.repeat(np.arange(20_000), sizes)[:30_000]
    of_group = rng.choice(6, 20_000, p=[0.4, 0.3, 0.2, 0.07, 0.02, 0.01])
    strange = rng.random(30_000) < 0.03
    return np.where(strange, rng.integers(0, 6, 30_000), of_group[groups]), groups


def test_very_many_groups_are_dealt_nearly_evenly():
    y, groups = many_groups()
    folds = fold_numbers(y, groups)
    first = np.unique(groups, return_index=True)[1]
    assert (folds[first][np.unique(groups, return_inverse=True)[1]] == folds).all()
    counts = np.array([np.bincount(folds[y == k], minlength=5) for k in range(6)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert np.abs(shares - 0.2).max() < 0.04
    assert np.abs(counts.sum(axis=0) / len(y) - 0.2).max() < 0.01
    assert (fold_numbers(y, groups, seed=1) != folds).mean() > 0.5
    order = np.random.default_rng(0).permutation(len(y))
    assert (fold_numbers(y[order], groups[order]) == folds[order]).all()


def test_fewer_groups_are_dealt_by_scikit_learn():
    y, groups = many_groups()
    rows = groups < 1000
    peer = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    folds = fold_numbers(y[rows], groups[rows])
    for number, (_, test) in enumerate(peer.split(y[rows], y[rows], groups[rows])):
        assert (folds[test] == number).all()


def test_seeds_draw_other_folds():
    y, groups = np.arange(90) % 3, np.arange(90) // 2
    assert (fold_numbers(y, groups) == fold_numbers(y, groups)).all()
    assert (fold_numbers(y, groups) != fold_numbers(y, groups, seed=1)).any()
    tests = [
        tuple(test) for _, test in table_folds(table(np.zeros((90, 1)), y, groups))
    ]
    folds = fold_numbers(y, groups)
    assert tests == [tuple(np.flatnonzero(folds == fold)) for fold in range(5)]
    splits = {tuple(group_train_test_split(y, groups, seed=s)[1]) for s in range(5)}
    assert len(splits) == 5


def test_a_fifth_is_held_out_of_each_class():
    y = np.repeat([0, 1, 2], [50, 100, 200])
    train, held = group_train_test_split(y)
    assert np.bincount(y[held]).tolist() == [10, 20, 40]
    assert sorted([*train, *held]) == list(range(350))
    train, held = group_train_test_split(y, parts=4)
    assert np.bincount(y[held])[1:].tolist() == [25, 50]


def test_a_fifth_is_held_out_of_groups_of_all_sizes():
    sizes = np.repeat([1, 20], 50)
    groups = np.repeat(np.arange(100), sizes)
    for seed in range(10):
        held = group_train_test_split(groups % 2, groups, seed=seed)[1]
        assert len(held) == pytest.approx(len(groups) / 5, rel=0.05)


def test_a_seed_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="seed='one' must be a whole number"):
        group_train_test_split([0, 1] * 10, seed="one")


def test_a_rare_class_does_not_change_what_others_hold_out():
    y = np.repeat([0, 1, 2], [2, 3, 100])
    train, held = group_train_test_split(y)
    assert np.bincount(y[held]).tolist() == [1, 1, 20]
    assert sorted([*train, *held]) == list(range(105))
    with pytest.raises(ValueError, match="Class 0 has too few"):
        group_train_test_split(y[1:])


def test_a_rare_class_within_groups_of_a_frequent_one_stands_on_both_sides():
    # Two of 40 patients have a rare finding beside what all have.
    groups = np.arange(80) // 2
    y = np.where(np.isin(np.arange(80), (1, 3)), 1, 0)
    for seed in range(20):
        train, test = group_train_test_split(y, groups, seed=seed)
        assert set(y[train]) == set(y[test]) == {0, 1}


def test_a_split_that_would_hide_a_class_is_refused():
    # Each pair of three patients shares a class: whoever goes takes one side's last.
    with pytest.raises(ValueError, match="Class . is on one side"):
        group_train_test_split([0, 1, 0, 2, 1, 2], [0, 0, 1, 1, 2, 2])


def test_groups_of_one_size_are_held_out_in_the_order_of_the_draw():
    # However a processor sorts equal numbers: splits are the same on all machines.
    sizes = np.repeat([1, 2], 50)
    groups = np.repeat(np.arange(100), sizes)
    rng = np.random.default_rng(3)
    drawn = rng.permutation(100)
    by_size = [*drawn[drawn < 50], *drawn[drawn >= 50]]
    held_out = by_size[rng.integers(5) :: 5]
    _, test = group_train_test_split(np.zeros(150, int), groups, seed=3)
    assert set(groups[test]) == set(held_out)


@pytest.mark.parametrize(("n_groups", "n_held_out"), [(3, 1), (4, 2)])
def test_what_the_rarest_class_holds_out_counts_for_the_others(n_groups, n_held_out):
    # Class 0 is in two patients, class 1 in all: a third patient stays, of a third and
    # fourth one goes.
    patients = np.concatenate([[0, 1], np.arange(n_groups)])
    y = np.repeat([0, 1], [2, n_groups])
    for seed in range(10):
        _, test = group_train_test_split(y, patients, seed=seed)
        assert len(set(patients[test])) == n_held_out
        assert set(y[test]) == {0, 1}


@pytest.mark.parametrize(
    ("y", "groups", "named"),
    [
        ([0] * 9 + [1], None, "Class 1"),
        ([0] * 9 + [1] * 9, [*range(9), *[9] * 9], "Class 1"),
        (["a", "b"] * 4, None, "Class a .* near-duplicates counted once"),
    ],
)
def test_a_class_that_cannot_be_split_is_named(y, groups, named):
    with pytest.raises(ValueError, match=named):
        fold_numbers(y, groups)


@pytest.mark.parametrize("unknown", [None, np.nan, "", " ", "nan"])
def test_an_unknown_patient_is_no_group(unknown):
    for groups in (["a", "b", unknown], [1, 2, unknown]):
        with pytest.raises(ValueError, match="1 of 3 images have no group"):
            checked_groups(groups, 3)


def test_codes_do_not_depend_on_the_order_of_rows():
    assert checked_groups(["b", "a", "c", "b"], 4).tolist() == [1, 0, 2, 1]
    assert checked_groups(np.array([7, -3, 12, 7]), 4).tolist() == [1, 0, 2, 1]
    with pytest.raises(ValueError, match=r"groups must be \(n,\)"):
        checked_groups(np.zeros((4, 1)), 4)


def test_an_interval_needs_two_groups():
    with pytest.raises(ValueError, match="at least 2 different"):
        checked_groups([7, 7, 7], 3)
    assert checked_groups([7, 7, 9], 3).tolist() == [0, 0, 1]


def table(X, y, groups):
    names = [f"class {k}" for k in range(max(y) + 1)]
    return FeatureTable.from_arrays(X, y, groups=groups, classes=names)


class Remembering(ClassifierMixin, BaseEstimator):
    """A classifier that notes the groups of each fit."""

    seen: list[np.ndarray | None] = []  # noqa: RUF012

    def __init__(self, weight=1.0):
        self.weight = weight

    def fit(self, X, y, groups=None):
        self.seen.append(groups)
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


@pytest.fixture
def remembering():
    Remembering.seen.clear()
    return Remembering()


def test_each_row_is_predicted_without_its_fold():
    rng = np.random.default_rng(0)
    y, groups = np.arange(90) % 3, np.arange(90) // 2
    X = np.float32(rng.normal(size=(90, 5)) + np.eye(3, 5)[y] * 3)
    proba = out_of_fold_proba(LogisticRegression(), table(X, y, groups))
    assert proba.shape == (90, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert (proba.argmax(axis=1) == y).mean() > 0.8
    train, test = table_folds(table(X, y, groups))[0]
    alone = LogisticRegression().fit(X[train], y[train]).predict_proba(X[test])
    np.testing.assert_allclose(proba[test], alone, rtol=1e-5)


def test_groups_reach_every_fit(remembering):
    y, groups = np.arange(60) % 2, np.arange(60) // 2
    given = table(np.zeros((60, 1)), y, groups)
    out_of_fold_proba(remembering, given)
    folds = table_folds(given)
    for seen, (train, _) in zip(remembering.seen, folds, strict=True):
        assert (seen == groups[train]).all()


def test_the_classifier_that_is_given_is_not_fitted_itself(remembering):
    y = np.arange(10) % 2
    given = table(np.zeros((10, 1)), y, np.arange(10))
    fitted = fit_with_groups(remembering, given)
    assert fitted is not remembering and not hasattr(remembering, "classes_")


def test_the_number_of_folds_is_the_one_that_is_asked_for(remembering):
    y = np.arange(60) % 2
    given = table(np.zeros((60, 1)), y, np.arange(60))
    proba = out_of_fold_proba(remembering, given, n_splits=3)
    assert [len(seen) for seen in remembering.seen] == [40] * 3
    np.testing.assert_array_equal(proba, 0.5)


def test_what_is_learned_from_a_group_does_not_help_its_copies():
    rng = np.random.default_rng(0)
    groups = np.arange(200) // 2
    X, y = rng.normal(size=(100, 300))[groups], rng.integers(0, 2, 100)[groups]
    accuracy = {}
    for grouped, given_groups in ((False, np.arange(200)), (True, None)):
        proba = out_of_fold_proba(
            LogisticRegression(), table(X, y, groups), groups=given_groups
        )
        accuracy[grouped] = (proba.argmax(axis=1) == y).mean()
    assert accuracy[False] > 0.75
    assert accuracy[True] < 0.65


def test_a_class_that_a_fold_is_not_trained_on_has_a_probability_of_zero(remembering):
    y = np.repeat([0, 1, 2], [40, 40, 10])
    fold = np.where(y == 2, 0, np.arange(90) % 5)
    given = table(np.zeros((90, 1)), y, np.arange(90))
    proba = predict_fits(fit_folds(remembering, given, rows_of_folds(fold)), given)
    assert (proba[fold == 0] == [0.5, 0.5, 0]).all()
    assert (proba[fold != 0] == 1 / 3).all()


def test_a_class_that_is_too_small_is_named_by_its_name():
    with pytest.raises(ValueError, match="Class class 1 has too few images"):
        out_of_fold_proba(
            Remembering(), table(np.zeros((20, 1)), [0] * 18 + [1, 1], np.arange(20))
        )


def test_a_subset_keeps_the_shares_of_classes_and_splits():
    labels = np.repeat([0, 1, 2], [600, 300, 3])
    splits = np.where(np.arange(903) % 3 == 0, "test", "train")
    rows = stratified_subset(labels, splits, 90)
    assert np.bincount(labels[rows]).tolist() == [58, 28, 3]
    assert (splits[rows] == "test").sum() == pytest.approx(30, abs=2)
    assert (rows != stratified_subset(labels, splits, 90, seed=1)).any()
    assert len(stratified_subset(labels, splits, 0)) == 903
    assert (stratified_subset(labels, splits, np.int64(90)) == rows).all()


@pytest.mark.parametrize("limit", ["many", 2.5, -1])
def test_a_limit_that_is_no_number_of_images_is_refused(limit):
    with pytest.raises(ValueError, match="must be a whole number"):
        stratified_subset([0, 0, 1, 1], ["train"] * 4, limit)


def test_a_subset_keeps_two_rows_of_a_rare_class():
    labels = np.repeat([0, 1], [990, 10])
    rows = stratified_subset(labels, np.full(1000, ""), 100)
    assert np.bincount(labels[rows]).tolist() == [99, 2]


def test_where_the_first_draw_leaves_out_a_class_another_is_made():
    y = [2, 2, 0, 0, 1, 0, 0, 1, 1, 0, 2, 1, 2, 2, 0, 1]
    groups = [4, 4, 5, 3, 4, 7, 1, 3, 1, 7, 4, 2, 2, 6, 7, 2]
    train, test = group_train_test_split(y, groups, seed=0)
    assert set(np.array(y)[train]) == set(np.array(y)[test]) == {0, 1, 2}
    assert not set(np.array(groups)[train]) & set(np.array(groups)[test])
