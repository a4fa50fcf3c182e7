"""Metrics of a classifier's predicted labels and probabilities.

Every number has a 95% interval, by the cluster bootstrap of
`cliplib.evaluation.intervals`. The classifier is held fixed: the intervals do not
include how much it would change if it were trained again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix

from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.evaluation.inputs import read_predictions
from cliplib.evaluation.intervals import (
    Estimate,
    Resampled,
    Statistic,
    auroc_statistic,
    bootstrap,
    clopper_pearson,
    count_groups,
    intervals,
    newcombe,
    small_sample_factor,
)
from cliplib.features.splits import checked_groups

METRICS_OF_LABELS = ["accuracy", "balanced_accuracy", "macro_f1"]
METRICS = [*METRICS_OF_LABELS, "auroc", "log_loss", "brier", "ece"]
PER_CLASS = ["sensitivity", "specificity", "precision", "f1", "auroc"]

# Edges of the 15 bins (low, high] of confidence, for ECE and reliability diagrams.
CONFIDENCE_BIN_EDGES = np.arange(16) / 15


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of predictions with 95% intervals; NaN where undefined.

    Attributes
    ----------
    metrics
        value, low and high, a row for each of `METRICS`, or for each of
        `METRICS_OF_LABELS` if the predictions are labels.
    per_class
        For each of `PER_CLASS` a table of value, low and high, a row for each class.
    confusion
        Counts (k, k), with rows by true class and columns by predicted class.
    n, n_groups
        Number of rows, and of groups of rows.
    """

    metrics: pd.DataFrame
    per_class: Mapping[str, pd.DataFrame]
    confusion: Ints
    n: int
    n_groups: int

    @property
    def support(self) -> pd.Series:
        """Number of rows of each class, by the class's name."""
        names = self.per_class["sensitivity"].index
        return pd.Series(self.confusion.sum(axis=1), names, name="support")

    def estimate(self, metric: str) -> Estimate:
        """Return one of the metrics with its interval."""
        return Estimate.of(self.metrics.loc[metric])

    def by_class(self, metric: str) -> dict[str, Estimate]:
        """Return one of `PER_CLASS` with its interval, by the name of the class."""
        rows = self.per_class[metric].iterrows()
        return {str(name): Estimate.of(row) for name, row in rows}

    def __repr__(self) -> str:
        """Show all metrics with their intervals."""
        texts = [
            f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
            for row in self.metrics.itertuples()
        ]
        head = f"{self.n} rows in {self.n_groups} groups, with 95% intervals"
        return f"{head}\n{pd.Series(texts, self.metrics.index).to_string(header=False)}"


def evaluate(
    y: ArrayLike,
    predicted: ArrayLike,
    classes: Sequence[object] | None = None,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Measure how good predictions are, with 95% intervals.

    Parameters
    ----------
    y
        Labels (n,): names among `classes`, or indices into them if the names are not
        whole numbers themselves.
    predicted
        Labels (n,), or probabilities (n, k) with a column for each class.
    classes
        Names of the k classes, in the order of the columns, such as a probe's
        ``classes_``. Required if `predicted` holds probabilities.
    groups
        Group of each row, (n,); by default each row is a group of its own.
    n_boot, seed
        Number and random seed of the bootstrap draws, which keep groups together.

    Returns
    -------
    Evaluation
        Metrics overall and by class, and the confusion matrix. The AUROC of a class is
        that against all others; the overall AUROC is the mean over classes, or, if
        there are two, that of the second. Log loss is in nats. The Brier score is the
        sum of squared errors over classes, 0 to 2. The expected calibration error has
        15 bins (Guo et al. 2017, section 2).

    Raises
    ------
    ValueError
        If labels, predictions and classes do not fit together.
    """
    class_names, labels, proba = read_predictions(y, predicted, classes)
    n, k = proba.shape
    group_of_row = checked_groups(groups, n)  # numbers from 0 to n_groups - 1
    n_groups = int(group_of_row.max()) + 1
    is_true = np.arange(k) == labels[:, None]  # (n, k)
    is_predicted = np.arange(k) == proba.argmax(axis=1)[:, None]
    statistics = _statistics(is_true, is_predicted, proba)
    resampled = bootstrap(statistics, group_of_row, n_boot=n_boot, seed=seed)
    names = pd.Index([str(name) for name in class_names], name="class")
    per_class = _per_class_intervals(
        resampled, is_true, is_predicted, group_of_row, names
    )
    metrics = _overall_intervals(resampled, per_class, n_groups)
    if np.ndim(predicted) == 1:  # labels, whose probabilities 0 and 1 mean nothing
        metrics = metrics.loc[METRICS_OF_LABELS]
    return Evaluation(
        metrics=metrics,
        per_class=per_class,
        confusion=confusion_matrix(labels, proba.argmax(axis=1), labels=range(k)),
        n=n,
        n_groups=n_groups,
    )


def _statistics(is_true: Bools, is_predicted: Bools, proba: Floats) -> Statistic:
    """Return a function from weights of the rows, (draws, n), to statistics by name.

    The statistics are each of `METRICS`, (draws,); each of `PER_CLASS`, (draws, k),
    with "class_" before its name; and "ece_noise", for the interval of "ece". 0 / 0,
    such as the sensitivity of a class that a draw lacks, is NaN, and means over classes
    ignore it.

    Parameters
    ----------
    is_true, is_predicted
        Whether each class is the true, or the predicted, class of each row, (n, k).
    proba
        Probabilities, (n, k).
    """
    is_correct = np.asarray((is_true & is_predicted).any(axis=1))
    proba_of_true = (proba * is_true).sum(axis=1)
    # Clipped, so that the loss is finite if the true class has a probability of 0.
    log_loss = -np.log(np.clip(proba_of_true, np.finfo(float).eps, 1))
    brier = ((proba - is_true) ** 2).sum(axis=1)
    calibration_error = _calibration_error(is_correct, proba)
    area_functions = []  # stays empty if `_shares_by_class` gives the AUROC
    if not np.isin(proba, (0, 1)).all():
        area_functions = [
            auroc_statistic(is_true[:, label], score)
            for label, score in enumerate(proba.T)
        ]

    def statistics(weights: Floats) -> dict[str, Floats]:
        n_rows = weights.sum(axis=1)  # (draws,)
        by_class = _shares_by_class(is_true, is_predicted, weights)
        if area_functions:
            areas = [area_function(weights) for area_function in area_functions]
            by_class["auroc"] = np.column_stack(areas)
        return {
            "accuracy": weights @ is_correct / n_rows,
            "balanced_accuracy": np.nanmean(by_class["sensitivity"], axis=1),
            "macro_f1": np.nanmean(by_class["f1"], axis=1),
            "auroc": _mean_area(by_class["auroc"]),
            "log_loss": weights @ log_loss / n_rows,
            "brier": weights @ brier / n_rows,
            **calibration_error(weights),
            **{f"class_{name}": by_class[name] for name in PER_CLASS},
        }

    return statistics


def _shares_by_class(
    is_true: Bools, is_predicted: Bools, weights: Floats
) -> dict[str, Floats]:
    """Return each of `PER_CLASS`, (draws, k); "auroc" takes predictions as scores."""
    # All counts are (draws, k): for each draw and class, a number of rows.
    n_true = weights @ is_true
    n_predicted = weights @ is_predicted
    n_hit = weights @ (is_true & is_predicted)
    n_other = weights.sum(axis=1, keepdims=True) - n_true
    # Rows of other classes, without those that are wrongly assigned to this class.
    n_true_negative = n_other - (n_predicted - n_hit)
    sensitivity = n_hit / n_true
    specificity = n_true_negative / n_other
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": n_hit / n_predicted,
        "f1": 2 * n_hit / (n_true + n_predicted),
        "auroc": (sensitivity + specificity) / 2,
    }


def _calibration_error(is_correct: Bools, proba: Floats) -> Statistic:
    """Return a function from weights to the expected calibration error, "ece".

    It also returns "ece_noise", the distance between a draw's bins and the sample's.
    """
    confidence = proba.max(axis=1, keepdims=True)
    # (n, bins): each row has its confidence less 1 or 0 (right or wrong) in its bin.
    gap_of_row = confidence_bins(confidence) * (confidence - is_correct[:, None])
    gap_on_sample = gap_of_row.mean(axis=0)  # (bins,)

    def error(weights: Floats) -> dict[str, Floats]:
        gap = weights @ gap_of_row / weights.sum(axis=1, keepdims=True)
        return {
            "ece": np.abs(gap).sum(axis=1),  # (draws,)
            "ece_noise": np.abs(gap - gap_on_sample).sum(axis=1),
        }

    return error


def _mean_area(auroc: Floats) -> Floats:
    """Return the mean over classes, (draws,), of areas (draws, k), ignoring NaN.

    If there are two classes, their areas are equal, and only the second is used.
    """
    distinct = auroc[:, 1:] if auroc.shape[1] == 2 else auroc
    return np.asarray(np.nanmean(distinct, axis=1))


def confidence_bins(confidence: Floats) -> Bools:
    """Tell which bin each confidence (n, 1) is in, as a mask (n, bins).

    `CONFIDENCE_BIN_EDGES` separate the bins. No confidence is 0, because it is the
    probability of the most probable class.
    """
    at_most_one = np.minimum(confidence, 1)  # rounding may make it larger than 1
    return np.asarray(
        (CONFIDENCE_BIN_EDGES[:-1] < at_most_one)
        & (at_most_one <= CONFIDENCE_BIN_EDGES[1:])
    )


def _per_class_intervals(
    resampled: dict[str, Resampled],
    is_true: Bools,
    is_predicted: Bools,
    group_of_row: Ints,
    names: pd.Index,
) -> dict[str, pd.DataFrame]:
    """Return for each of `PER_CLASS` a table of value, low and high, a row a class.

    `resampled` holds the values and draws of "class_sensitivity" and so on; `names` are
    those of the classes. A number is based on the groups that have a row in its
    denominator.
    """
    # For each class, (k,), the numbers of groups with a row of the class, with a row of
    # another class, and with a row for which the class is predicted.
    n_with_class = count_groups(is_true, group_of_row)
    n_with_others = count_groups(~is_true, group_of_row)
    n_with_predicted = count_groups(is_predicted, group_of_row)
    n_groups = {
        "sensitivity": n_with_class,
        "specificity": n_with_others,
        "precision": n_with_predicted,
        "f1": n_with_class,  # F1 is taken to be as uncertain as the sensitivity
        "auroc": np.minimum(n_with_class, n_with_others),
    }
    tables = {}
    for metric in PER_CLASS:
        by_class = resampled[f"class_{metric}"]
        if metric == "auroc":
            exact_bounds = newcombe(by_class.value, n_with_class, n_with_others)
        else:
            exact_bounds = clopper_pearson(by_class.value, n_groups[metric])
        tables[metric] = intervals(by_class, n_groups[metric], exact_bounds, names)
    return tables


def _overall_intervals(
    resampled: dict[str, Resampled], per_class: dict[str, pd.DataFrame], n_groups: int
) -> pd.DataFrame:
    """Return a table of value, low and high, a row for each of `METRICS`.

    `per_class` is the result of `_per_class_intervals`. Accuracy is a share, whose
    interval may be extended to the exact one. The intervals of means over classes are
    extended by `_mean_interval`. The calibration error is biased, and has an interval
    of its own.
    """
    exact = clopper_pearson(resampled["accuracy"].value, n_groups)
    exact_bounds = {"accuracy": exact[:, None]}  # (2, 1)
    table = pd.concat(
        [intervals(resampled[m], n_groups, exact_bounds.get(m)) for m in METRICS]
    )
    table.index = pd.Index(METRICS, name="metric")
    areas = per_class["auroc"]
    means_over_classes = {
        "balanced_accuracy": per_class["sensitivity"],
        "macro_f1": per_class["f1"],
        # If there are two classes, their areas are equal: only the second is used.
        "auroc": areas.iloc[1:] if len(areas) == 2 else areas,
    }
    for name, class_table in means_over_classes.items():
        table.loc[name] = _mean_interval(Estimate.of(table.loc[name]), class_table)
    table.loc["ece"] = _ece_interval(resampled, n_groups)
    table["low"] = table["low"].clip(lower=0)  # no metric can be negative
    return table


def _mean_interval(mean: Estimate, class_table: pd.DataFrame) -> Estimate:
    """Extend the interval of a mean to the one that the classes' intervals imply.

    `class_table` has columns value, low and high, and a row for each class. A class
    without errors has none in any bootstrap draw either: only its own interval shows
    how uncertain it is.
    """
    estimates = [Estimate.of(row) for _, row in class_table.dropna().iterrows()]
    if not estimates:
        return Estimate(np.nan, np.nan, np.nan)
    implied = Estimate.mean(estimates)
    high = min(1.0, max(mean.high, implied.high))
    return Estimate(mean.value, min(mean.low, implied.low), high)


def _ece_interval(resampled: dict[str, Resampled], n_groups: int) -> Estimate:
    """Return the calibration error, which noise biases upwards, with its interval.

    The gap of a bin is its confidence less its accuracy, times its share of the rows:
    g on the sample, g* on a draw. The error is ``Σ|g|``, and its noise ``Σ|g* - g|``.
    The lower bound is the error less the 97.5% quantile of the noise. The upper bound
    is that of the basic bootstrap: the error plus its distance from the 2.5% quantile
    of the draws' errors. Both distances are multiplied by `small_sample_factor`. For
    calibrated probabilities, whose error is 0, the interval contained 0 in at least 95%
    of simulated samples of 200 to 5,000 rows; that of the basic bootstrap in 70%.
    """
    value = float(resampled["ece"].value)
    noise = float(np.quantile(resampled["ece_noise"].on_draws, 0.975))
    lowest = float(np.quantile(resampled["ece"].on_draws, 0.025))
    factor = float(small_sample_factor(n_groups))
    high = min(1.0, value + factor * max(0.0, value - lowest))
    return Estimate(value, value - factor * noise, high)
