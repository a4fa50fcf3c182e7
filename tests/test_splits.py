"""Resampling: groups never split, intervals cover the truth, the primitive agrees with scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cliplib.features import FeatureTable
from cliplib.intervals import auroc_statistic, compare, compare_all, ratio_intervals
from cliplib.probes import LinearProbe
from cliplib.splits import (
    group_codes,
    group_folds,
    group_train_test_split,
    out_of_fold_proba,
)


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_groups_never_stand_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    y, groups = rng.integers(0, 3, 120), rng.integers(0, 50, 120)
    tested = np.zeros((2, 120), int)
    folds = group_folds(y, groups, n_splits=4, n_repeats=2, seed=seed)
    for i, (train, test) in enumerate(folds):
        assert not set(groups[train]) & set(groups[test])
        tested[i // 4, test] += 1
    assert (tested == 1).all()


def test_a_fifth_is_held_out_of_each_class():
    y = np.repeat([0, 1, 2], [50, 100, 200])
    train, held = group_train_test_split(y)
    assert np.bincount(y[held]).tolist() == [10, 20, 40]
    assert sorted([*train, *held]) == list(range(350))


@pytest.mark.parametrize(
    ("y", "groups", "named"),
    [
        ([0] * 9 + [1], None, "Class 1"),
        ([0] * 9 + [1] * 9, [*range(9), *[9] * 9], "Class 1"),
        ([0, 1] * 4, None, "Class 0"),
    ],
)
def test_a_class_that_cannot_be_split_is_named(y, groups, named):
    with pytest.raises(ValueError, match=named):
        list(group_folds(y, groups, n_splits=5, n_repeats=1, seed=0))


def test_an_interval_needs_two_groups():
    with pytest.raises(ValueError, match="two of them must differ"):
        group_codes([7, 7, 7], 3)


def test_a_mean_has_the_interval_that_scipy_gives():
    x = np.random.default_rng(0).gamma(2, size=400)
    found = ratio_intervals(x, n_boot=4000).iloc[0]
    other = scipy_bootstrap((x,), np.mean, method="percentile", n_resamples=4000, rng=1)
    assert found.value == pytest.approx(x.mean())
    interval = other.confidence_interval
    assert [found.low, found.high] == pytest.approx(
        [interval.low, interval.high], abs=0.02
    )


def test_intervals_over_groups_cover_the_truth_where_those_over_rows_do_not():
    rng, hits = np.random.default_rng(0), np.zeros(2)
    for _ in range(200):
        groups = np.repeat(np.arange(40), 5)
        right = np.repeat(
            rng.random(40) < 0.8, 5
        )  # a group's rows are copies of each other
        for i, grouping in enumerate((groups, None)):
            row = ratio_intervals(right, groups=grouping, n_boot=300).iloc[0]
            hits[i] += row.low <= 0.8 <= row.high
    assert hits[0] / 200 > 0.9
    assert hits[1] / 200 < 0.7


def test_a_proportion_of_one_has_the_exact_bound():
    row = ratio_intervals(np.ones(30, bool)).iloc[0]
    assert [row.value, row.low, row.high] == pytest.approx([1, 0.025 ** (1 / 30), 1])
    row = ratio_intervals(np.zeros(30, bool), groups=np.arange(30) // 3).iloc[0]
    assert row.high == pytest.approx(1 - 0.025 ** (1 / 10))


def test_one_group_says_nothing_of_others():
    kind = np.repeat([True, False], [4, 20])
    right = np.arange(24) % 2 == 0
    row = ratio_intervals(right, kind, groups=np.where(kind, 0, np.arange(24))).iloc[0]
    assert [row.value, row.low, row.high] == [0.5, 0, 1]


def test_names_of_classes_are_no_indices_into_probabilities():
    with pytest.raises(ValueError, match="not their names"):
        compare(["a", "b"] * 5, np.eye(2)[[0, 1] * 5], np.eye(2)[[0, 1] * 5])


def test_rows_count_where_their_denominator_does():
    x, counted = np.array([1.0, np.nan, 3.0, 8.0]), np.array([True, False, True, False])
    assert ratio_intervals(x, counted).value.iloc[0] == 2
    assert np.isnan(ratio_intervals(x, np.zeros(4)).value.iloc[0])


def test_the_area_under_the_curve_is_scikit_learns():
    rng = np.random.default_rng(0)
    y, score = rng.random(200) < 0.3, rng.integers(0, 20, 200) / 20.0
    area = auroc_statistic(y, score)
    weights = rng.integers(0, 4, (5, 200)).astype(float)
    expected = [roc_auc_score(y, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(area(weights), expected)


def test_a_comparison_is_paired():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500)
    a = np.where(rng.random(500) < 0.8, y, 1 - y)
    b = np.where(rng.random(500) < 0.05, 1 - a, a)  # nearly the same predictions
    found = compare(y, a, b)
    assert found.difference == pytest.approx((a == y).mean() - (b == y).mean())
    assert found.high - found.low < 0.05
    assert compare(y, a, a).p == 1
    assert compare(y, y, 1 - y).p < 0.001


def test_a_true_null_is_rejected_about_as_often_as_it_should_be():
    rng, rejected = np.random.default_rng(1), 0
    for _ in range(200):
        y = rng.integers(0, 2, 150)
        a, b = (np.where(rng.random(150) < 0.7, y, 1 - y) for _ in range(2))
        rejected += compare(y, a, b, n_boot=300).p < 0.05
    assert rejected / 200 < 0.1


def test_all_pairs_are_compared_and_corrected():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    predictions = {
        name: np.where(rng.random(90) < share, y, 0)
        for name, share in (("a", 0.9), ("b", 0.5), ("c", 0.2))
    }
    table = compare_all(y, predictions, groups=np.arange(90) // 2)
    assert table[["a", "b"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert (table.p_holm >= table.p).all()
    ordered = table.sort_values("p")
    assert ordered.p_holm.is_monotonic_increasing
    assert ordered.p_holm.iloc[0] == pytest.approx(min(1, 3 * ordered.p.iloc[0]))


def table(X, y, groups):
    n, classes = len(y), tuple(f"class {k}" for k in range(max(y) + 1))
    return FeatureTable(X, y, classes, np.arange(n).astype(str), np.full(n, ""), groups)


def test_cross_validation_takes_an_estimator_and_predicts_every_row_once_a_repeat():
    rng = np.random.default_rng(0)
    y, groups = np.arange(90) % 3, np.arange(90) // 2
    X = rng.normal(size=(90, 5)) + np.eye(3, 5)[y] * 3
    for estimator in (LogisticRegression(), LinearProbe(Cs=(0.1, 1))):
        found = out_of_fold_proba(estimator, table(X, y, groups), n_repeats=2)
        assert found.shape == (2, 90, 3)
        np.testing.assert_allclose(found.sum(axis=2), 1)
        assert (found[0].argmax(axis=1) == y).mean() > 0.8


def test_what_is_learned_from_a_group_does_not_help_its_copies():
    rng = np.random.default_rng(0)
    groups = np.arange(200) // 2
    X, y = rng.normal(size=(100, 300))[groups], rng.integers(0, 2, 100)[groups]
    right = []
    for grouping in (np.arange(200), groups):
        options = {"groups": grouping, "n_repeats": 1}
        proba = out_of_fold_proba(LogisticRegression(), table(X, y, groups), **options)
        right.append((proba[0].argmax(axis=1) == y).mean())
    assert right[0] > 0.75
    assert right[1] < 0.65


def test_a_rare_class_does_not_change_what_others_hold_out():
    y = np.repeat([0, 1, 2], [2, 3, 100])
    train, held = group_train_test_split(y)
    assert np.bincount(y[held]).tolist() == [1, 1, 20]
    assert sorted([*train, *held]) == list(range(105))
    with pytest.raises(ValueError, match="Class 0 has too few"):
        group_train_test_split(y[1:])
