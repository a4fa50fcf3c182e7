"""How good a classifier is, and what its scores are worth, with a 95 % interval on every number.

The intervals come from the cluster bootstrap of `cliplib.resampling`. The classifier is held fixed:
they do not contain the variation of training it anew. A temperature or a threshold is chosen on
validation rows, then frozen and measured on test rows. `options` are groups, n_boot and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.arrays import Floats, Ints
from cliplib.intervals import Statistic, auroc_statistic, bootstrap, intervals
from cliplib.splits import class_indices, group_codes

METRICS = [
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "log_loss",
    "brier",
    "ece",
]


PER_CLASS = ["sensitivity", "specificity", "precision", "f1", "auroc"]


EDGES = (
    np.arange(16) / 15
)  # of the bins (low, high] of confidence: ECE, reliability diagrams


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found, NaN where undefined."""

    metrics: pd.DataFrame  # value, low, high
    per_class: pd.DataFrame  # support, and x, x_low, x_high for each x of `PER_CLASS`
    confusion: Ints  # counts of true classes by predicted ones, over all repeats
    n: int
    n_groups: int
    n_repeats: int

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return float(self.metrics.at["accuracy", "value"])

    def __repr__(self) -> str:
        rows = self.metrics.itertuples()
        texts = [f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in rows]
        head = f"{self.n} rows in {self.n_groups} groups, with 95 % intervals"
        return f"{head}\n{pd.Series(texts, self.metrics.index).to_string(header=False)}"

    def numbers(self) -> dict[str, Any]:
        """Return everything as plain values, NaN where undefined."""
        per_class: dict[Any, Any] = self.per_class[["support"]].to_dict("index")
        for name, row in self.per_class.iterrows():
            for key in PER_CLASS:
                ends = row[[key, f"{key}_low", f"{key}_high"]]
                per_class[name][key] = ends.set_axis(["value", "low", "high"]).to_dict()
        numbers: dict[str, Any] = self.metrics.to_dict("index") | {
            "per_class": per_class
        }
        numbers |= {"classes": list(per_class), "confusion": self.confusion.tolist()}
        return numbers | {
            "n": self.n,
            "n_groups": self.n_groups,
            "n_repeats": self.n_repeats,
        }


def evaluate(
    y: ArrayLike,
    predicted: ArrayLike,
    classes: Sequence[str] | None = None,
    *,
    groups: ArrayLike | None = None,
    **options: int,
) -> Evaluation:
    """Evaluate predicted labels (n,), probabilities (n, k), or those of r repeats (r, n, k).

    `y` (n,) are indices into `classes`. Repeats are averaged: they steady a value, but do not
    narrow its interval. AUROC is each class against the rest, of two classes the second; log loss
    is in nats, Brier the sum of squared errors, 0 to 2. ECE (Guo et al. 2017, section 2) is biased
    upwards: its interval is the basic one, down to the value less the resampled change of its bins.
    """
    labels, given = class_indices(y), np.asarray(predicted)
    if hard := given.ndim == 1:
        k = max(labels.max(), given.max()) + 1 if classes is None else len(classes)
        given = given[:, None] == np.arange(k)
    repeats = given.astype(float).reshape(-1, *given.shape[-2:])
    n, k = repeats.shape[1:]
    names = [str(name) for name in (range(k) if classes is None else classes)]
    if (len(labels), len(names)) != (n, k) or not 0 <= labels.min() <= labels.max() < k:
        raise ValueError(
            f"Predictions of shape {(n, k)} need {n} labels from 0 to {k - 1}."
        )
    if repeats.min() < 0 or not (np.abs(repeats.sum(axis=2) - 1) < 1e-3).all():
        raise ValueError("Give classes, or probabilities that sum to 1 in every row.")
    codes = group_codes(groups, n)
    statistics, counts = zip(
        *(_metrics(labels, proba, codes) for proba in repeats), strict=True
    )
    found = bootstrap(
        lambda w: np.nanmean([s(w) for s in statistics], axis=0), codes, **options
    )
    table = intervals(found[:, :-1], None, np.min(counts, axis=0)).to_numpy(copy=True)
    ece = METRICS.index("ece")
    value, low = found[0, ece], np.quantile(found[1:, ece], 0.025)
    table[ece, 1:] = (
        max(0, value - np.quantile(found[1:, -1], 0.975)),
        max(value, 2 * value - low),
    )
    index = pd.Index(METRICS, name="metric")
    metrics = pd.DataFrame(table[: len(METRICS)], index, ["value", "low", "high"])
    per_class = pd.DataFrame(index=pd.Index(names, name="class"))
    for key, rows in zip(
        PER_CLASS, table[len(METRICS) :].reshape(-1, k, 3), strict=True
    ):
        per_class[[key, f"{key}_low", f"{key}_high"]] = rows
    per_class["support"] = np.bincount(labels, minlength=k)
    confusion = np.zeros((k, k), np.int64)
    np.add.at(
        confusion, (np.tile(labels, len(repeats)), repeats.argmax(axis=2).ravel()), 1
    )
    metrics = metrics[:3] if hard else metrics  # labels say nothing of probabilities
    return Evaluation(
        metrics, per_class, confusion, n, int(codes.max()) + 1, len(repeats)
    )


def _metrics(labels: Ints, proba: Floats, codes: Ints) -> tuple[Statistic, Ints]:
    """Return all numbers as a function of weights, and the groups under each fraction bar."""
    k = proba.shape[1]
    true, said = np.eye(k)[labels], np.eye(k)[proba.argmax(axis=1)]
    sure = np.minimum(proba.max(axis=1, keepdims=True), 1)
    inside = (EDGES[:-1] < sure) & (sure <= EDGES[1:])
    gaps = inside * ((proba - true) * said).sum(
        axis=1, keepdims=True
    )  # confidence less right
    loss = -np.log(np.clip((proba * true).sum(axis=1), np.finfo(float).eps, 1))
    brier = ((proba - true) ** 2).sum(axis=1)
    rows = np.column_stack([true, said, true * said, loss, brier, gaps])
    areas = [auroc_statistic(labels == c, proba[:, c]) for c in range(k)]

    def statistic(weights: Floats) -> Floats:
        t, s, hit, other, gap = np.split(
            weights @ rows, [k, 2 * k, 3 * k, 3 * k + 2], axis=1
        )
        total = t.sum(axis=1, keepdims=True)
        sensitivity, precision, f1 = hit / t, hit / s, 2 * hit / (t + s)
        specificity = (total - t - s + hit) / (total - t)
        auroc = np.column_stack([area(weights) for area in areas])
        averaged = [sensitivity, f1, auroc[:, 1:] if k == 2 else auroc]
        averages = np.column_stack([np.nanmean(values, axis=1) for values in averaged])
        accuracy = hit.sum(axis=1, keepdims=True) / total
        ece = np.abs(gap).sum(axis=1, keepdims=True) / total
        change = np.abs(gap / total - gaps.mean(axis=0)).sum(axis=1, keepdims=True)
        per_class = [sensitivity, specificity, precision, f1, auroc]
        return np.hstack([accuracy, averages, other / total, ece, *per_class, change])

    under = (
        pd.DataFrame(np.hstack([true, 1 - true, said]) > 0).groupby(codes).any().sum()
    )
    own = under.to_numpy()[:k]
    fewest = own[own > 0].min()
    overall = [codes.max() + 1, fewest, fewest, 0, 0, 0, 0]  # in METRICS' order
    return statistic, np.concatenate(
        [overall, under, own, [0] * k]
    )  # then of PER_CLASS
