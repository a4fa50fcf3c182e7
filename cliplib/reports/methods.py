"""How well each method classifies images of groups that it was not trained on.

The labels that the best method contradicts are found as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from cliplib.data.arrays import Floats, Ints
from cliplib.data.wording import counted
from cliplib.evaluation.comparison import compare
from cliplib.evaluation.intervals import Estimate
from cliplib.evaluation.metrics import Evaluation, evaluate
from cliplib.features.table import FeatureTable, groups_per_class
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.nearest import nearest_neighbour
from cliplib.probes.out_of_fold import (
    Fit,
    fit_folds,
    out_of_fold_proba,
    predict_fits,
    table_folds,
)

LARGEST = "always the largest class"
ZERO_SHOT = "zero-shot"
NEIGHBOUR = "nearest neighbour"
POOLED = "pooled linear probe"
LINEAR = "linear probe"
KERNEL = "kernel probe"
# Number of images from which the kernel probe is left out: its kernel takes 0.4 GB for
# 10,000 training images, and 40 GB for 100,000.
KERNEL_LIMIT = 10_000
MOST_FOLDS = 5
# Fewest groups of a class: in each fold one tests, one validates, and two train.
FEWEST_GROUPS = 4


def number_of_folds(table: FeatureTable) -> int:
    """Return the number of folds that keep a table's groups whole, at most five.

    Each class has at least as many groups as there are folds.

    Raises
    ------
    ValueError
        If a class has fewer than four groups: too few to train on some and test on
        others.
    """
    counts = groups_per_class(table)
    fewest = int(counts.min())
    if fewest < FEWEST_GROUPS:
        raise ValueError(
            f"Class {table.classes[counts.argmin()]!r} has images of "
            f"{counted(fewest, 'group')}, copies counted once: it needs "
            f"{FEWEST_GROUPS} at least. Add some, or leave the class out."
        )
    return min(MOST_FOLDS, fewest)


@dataclass(frozen=True, eq=False)
class MethodComparison:
    """How well each method does on groups that it was not trained on.

    Attributes
    ----------
    table
        The images, with the groups that stay whole in every fold.
    n_splits, seed
        Number of folds, and seed of folds and intervals.
    proba_by_method
        Out-of-fold probabilities, (n, k), by method.
    evaluations
        Metrics with intervals over groups, by method.
    best
        Name of the probe with the highest accuracy.
    probe, probe_table
        This probe, not fitted, and the table in the readout that it reads.
    by_image
        Metrics of this probe in folds that separate images of a group; None where each
        image is its own group.
    """

    table: FeatureTable
    n_splits: int
    seed: int
    proba_by_method: Mapping[str, Floats]
    evaluations: Mapping[str, Evaluation]
    best: str
    probe: Any
    probe_table: FeatureTable
    by_image: Evaluation | None = None

    @property
    def proba(self) -> Floats:
        """The probabilities of the best probe, (n, k)."""
        return self.proba_by_method[self.best]

    @property
    def predicted(self) -> Ints:
        """The answers of the best probe, (n,)."""
        return self.answers(self.best)

    @property
    def evaluation(self) -> Evaluation:
        """The metrics of the best probe."""
        return self.evaluations[self.best]

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return len(np.unique(self.table.groups))

    @property
    def probe_names(self) -> list[str]:
        """The names of the trained probes, of which the best was chosen."""
        names = (POOLED, LINEAR, KERNEL)
        return [name for name in names if name in self.proba_by_method]

    @property
    def other_encoders(self) -> list[str]:
        """The names of the other vision models, whose features a linear probe reads."""
        own_methods = (LARGEST, ZERO_SHOT, NEIGHBOUR, *self.probe_names)
        return [name for name in self.proba_by_method if name not in own_methods]

    @property
    def sensitivity(self) -> dict[str, Estimate]:
        """The share of each class that the best probe finds, by class."""
        return self.evaluation.by_class("sensitivity")

    @property
    def least_found(self) -> str:
        """The class of which the best probe finds the smallest share."""
        sensitivity = self.sensitivity
        return min(sensitivity, key=lambda name: sensitivity[name].value)

    def answers(self, method: str) -> Ints:
        """Return the most probable class of each image by a method, (n,)."""
        answers: Ints = self.proba_by_method[method].argmax(axis=1)
        return answers

    def gain_over(self, method: str) -> Estimate:
        """Return the best probe's accuracy less a method's, paired over groups."""
        difference = compare(
            self.table.labels,
            self.predicted,
            self.answers(method),
            groups=self.table.groups,
            seed=self.seed,
        )
        return Estimate.of(difference.rename({"difference": "value"}))


def compare_methods(
    table: FeatureTable,
    zero_shot: Floats,
    other_tables: Mapping[str, FeatureTable],
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> tuple[MethodComparison, list[Fit]]:
    """Test baselines and probes in the same folds, and find the best probe.

    Parameters
    ----------
    table
        All readouts of CLIP, labels and groups of n images.
    zero_shot
        Probabilities (n, k) by the names of the classes alone.
    other_tables
        The same images with the features of another encoder, by its name. A linear
        probe reads them.
    n_splits, seed
        Number of folds, and seed of folds, probes and intervals.

    Returns
    -------
    MethodComparison, list of Fit
        The comparison, and the best probe as fitted in each fold.
    """
    folds = table_folds(table, n_splits, seed)
    linear = LinearProbe(seed=seed)
    deep = table.with_readout("deep")
    # The probes of CLIP, each with the table that it reads; the simplest comes first.
    probes: dict[str, tuple[Any, FeatureTable]] = {
        POOLED: (linear, table.with_readout("pooled")),
        LINEAR: (linear, deep),
    }
    if len(table) < KERNEL_LIMIT:
        probes[KERNEL] = (KernelProbe(seed=seed), deep)

    always_largest = np.zeros((len(table), len(table.classes)))
    always_largest[:, np.bincount(table.labels).argmax()] = 1
    proba_by_method = {
        LARGEST: always_largest,
        ZERO_SHOT: zero_shot,
        NEIGHBOUR: predict_fits(fit_folds(nearest_neighbour(), deep, folds), deep),
    }
    fits_by_probe = {}
    for name, (probe, read_table) in tqdm(probes.items(), "methods", unit="probe"):
        fits_by_probe[name] = list(fit_folds(probe, read_table, folds))
        proba_by_method[name] = predict_fits(fits_by_probe[name], read_table)
    for name, other in other_tables.items():
        proba_by_method[name] = predict_fits(fit_folds(linear, other, folds), other)

    evaluated = partial(
        evaluate, table.labels, classes=table.classes, groups=table.groups, seed=seed
    )
    evaluations = {name: evaluated(proba) for name, proba in proba_by_method.items()}
    # Of equally accurate probes, max returns the first one, which is the simplest.
    best = max(probes, key=lambda name: evaluations[name].estimate("accuracy").value)
    probe, probe_table = probes[best]

    by_image = None
    if len(set(table.groups)) < len(table):
        images = np.arange(len(table))  # in these folds, each image is its own group
        proba_by_image = out_of_fold_proba(
            probe, probe_table, groups=images, n_splits=n_splits, seed=seed
        )
        by_image = evaluated(proba_by_image)
    comparison = MethodComparison(
        table=table,
        n_splits=n_splits,
        seed=seed,
        proba_by_method=proba_by_method,
        evaluations=evaluations,
        best=best,
        probe=probe,
        probe_table=probe_table,
        by_image=by_image,
    )
    return comparison, fits_by_probe[best]


def suspect_labels(labels: ArrayLike, proba: ArrayLike) -> pd.DataFrame:
    """Find labels that look wrong by confident learning.

    An image is confidently of a class if its probability of this class reaches the mean
    over the images with this label (Northcutt, Jiang and Chuang, JAIR 70, 2021, section
    3.1). Its label is suspect if the most probable of its confident classes is not the
    label, and is more probable than the label.

    Parameters
    ----------
    labels
        Labels (n,), indices into the columns of `proba`.
    proba
        Out-of-fold probabilities, (n, k).

    Returns
    -------
    pd.DataFrame
        row, given (the label), likely (the most probable confident class) and margin
        (the probability of the likely class less that of the given one); the largest
        margin comes first.
    """
    given = np.asarray(labels)
    probabilities = np.asarray(proba, float)
    # Of each class, (k,); infinite, so that it is not reached, for one without labels.
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(given):
        thresholds[label] = probabilities[given == label, label].mean()
    is_confident = probabilities >= thresholds  # (n, k)
    # The most probable confident class of each row, (n,); 0 where it has none.
    likely = np.where(is_confident, probabilities, -1).argmax(axis=1)
    every_row = np.arange(len(given))
    margin = probabilities[every_row, likely] - probabilities[every_row, given]
    # The margin is 0 where the label is the likely class. It is below 0 where the label
    # is more probable, but does not reach its own threshold.
    rows = np.flatnonzero(is_confident.any(axis=1) & (margin > 0))
    suspects = pd.DataFrame({"row": rows, "given": given[rows], "likely": likely[rows]})
    suspects["margin"] = margin[rows]
    return suspects.sort_values("margin", ascending=False, ignore_index=True)
