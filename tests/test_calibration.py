"""Calibration: a planted temperature, and examples worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from cliplib.evaluation.calibration import (
    fit_temperature,
    quantile_reliability,
    risk_coverage,
)
from study.reliability import reliability


def planted(n, temperature, seed=0):
    """Labels drawn from softmax(z), and z times the temperature: too sure by that."""
    rng = np.random.default_rng(seed)
    z = 1.5 * rng.normal(size=(n, 4))
    y = (softmax(z, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return np.minimum(y, 3), temperature * z


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_a_planted_temperature_is_recovered_and_makes_confidence_true(temperature):
    y, z = planted(20_000, temperature)
    found = fit_temperature(z, y)
    assert found == pytest.approx(temperature, rel=0.05)
    assert fit_temperature(np.log(softmax(z, axis=1)), y) == pytest.approx(
        found, rel=1e-5
    )
    y, z = planted(20_000, temperature, seed=1)
    for scale, gap in ((1, lambda g: g > 0.05), (found, lambda g: g < 0.015)):
        table = reliability(y, softmax(z / scale, axis=1), n_boot=100).dropna()
        distance = (table.accuracy - table.confidence).abs()
        assert gap(np.average(distance, weights=table["count"]))


def test_faultless_validation_rows_leave_the_temperature_at_one():
    assert fit_temperature([[2.0, 1.0], [0.5, 1.0]], [0, 1]) == 1


def test_a_probability_of_zero_is_no_obstacle():
    assert (
        1
        < fit_temperature([[0, -np.inf], [-np.inf, 0], [0, -np.inf]], [0, 1, 1])
        <= 100
    )


@pytest.mark.parametrize(("factor", "limit"), [(1e-5, 0.01), (1e5, 100)])
def test_a_temperature_is_from_a_hundredth_to_a_hundred(factor, limit):
    y, z = planted(200, factor)
    assert fit_temperature(z, y) == pytest.approx(limit, rel=1e-3)


def test_logits_of_less_precision_are_computed_with_in_float64():
    y, z = planted(200, 2.0)
    short = z.astype(np.float32)
    assert fit_temperature(short, y) == fit_temperature(short.astype(float), y)
    whole = np.rint(z).astype(int)
    assert fit_temperature(whole, y) == fit_temperature(whole.astype(float), y)


@pytest.mark.parametrize(
    ("logits", "y", "named"),
    [
        ([[0.0, np.nan], [1.0, 0.0]], [0, 0], "contains NaN"),
        ([[0.0, np.inf], [1.0, 0.0]], [0, 0], "contains infinity"),
        ([[0.0, 1.0]], [0, 0], "inconsistent numbers"),
        ([[0.0, 1.0]], ["cat"], "'cat' is not among the classes 0, 1"),
        ([0.0, 1.0], [0, 0], "Expected 2D array"),
    ],
)
def test_logits_without_a_temperature_are_refused(logits, y, named):
    with pytest.raises(ValueError, match=named):
        fit_temperature(logits, y)


@pytest.mark.parametrize(
    ("right", "confidence", "named"),
    [
        ([True, False, True], [0.9, 0.8, np.nan], "NaN"),
        ([1, np.nan, 1], [0.9, 0.8, 0.7], "NaN"),
        ([1, 0, 1], [0.9, None, 0.7], "NaN"),
        ([1, None, 1], [0.9, 0.8, 0.7], "NaN"),
        ([True, False], [0.9, 0.8, 0.7], "same length"),
        ([[True], [False]], [[0.9], [0.8]], "1-dimensional"),
    ],
)
def test_a_missing_confidence_is_no_coverage(right, confidence, named):
    with pytest.raises(ValueError, match=named):
        risk_coverage(right, confidence)


def test_missing_probabilities_are_no_confidence():
    with pytest.raises(ValueError, match="contains NaN"):
        reliability([0, 1], [[0.5, 0.5], [np.nan, 0.5]])


def test_the_logarithm_of_zero_counts_as_minus_700():
    right = [[20.0, 0.0]] * 100
    y = [0] * 100 + [1]
    found, finite = (
        fit_temperature([*right, [0.0, wrong]], y) for wrong in (-np.inf, -700.0)
    )
    assert found == finite
    assert 1 < found < 100


def test_reliability_by_hand(caplog):
    # Confidences 0.92 and 0.9 right; 0.62 right, 0.62 wrong.
    proba = [[0.92, 0.08], [0.1, 0.9], [0.62, 0.38], [0.62, 0.38]]
    table = reliability([0, 1, 0, 1], proba, n_boot=200)
    assert "only 4 groups" in caplog.text
    assert len(table) == 15 and table["count"].sum() == 4
    filled = table[table["count"] > 0]
    assert filled.index.tolist() == [9, 13]
    assert filled.bin_low.tolist() == pytest.approx([9 / 15, 13 / 15])
    assert filled.confidence.tolist() == pytest.approx([0.62, 0.91])
    assert filled.accuracy.tolist() == [0.5, 1]
    assert filled.accuracy_low[13] == pytest.approx(
        0.025**0.5
    )  # two of two is no certainty
    assert (
        table.drop(index=[9, 13])[["confidence", "accuracy", "accuracy_low"]]
        .isna()
        .to_numpy()
        .all()
    )


def test_intervals_know_groups():
    y, z = planted(200, 2.0)
    proba, rows = softmax(z, axis=1), np.repeat(np.arange(200), 5)
    wide = reliability(y[rows], proba[rows], groups=rows, n_boot=400).loc[14]
    naive = reliability(y[rows], proba[rows], n_boot=400).loc[14]
    width = naive.accuracy_high - naive.accuracy_low
    assert wide.accuracy_high - wide.accuracy_low > 1.5 * width


def test_risk_coverage_by_hand():
    # Confidences 0.9 right, 0.8 wrong, 0.7 right, 0.6 right.
    curve = risk_coverage([True, False, True, True], [0.9, 0.8, 0.7, 0.6])
    expected = {"threshold": [0.9, 0.8, 0.7, 0.6], "coverage": [0.25, 0.5, 0.75, 1]}
    assert curve.drop(columns="risk").to_dict("list") == expected
    assert curve["risk"].tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    curve = risk_coverage([True, False, True], [0.9, 0.7, 0.7])
    assert curve["coverage"].tolist() == pytest.approx(
        [1 / 3, 1]
    )  # equal ones go together


def test_right_and_wrong_may_be_numbers():
    found = risk_coverage([1, 0, 1, 1], [0.9, 0.8, 0.7, 0.6])
    assert found.equals(risk_coverage([True, False, True, True], [0.9, 0.8, 0.7, 0.6]))


def test_few_groups_make_few_bins_of_equal_size() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 120)
    proba = np.column_stack([sure, 1 - sure])
    labels = (rng.random(120) > sure).astype(int)
    groups = np.repeat(np.arange(40), 3)
    two = quantile_reliability(labels, proba, groups)
    order = np.argsort(sure)
    for row, part in zip(two.to_dict("records"), (order[:60], order[60:]), strict=True):
        assert row["confidence"] == pytest.approx(sure[part].mean())
        assert row["value"] == pytest.approx((labels[part] == 0).mean())
        assert row["low"] < row["value"] < row["high"]
    assert len(quantile_reliability(labels, proba, np.arange(120) % 10)) == 1
    assert len(quantile_reliability(labels, proba, np.arange(120))) == 6
    rows = np.repeat(np.arange(120), 2)
    ten = quantile_reliability(labels[rows], proba[rows], np.arange(240))
    assert len(ten) == 10  # and no more


def test_probabilities_of_repeats_are_refused() -> None:
    repeats = np.full((2, 3, 2), 0.5)
    with pytest.raises(ValueError, match="dim 3"):
        reliability([0, 1, 0], repeats)
    with pytest.raises(ValueError, match="dim 3"):
        quantile_reliability([0, 1, 0], repeats, [0, 1, 2])


def test_intervals_are_drawn_with_seed_0_unless_another_is_given() -> None:
    y, z = planted(300, 2.0)
    proba = softmax(z, axis=1)
    options = {"n_boot": 2000, "seed": 0}
    assert reliability(y, proba).equals(reliability(y, proba, **options))
    for measure in (reliability, quantile_reliability):
        found, of_zero, of_one = (
            measure(y, proba, groups=np.arange(300), **seed)
            for seed in ({}, {"seed": 0}, {"seed": 1})
        )
        assert found.equals(of_zero) and not found.equals(of_one)


def test_a_confidence_at_an_edge_belongs_to_the_bin_below_it() -> None:
    proba = np.array([[0.6, 0.4]] * 10 + [[0.61, 0.39]] * 10 + [[1.0, 0.0]] * 10)
    proba[-1] = [1.0000002, 0]  # as float32 may round it
    count = reliability(np.zeros(30, int), proba, n_boot=20)["count"]
    assert count[count > 0].to_dict() == {8: 10, 9: 10, 14: 10}
