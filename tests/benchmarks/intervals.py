"""All metrics with cluster-bootstrap intervals: ``evaluate`` against scipy.stats.bootstrap and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from measure import Options, Row, in_turn, ratios
from scipy.special import softmax
from scipy.stats import bootstrap
from sklearn import metrics

from cliplib.evaluation import evaluate

WORK = "cluster bootstrap, 2,000 draws, all metrics (1,300 rows, 4 classes)"
PEER = "scipy.stats.bootstrap over groups, the same metrics by scikit-learn"
ROWS, CLASSES, DRAWS = 1300, 4, 2000


def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities of a classifier that is right three times in four, groups of one to three rows."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(ROWS), rng.integers(1, 4, ROWS))[:ROWS]
    y = rng.integers(0, CLASSES, ROWS)[groups]
    return y, softmax(rng.normal(0, 1.5, (ROWS, CLASSES)) + 2.5 * np.eye(CLASSES)[y], axis=1), groups


def every_metric(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """What `evaluate` gives: seven metrics, and five for each class."""
    guess, each = p.argmax(axis=1), np.arange(CLASSES)
    confidence, hit = p.max(axis=1), p.argmax(axis=1) == y
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    gaps = np.bincount(bins, hit - confidence, 15)
    confusion = metrics.confusion_matrix(y, guess, labels=each)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(y, guess, labels=each, zero_division=np.nan)
    negatives = len(y) - confusion.sum(axis=1)
    specificity = 1 - (confusion.sum(axis=0) - np.diag(confusion)) / negatives
    auroc = np.array([metrics.roc_auc_score(y == k, p[:, k]) for k in each])
    overall = [
        metrics.accuracy_score(y, guess), recall.mean(), f1.mean(), auroc.mean(), metrics.log_loss(y, p, labels=each),
        np.square(p - np.eye(CLASSES)[y]).sum(axis=1).mean(), np.abs(gaps).sum() / len(y),
    ]  # fmt: skip
    return np.concatenate([overall, recall, specificity, precision, f1, auroc])


def run(options: Options) -> list[Row]:
    """The row about intervals."""
    y, p, groups = rows()
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    made: dict[str, Any] = {}

    def statistic(drawn: np.ndarray) -> np.ndarray:
        picked = np.concatenate([members[group] for group in drawn])
        return every_metric(y[picked], p[picked])

    def peer() -> None:
        data = (np.arange(len(members)),)
        made["peer"] = bootstrap(data, statistic, n_resamples=DRAWS, vectorized=False, method="percentile", rng=0)

    def ours() -> None:
        made["ours"] = evaluate(y, p, [f"c{k}" for k in range(CLASSES)], groups=groups, n_boot=DRAWS)

    seconds = in_turn({"ours": ours, PEER: peer}, max(1, options.rounds // 2), warm=False)
    table = made["ours"].metrics
    value = statistic(np.arange(len(members)))[:7]
    np.testing.assert_allclose(table["value"], value, atol=1e-9)  # it is the same statistic
    plain = slice(0, 6)  # the interval of ECE is another one on purpose
    theirs = np.column_stack(made["peer"].confidence_interval)[plain]
    width = (table["high"] - table["low"]).to_numpy()[plain, None]
    apart = np.abs(table[["low", "high"]].to_numpy()[plain] - theirs) / width
    row = Row(WORK, PEER, **ratios(seconds, PEER, "ours"), goal=20)
    row.rates = {
        "ours (s)": float(np.median(seconds["ours"])),
        "peer (s)": float(np.median(seconds[PEER])),
        "ends of the intervals apart, in widths, at most": float(apart.max()),
    }
    return [row]
