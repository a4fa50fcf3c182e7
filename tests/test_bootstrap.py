"""The cluster bootstrap: against scipy, against the truth in simulations, and its plain rules."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cliplib.errors import CliplibError
from cliplib.evaluation.bootstrap import (
    auroc_statistic,
    bin_of,
    bootstrap,
    check_labels,
    check_proba,
    check_score,
    group_codes,
    group_sums,
    intervals,
    mean_of_defined,
    ratio,
)


def mean_interval(
    values: np.ndarray, groups: np.ndarray | None = None, n_boot: int = 2000, seed: int = 0
) -> np.ndarray:
    codes, n_groups = group_codes(groups, len(values))
    sums = group_sums(np.column_stack([values, np.ones(len(values))]), codes, n_groups)

    def statistic(weights: np.ndarray) -> np.ndarray:
        total = weights @ sums
        return total[:, :1] / total[:, 1:]

    return intervals(bootstrap(statistic, n_groups, n_rows=len(values), n_boot=n_boot, seed=seed))[0]


def test_interval_agrees_with_scipy_on_independent_rows() -> None:
    values = np.random.default_rng(1).exponential(size=80)
    value, low, high = mean_interval(values, n_boot=8000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=8000, method="percentile", rng=2).confidence_interval
    assert value == pytest.approx(values.mean(), rel=1e-12)
    # Two sets of 8,000 draws: the ends differ by a few hundredths of the width.
    assert [low, high] == pytest.approx([theirs.low, theirs.high], abs=0.03 * (theirs.high - theirs.low))


def test_intervals_cover_the_truth_at_their_rate_when_rows_are_clustered() -> None:
    """50 groups of 1 to 8 rows that are nearly copies: groups give 95 %, rows taken as independent far less."""
    rng = np.random.default_rng(3)
    runs, covered, naive_covered, wider = 200, 0, 0, 0
    for seed in range(runs):
        sizes = rng.integers(1, 9, 50)
        groups = np.repeat(np.arange(50), sizes)
        hit = (rng.random(50) < 0.7)[groups]
        flipped = rng.random(len(groups)) < 0.05
        values = np.where(flipped, ~hit, hit).astype(float)
        truth = 0.7 * 0.95 + 0.3 * 0.05
        _, low, high = mean_interval(values, groups, n_boot=400, seed=seed)
        _, naive_low, naive_high = mean_interval(values, None, n_boot=400, seed=seed)
        covered += low <= truth <= high
        naive_covered += naive_low <= truth <= naive_high
        wider += high - low > naive_high - naive_low
    # Standard error of a rate of 0.95 over 200 runs: 0.015; percentile intervals of 50 groups lose 1 to 2 %.
    assert 0.90 <= covered / runs <= 0.99
    assert naive_covered / runs < 0.80
    assert wider == runs


def test_copies_in_one_group_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(4).normal(size=60)
    once = mean_interval(values, np.arange(60))
    tenfold = mean_interval(np.repeat(values, 10), np.repeat(np.arange(60), 10))
    np.testing.assert_allclose(tenfold, once, rtol=1e-12)


def test_group_names_do_not_matter_and_the_seed_does() -> None:
    values = np.random.default_rng(5).normal(size=30)
    numbers = np.arange(30) // 3
    assert (mean_interval(values, numbers) == mean_interval(values, np.array([f"g{i:02}" for i in numbers]))).all()
    assert (mean_interval(values, numbers, seed=1) != mean_interval(values, numbers, seed=2))[1:].all()


@pytest.mark.parametrize("decimals", [1, 6])  # with and without ties
def test_weighted_auroc_equals_that_of_repeated_rows(decimals: int) -> None:
    rng = np.random.default_rng(6)
    positive, codes = rng.random(90) < 0.4, rng.integers(0, 20, 90)
    score = np.round(rng.random(90) + 0.3 * positive, decimals)
    weights = rng.integers(0, 4, (5, 20))
    found = auroc_statistic(positive, score, codes)(weights.astype(float))
    for value, w in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(90), w[codes])
        assert value == pytest.approx(roc_auc_score(positive[rows], score[rows]), rel=1e-12)


def test_auroc_without_positives_in_a_draw_is_undefined() -> None:
    area = auroc_statistic(np.array([True, False, False]), np.array([0.9, 0.1, 0.2]), np.arange(3))
    found = area(np.array([[1.0, 1, 1], [0, 2, 1], [3, 0, 0]]))
    assert found[0] == 1 and np.isnan(found[1:]).all()


def test_proportion_at_its_bound_gets_the_exact_interval_over_groups() -> None:
    draws = np.column_stack([np.ones(200), np.zeros(200), np.ones(200)])
    found = intervals(draws, proportion_groups=np.array([30, 10, 0]))
    exact = stats.binomtest(30, 30).proportion_ci(0.95)
    assert found[0] == pytest.approx([1, exact.low, 1])
    assert found[1] == pytest.approx([0, 0, stats.binomtest(0, 10).proportion_ci(0.95).high])
    assert found[2] == pytest.approx([1, 1, 1])  # not a proportion: as drawn


def test_undefined_draws_are_left_out() -> None:
    column = np.r_[0.5, np.full(50, np.nan), np.linspace(0, 1, 101)]
    found = intervals(np.column_stack([column, np.full(len(column), np.nan)]), level=0.9)
    assert found[0] == pytest.approx([0.5, 0.05, 0.95])
    assert np.isnan(found[1]).all()


def test_small_helpers() -> None:
    assert bin_of(np.array([0.0, 0.1, 0.1001, 1.0]), 10).tolist() == [0, 0, 1, 9]
    np.testing.assert_equal(ratio(np.array([0.0, 1]), np.array([0.0, 2])), [np.nan, 0.5])
    np.testing.assert_equal(mean_of_defined(np.array([[1, np.nan, 3], [np.nan] * 3]), axis=1), [2, np.nan])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_labels([0.0, 1.0]), "integer labels"),
        (lambda: check_labels([[0, 1]]), "one-dimensional"),
        (lambda: check_labels(np.array([], dtype=int)), "one-dimensional"),
        (lambda: check_labels([0, -1]), "from -1 to 0"),
        (lambda: check_labels([0, 4], 4), "0..3 are allowed"),
        (lambda: check_proba([0.2, 0.8]), "1 - p and p"),
        (lambda: check_proba([[0.5, 0.5]], 2), r"shape \(2, k\)"),
        (lambda: check_proba([[0.5, 0.5], [np.nan, 1]]), "row 1"),
        (lambda: check_proba([[0.5, 0.5], [50, 50]]), "row 1 sums to 100"),
        (lambda: check_proba([[1.5, -0.5]]), "non-negative"),
        (lambda: check_score([0.1, np.inf], 2), "finite"),
        (lambda: check_score([0.1], 2), "one per label"),
        (lambda: group_codes([1, 2], 3), "one group per row, 3"),
        (lambda: group_codes([7, 7], 2), "at least two groups"),
        (lambda: bootstrap(lambda w: w, 2, n_rows=2, n_boot=10), "at least 100 draws"),
        (lambda: intervals(np.zeros((3, 1)), level=95), "between 0 and 1"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call: object, message: str) -> None:
    with pytest.raises(CliplibError, match=message):
        call()  # type: ignore[operator]


def test_float16_probabilities_pass() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(6), 500).astype(np.float16)
    assert check_proba(p).dtype == np.float64
