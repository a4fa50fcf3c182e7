"""Evaluation: against scikit-learn's values, its intervals in simulation, and classes that are missing."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from sklearn import metrics as sk

from cliplib.errors import CliplibError
from cliplib.evaluation import METRICS, PER_CLASS, Evaluation, evaluate, evaluate_repeats, summary
from cliplib.evaluation.calibration import brier_score, expected_calibration_error

CLASSES = ("a", "b", "c", "d")


def make(n: int, k: int, seed: int = 0, signal: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a classifier that is right more often than not."""
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(k), rng.integers(0, k, n - k)]
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), y] += signal
    e = np.exp(logits)
    return y, e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("k", [2, 4])
def test_values_equal_scikit_learn(k: int) -> None:
    y, p = make(300, k)
    guess = p.argmax(axis=1)
    found = evaluate(y, p, CLASSES[:k], groups=np.arange(300) // 2, n_boot=100)
    auroc = sk.roc_auc_score(y, p[:, 1]) if k == 2 else sk.roc_auc_score(y, p, multi_class="ovr", average="macro")
    expected = {
        "accuracy": sk.accuracy_score(y, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
        "macro_f1": sk.f1_score(y, guess, average="macro"),
        "auroc": auroc,
        "log_loss": sk.log_loss(y, p),
        "brier": sk.brier_score_loss(y, p, scale_by_half=False),
        "ece": expected_calibration_error(y, p),
    }
    assert tuple(expected) == METRICS == tuple(found.metrics.index)
    assert found.metrics["value"].to_dict() == pytest.approx(expected, rel=1e-12)
    assert brier_score(y, p) == pytest.approx(expected["brier"], rel=1e-12)

    precision, recall, f1, support = sk.precision_recall_fscore_support(y, guess)
    table = found.per_class
    np.testing.assert_allclose(table[["precision", "sensitivity", "f1"]].to_numpy().T, [precision, recall, f1])
    assert table["support"].tolist() == support.tolist()
    for c, name in enumerate(CLASSES[:k]):
        assert table.loc[name, "specificity"] == pytest.approx(sk.recall_score(y != c, guess != c))
        assert table.loc[name, "auroc"] == pytest.approx(sk.roc_auc_score(y == c, p[:, c]))
    assert (found.confusion == sk.confusion_matrix(y, guess)).all()
    assert found.confusion.dtype == np.int64


def test_every_number_lies_in_its_interval_and_goes_to_json() -> None:
    y, p = make(200, 4)
    found = evaluate(y, p, CLASSES, groups=np.arange(200) // 4, n_boot=300)
    m = found.metrics
    assert ((m["low"] < m["value"]) & (m["value"] < m["high"])).all()
    for key in PER_CLASS:
        assert (found.per_class[f"{key}_low"] <= found.per_class[key]).all()
        assert (found.per_class[key] <= found.per_class[f"{key}_high"]).all()
    numbers = json.loads(json.dumps(found.numbers(), allow_nan=False))
    assert numbers["accuracy"] == m.loc["accuracy"].to_dict()
    assert (numbers["n"], numbers["n_groups"], numbers["n_repeats"]) == (200, 50, 1)
    assert numbers["per_class"]["b"]["sensitivity"]["low"] == found.per_class.loc["b", "sensitivity_low"]
    assert numbers["per_class"]["b"]["support"] == (y == 1).sum()
    assert np.sum(numbers["confusion"]) == 200


def test_same_seed_same_intervals() -> None:
    y, p = make(100, 4)
    one, two, other = (evaluate(y, p, CLASSES, n_boot=200, seed=s).numbers() for s in (1, 1, 2))
    assert one == two
    assert one["accuracy"]["low"] != other["accuracy"]["low"] or one["brier"] != other["brier"]


def resampled(y: np.ndarray, p: np.ndarray, groups: np.ndarray, n_boot: int) -> np.ndarray:
    """The slow way: rows of drawn groups put together, scikit-learn's metrics on each draw."""
    rng, names = np.random.default_rng(99), np.unique(groups)
    out = []
    for _ in range(n_boot):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.choice(names, len(names))])
        t, q = y[rows], p[rows]
        auroc = sk.roc_auc_score(t, q, multi_class="ovr")
        out.append([sk.accuracy_score(t, q.argmax(1)), sk.f1_score(t, q.argmax(1), average="macro"), auroc])
    return np.quantile(out, [0.025, 0.975], axis=0).T


def test_intervals_equal_those_of_resampled_rows() -> None:
    y, p = make(240, 4)
    groups = np.arange(240) // 3
    found = evaluate(y, p, CLASSES, groups=groups, n_boot=4000).metrics.loc[["accuracy", "macro_f1", "auroc"]]
    slow = resampled(y, p, groups, 200)
    ours = found[["low", "high"]].to_numpy()
    # 200 slow draws know their ends to about 5 % of the width (one standard error).
    assert np.abs(ours - slow).max() < 0.25 * (slow[:, 1] - slow[:, 0]).min()


def calibrated(rng: np.random.Generator, n: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    logits = 2.5 * rng.normal(size=(n, 4))
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    y = np.minimum((p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), 3)
    sharp = p ** (1 / temperature)
    return y, sharp / sharp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_intervals_cover_the_truth_of_every_metric(temperature: float) -> None:
    """ECE included, for a calibrated classifier, where percentile intervals of ECE never cover, and a too sure one."""
    rng = np.random.default_rng(11)
    truth = evaluate(*calibrated(rng, 200_000, temperature), CLASSES, n_boot=100).metrics["value"]
    runs, covered = 120, np.zeros(len(METRICS))
    for seed in range(runs):
        m = evaluate(*calibrated(rng, 400, temperature), CLASSES, n_boot=200, seed=seed).metrics
        covered += ((m["low"] <= truth) & (truth <= m["high"])).to_numpy()
    # Standard error at 0.95 over 120 runs: 0.02. Over 1,000 runs the rates are 0.94 to 0.95, of ECE up to 0.98.
    assert (covered / runs).min() >= 0.88, covered
    assert (covered / runs)[:6].max() < 1, covered


def test_perfect_classifier_is_not_certain() -> None:
    y = np.arange(40) % 4
    found = evaluate(y, np.eye(4)[y], CLASSES, groups=np.arange(40) // 2, n_boot=200)
    assert found.metrics.loc["accuracy"].tolist() == pytest.approx([1, 1 - (1 - 0.025 ** (1 / 20)), 1])
    assert found.per_class["sensitivity_low"].max() < 0.75  # ten groups of each class
    assert found.per_class["sensitivity_high"].tolist() == [1, 1, 1, 1]


def test_class_without_rows_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    y, p = make(120, 4)
    kept = y != 3
    with caplog.at_level(logging.WARNING):
        found = evaluate(y[kept], p[kept], CLASSES, n_boot=200)
    assert "100.0 % of the draws have no row of class 'd'" in caplog.text
    here, guess = sk.recall_score, p[kept].argmax(axis=1)
    expected = here(y[kept], guess, average=None, labels=[0, 1, 2]).mean()
    assert found.metrics.loc["balanced_accuracy", "value"] == pytest.approx(expected)
    assert found.metrics.loc["macro_f1", "value"] == pytest.approx(sk.f1_score(y[kept], guess, average="macro"))
    assert np.isnan(found.per_class.loc["d", "sensitivity"]) and found.per_class.loc["d", "support"] == 0
    assert found.per_class.loc["d", "specificity"] == pytest.approx((guess != 3).mean())
    numbers = json.loads(json.dumps(found.numbers(), allow_nan=False))
    assert numbers["per_class"]["d"]["sensitivity"] == {"value": None, "low": None, "high": None}


def test_class_that_some_draws_lack_keeps_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    y, p = make(60, 3, seed=2)
    y = np.where(np.arange(60) == 2, 2, y % 2)  # one row of the third class
    with caplog.at_level(logging.WARNING):
        found = evaluate(y, p, CLASSES[:3], n_boot=500)
    assert "class 'c'" in caplog.text and "class 'a'" not in caplog.text
    assert found.metrics.notna().all(axis=None)


def test_never_predicted_class_has_no_precision() -> None:
    y = np.array([0, 1, 2, 0, 1, 2])
    p = np.tile([0.5, 0.4, 0.1], (6, 1))
    found = evaluate(y, p, CLASSES[:3], n_boot=100).per_class
    assert np.isnan(found.loc["b", "precision"]) and found.loc["b", "f1"] == 0 and found.loc["b", "auroc"] == 0.5


def test_repeats_average_and_do_not_narrow() -> None:
    y, first = make(200, 4, seed=0)
    second = np.random.default_rng(1).dirichlet(np.ones(4), 200)
    groups = np.arange(200) // 2
    pooled = evaluate_repeats(y, np.stack([first, second]), CLASSES, groups=groups, n_boot=300)
    apart: list[Evaluation] = [evaluate(y, p, CLASSES, groups=groups, n_boot=300) for p in (first, second)]
    mean = (apart[0].metrics["value"] + apart[1].metrics["value"]) / 2
    np.testing.assert_allclose(pooled.metrics["value"], mean)
    assert (pooled.confusion == apart[0].confusion + apart[1].confusion).all()
    assert pooled.numbers()["n_repeats"] == 2 and pooled.per_class["support"].sum() == 200

    same = evaluate_repeats(y, np.stack([first] * 5), CLASSES, groups=groups, n_boot=300)
    np.testing.assert_allclose(same.metrics, apart[0].metrics)  # five times the same says nothing new


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proba": np.full((8, 3), 1 / 3)}, "4 distinct class names"),
        ({"classes": ("a", "a", "b", "c")}, "distinct"),
        ({"proba": np.full((7, 4), 0.25)}, r"shape \(8, k\)"),
        ({"proba": np.zeros(8)}, "one column per class"),
        ({"y_true": np.arange(8)}, "0..3 are allowed"),
        ({"groups": np.arange(7)}, "one group per row"),
        ({"n_boot": 5}, "at least 100"),
        ({"level": 95}, "between 0 and 1"),
    ],
)
def test_bad_input_is_told_in_a_sentence(change: dict[str, object], message: str) -> None:
    good = {"y_true": np.arange(8) % 4, "proba": np.full((8, 4), 0.25), "classes": CLASSES}
    with pytest.raises(CliplibError, match=message):
        evaluate(**(good | change))  # type: ignore[arg-type]


def test_summary_sets_evaluations_below_each_other() -> None:
    y = np.arange(40) % 4
    proba = {"good": np.eye(4)[y], "flat": np.full((40, 4), 0.25)}
    results = {name: evaluate(y, p, CLASSES, n_boot=100) for name, p in proba.items()}
    table = summary(results, ["accuracy", "log_loss"])
    assert table.index.tolist() == ["good", "flat"] and table.index.name == "method"
    assert table.columns.tolist() == [m + end for m in ("accuracy", "log_loss") for end in ("", "_low", "_high")]
    assert table.loc["good", "accuracy"] == 1 and table.loc["flat", "log_loss"] == pytest.approx(np.log(4))
