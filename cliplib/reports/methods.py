"""How well each method sorts images of groups that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.data.arrays import Floats, Ints
from cliplib.data.wording import counted
from cliplib.evaluation.comparison import compare
from cliplib.evaluation.intervals import Share
from cliplib.evaluation.metrics import Evaluation, evaluate
from cliplib.features.splits import checked_groups
from cliplib.features.table import FeatureTable
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.nearest import NearestNeighbour
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
    groups_kept_apart
        False where these groups are near-duplicates alone.
    seed
        Of folds and draws.
    """

    table: FeatureTable
    n_splits: int
    groups_kept_apart: bool
    seed: int

    def proba(self, method: Method, *, by_image: bool = False) -> Floats:
        """Return out-of-fold probabilities, (n, k), of a method.

        No group is in training and test at once; with `by_image` a group may be, which
        shows how much accuracy that adds.
        """
        each_its_own = np.arange(len(self.table))
        return out_of_fold_proba(
            method.estimator,
            method.table,
            groups=each_its_own if by_image else None,  # None: those of the table
            n_splits=self.n_splits,
            seed=self.seed,
        )

    def evaluate(self, predicted: ArrayLike) -> Evaluation:
        """Measure answers, (n,) or probabilities (n, k), with intervals over groups."""
        table = self.table
        return evaluate(
            table.labels,
            predicted,
            table.classes,
            groups=table.groups,
            seed=self.seed,
        )

    def gain(self, predicted: ArrayLike, other: ArrayLike) -> Share:
        """Return the accuracy of answers less that of others, paired, over groups."""
        table = self.table
        groups = table.groups
        gain = compare(table.labels, predicted, other, groups=groups, seed=self.seed)
        return Share.of(gain.rename({"difference": "value"}))


def plan_evaluation(table: FeatureTable, *, seed: int = 0) -> EvaluationPlan:
    """Choose what to keep together in cross-validation, and the number of folds.

    Groups are kept together where each class has four of them or more. Else methods
    cannot be tested on groups that were not trained on, and near-duplicates alone are
    kept together.

    Raises
    ------
    ValueError
        If a class has fewer than four images that are no copies of each other.
    """
    fewest_groups = int(groups_per_class(table).min())
    if fewest_groups >= LEAST_GROUPS:
        n_splits = min(MOST_FOLDS, fewest_groups)
        return EvaluationPlan(table, n_splits, groups_kept_apart=True, seed=seed)
    without_copies = groups_per_class(table, table.copies)
    fewest_images = int(without_copies.min())
    if fewest_images < LEAST_GROUPS:
        name = table.classes[int(without_copies.argmin())]
        raise ValueError(
            f"Class {name!r} has {counted(fewest_images, 'image')}, copies counted "
            f"once: it needs {LEAST_GROUPS} at least. Add some, or leave the class out."
        )
    # Published folds, which go with the table's own groups, are dropped: 0 is none.
    no_folds = np.zeros(len(table), int)
    by_copies = replace(table, groups=table.copies, folds=no_folds)
    n_splits = min(MOST_FOLDS, fewest_images)
    return EvaluationPlan(by_copies, n_splits, groups_kept_apart=False, seed=seed)


def groups_per_class(table: FeatureTable, groups: ArrayLike | None = None) -> Ints:
    """Return the number of groups that hold images of each class of a table, (k,).

    These are the table's own groups, or others, (n,), such as ``table.copies``.
    """
    given = table.groups if groups is None else groups
    group_of_row = pd.Series(checked_groups(given, len(table)))
    counts = group_of_row.groupby(table.labels).nunique()  # without empty classes
    return np.asarray(counts.reindex(range(len(table.classes)), fill_value=0), np.int64)


@dataclass(frozen=True, eq=False)
class Methods:
    """How well each method sorts images of groups that it was not trained on.

    Attributes
    ----------
    classes, labels, groups
        Names of the k classes; of each image its class, and the group that is kept
        together in all folds, (n,).
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
    n_splits
        The number of folds.
    groups_kept_apart
        Whether no group was in training and test at once; False where a class has too
        few groups for that, and near-duplicates alone were kept apart.
    by_image
        Metrics of the best where images of a group may be in training and test at
        once; None where each image is its own group.
    """

    classes: Sequence[str]
    labels: Ints
    groups: Ints
    answers: Mapping[str, Ints]
    best: str
    method: Method
    proba: Floats
    evaluations: Mapping[str, Evaluation]
    gains: Mapping[str, Share]
    n_splits: int
    groups_kept_apart: bool
    by_image: Evaluation | None = None

    @property
    def predicted(self) -> Ints:
        """The answers of the best probe, (n,)."""
        return self.answers[self.best]

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return len(set(self.groups.tolist()))

    @property
    def probes(self) -> list[str]:
        """The names of the trained probes, of which the best was chosen."""
        return [name for name in (POOLED, LINEAR, KERNEL) if name in self.answers]

    def share(self, metric: str, method: str = "") -> Share:
        """Return a metric of a method, by default of the best, with its interval."""
        return self.evaluations[method or self.best].share(metric)

    @property
    def sensitivity(self) -> dict[str, Share]:
        """The share of each class that the best finds, by class."""
        return self.evaluations[self.best].by_class("sensitivity")


def measure_methods(plan: EvaluationPlan, zero_shot: Floats) -> Methods:
    """Test baselines and probes in the folds of a plan, and find the best probe.

    `zero_shot` are probabilities, (n, k), by the names of the classes alone.
    """
    table = plan.table
    deep = table.with_readout("deep")
    largest = np.eye(len(table.classes))[np.bincount(table.labels).argmax()]
    probes = unfitted_probes(plan)
    proba_of = {
        LARGEST: np.tile(largest, (len(table), 1)),
        ZERO_SHOT: zero_shot,
        NEIGHBOUR: plan.proba(Method(NearestNeighbour(), deep)),
    } | {name: plan.proba(method) for name, method in probes.items()}
    answers = {name: proba.argmax(axis=1) for name, proba in proba_of.items()}
    # Of equally accurate probes it is the first, which is the simplest.
    best = max(probes, key=lambda name: (answers[name] == table.labels).mean())
    by_image = None
    if len(set(table.groups)) < len(table):
        by_image = plan.evaluate(plan.proba(probes[best], by_image=True))
    return Methods(
        classes=table.classes,
        labels=table.labels,
        groups=table.groups,
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
        n_splits=plan.n_splits,
        groups_kept_apart=plan.groups_kept_apart,
        by_image=by_image,
    )


def unfitted_probes(plan: EvaluationPlan) -> dict[str, Method]:
    """Return the probes of which the best is chosen, by name, the simplest first.

    From 10,000 images on, the kernel probe is left out.
    """
    table = plan.table
    deep = table.with_readout("deep")
    linear = LinearProbe(seed=plan.seed)
    probes = {
        POOLED: Method(linear, table.with_readout("pooled")),
        LINEAR: Method(linear, deep),
    }
    if len(table) < KERNEL_LIMIT:
        probes[KERNEL] = Method(KernelProbe(seed=plan.seed), deep)
    return probes


class OtherEncoder(NamedTuple):
    """Another vision model, by a linear probe on its pooled features."""

    name: str
    accuracy: Share
    gain: Share
    """Accuracy with CLIP's pooled features less this."""
