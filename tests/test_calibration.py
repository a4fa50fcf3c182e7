"""Calibration and triage: a planted temperature, examples worked by hand, chosen thresholds."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from cliplib.evaluation import (
    at_threshold,
    fit_temperature,
    operating_point,
    reliability,
    risk_coverage,
    roc_points,
)

Y = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1])
SCORE = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def planted(n, temperature, seed=0):
    """Labels drawn from softmax(z), and z times the temperature: too sure by just that factor."""
    rng = np.random.default_rng(seed)
    z = 1.5 * rng.normal(size=(n, 4))
    y = (softmax(z, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return np.minimum(y, 3), temperature * z


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_a_planted_temperature_is_recovered_and_makes_confidence_true(temperature):
    y, z = planted(20_000, temperature)
    found = fit_temperature(z, y)
    assert found == pytest.approx(temperature, rel=0.05)
    assert fit_temperature(np.log(softmax(z, axis=1)), y) == pytest.approx(found, rel=1e-5)
    y, z = planted(20_000, temperature, seed=1)
    for scale, gap in ((1, lambda g: g > 0.05), (found, lambda g: g < 0.015)):
        table = reliability(y, softmax(z / scale, axis=1), n_boot=100).dropna()
        distance = (table.accuracy - table.confidence).abs()
        assert gap(np.average(distance, weights=table["count"]))


def test_faultless_validation_rows_leave_the_temperature_at_one(caplog):
    with caplog.at_level(logging.WARNING):
        assert fit_temperature([[2.0, 1.0], [0.5, 1.0]], [0, 1]) == 1
    assert "All validation rows are right" in caplog.text


def test_a_probability_of_zero_is_no_obstacle():
    assert 1 < fit_temperature([[0, -np.inf], [-np.inf, 0], [0, -np.inf]], [0, 1, 1]) <= 100


def test_reliability_by_hand():
    # Confidences 0.92 and 0.9 right; 0.62 right, 0.62 wrong.
    proba = [[0.92, 0.08], [0.1, 0.9], [0.62, 0.38], [0.62, 0.38]]
    table = reliability([0, 1, 0, 1], proba, n_boot=200)
    assert len(table) == 15 and table["count"].sum() == 4
    filled = table[table["count"] > 0]
    assert filled.index.tolist() == [9, 13]
    assert filled.bin_low.tolist() == pytest.approx([9 / 15, 13 / 15])
    assert filled.confidence.tolist() == pytest.approx([0.62, 0.91])
    assert filled.accuracy.tolist() == [0.5, 1]
    assert filled.accuracy_low[13] == pytest.approx(0.025**0.5)  # two of two is no certainty
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
    rows = np.repeat(np.arange(10), 6)
    many = at_threshold(Y[rows], SCORE[rows], 0.55, groups=rows, n_boot=300)
    np.testing.assert_allclose(many, at_threshold(Y, SCORE, 0.55, n_boot=300))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=30),
    target=st.sampled_from([0.1, 0.5, 0.7, 0.95, 1.0]),
)
def test_a_target_is_reached_and_no_other_threshold_costs_less(rows, target):
    y, score = np.array([[1, 0], *([int(a), b] for a, b in rows), [0, 0]]).T

    def rates(threshold):
        flagged = score >= threshold
        return {"sensitivity": flagged[y == 1].mean(), "specificity": 1 - flagged[y == 0].mean()}

    every = [rates(threshold) for threshold in [*np.unique(score), 99]]
    for name, other in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
        chosen = rates(operating_point(y, score, **{name: target}))
        assert chosen[name] >= target - 1e-12
        assert chosen[other] == max(r[other] for r in every if r[name] >= target - 1e-12)


def test_at_threshold_by_hand():
    table = at_threshold(Y, SCORE, 0.55, n_boot=500)
    expected = {"sensitivity": 0.8, "specificity": 1, "ppv": 1, "npv": 5 / 6, "spared": 0.6}
    assert table["value"].to_dict() == pytest.approx(expected)
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert table.loc["specificity"].tolist() == pytest.approx([1, 0.025 ** (1 / 5), 1])
    assert at_threshold(Y, SCORE, np.inf, n_boot=100).loc["ppv"].isna().all()


def test_roc_points_start_strict_and_end_open():
    points = roc_points(Y, SCORE)
    assert points.iloc[0].tolist() == [np.inf, 0, 1]
    assert points.iloc[-1][["sensitivity", "specificity"]].tolist() == [1, 0]
    for threshold, sensitivity, specificity in points.itertuples(index=False):
        assert sensitivity == pytest.approx((SCORE[Y == 1] >= threshold).mean())
        assert specificity == pytest.approx((SCORE[Y == 0] < threshold).mean())


def test_risk_coverage_by_hand():
    # Confidences 0.9 right, 0.8 wrong, 0.7 right, 0.6 right.
    curve, aurc = risk_coverage([True, False, True, True], [0.9, 0.8, 0.7, 0.6])
    expected = {"threshold": [0.9, 0.8, 0.7, 0.6], "coverage": [0.25, 0.5, 0.75, 1]}
    assert curve.drop(columns="risk").to_dict("list") == expected
    assert curve["risk"].tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    curve, aurc = risk_coverage([True, False, True], [0.9, 0.7, 0.7])
    assert curve["coverage"].tolist() == pytest.approx([1 / 3, 1])  # equal ones go together
    assert aurc == pytest.approx(2 / 3 * 1 / 3)
