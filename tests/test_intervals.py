"""Intervals cover the truth, also of few groups and errors; comparisons are paired."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from cliplib.evaluation.comparison import compare
from cliplib.evaluation.intervals import (
    Estimate,
    Resampled,
    auroc_statistic,
    bootstrap,
    clopper_pearson,
    intervals,
    newcombe,
    ratio_intervals,
    small_sample_factor,
)
from study.evaluation import compare_all


def coverage(truth, draw_table, rounds):
    """Share of simulated intervals that hold the truth."""
    rows = [draw_table() for _ in range(rounds)]
    return np.mean([row.low <= truth <= row.high for row in rows])


def test_draws_come_by_name_and_chunks_do_not_matter():
    codes = np.arange(40) // 2
    x = np.random.default_rng(0).normal(size=40)

    def moments(weights):
        total = weights.sum(axis=1, keepdims=True)
        return {"mean": weights @ x / total[:, 0], "sums": weights @ np.c_[x, x**2]}

    found = bootstrap(moments, codes, n_boot=30)
    assert found["mean"].value == pytest.approx(x.mean())
    assert found["sums"].value.tolist() == pytest.approx([x.sum(), (x**2).sum()])
    assert found["mean"].on_draws.shape == (30,)
    assert found["sums"].on_draws.shape == (30, 2)
    fewer = bootstrap(moments, codes, n_boot=10)
    np.testing.assert_allclose(fewer["mean"].on_draws, found["mean"].on_draws[:10])
    other = bootstrap(moments, codes, n_boot=30, seed=1)
    assert (other["mean"].on_draws != found["mean"].on_draws).all()


def test_a_group_is_drawn_as_a_whole(caplog):
    codes = np.repeat([0, 1, 2], [1, 2, 5])
    seen = []

    def weights_of(weights):
        seen.append(weights)
        return {"n": weights.sum(axis=1)}

    bootstrap(weights_of, codes, n_boot=20)
    assert "only 3 groups" in caplog.text
    drawn = np.concatenate(seen[1:])
    assert (drawn[:, 1] == drawn[:, 2]).all() and (drawn[:, 3:].std(axis=1) == 0).all()
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_many_groups_are_no_reason_to_warn(caplog):
    ratio_intervals(np.arange(10), n_boot=10)
    assert not caplog.records


def test_a_mean_has_the_interval_that_scipy_gives():
    x = np.random.default_rng(0).gamma(2, size=400)
    row = ratio_intervals(x, n_boot=4000).iloc[0]
    other = scipy_bootstrap((x,), np.mean, method="percentile", n_resamples=4000, rng=1)
    ends = [other.confidence_interval.low, other.confidence_interval.high]
    assert row.value == pytest.approx(x.mean())
    assert [row.low, row.high] == pytest.approx(ends, abs=0.02)


def test_a_mean_of_few_has_students_interval(caplog):
    x = np.random.default_rng(0).normal(size=6)
    half = student.ppf(0.975, 5) * x.std(ddof=1) / np.sqrt(6)
    row = ratio_intervals(x, n_boot=20_000).iloc[0]
    assert "only 6 groups" in caplog.text
    assert row.high - row.low == pytest.approx(2 * half, rel=0.05)
    assert small_sample_factor([3, 30]) == pytest.approx([2.689, 1.061], abs=0.001)


@pytest.mark.parametrize("n_groups", [3, 5, 8, 15])
def test_intervals_of_few_groups_cover_the_truth(n_groups):
    rng = np.random.default_rng(n_groups)

    def accuracy():
        share = rng.beta(0.8 * 20, 0.2 * 20, n_groups)
        groups = np.repeat(np.arange(n_groups), 12)
        right = rng.random(len(groups)) < share[groups]
        return ratio_intervals(right, groups=groups, n_boot=200).iloc[0]

    assert coverage(0.8, accuracy, 200) >= 0.9  # by percentiles 75 to 90 %


def test_intervals_over_groups_cover_the_truth_where_those_over_rows_do_not():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)

    def accuracy(grouping):
        right = (rng.random(40) < 0.8)[groups]  # rows of a group are copies
        return ratio_intervals(right, groups=grouping, n_boot=200).iloc[0]

    assert coverage(0.8, lambda: accuracy(groups), 150) > 0.9
    assert coverage(0.8, lambda: accuracy(None), 150) < 0.7


def test_a_proportion_of_one_has_the_exact_bound():
    row = ratio_intervals(np.ones(30, bool)).iloc[0]
    assert [row.value, row.low, row.high] == pytest.approx([1, 0.025 ** (1 / 30), 1])
    row = ratio_intervals(np.zeros(30, bool), groups=np.arange(30) // 3).iloc[0]
    assert row.high == pytest.approx(1 - 0.025 ** (1 / 10))
    low, high = clopper_pearson([0.0, 0.2, 1.0], 10)
    assert low == pytest.approx([0, 0.0252, 0.6915], abs=1e-4)
    assert high == pytest.approx([0.3085, 0.5561, 1], abs=1e-4)


def test_few_errors_have_at_least_the_exact_interval_and_many_the_resampled_one():
    few, many = (np.arange(100) >= n_wrong for n_wrong in (2, 30))
    low, high = clopper_pearson([0.98, 0.7], 100)
    row = ratio_intervals(few).iloc[0]
    assert row.low <= low[0] and row.high >= high[0]
    row = ratio_intervals(many).iloc[0]
    assert row.high - row.low < high[1] - low[1]


def test_one_group_says_nothing_of_others():
    kind = np.repeat([True, False], [4, 20])
    right = np.arange(24) % 2 == 0
    groups = np.where(kind, 0, np.arange(24))
    row = ratio_intervals(right, kind, groups=groups).iloc[0]
    assert [row.value, row.low, row.high] == [0.5, 0, 1]
    row = ratio_intervals(right.astype(float), kind, groups=groups).iloc[0]
    assert row.value == 0.5 and np.isnan([row.low, row.high]).all()


def test_rows_count_where_their_denominator_does():
    x, counted = np.array([1.0, np.nan, 3.0, 8.0]), np.array([True, False, True, False])
    assert ratio_intervals(x, counted).value.iloc[0] == 2
    assert ratio_intervals(x, np.zeros(4)).isna().all(axis=None)


def test_the_area_under_the_curve_is_scikit_learns():
    rng = np.random.default_rng(0)
    y, score = rng.random(200) < 0.3, rng.integers(0, 20, 200) / 20.0
    area = auroc_statistic(y, score)
    weights = rng.integers(0, 4, (5, 200)).astype(float)
    expected = [roc_auc_score(y, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(area(weights), expected)


def test_newcombes_ends_are_as_many_errors_away_as_they_should_be():
    areas = np.array([1.0, 0.9, 0.5])
    for end in newcombe(areas, 8, 8):
        inner = end[end < 1]
        q1, q2 = inner / (2 - inner), 2 * inner**2 / (1 + inner)
        # Hanley and McNeil's variance, for equal sizes the same as Newcombe's.
        excess = 7 * (q1 - inner**2) + 7 * (q2 - inner**2)
        error = np.sqrt((inner * (1 - inner) + excess) / 64)
        distance = np.abs(areas[end < 1] - inner)
        np.testing.assert_allclose(distance, 1.959964 * error, rtol=1e-5)
    assert newcombe(1.0, 8, 8)[0] < 0.8


def test_a_bound_on_the_wrong_side_of_its_value_stays_where_it_is():
    draws = np.linspace(0.2, 0.4, 401)
    ends = np.quantile(draws, [0.025, 0.975])
    below, above = (
        intervals(Resampled(np.asarray(value), draws), 4).iloc[0]
        for value in (0.1, 0.5)
    )
    assert below.low == pytest.approx(ends[0]) and below.high > ends[1]
    assert above.high == pytest.approx(ends[1]) and above.low < ends[0]


def test_a_comparison_is_paired():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500)
    a = np.where(rng.random(500) < 0.8, y, 1 - y)
    b = np.where(rng.random(500) < 0.05, 1 - a, a)  # nearly the same predictions
    found = compare(y, a, b)
    assert found.difference == pytest.approx((a == y).mean() - (b == y).mean())
    assert found.high - found.low < 0.05
    assert compare(y, a, a).p == compare(y, a, a, n_boot=50).p == 1
    assert compare(y, y, 1 - y).p < 0.001
    assert compare(y, a, b, seed=1).high != found.high
    assert compare(y, np.eye(2)[a], b).equals(found)


def test_differences_of_independent_shares_have_intervals():
    # Zou and Donner 2008: Newcombe's example, 56/70 less 48/80, by Wilson's intervals.
    one, two = Estimate(0.8, 0.6916, 0.8776), Estimate(0.6, 0.4904, 0.7004)
    difference = one.minus(two)
    assert difference.value == pytest.approx(0.2)
    assert difference.low == pytest.approx(0.0524, abs=2e-3)
    assert difference.high == pytest.approx(0.3339, abs=2e-3)


def test_a_share_is_read_from_a_row_and_a_mean_has_an_interval():
    mean = Estimate.mean([Estimate(0.5, 0.2, 0.6), Estimate(0.9, 0.5, 0.9)])
    assert mean == pytest.approx((0.7, 0.7 - 0.5 / 2, 0.7 + 0.1 / 2))
    assert Estimate.mean([mean]) == pytest.approx(mean)
    row = {"value": 0.3, "low": 0, "high": 1}
    assert Estimate.of(row) == Estimate(0.3, 0, 1)


@pytest.mark.parametrize("n_groups", [4, 30])
def test_a_comparison_has_the_interval_of_a_mean_and_the_share_of_draws(n_groups):
    rng = np.random.default_rng(0)
    codes = np.arange(120) % n_groups
    y = rng.integers(0, 2, 120)
    a, b = (np.where(rng.random(120) < share, y, 1 - y) for share in (0.8, 0.7))
    gain = (a == y) - (b == y).astype(float)
    found = compare(y, a, b, groups=codes, n_boot=300, seed=2)
    row = ratio_intervals(gain, groups=codes, n_boot=300, seed=2).iloc[0]
    ends = [found.difference, found.low, found.high]
    assert ends == pytest.approx([row.value, row.low, row.high])
    mean = bootstrap(
        lambda w: {"gain": w @ gain / w.sum(axis=1)}, codes, n_boot=300, seed=2
    )["gain"]
    away = np.abs(mean.on_draws - mean.value) * small_sample_factor(n_groups)
    at_least_as_far = (away >= abs(mean.value) - 1e-9).sum()
    assert 0 < at_least_as_far < 300
    assert found.p == (1 + at_least_as_far) / 301


def test_a_comparison_the_other_way_round_has_the_same_p():
    y = np.arange(60) % 2
    assert compare(y, 1 - y, y).p == compare(y, y, 1 - y).p == 1 / 2001
    rng = np.random.default_rng(0)
    a, b = (np.where(rng.random(60) < share, y, 1 - y) for share in (0.8, 0.6))
    assert 0 < compare(y, a, b).p == compare(y, b, a).p < 1


def test_names_of_classes_are_no_indices_into_probabilities():
    with pytest.raises(ValueError, match="'a' is not among the classes 0, 1"):
        compare(["a", "b"] * 5, np.eye(2)[[0, 1] * 5], np.eye(2)[[0, 1] * 5])


LABELS = np.arange(12) % 2
PROBA = np.eye(2)[LABELS]


@pytest.mark.parametrize(
    ("y", "a", "named"),
    [
        (LABELS, LABELS[:, None], "is not among the classes 0"),
        (LABELS[:, None], PROBA, r"must be \(n,\)"),
        (LABELS, np.where(LABELS, np.nan, 0), "NaN"),
        (LABELS, np.where(PROBA, np.nan, 0), "NaN"),
        (LABELS, [1], "inconsistent numbers"),
        (LABELS, PROBA[:, 1] * 0.9, "continuous"),
        (LABELS, PROBA[:1], "inconsistent numbers"),
        (LABELS, LABELS.astype(str), "Mix of label input types"),
        (LABELS + 1, PROBA, "'2' is not among the classes 0, 1"),
        (np.where(LABELS, None, "x"), LABELS.astype(str), "not supported between"),
        ([], [], "groups must hold"),
    ],
)
def test_what_cannot_be_compared_is_named(y, a, named):
    with pytest.raises((ValueError, TypeError), match=named):
        compare(y, a, a)


def test_names_of_classes_are_compared_with_names():
    names = np.array(["bottle", "can"])[LABELS]
    assert compare(names, names, names.astype(object)).difference == 0
    assert compare(names, names, names[::-1]).difference == 1


@pytest.mark.parametrize("n_groups", [5, 40])
def test_a_true_null_is_rejected_about_as_often_as_it_should_be(n_groups):
    rng = np.random.default_rng(1)
    groups = np.arange(160) % n_groups
    y = np.ones(160, int)
    rejected = 0
    for _ in range(150):
        leaning = 0.1 * rng.normal(size=n_groups)[groups]
        a = rng.random(160) < 0.7 + leaning
        b = rng.random(160) < 0.7 - leaning
        rejected += compare(y, a, b, groups=groups, n_boot=200).p < 0.05
    assert rejected / 150 < 0.1


def test_all_pairs_are_compared_and_corrected():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    predictions = {
        name: np.where(rng.random(90) < share, y, 0)
        for name, share in (("a", 0.7), ("b", 0.6), ("c", 0.5))
    }
    table = compare_all(y, predictions, groups=np.arange(90) // 2)
    assert table[["a", "b"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    ordered = table.sort_values("p")
    by_hand = np.maximum.accumulate(ordered.p.to_numpy() * [3, 2, 1]).clip(max=1)
    assert ordered.p_holm.tolist() == pytest.approx(by_hand.tolist())
    assert (by_hand < 1).sum() > 1  # or else the order would not matter


def test_no_corrected_p_is_above_one():
    y = np.arange(60) % 2
    same = {name: 1 - y for name in "abc"}
    assert compare_all(y, same, n_boot=50)["p_holm"].tolist() == [1, 1, 1]


def test_two_thousand_draws_decide_unless_others_are_asked_for():
    y = np.zeros(40, int)
    least = compare_all(y, {"right": y, "wrong": y + 1})["p"]
    assert least.tolist() == [1 / 2001]
    least = compare_all(y, {"right": y, "wrong": y + 1}, n_boot=99)["p"]
    assert least.tolist() == [1 / 100]
    x = np.random.default_rng(0).normal(size=40)
    assert ratio_intervals(x).equals(ratio_intervals(x, n_boot=2000, seed=0))
    draws = bootstrap(lambda weights: {"sum": weights @ x}, np.arange(40))[
        "sum"
    ].on_draws
    assert len(draws) == 2000


def test_whoever_gives_no_seed_gets_draws_of_seed_0():
    rng = np.random.default_rng(0)
    y, a, b = rng.integers(0, 2, (3, 40))
    assert compare(y, a, b).equals(compare(y, a, b, seed=0))
    assert not compare(y, a, b).equals(compare(y, a, b, seed=1))
    pairs = {"a": a, "b": b}
    assert compare_all(y, pairs).equals(compare_all(y, pairs, seed=0))


def test_all_pairs_are_compared_with_the_groups_draws_and_seed_that_are_given():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)
    groups = np.repeat(np.arange(30), 4)
    predictions = {name: rng.integers(0, 2, 120) for name in "abc"}
    options = {"groups": groups, "n_boot": 200, "seed": 5}
    table = compare_all(labels, predictions, **options)
    for _, row in table.iterrows():
        alone = compare(labels, predictions[row["a"]], predictions[row["b"]], **options)
        assert row[alone.index].tolist() == alone.tolist()
    assert not table["low"].equals(compare_all(labels, predictions)["low"])
