"""How well each method sorts images of groups that it was not trained on.

Also which labels the best method contradicts.
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
# The kernel of so many training images takes 0.4 GB, of ten times as many 40 GB.
KERNEL_LIMIT = 10_000
MOST_FOLDS = 5
# Of a class: in a fold one is tested, one validates, and two are trained on.
FEWEST_GROUPS = 4


def number_of_folds(table: FeatureTable) -> int:
    """Return how many folds of cross-validation can keep a table's groups whole.

    Raises
    ------
    ValueError
        If a class has fewer than four groups: it cannot be tested on others than it is
        trained on.
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
        Its groups stay whole in every fold.
    n_splits, seed
        Number of folds, and seed of folds and intervals.
    proba_by_method
        Out-of-fold probabilities, (n, k).
    evaluations
        Metrics by method, with intervals over groups.
    best
        The name of the probe of the highest accuracy.
    probe, probe_table
        This probe, not fitted yet, and the table that it is trained and tested on.
    by_image
        Metrics of this probe where images of a group may be in training and test at
        once; None where each image is its own group.
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
        """How many groups there are."""
        return len(np.unique(self.table.groups))

    @property
    def probe_names(self) -> list[str]:
        """The names of the trained probes, of which the best was chosen."""
        names = (POOLED, LINEAR, KERNEL)
        return [name for name in names if name in self.proba_by_method]

    @property
    def other_encoders(self) -> list[str]:
        """The names of vision models beside CLIP, which a linear probe reads."""
        of_clip = (LARGEST, ZERO_SHOT, NEIGHBOUR, *self.probe_names)
        return [name for name in self.proba_by_method if name not in of_clip]

    @property
    def sensitivity(self) -> dict[str, Estimate]:
        """The share of each class that the best finds, by class."""
        return self.evaluation.by_class("sensitivity")

    @property
    def least_found(self) -> str:
        """The class of which the best finds the smallest share."""
        found = self.sensitivity
        return min(found, key=lambda name: found[name].value)

    def answers(self, method: str) -> Ints:
        """Return the class that a method gives, (n,)."""
        answers: Ints = self.proba_by_method[method].argmax(axis=1)
        return answers

    def gain_over(self, method: str) -> Estimate:
        """Return the best probe's accuracy less a method's, paired over groups."""
        gain = compare(
            self.table.labels,
            self.predicted,
            self.answers(method),
            groups=self.table.groups,
            seed=self.seed,
        )
        return Estimate.of(gain.rename({"difference": "value"}))


def compare_methods(
    table: FeatureTable,
    zero_shot: Floats,
    other_tables: Mapping[str, FeatureTable],
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> tuple[MethodComparison, list[Fit]]:
    """Test baselines and probes in the same folds, and find the best probe.

    Returned are the comparison, and the best probe as it was fitted in each fold.

    `zero_shot` are probabilities, (n, k), by the names of the classes alone, and
    `other_tables` pooled features of the images by the names of other encoders, which
    are set beside CLIP's by a linear probe. From 10,000 images on, the kernel probe is
    left out.
    """
    folds = table_folds(table, n_splits, seed)
    deep = table.with_readout("deep")
    linear = LinearProbe(seed=seed)
    # Each with the table that it reads, the simplest first.
    probes: dict[str, tuple[Any, FeatureTable]] = {
        POOLED: (linear, table.with_readout("pooled")),
        LINEAR: (linear, deep),
    }
    if len(table) < KERNEL_LIMIT:
        probes[KERNEL] = (KernelProbe(seed=seed), deep)
    largest = np.eye(len(table.classes))[np.bincount(table.labels).argmax()]
    proba_by_method = {
        LARGEST: np.tile(largest, (len(table), 1)),
        ZERO_SHOT: zero_shot,
        NEIGHBOUR: predict_fits(fit_folds(nearest_neighbour(), deep, folds), deep),
    }
    fits_by_probe = {}
    for name, (probe, its_table) in tqdm(probes.items(), "methods", unit="probe"):
        fits_by_probe[name] = list(fit_folds(probe, its_table, folds))
        proba_by_method[name] = predict_fits(fits_by_probe[name], its_table)
    for name, other in other_tables.items():
        proba_by_method[name] = predict_fits(fit_folds(linear, other, folds), other)
    evaluated = partial(
        evaluate, table.labels, classes=table.classes, groups=table.groups, seed=seed
    )
    evaluations = {name: evaluated(proba) for name, proba in proba_by_method.items()}
    # Of equally accurate probes it is the first, which is the simplest.
    best = max(probes, key=lambda name: evaluations[name].estimate("accuracy").value)
    probe, probe_table = probes[best]
    by_image = None
    if len(set(table.groups)) < len(table):
        one_a_group = np.arange(len(table))
        proba = out_of_fold_proba(
            probe, probe_table, groups=one_a_group, n_splits=n_splits, seed=seed
        )
        by_image = evaluated(proba)
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

    An image is confidently of a class if its probability of this class is at least the
    mean over the images that bear this label (Northcutt, Jiang and Chuang, JAIR 70,
    2021, section 3.1). Its label is suspect if the most probable of these classes is
    another one, and more probable than the given one.

    Parameters
    ----------
    labels
        The given labels, (n,), indices into the columns of `proba`.
    proba
        Out-of-fold probabilities, (n, k).

    Returns
    -------
    pd.DataFrame
        row, given and likely (indices of classes) and margin, the probability of the
        likely class less that of the given one; the largest margin first.
    """
    given = np.asarray(labels)
    probabilities = np.asarray(proba, float)
    # By class, (k,); infinite, and never reached, for a class that no image bears.
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(given):
        thresholds[label] = probabilities[given == label, label].mean()
    is_confident = probabilities >= thresholds  # (n, k)
    # The most probable of each row's confident classes, (n,); 0 where it has none.
    likely = np.where(is_confident, probabilities, -1).argmax(axis=1)
    every_row = np.arange(len(given))
    margin = probabilities[every_row, likely] - probabilities[every_row, given]
    # It is 0 where the given label is the likely class, and below 0 where the given
    # label does not reach its threshold but is more probable than that class.
    rows = np.flatnonzero(is_confident.any(axis=1) & (margin > 0))
    suspects = pd.DataFrame({"row": rows, "given": given[rows], "likely": likely[rows]})
    suspects["margin"] = margin[rows]
    return suspects.sort_values("margin", ascending=False, ignore_index=True)
