"""How well each method sorts images of groups that it was not trained on.

Also which labels the best method contradicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from cliplib.data.arrays import Floats, Ints
from cliplib.data.wording import counted
from cliplib.evaluation.comparison import compare
from cliplib.evaluation.intervals import Estimate
from cliplib.evaluation.metrics import Evaluation, evaluate
from cliplib.features.table import FeatureTable
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.nearest import nearest_neighbour
from cliplib.probes.out_of_fold import out_of_fold_proba
from cliplib.reports.decision_aid import KERNEL_LIMIT

LARGEST = "always the largest class"
ZERO_SHOT = "zero-shot"
NEIGHBOUR = "nearest neighbour"
POOLED = "pooled linear probe"
LINEAR = "linear probe"
KERNEL = "kernel probe"
MOST_FOLDS = 5
LEAST_GROUPS = 4
"""Of a class: in a fold one is tested, one validates, and two are trained on."""


class Method(NamedTuple):
    """A classifier, not fitted yet, and the table that it is trained and tested on."""

    estimator: Any
    table: FeatureTable


@dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """How methods are tested on a folder: see `plan_evaluation`.

    Attributes
    ----------
    table
        Its groups stay whole in every fold.
    n_splits
        The number of folds.
    seed
        Of folds and draws.
    """

    table: FeatureTable
    n_splits: int
    seed: int

    @property
    def draws(self) -> dict[str, Any]:
        """Number and seed of the folds, as the arguments of what draws them."""
        return {"n_splits": self.n_splits, "seed": self.seed}

    def predict(self, method: Method, groups: ArrayLike | None = None) -> Floats:
        """Return out-of-fold probabilities, (n, k), of a method.

        No group is in training and test at once; others than the table's may be given.
        """
        estimator, table = method
        return out_of_fold_proba(estimator, table, groups=groups, **self.draws)

    def evaluate(self, predicted: ArrayLike) -> Evaluation:
        """Measure answers, (n,) or probabilities (n, k), with intervals over groups."""
        table = self.table
        return evaluate(
            table.labels, predicted, table.classes, groups=table.groups, seed=self.seed
        )

    def gain(self, predicted: ArrayLike, other: ArrayLike) -> Estimate:
        """Return the accuracy of answers less that of others, paired, over groups."""
        labels = self.table.labels
        groups = self.table.groups
        gain = compare(labels, predicted, other, groups=groups, seed=self.seed)
        return Estimate.of(gain.rename({"difference": "value"}))


def plan_evaluation(table: FeatureTable, *, seed: int = 0) -> EvaluationPlan:
    """Choose the number of folds of cross-validation, which keep groups together.

    Raises
    ------
    ValueError
        If a class has fewer than four groups: it cannot be tested on others than it is
        trained on.
    """
    counts = groups_per_class(table)
    fewest = int(counts.min())
    if fewest < LEAST_GROUPS:
        raise ValueError(
            f"Class {table.classes[counts.argmin()]!r} has images of "
            f"{counted(fewest, 'group')}, copies being one: it needs {LEAST_GROUPS} at "
            "least. Add some, or leave the class out."
        )
    return EvaluationPlan(table, min(MOST_FOLDS, fewest), seed)


def groups_per_class(table: FeatureTable, groups: ArrayLike | None = None) -> Ints:
    """Return the number of groups that hold images of each class of a table, (k,).

    These are the table's own groups, or others, (n,), such as ``table.copies``.
    """
    group_of_row = pd.Series(table.groups if groups is None else groups)
    counts = group_of_row.groupby(table.labels).nunique()  # without empty classes
    return np.asarray(counts.reindex(range(len(table.classes)), fill_value=0), np.int64)


@dataclass(frozen=True, eq=False)
class Methods(EvaluationPlan):
    """A plan carried out: how well each method does on groups not trained on.

    Attributes
    ----------
    answers
        The class that each method gives, (n,), by its name.
    best, method
        The name of the probe of the highest accuracy, and the probe itself.
    proba
        Its out-of-fold probabilities, (n, k).
    evaluations
        Metrics of each method, by name.
    gains
        Accuracy of the best less that of each other method, by name.
    by_image
        Metrics of the best where images of a group may be in training and test at
        once; None where each image is its own group.
    """

    answers: Mapping[str, Ints]
    best: str
    method: Method
    proba: Floats
    evaluations: Mapping[str, Evaluation]
    gains: Mapping[str, Estimate]
    by_image: Evaluation | None = None

    @property
    def predicted(self) -> Ints:
        """The answers of the best probe, (n,)."""
        return self.answers[self.best]

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return len(np.unique(self.table.groups))

    @property
    def probes(self) -> list[str]:
        """The names of the trained probes, of which the best was chosen."""
        return [name for name in (POOLED, LINEAR, KERNEL) if name in self.answers]

    def estimate(self, metric: str, method: str = "") -> Estimate:
        """Return a metric of a method, by default of the best, with its interval."""
        return self.evaluations[method or self.best].estimate(metric)

    @property
    def sensitivity(self) -> dict[str, Estimate]:
        """The share of each class that the best finds, by class."""
        return self.evaluations[self.best].by_class("sensitivity")

    @property
    def least_found(self) -> tuple[str, Estimate]:
        """The class of which the best finds the smallest share, and this share."""
        found = self.sensitivity
        name = min(found, key=lambda name: found[name].value)
        return name, found[name]


def measure_methods(plan: EvaluationPlan, zero_shot: Floats) -> Methods:
    """Test baselines and probes in the folds of a plan, and find the best probe.

    `zero_shot` are probabilities, (n, k), by the names of the classes alone. From
    10,000 images on, the kernel probe is left out.
    """
    table = plan.table
    deep = table.with_readout("deep")
    linear = LinearProbe(seed=plan.seed)
    probes = {  # the simplest first
        POOLED: Method(linear, table.with_readout("pooled")),
        LINEAR: Method(linear, deep),
    }
    if len(table) < KERNEL_LIMIT:
        probes[KERNEL] = Method(KernelProbe(seed=plan.seed), deep)
    largest = np.eye(len(table.classes))[np.bincount(table.labels).argmax()]
    proba_of = {
        LARGEST: np.tile(largest, (len(table), 1)),
        ZERO_SHOT: zero_shot,
        NEIGHBOUR: plan.predict(Method(nearest_neighbour(), deep)),
    }
    for name, method in tqdm(probes.items(), "methods", unit="probe"):
        proba_of[name] = plan.predict(method)
    answers = {name: proba.argmax(axis=1) for name, proba in proba_of.items()}
    # Of equally accurate probes it is the first, which is the simplest.
    best = max(probes, key=lambda name: (answers[name] == table.labels).mean())
    by_image = None
    each_its_own = np.arange(len(table))
    if len(set(table.groups)) < len(table):
        by_image = plan.evaluate(plan.predict(probes[best], each_its_own))
    return Methods(
        **vars(plan),
        answers=answers,
        best=best,
        method=probes[best],
        proba=proba_of[best],
        evaluations={name: plan.evaluate(proba) for name, proba in proba_of.items()},
        gains={
            name: plan.gain(answers[best], other)
            for name, other in answers.items()
            if name != best
        },
        by_image=by_image,
    )


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


class OtherEncoder(NamedTuple):
    """Another vision model, by a linear probe on its pooled features."""

    name: str
    accuracy: Estimate
    gain: Estimate
    """Accuracy with CLIP's pooled features less this."""
