"""Would more labels pay: the study's learning curve."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from test_questions import table

from cliplib import FeatureTable
from cliplib.features.table import groups_per_class
from cliplib.probes.out_of_fold import out_of_fold_proba
from cliplib.reports.methods import MethodComparison, number_of_folds
from study.learning_curve import learning_curve


def results_of(estimator: Any, whole: FeatureTable, seed: int = 0) -> MethodComparison:
    """Return the out-of-fold answers of a classifier."""
    n_splits = number_of_folds(whole)
    proba = out_of_fold_proba(estimator, whole, n_splits=n_splits, seed=seed)
    return MethodComparison(
        table=whole,
        n_splits=n_splits,
        seed=seed,
        proba_by_method={"it": proba},
        evaluations={},
        best="it",
        probe=estimator,
        probe_table=whole,
    )


def test_the_learning_curve_grows_by_groups_and_ends_at_the_answers_with_all() -> None:
    found = results_of(LogisticRegression(), table(20))
    points = learning_curve(found)
    assert points["share"].tolist() == [0.125, 0.25, 0.5, 1.0]
    assert points["groups"].tolist() == [4, 8, 16, 32]
    assert (points["images"] == 3 * points["groups"]).all()
    assert (points["low"] <= points["value"]).all()
    answers = found.proba.argmax(axis=1)
    assert points["value"].iloc[-1] == (answers == found.table.labels).mean()


class NotingFits(DummyClassifier):
    """Notes the images of each fit, by the numbers that are their features."""

    fits: list[set[int]] = []  # noqa: RUF012

    def fit(self, X: Any, y: Any) -> NotingFits:
        self.fits.append(set(X[:, 0].astype(int)))
        super().fit(X, y)
        return self


def test_larger_shares_hold_the_smaller_ones_and_each_class_its_part() -> None:
    whole = table(20)
    numbered = whole.with_features(np.arange(len(whole))[:, None])
    NotingFits.fits.clear()
    learning_curve(results_of(NotingFits(), numbered))
    # First by the out-of-fold answers with all groups, then for three shares.
    with_all, *by_part = np.array(NotingFits.fits).reshape(4, 5)
    by_share = np.array([*by_part, with_all])
    for fold in range(5):
        for smaller, larger in pairwise(by_share[:, fold]):
            assert smaller < larger
        for images, n_groups in zip(by_share[:, fold], (2, 4, 8, 16), strict=True):
            trained = whole.select(sorted(images))
            assert groups_per_class(trained).tolist() == [n_groups] * 2
    before = list(NotingFits.fits)
    NotingFits.fits.clear()
    learning_curve(results_of(NotingFits(), numbered, seed=1))
    assert NotingFits.fits != before


def test_shares_of_too_few_groups_are_left_out() -> None:
    points = learning_curve(results_of(LogisticRegression(), table(5)))
    assert points["share"].tolist() == [0.5, 1.0]
