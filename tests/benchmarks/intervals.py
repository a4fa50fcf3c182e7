"""All metrics with cluster-bootstrap intervals: ``evaluate`` against scipy.stats.bootstrap and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from measure import Options, Row, in_turn, ratios
from scipy.special import softmax
from scipy.stats import bootstrap, rankdata
from sklearn import metrics

from cliplib.evaluation import evaluate

WORK = "cluster bootstrap, 2,000 draws, all metrics (1,300 rows, 4 classes)"
PEER = "scipy.stats.bootstrap over groups, the same metrics by scikit-learn"
LEAN = "scipy.stats.bootstrap over groups, the same metrics in a few lines of NumPy"
ROWS, CLASSES, DRAWS = 1300, 4, 2000


def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities of a classifier that is right three times in four, groups of one to three rows."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(ROWS), rng.integers(1, 4, ROWS))[:ROWS]
    y = rng.integers(0, CLASSES, ROWS)[groups]
    return (
        y,
        softmax(rng.normal(0, 1.5, (ROWS, CLASSES)) + 2.5 * np.eye(CLASSES)[y], axis=1),
        groups,
    )


def every_metric(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """What `evaluate` gives: seven metrics, and five for each class."""
    guess, each = p.argmax(axis=1), np.arange(CLASSES)
    confidence, hit = p.max(axis=1), p.argmax(axis=1) == y
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    gaps = np.bincount(bins, hit - confidence, 15)
    confusion = metrics.confusion_matrix(y, guess, labels=each)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        y, guess, labels=each, zero_division=np.nan
    )
    negatives = len(y) - confusion.sum(axis=1)
    specificity = 1 - (confusion.sum(axis=0) - np.diag(confusion)) / negatives
    auroc = np.array([metrics.roc_auc_score(y == k, p[:, k]) for k in each])
    overall = [
        metrics.accuracy_score(y, guess), recall.mean(), f1.mean(), auroc.mean(), metrics.log_loss(y, p, labels=each),
        np.square(p - np.eye(CLASSES)[y]).sum(axis=1).mean(), np.abs(gaps).sum() / len(y),
    ]  # fmt: skip
    return np.concatenate([overall, recall, specificity, precision, f1, auroc])


def lean_metrics(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The same without scikit-learn's checks, as somebody would write it who finds them slow."""
    n, guess, truth = len(y), p.argmax(axis=1), np.eye(CLASSES)[y]
    confidence = p.max(axis=1)
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    ece = np.abs(np.bincount(bins, (guess == y) - confidence, 15)).sum() / n
    confusion = np.bincount(y * CLASSES + guess, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    hits, support, guessed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    recall, precision, f1 = hits / support, hits / guessed, 2 * hits / (support + guessed)
    specificity = 1 - (guessed - hits) / (n - support)
    ranks = rankdata(p, axis=0)
    auroc = ((ranks * truth).sum(axis=0) - support * (support + 1) / 2) / (support * (n - support))
    log_loss = -np.log(p[np.arange(n), y]).mean()
    overall = [hits.sum() / n, recall.mean(), f1.mean(), auroc.mean(), log_loss,
               np.square(p - truth).sum(axis=1).mean(), ece]  # fmt: skip
    return np.concatenate([overall, recall, specificity, precision, f1, auroc])


def run(options: Options) -> list[Row]:
    """The row about intervals."""
    y, p, groups = sample()
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    made: dict[str, Any] = {}

    def peer(metrics_of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        def statistic(drawn: np.ndarray) -> np.ndarray:
            picked = np.concatenate([members[group] for group in drawn])
            return metrics_of(y[picked], p[picked])

        data = (np.arange(len(members)),)
        made["peer"] = bootstrap(
            data, statistic, n_resamples=DRAWS, vectorized=False, method="percentile", rng=0
        )

    def ours() -> None:
        made["ours"] = evaluate(
            y, p, [f"c{k}" for k in range(CLASSES)], groups=groups, n_boot=DRAWS
        )

    works = {"ours": ours, PEER: lambda: peer(every_metric), LEAN: lambda: peer(lean_metrics)}
    seconds = in_turn(works, options.rounds, warm=False)
    table = made["ours"].metrics
    for metrics_of in (every_metric, lean_metrics):
        np.testing.assert_allclose(
            table["value"], metrics_of(y, p)[:7], atol=1e-9
        )  # it is the same statistic
    plain = slice(0, 6)  # the interval of ECE is another one on purpose
    theirs = np.column_stack(made["peer"].confidence_interval)[plain]
    width = (table["high"] - table["low"]).to_numpy()[plain, None]
    apart = np.abs(table[["low", "high"]].to_numpy()[plain] - theirs) / width
    rows = []
    for name in (PEER, LEAN):
        row = Row(WORK, name, **ratios(seconds, name, "ours"), goal=20)
        row.rates = {
            "ours (s)": float(np.median(seconds["ours"])),
            "peer (s)": float(np.median(seconds[name])),
        }
        row.rates["ends of the intervals apart, in widths, at most"] = float(apart.max())
        rows.append(row)
    return rows
