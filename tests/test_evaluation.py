"""Evaluation: scikit-learn's numbers, honest intervals, checked input."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from scipy.stats import t as student
from sklearn import metrics

from cliplib.evaluation.intervals import (
    auroc_statistic,
    bootstrap,
    intervals,
    newcombe,
    small_sample_factor,
)
from cliplib.evaluation.metrics import evaluate
from study.evaluation import class_table, plain_numbers


@pytest.fixture(params=[2, 5])
def sample(request):
    """Labels, probabilities and classes of 300 rows, right for about two thirds."""
    k, rng = request.param, np.random.default_rng(request.param)
    y = rng.integers(0, k, 300)
    hint = 0.8 * np.eye(k)[y] * rng.random((300, 1))
    proba = rng.dirichlet(np.full(k, 0.5), 300) + hint
    return y, proba / proba.sum(axis=1, keepdims=True), list("abcde")[:k]


def test_metrics_are_those_of_scikit_learn(sample):
    y, proba, classes = sample
    said, k = proba.argmax(axis=1), proba.shape[1]
    found = evaluate(y, proba, classes, n_boot=100)
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
    assert (found.confusion == metrics.confusion_matrix(y, said)).all()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(y, said)
    for name, values in (("precision", precision), ("sensitivity", recall), ("f1", f1)):
        np.testing.assert_allclose(found.per_class[name]["value"], values)
    assert found.support.tolist() == support.tolist()


def test_a_metric_is_asked_for_with_its_interval(sample):
    y, proba, classes = sample
    found = evaluate(y, proba, classes, n_boot=200)
    assert found.estimate("accuracy").value == found.metrics.value["accuracy"]
    assert [*found.estimate("auroc")] == found.metrics.loc["auroc"].tolist()
    by_class = found.by_class("precision")
    assert [*by_class] == list(classes)
    assert [share.low for share in by_class.values()] == (
        found.per_class["precision"]["low"].tolist()
    )


def test_the_calibration_error_is_that_of_its_definition(sample):
    y, proba, classes = sample
    confidence, right = proba.max(axis=1), proba.argmax(axis=1) == y
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(
                confidence[inside].mean() - right[inside].mean()
            )
    row = evaluate(y, proba, classes, n_boot=200).metrics.loc["ece"]
    assert row.value == pytest.approx(error)
    assert row.low < row.value < row.high


def test_the_calibration_error_of_few_groups_has_the_basic_interval_widened():
    rng = np.random.default_rng(0)
    codes = np.arange(400) // 50
    confidence = rng.uniform(0.8, 1, 400)
    right = rng.random(400) < 0.5 + 0.05 * codes / 7
    proba = np.column_stack([confidence, 1 - confidence])
    bins = np.ceil(confidence * 15).astype(int) - 1
    gap = np.eye(15)[bins] * (confidence - right)[:, None]

    def gaps(weights):
        return {"gap": weights @ gap / weights.sum(axis=1, keepdims=True)}

    found = bootstrap(gaps, codes, n_boot=400)["gap"]
    value = np.abs(found.value).sum()
    change = np.quantile(np.abs(found.on_draws - found.value).sum(axis=1), 0.975)
    lowest = np.quantile(np.abs(found.on_draws).sum(axis=1), 0.025)
    factor = small_sample_factor(8)
    y = np.where(right, 0, 1)
    row = evaluate(y, proba, ["a", "b"], groups=codes, n_boot=400).metrics.loc["ece"]
    expected = [value, value - factor * change, value + factor * (value - lowest)]
    assert row.tolist() == pytest.approx(expected)
    assert 0 < row.low < row.value < row.high


def test_no_calibration_error_is_below_zero():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.6, 1, 60)
    y = (rng.random(60) > confidence).astype(int)  # as often wrong as is stated
    proba = np.column_stack([confidence, 1 - confidence])
    row = evaluate(y, proba, ["a", "b"], n_boot=200).metrics.loc["ece"]
    assert row.low == 0 < row.value


def test_intervals_hold_their_value_and_are_wider_for_groups(sample):
    y, proba, classes = sample
    rows = np.repeat(np.arange(len(y)), 4)
    y, proba = y[rows], proba[rows]
    single = evaluate(y, proba, classes, n_boot=300).metrics
    grouped = evaluate(y, proba, classes, groups=rows, n_boot=300).metrics
    assert (grouped.low <= grouped.value).all()
    assert (grouped.value <= grouped.high).all()
    width = (grouped.high - grouped.low) / (single.high - single.low)
    assert width["accuracy"] == pytest.approx(2, rel=0.25)


def test_the_interval_of_the_accuracy_covers_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        y = rng.integers(0, 2, 120)
        said = np.where(rng.random(120) < 0.85, y, 1 - y)
        row = evaluate(y, said, n_boot=200).metrics.loc["accuracy"]
        covered += row.low <= 0.85 <= row.high
    assert 0.9 <= covered / 100 <= 0.99


def test_labels_alone_have_no_metrics_of_probabilities():
    found = evaluate([0, 1, 1, 0], [0, 1, 0, 0], ["a", "b"], n_boot=100)
    assert list(found.metrics.index) == ["accuracy", "balanced_accuracy", "macro_f1"]
    assert found.estimate("accuracy").value == 0.75


def test_an_area_of_a_single_class_is_undefined_without_a_warning(recwarn):
    proba = np.full((50, 2), 0.5)
    found = evaluate(np.zeros(50, int), proba, ["a", "b"])
    assert found.metrics.loc["auroc"].isna().all()
    assert not recwarn


def test_an_undefined_number_is_nan(sample):
    y = np.array([0, 1] * 20)
    proba = np.tile([0.8, 0.1, 0.1], (40, 1))
    found = evaluate(y, proba, ["a", "b", "c"], n_boot=100)
    assert np.isnan(found.per_class["precision"].value["b"])
    assert np.isnan(found.per_class["sensitivity"].value["c"])
    assert found.estimate("accuracy").value == 0.5
    assert found.per_class["sensitivity"].value["a"] == 1


@pytest.mark.parametrize(
    ("y", "predicted", "named"),
    [
        ([0, 1, 2], [[0.5, 0.5]] * 3, "labels from 0 to 1"),
        ([0, 1], [[0.5, 0.5]] * 3, "inconsistent numbers"),
        ([0, 1], [[2.0, -1.0]] * 2, "sum to 1"),
        ([0, 1], [[50.0, 50.0]] * 2, "sum to 1"),
        ([0, 1, 1], [0, 1, -1], "labels .n,. from 0 to 1"),
        ([0, 1, 1], [0, 1, 2], "labels .n,. from 0 to 1"),
        (["a", "x"], [[0.5, 0.5]] * 2, "'x' is not among the classes a, b"),
        (["a", "b"], ["a", "x"], "'x' is not among the classes a, b"),
        (["a", None], ["a", "b"], "1 of 2 images have no class"),
        ([[0], [1]], [0, 1], r"must be .n,., and not .2, 1."),
        ([0, 1], [[0.4, 0.3, 0.3]] * 2, "need classes"),
    ],
)
def test_what_does_not_fit_together_is_refused(y, predicted, named):
    with pytest.raises(ValueError, match=named):
        evaluate(y, predicted, ["a", "b"])


@pytest.mark.parametrize(("of_truth", "of_answers"), [(float, int), (int, float)])
def test_whole_numbers_are_the_same_labels_in_any_type(of_truth, of_answers):
    truth = np.array([0, 2, 2, 3] * 5, of_truth)  # 1 is none of the classes
    answers = np.array([0, 2, 2, 2] * 5, of_answers)
    found = evaluate(truth, answers, n_boot=50)
    assert found.estimate("accuracy").value == 0.75
    assert found.support.index.tolist() == ["0", "2", "3"]


def test_names_of_classes_are_labels_too():
    names = np.array(["cat", "dog", "eel"])
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 60)
    proba = rng.dirichlet(np.ones(3), 60)
    answers = proba.argmax(axis=1)

    by_number = evaluate(codes, proba, names, n_boot=50)
    by_name = evaluate(names[codes].tolist(), proba, names, n_boot=50)
    pd.testing.assert_frame_equal(by_name.metrics, by_number.metrics)
    for metric, table in by_name.per_class.items():
        pd.testing.assert_frame_equal(table, by_number.per_class[metric])

    # The order of the columns is that of `classes`, whatever the alphabet says.
    turned = evaluate(names[codes], proba[:, ::-1], names[::-1], n_boot=50)
    accuracy = by_number.estimate("accuracy")
    assert turned.estimate("accuracy") == accuracy
    assert turned.support.index.tolist() == ["eel", "dog", "cat"]

    of_answers = evaluate(names[codes], names[answers], n_boot=50)
    assert of_answers.estimate("accuracy") == accuracy
    assert of_answers.support.index.tolist() == ["cat", "dog", "eel"]
    with pytest.raises(ValueError, match="Mix of label input types"):
        evaluate(names[codes], answers)


def test_columns_of_probabilities_are_never_guessed():
    # A classifier trained without class 1 has columns of classes 0 and 2.
    y = np.array([0, 1, 2] * 20)
    columns_0_and_2 = np.eye(2)[(y == 2).astype(int)]
    with pytest.raises(ValueError, match="need classes"):
        evaluate(y[y < 2], columns_0_and_2[y < 2])
    with pytest.raises(ValueError, match="need classes"):
        evaluate(y, columns_0_and_2, ["a", "b", "c"])
    # Labels say which class they mean.
    assert evaluate(y, y, n_boot=50).estimate("accuracy").value == 1


def test_it_shows_itself(sample):
    text = repr(evaluate(*sample, n_boot=100))
    assert text.startswith("300 rows in 300 groups")
    assert "accuracy" in text


def test_a_perfect_area_under_the_curve_is_no_certainty():
    y = np.repeat([0, 1], 8)
    proba = np.column_stack([1 - 0.8 * y, 0.8 * y + 0.0])
    row = evaluate(y, proba, ["a", "b"], n_boot=100).metrics.loc["auroc"]
    assert row.value == 1 and row.high == 1
    assert row.low == pytest.approx(newcombe(1.0, 8, 8)[0])
    assert row.low < 0.8


@pytest.mark.parametrize("size", [10, 20])
def test_areas_near_the_edge_are_covered(size):
    rng = np.random.default_rng(size)
    truth, shift = 0.983, 3.0  # two normal distributions, three deviations apart
    y = np.repeat([0, 1], size)
    covered = 0
    for _ in range(60):
        positive = ndtr(rng.normal(size=2 * size) + shift * (y - 0.5))
        proba = np.column_stack([1 - positive, positive])
        row = evaluate(y, proba, ["a", "b"], n_boot=100).metrics.loc["auroc"]
        covered += row.low <= truth <= row.high
    assert covered / 60 > 0.9  # by percentiles 57 and 77 %


def test_means_over_classes_know_the_classes_without_errors():
    y = np.repeat([0, 1], [4, 60])
    found = evaluate(y, y, ["rare", "usual", "absent"], n_boot=100)
    below = [1 - 0.025 ** (1 / 4), 1 - 0.025 ** (1 / 60)]
    low = 1 - np.hypot(*below) / 2
    for name in ("balanced_accuracy", "macro_f1"):
        assert found.metrics.loc[name].tolist() == pytest.approx([1, low, 1])
    rows = found.per_class["f1"].to_numpy()
    assert rows[0].tolist() == pytest.approx([1, 0.025 ** (1 / 4), 1])
    assert rows[1].tolist() == pytest.approx([1, 0.025 ** (1 / 60), 1])


def test_means_over_classes_know_the_classes_without_hits():
    y = np.repeat([0, 1], [4, 60])
    row = evaluate(y, np.ones(64, int), ["rare", "usual"], n_boot=100).metrics
    high = 0.5 + (1 - 0.025 ** (1 / 4)) / 2
    assert row.at["balanced_accuracy", "high"] == pytest.approx(high)


def test_a_number_of_a_class_is_as_sure_as_its_own_groups():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [6, 60])
    positive = ndtr(rng.normal(size=66) + 0.7 * y)
    proba = np.column_stack([1 - positive, positive])
    found = evaluate(y, proba, ["a", "b"], n_boot=200).per_class
    # The area of both classes is one number, with one interval: that of the six.
    area = auroc_statistic(y == 1, positive)
    drawn = bootstrap(
        lambda weights: {"area": area(weights)}, np.arange(66), n_boot=200
    )
    expected = intervals(drawn["area"], 6).iloc[0]
    assert 0 < expected.low < expected.high < 1
    ends = found["auroc"][["low", "high"]].to_numpy()
    np.testing.assert_allclose(ends, [[expected.low, expected.high]] * 2)
    said = np.where(np.arange(66) < 3, 0, 1)  # three of six found, none wrongly
    found = evaluate(y, said, ["a", "b"], n_boot=200).per_class
    assert found["precision"].at["a", "value"] == 1
    assert found["precision"].at["a", "low"] == pytest.approx(0.025 ** (1 / 3))


def test_a_specificity_is_as_sure_as_the_groups_of_the_other_classes():
    y = np.repeat([0, 1], [4, 60])
    found = evaluate(y, y, ["rare", "usual"], n_boot=50).per_class
    expected = [0.025 ** (1 / 60), 0.025 ** (1 / 4)]
    assert found["specificity"].low.tolist() == pytest.approx(expected)


def test_no_loss_is_below_zero():
    y = np.repeat([0, 1, 0], 4)
    proba = np.eye(2)[np.repeat([0, 1, 1], 4)] * 0.98 + 0.01
    found = evaluate(y, proba, ["a", "b"], groups=np.arange(12) // 4, n_boot=200)
    assert (found.metrics.low >= 0).all()


def test_a_mean_over_classes_is_covered_where_one_is_rare():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [4, 60, 100])
    covered = 0
    for _ in range(80):
        said = np.where(rng.random(164) < 0.9, y, (y + 1) % 3)
        row = evaluate(y, said, n_boot=100).metrics.loc["balanced_accuracy"]
        covered += row.low <= 0.9 <= row.high
    assert covered / 80 > 0.9


def test_few_groups_are_warned_of_and_widen_every_interval(caplog):
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    positive = ndtr(rng.normal(size=200) + y - 0.5)
    proba = np.column_stack([1 - positive, positive])
    groups = np.arange(200) // 40
    row = evaluate(y, proba, ["a", "b"], groups=groups, n_boot=5000).metrics
    assert "only 5 groups" in caplog.text
    of_groups = -np.log(proba[np.arange(200), y]).reshape(5, 40).mean(axis=1)
    half = student.ppf(0.975, 4) * of_groups.std(ddof=1) / np.sqrt(5)
    width = row.high - row.low
    assert width["log_loss"] == pytest.approx(2 * half, rel=0.1)


def test_no_share_is_above_one():
    groups = np.arange(320) // 40  # seven groups are wrong, and the last half right
    y = np.where((groups == 7) & (np.arange(320) % 2 == 0), 0, 1)
    proba = np.tile([0.995, 0.005], (320, 1))
    row = evaluate(y, proba, ["a", "b"], groups=groups, n_boot=300).metrics.loc["ece"]
    assert 0.9 < row.value < row.high == 1


def test_a_true_class_that_was_excluded_costs_what_scikit_learn_says():
    y = np.arange(40) % 2
    proba = np.eye(2)[y] * 0.8 + 0.1
    proba[0] = [0, 1]
    found = evaluate(y, proba, ["a", "b"], n_boot=20).metrics
    assert found.value["log_loss"] == pytest.approx(metrics.log_loss(y, proba))
    assert found.value["log_loss"] > 0.9  # of one row 36 nats


def test_two_thousand_draws_of_seed_0_are_made_unless_others_are_asked_for():
    rng = np.random.default_rng(0)
    y, said = rng.integers(0, 2, (2, 50))
    found = evaluate(y, said).metrics
    assert found.equals(evaluate(y, said, n_boot=2000, seed=0).metrics)
    assert not found.equals(evaluate(y, said, n_boot=1999).metrics)


def test_seeds_matter(sample):
    y, proba, classes = sample
    one, same, other = (
        evaluate(y, proba, classes, n_boot=100, seed=seed).metrics for seed in (0, 0, 1)
    )
    assert one.equals(same)
    assert one.value.equals(other.value)
    assert (one.high != other.high).all()


def test_numbers_are_plain_and_have_their_keys(sample):
    y, proba, classes = sample
    numbers = plain_numbers(evaluate(y, proba, classes, n_boot=50))
    assert json.loads(json.dumps(numbers)) == numbers
    assert list(numbers) == [
        *("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss", "brier"),
        *("ece", "per_class", "classes", "confusion", "n", "n_groups"),
    ]
    assert numbers["classes"] == classes
    of_class = ["support", "sensitivity", "specificity", "precision", "f1", "auroc"]
    assert list(numbers["per_class"]["a"]) == of_class
    assert list(numbers["per_class"]["a"]["f1"]) == ["value", "low", "high"]


def test_a_table_of_classes_has_the_intervals_in_columns(sample):
    found = evaluate(*sample, n_boot=50)
    table = class_table(found, "f1", "auroc")
    columns = ["f1", "f1_low", "f1_high", "auroc", "auroc_low", "auroc_high", "support"]
    assert table.columns.tolist() == columns
    assert table["f1_low"].tolist() == found.per_class["f1"].low.tolist()
    assert table["support"].tolist() == found.support.tolist()


def test_labels_of_many_classes_have_the_areas_of_their_probabilities(monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 300)
    labels = np.where(rng.random(300) < 0.6, y, rng.integers(0, 5, 300))
    area = [metrics.roc_auc_score(y == c, labels == c) for c in range(5)]
    monkeypatch.delattr("cliplib.evaluation.metrics.auroc_statistic")  # sorts for each
    found = evaluate(y, labels, n_boot=50)
    assert found.per_class["auroc"].value.tolist() == pytest.approx(area)


@pytest.mark.parametrize("n", [12, 60])
def test_an_accuracy_without_errors_has_the_exact_bound(n):
    y = np.arange(n) % 2
    low = evaluate(y, y, n_boot=50).metrics.at["accuracy", "low"]
    assert low == pytest.approx(0.025 ** (1 / n))
    high = evaluate(y, 1 - y, n_boot=50).metrics.at["accuracy", "high"]
    assert high == pytest.approx(1 - 0.025 ** (1 / n))


def test_whole_numbers_are_names_where_the_classes_are() -> None:
    classes = np.array([1, 2, 3])  # as of a probe that was trained on them
    proba = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    found = evaluate([1, 2, 3], proba, classes)
    assert found.metrics.loc["accuracy", "value"] == 1
    with pytest.raises(ValueError, match="class '0' is not among the classes"):
        evaluate([0, 1, 2], proba, classes)
    found = evaluate([0, 1, 2], proba, ("a", "b", "c"))
    assert found.metrics.loc["accuracy", "value"] == 1


def test_years_are_classes_by_themselves():
    years = np.array([2019, 2020] * 6)
    found = evaluate(years, years[::-1], n_boot=100)
    assert found.confusion.shape == (2, 2)
    assert found.support.index.tolist() == ["2019", "2020"]
