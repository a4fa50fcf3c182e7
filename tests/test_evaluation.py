"""Evaluation: its numbers are scikit-learn's, its intervals know groups, its input is checked."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from cliplib.evaluation import evaluate


@pytest.fixture(params=[2, 5])
def sample(request):
    """Labels and probabilities of 300 rows, right for about two thirds."""
    k, rng = request.param, np.random.default_rng(request.param)
    y = rng.integers(0, k, 300)
    proba = rng.dirichlet(np.full(k, 0.5), 300) + 0.8 * np.eye(k)[y] * rng.random(
        (300, 1)
    )
    return y, proba / proba.sum(axis=1, keepdims=True)


def test_metrics_are_those_of_scikit_learn(sample):
    y, proba = sample
    said, k = proba.argmax(axis=1), proba.shape[1]
    found = evaluate(y, proba, n_boot=100)
    score = proba[:, 1] if k == 2 else proba
    expected = {
        "accuracy": metrics.accuracy_score(y, said),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, said),
        "macro_f1": metrics.f1_score(y, said, average="macro"),
        "auroc": metrics.roc_auc_score(y, score, multi_class="ovr"),
        "log_loss": metrics.log_loss(y, proba),
        "brier": ((proba - np.eye(k)[y]) ** 2).sum(axis=1).mean(),
    }
    for name, value in expected.items():
        assert found.metrics.value[name] == pytest.approx(value)
    assert found.accuracy == expected["accuracy"]
    assert (found.confusion == metrics.confusion_matrix(y, said)).all()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(y, said)
    for name, values in (("precision", precision), ("sensitivity", recall), ("f1", f1)):
        np.testing.assert_allclose(found.per_class[name], values)
    assert found.per_class.support.tolist() == support.tolist()


def test_the_calibration_error_is_that_of_its_definition(sample):
    y, proba = sample
    confidence, right = proba.max(axis=1), proba.argmax(axis=1) == y
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(
                confidence[inside].mean() - right[inside].mean()
            )
    row = evaluate(y, proba, n_boot=200).metrics.loc["ece"]
    assert row.value == pytest.approx(error)
    assert row.low <= row.value <= row.high


def test_intervals_hold_their_value_and_are_wider_for_groups(sample):
    y, proba = sample
    rows = np.repeat(np.arange(len(y)), 4)
    single = evaluate(y[rows], proba[rows], n_boot=300).metrics
    grouped = evaluate(y[rows], proba[rows], groups=rows, n_boot=300).metrics
    assert (grouped.low <= grouped.value).all()
    assert (grouped.value <= grouped.high).all()
    width = (grouped.high - grouped.low) / (single.high - single.low)
    assert width["accuracy"] == pytest.approx(2, rel=0.25)


def test_the_interval_of_the_accuracy_covers_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        y = rng.integers(0, 2, 120)
        said = np.where(rng.random(120) < 0.85, y, 1 - y)
        row = evaluate(y, said, n_boot=300).metrics.loc["accuracy"]
        covered += row.low <= 0.85 <= row.high
    assert 0.9 <= covered / 200 <= 0.99


def test_repeats_are_averaged_and_do_not_narrow_the_interval(sample):
    y, proba = sample
    one = evaluate(y, proba, n_boot=300)
    five = evaluate(y, np.stack([proba] * 5), n_boot=300)
    np.testing.assert_allclose(one.metrics, five.metrics)
    assert five.n_repeats == 5
    assert (five.confusion == 5 * one.confusion).all()


def test_labels_alone_have_no_metrics_of_probabilities():
    found = evaluate([0, 1, 1, 0], [0, 1, 0, 0], ["a", "b"], n_boot=100)
    assert list(found.metrics.index) == ["accuracy", "balanced_accuracy", "macro_f1"]
    assert found.accuracy == 0.75


def test_an_undefined_number_is_nan(sample):
    y = np.array([0, 1] * 20)
    proba = np.tile([0.8, 0.1, 0.1], (40, 1))
    found = evaluate(y, proba, ["a", "b", "c"], n_boot=100)
    assert np.isnan(found.per_class.precision["b"])
    assert np.isnan(found.per_class.sensitivity["c"])
    numbers = found.numbers()
    assert numbers["accuracy"]["value"] == 0.5
    assert numbers["per_class"]["a"]["sensitivity"]["value"] == 1


@pytest.mark.parametrize(
    ("y", "predicted", "named"),
    [
        ([0, 1, 2], [[0.5, 0.5]] * 3, "labels from 0 to 1"),
        ([0, 1], [[0.5, 0.5]] * 3, "need 3 labels"),
        ([0, 1], [[2.0, -1.0]] * 2, "sum to 1"),
        ([0, 1], [[50.0, 50.0]] * 2, "sum to 1"),
        ([0, 1, 2], [0, 1, -1], "Give classes"),
        (["a", "b"], [[0.5, 0.5]] * 2, "not their names"),
    ],
)
def test_what_does_not_fit_together_is_refused(y, predicted, named):
    with pytest.raises(ValueError, match=named):
        evaluate(y, predicted)


def test_it_shows_itself(sample):
    text = repr(evaluate(*sample, n_boot=100))
    assert text.startswith("300 rows in 300 groups")
    assert "accuracy" in text


def test_means_over_classes_are_as_sure_as_the_smallest_class():
    y = np.repeat([0, 1], [4, 60])
    found = evaluate(y, y, ["rare", "usual", "absent"], n_boot=100)
    for name in ("balanced_accuracy", "macro_f1"):
        assert found.metrics.loc[name].tolist() == pytest.approx(
            [1, 0.025 ** (1 / 4), 1], nan_ok=True
        )
    rows = found.per_class[["f1", "f1_low", "f1_high"]].to_numpy()
    assert rows[0].tolist() == pytest.approx([1, 0.025 ** (1 / 4), 1])
    assert rows[1].tolist() == pytest.approx([1, 0.025 ** (1 / 60), 1])
