"""Calibration: hand-worked bins, a planted temperature, agreement with scikit-learn's own."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from cliplib.errors import CliplibError
from cliplib.evaluation.calibration import (
    TemperatureScaling,
    brier_score,
    expected_calibration_error,
    reliability_curve,
)


def planted(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(z), and the logits z times the temperature: too sure by just that factor."""
    rng = np.random.default_rng(seed)
    z = 1.5 * rng.normal(size=(n, 4))
    y = np.minimum((softmax(z, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), 3)
    return y, temperature * z


# Confidences 0.9, 0.8 | 0.6, 0.6; three right: gaps |1.7 - 2| and |1.2 - 1| of 4 rows.
HAND = ([0, 1, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.6, 0.4]])


def test_ece_and_brier_by_hand() -> None:
    assert expected_calibration_error(*HAND, bins=4) == pytest.approx((0.3 + 0.2) / 4)
    assert brier_score(*HAND) == pytest.approx((0.02 + 0.08 + 0.32 + 0.72) / 4)


def test_reliability_curve_by_hand() -> None:
    curve = reliability_curve(*HAND, bins=4, n_boot=200)
    assert list(curve) == ["bin_low", "bin_high", "count", "confidence", "accuracy", "accuracy_low", "accuracy_high"]
    assert curve["count"].tolist() == [0, 0, 2, 2]
    assert curve["bin_high"].tolist() == [0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(curve["confidence"], [np.nan, np.nan, 0.6, 0.85])
    np.testing.assert_allclose(curve["accuracy"], [np.nan, np.nan, 0.5, 1])
    assert curve["accuracy_low"].isna().tolist() == [True, True, False, False]
    assert curve.loc[3, "accuracy_low"] == pytest.approx(0.025 ** (1 / 2))  # two of two right is not certainty


def test_reliability_intervals_know_groups() -> None:
    y, z = planted(200, 2.0)
    y, p, groups = np.repeat(y, 5), np.repeat(softmax(z, axis=1), 5, axis=0), np.repeat(np.arange(200), 5)
    wide, naive = (reliability_curve(y, p, 5, groups=g, n_boot=400).loc[3] for g in (groups, None))
    assert wide["accuracy_high"] - wide["accuracy_low"] > 1.5 * (naive["accuracy_high"] - naive["accuracy_low"])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_planted_temperature_is_recovered(temperature: float) -> None:
    y, z = planted(20_000, temperature)
    from_logits = TemperatureScaling(logits=True).fit(z, y)
    from_proba = TemperatureScaling().fit(softmax(z, axis=1), y)
    assert from_logits.temperature_ == pytest.approx(temperature, rel=0.05)
    assert from_proba.temperature_ == pytest.approx(from_logits.temperature_, rel=1e-4)

    y_test, z_test = planted(20_000, temperature, seed=1)
    before = softmax(z_test, axis=1)
    after = from_proba.transform(before)
    np.testing.assert_allclose(after, from_logits.transform(z_test), atol=1e-4)
    assert (after.argmax(axis=1) == before.argmax(axis=1)).all()
    assert expected_calibration_error(y_test, after) < 0.015
    if temperature != 1:
        assert expected_calibration_error(y_test, before) > 0.05
        assert brier_score(y_test, after) < brier_score(y_test, before)


def test_temperature_equals_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 600)
    x = rng.normal(size=(600, 5)) + 0.7 * np.eye(3, 5)[y]
    model = LogisticRegression(C=1e4).fit(x[:60], y[:60])
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature", cv=2).fit(x[60:400], y[60:400])
    ours = TemperatureScaling().fit(model.predict_proba(x[60:400]), y[60:400])
    np.testing.assert_allclose(ours.transform(model.predict_proba(x[400:])), theirs.predict_proba(x[400:]), atol=5e-3)


def test_rows_that_set_no_temperature_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        faultless = TemperatureScaling().fit([[0.9, 0.1], [0.2, 0.8]], [0, 1])
        assert "All 2 validation rows are predicted right" in caplog.text
        wrong = TemperatureScaling().fit([[0.9, 0.1], [0.2, 0.8]], [1, 0])
    assert "edge of its range" in caplog.text
    assert faultless.temperature_ == 1 and wrong.temperature_ > 50


def test_certain_probabilities_stay_finite() -> None:
    scaling = TemperatureScaling().fit([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0, 1, 1])
    assert np.isfinite(scaling.transform([[1.0, 0.0]])).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TemperatureScaling().transform([[0.5, 0.5]]), "call fit on validation rows first"),
        (lambda: TemperatureScaling().fit([[2.0, 0.5]], [0]), "not logits"),
        (lambda: TemperatureScaling(logits=True).fit([[np.nan, 0.5]], [0]), "Logits must be finite"),
        (lambda: TemperatureScaling().fit([[0.5, 0.5]], [0, 1]), "2 labels, but proba 1 rows"),
        (lambda: expected_calibration_error([0], [[0.5, 0.5]], bins=0), "at least one bin"),
        (lambda: brier_score([2], [[0.5, 0.5]]), "0..1 are allowed"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call: object, message: str) -> None:
    with pytest.raises(CliplibError, match=message):
        call()  # type: ignore[operator]
