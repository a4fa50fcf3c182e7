"""Metrics of a classifier's answers and of its probabilities.

Every number has a 95% interval, by the cluster bootstrap of `cliplib.judge.intervals`.
The classifier is held fixed: intervals do not contain the variation of training it
anew. A temperature or a threshold is chosen on validation rows, then frozen and
measured on test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cliplib.images.arrays import Bools, Floats, Ints
from cliplib.judge.intervals import (
    Resampled,
    auroc_statistic,
    bootstrap,
    checked_proba,
    clopper_pearson,
    groups_with,
    intervals,
    newcombe,
    small_sample_factor,
)
from cliplib.tables.splits import class_indices, group_codes

METRICS_OF_LABELS = ["accuracy", "balanced_accuracy", "macro_f1"]
METRICS = [*METRICS_OF_LABELS, "auroc", "log_loss", "brier", "ece"]
PER_CLASS = ["sensitivity", "specificity", "precision", "f1", "auroc"]

# Edges of the bins (low, high] of confidence, for ECE and reliability diagrams.
EDGES = np.arange(16) / 15


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found; NaN where undefined.

    Attributes
    ----------
    metrics
        value, low and high, a row for each of `METRICS`, or of the first three.
    per_class
        support, and x, x_low, x_high for each x of `PER_CLASS`, a row for each class.
    confusion
        Counts (k, k) of true classes by predicted ones, over all repeats.
    """

    metrics: pd.DataFrame
    per_class: pd.DataFrame
    confusion: Ints
    n: int
    n_groups: int
    n_repeats: int

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return float(self.metrics.at["accuracy", "value"])

    def __repr__(self) -> str:
        """Show all metrics with their intervals."""
        texts = [
            f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
            for row in self.metrics.itertuples()
        ]
        head = f"{self.n} rows in {self.n_groups} groups, with 95% intervals"
        return f"{head}\n{pd.Series(texts, self.metrics.index).to_string(header=False)}"

    def numbers(self) -> dict[str, Any]:
        """Return everything as plain values, as notebooks save it; NaN where undefined.

        Of each metric value, low and high by its name; the same for each class below
        ``per_class``; and classes, confusion, n, n_groups, n_repeats.
        """
        per_class: dict[Any, dict[str, Any]] = {}
        for name, row in self.per_class.iterrows():
            per_class[name] = {"support": int(row["support"])}
            for key in PER_CLASS:
                per_class[name][key] = {
                    "value": float(row[key]),
                    "low": float(row[f"{key}_low"]),
                    "high": float(row[f"{key}_high"]),
                }
        return {
            **self.metrics.to_dict("index"),
            "per_class": per_class,
            "classes": list(per_class),
            "confusion": self.confusion.tolist(),
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
    n_boot: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate predictions.

    Parameters
    ----------
    y
        Labels (n,), indices into `classes`.
    predicted
        Labels (n,), probabilities (n, k) with a column for each class, or those of
        repeats (r, n, k), which are averaged: they steady a value, but do not narrow
        its interval.
    classes
        Names of the k classes. Only predicted labels may do without.
    groups
        Groups (n,); without them each row is its own.
    n_boot, seed
        As in `bootstrap`.

    Returns
    -------
    Evaluation
        AUROC is each class against the rest, of two classes the second. Log loss is in
        nats, the Brier score the sum of squared errors, 0 to 2. The expected
        calibration error has 15 bins (Guo et al. 2017, section 2).

    Raises
    ------
    ValueError
        Where labels, predictions and classes do not fit together.
    """
    labels, repeats, names = _check_input(y, predicted, classes)
    n_repeats, n, k = repeats.shape
    codes = group_codes(groups, n)
    n_groups = int(codes.max()) + 1
    contributions = [_Contributions(labels, proba) for proba in repeats]

    def averaged_over_repeats(weights: Floats) -> dict[str, Floats]:
        results = [of_repeat.statistics(weights) for of_repeat in contributions]
        return {
            name: np.nanmean([result[name] for result in results], axis=0)
            for name in results[0]
        }

    resampled = bootstrap(averaged_over_repeats, codes, n_boot=n_boot, seed=seed)
    predicted_classes = np.stack([of_repeat.predicted for of_repeat in contributions])
    per_class = _per_class_intervals(
        resampled, contributions[0].true, predicted_classes, codes
    )
    metrics = _overall_intervals(resampled, per_class, n_groups)
    if np.ndim(predicted) == 1:  # labels say nothing of probabilities
        metrics = metrics.loc[METRICS_OF_LABELS]
    return Evaluation(
        metrics=metrics,
        per_class=_side_by_side(per_class, names, np.bincount(labels, minlength=k)),
        confusion=_confusion(labels, repeats),
        n=n,
        n_groups=n_groups,
        n_repeats=n_repeats,
    )


class _Contributions:
    """What each row contributes to the statistics of one repeat.

    Attributes
    ----------
    true, predicted, hit
        Whether a class is the true one, the predicted one, or both, (n, k).
    loss, brier
        Log loss and Brier score, (n,).
    gap
        Confidence less right (0 or 1) in the bin of the row's confidence, else 0,
        (n, bins).
    areas
        For each class the area under its ROC curve, as a function of weights; empty
        where the predictions are labels alone.
    """

    def __init__(self, labels: Ints, proba: Floats) -> None:
        k = proba.shape[1]
        self.true = np.arange(k) == labels[:, None]
        self.predicted = np.arange(k) == proba.argmax(axis=1)[:, None]
        self.hit = self.true & self.predicted
        proba_of_true = (proba * self.true).sum(axis=1)
        self.loss = -np.log(np.clip(proba_of_true, np.finfo(float).eps, 1))
        self.brier = ((proba - self.true) ** 2).sum(axis=1)
        right = self.hit.any(axis=1)[:, None]
        confidence = proba.max(axis=1)[:, None]
        self.gap = confidence_bins(confidence) * (confidence - right)
        # The area of labels alone needs no sorting: see `statistics`.
        is_labels = bool((proba == self.predicted).all())
        columns = [] if is_labels else zip(self.true.T, proba.T, strict=True)
        self.areas = [auroc_statistic(true, score) for true, score in columns]

    def statistics(self, weights: Floats) -> dict[str, Floats]:
        """Map weights (draws, n) to metrics (draws,), by class (draws, k)."""
        total = weights.sum(axis=1)
        true = weights @ self.true
        predicted = weights @ self.predicted
        hit = weights @ self.hit
        other = total[:, None] - true
        sensitivity = hit / true
        f1 = 2 * hit / (true + predicted)
        specificity = (other - predicted + hit) / other
        # Labels alone put each class into two ranks, whose area is this mean.
        auroc = (sensitivity + specificity) / 2
        if self.areas:
            auroc = np.column_stack([area(weights) for area in self.areas])
        gap = weights @ self.gap / total[:, None]
        return {
            "accuracy": hit.sum(axis=1) / total,
            "balanced_accuracy": np.nanmean(sensitivity, axis=1),
            "macro_f1": np.nanmean(f1, axis=1),
            "auroc": np.nanmean(_distinct_areas(auroc), axis=1),
            "log_loss": weights @ self.loss / total,
            "brier": weights @ self.brier / total,
            "ece": np.abs(gap).sum(axis=1),
            "ece_noise": np.abs(gap - self.gap.mean(axis=0)).sum(axis=1),
            "class_sensitivity": sensitivity,
            "class_specificity": specificity,
            "class_precision": hit / predicted,
            "class_f1": f1,
            "class_auroc": auroc,
        }


def confidence_bins(confidence: Floats) -> Bools:
    """Return in which bin (low, high] of `EDGES` confidences (n, 1) lie, (n, bins)."""
    at_most_one = np.minimum(confidence, 1)  # whatever the rounding of softmax
    return np.asarray((EDGES[:-1] < at_most_one) & (at_most_one <= EDGES[1:]))


def _check_input(
    y: ArrayLike, predicted: ArrayLike, classes: Sequence[str] | None
) -> tuple[Ints, Floats, list[str]]:
    """Return labels (n,), probabilities (r, n, k) and names of classes, checked."""
    labels = class_indices(y)
    given = np.asarray(predicted)
    if given.ndim == 1:
        largest = max(labels.max(), class_indices(given).max())
        k = largest + 1 if classes is None else len(classes)
        if given.min() < 0 or given.max() >= k:
            raise ValueError(f"Predicted labels must be from 0 to {k - 1}.")
        given = given[:, None] == np.arange(k)
    elif classes is None:
        raise ValueError(
            "Probabilities need classes, the names of their columns in this order: the"
            " columns of a classifier are its classes_, which may lack one."
        )
    elif given.ndim and given.shape[-1] != len(classes):
        raise ValueError(
            f"Probabilities have {given.shape[-1]} columns, but classes are "
            f"{[*map(str, classes)]}."
        )
    repeats = checked_proba(labels, given, "predicted")
    names = range(repeats.shape[2]) if classes is None else classes
    return labels, repeats, [*map(str, names)]


def _per_class_intervals(
    resampled: dict[str, Resampled], true: Bools, predicted: Bools, codes: Ints
) -> dict[str, pd.DataFrame]:
    """Return value, low and high of each class, for each of `PER_CLASS`.

    `true` (n, k) and `predicted` (r, n, k) say how many groups a number rests on.
    """
    n_true = groups_with(true, codes)
    n_other = groups_with(~true, codes)
    n_predicted = np.min([groups_with(one, codes) for one in predicted], axis=0)
    n_groups = {
        "sensitivity": n_true,
        "specificity": n_other,
        "precision": n_predicted,
        "f1": n_true,  # no share of groups, but no surer than the sensitivity
        "auroc": np.minimum(n_true, n_other),
    }
    tables = {}
    for key in PER_CLASS:
        numbers = resampled[f"class_{key}"]
        if key == "auroc":
            exact_bounds = newcombe(numbers.value, n_true, n_other)
        else:
            exact_bounds = clopper_pearson(numbers.value, n_groups[key])
        tables[key] = intervals(numbers, n_groups[key], exact_bounds)
    return tables


def _overall_intervals(
    resampled: dict[str, Resampled], per_class: dict[str, pd.DataFrame], n_groups: int
) -> pd.DataFrame:
    """Return value, low and high of each of `METRICS`."""
    table = pd.concat([intervals(resampled[name], n_groups) for name in METRICS])
    table.index = pd.Index(METRICS, name="metric")
    exact = clopper_pearson(resampled["accuracy"].value, n_groups)[:, None]
    table.loc["accuracy"] = intervals(resampled["accuracy"], n_groups, exact).iloc[0]
    areas = per_class["auroc"]
    for name, of_classes in (
        ("balanced_accuracy", per_class["sensitivity"]),
        ("macro_f1", per_class["f1"]),
        ("auroc", areas.iloc[1:] if len(areas) == 2 else areas),
    ):
        table.loc[name] = _mean_interval(table.loc[name], of_classes)
    table.loc["ece"] = _ece_interval(resampled, n_groups)
    table["low"] = table["low"].clip(lower=0)
    return table


def _mean_interval(mean: pd.Series, of_classes: pd.DataFrame) -> dict[str, float]:
    """Extend a mean's interval to the one that those of its classes imply.

    Draws of the mean do not show what is unknown of a class without errors; its own
    interval does. Squared distances to the ends add up where classes are independent
    (Zou and Donner, Statistics in Medicine 27, 2008, 1693-1702).
    """
    value, low, high = of_classes.dropna().to_numpy().T
    below = np.sqrt(((value - low) ** 2).sum()) / len(value)
    above = np.sqrt(((high - value) ** 2).sum()) / len(value)
    return {
        "value": mean["value"],
        "low": min(mean["low"], mean["value"] - below),
        "high": min(1.0, max(mean["high"], mean["value"] + above)),
    }


def _ece_interval(resampled: dict[str, Resampled], n_groups: int) -> dict[str, float]:
    """Return the interval of the calibration error, which noise biases upwards.

    With the gaps g of the bins on the sample and g* on a draw, the error is ``Σ|g|``,
    and its noise ``Σ|g* - g|``. The interval goes down by the noise's 97.5% quantile,
    and up by what the 2.5% quantile of the draws' errors lies below the error (the
    basic bootstrap); both times the factor for few groups.
    """
    value = float(resampled["ece"].value)
    noise = float(np.quantile(resampled["ece_noise"].draws, 0.975))
    lowest = float(np.quantile(resampled["ece"].draws, 0.025))
    factor = float(small_sample_factor(n_groups))
    return {
        "value": value,
        "low": value - factor * noise,
        "high": min(1.0, value + factor * max(0.0, value - lowest)),
    }


def _side_by_side(
    per_class: dict[str, pd.DataFrame], names: list[str], support: Ints
) -> pd.DataFrame:
    """Return one row for each class: x, x_low, x_high for each x, and support."""
    columns: dict[str, NDArray[Any]] = {}
    for key, table in per_class.items():
        columns[key] = table["value"].to_numpy()
        columns[f"{key}_low"] = table["low"].to_numpy()
        columns[f"{key}_high"] = table["high"].to_numpy()
    columns["support"] = support
    return pd.DataFrame(columns, index=pd.Index(names, name="class"))


def _confusion(labels: Ints, repeats: Floats) -> Ints:
    """Count true classes by predicted ones, (k, k), over all repeats."""
    _, _, k = repeats.shape
    counts = np.zeros((k, k), np.int64)
    for proba in repeats:
        np.add.at(counts, (labels, proba.argmax(axis=1)), 1)
    return counts


def _distinct_areas(auroc: Floats) -> Floats:
    """Leave out the first of two classes, whose area is that of the second."""
    return auroc[:, 1:] if auroc.shape[1] == 2 else auroc
