"""Cross-validation: no group on both sides, every row tested once per repeat, selection that sees the groups."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsClassifier

from cliplib.errors import CliplibError
from cliplib.evaluation import evaluate_repeats
from cliplib.evaluation.crossval import cross_validate_probe, repeated_group_folds


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=60),
    n_splits=st.integers(2, 6),
    n_repeats=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_no_group_stands_on_both_sides(rows: list[tuple[int, int]], n_splits: int, n_repeats: int, seed: int) -> None:
    y, groups = np.array(rows).T
    try:
        folds = list(repeated_group_folds(y, groups, n_splits, n_repeats, seed))
    except CliplibError:
        in_one = any(len(set(groups[y == c])) < 2 for c in set(y))
        assert in_one or len(set(groups)) < n_splits or np.bincount(y).max() < n_splits
        return
    tested = np.zeros(len(y), dtype=int)
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        assert sorted([*train, *test]) == list(range(len(y)))
        assert len(train) and len(test)
        tested[test] += 1
    assert (tested == n_repeats).all()


def test_folds_are_stratified_seeded_and_differ_between_repeats() -> None:
    y = np.arange(120) % 3
    folds = [list(repeated_group_folds(y, np.arange(120) // 2, 4, 2, seed)) for seed in (0, 0, 1)]
    tests = [[test.tolist() for _, test in each] for each in folds]
    assert tests[0] == tests[1] != tests[2]
    assert set(folds[0][0][1]) != set(folds[0][4][1])
    for _, test in folds[0]:
        assert np.bincount(y[test]).min() >= 8  # of 10


@dataclass(frozen=True)
class Table:
    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...] = ("a", "b", "c")


def copies(n_groups: int = 60, size: int = 4, seed: int = 0) -> Table:
    """Noise with random labels, each row in nearly identical copies: only a leak can predict it."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), size)
    features = rng.normal(size=(n_groups, 8))[groups] + 1e-3 * rng.normal(size=(len(groups), 8))
    return Table(features.astype(np.float32), (np.arange(n_groups) % 3)[groups], groups)


def test_groups_take_the_leak_away() -> None:
    table = copies()

    def accuracy(groups: np.ndarray) -> float:
        proba = cross_validate_probe(
            lambda: KNeighborsClassifier(1), table.features, table.labels, groups=groups, n_repeats=2, progress=False
        )
        found = evaluate_repeats(table.labels, proba, table.classes, groups=table.groups, n_boot=100)
        return float(found.metrics.loc["accuracy", "value"])

    assert accuracy(np.arange(len(table.labels))) > 0.95
    assert accuracy(table.groups) < 0.55


def test_out_of_fold_probabilities_equal_a_plain_loop() -> None:
    table = copies(20, 3)
    proba = cross_validate_probe(LogisticRegression, table, n_splits=3, n_repeats=2, seed=5, progress=False)
    assert proba.shape == (2, 60, 3) and proba.dtype == np.float64
    expected, folds = np.zeros((2, 60, 3)), repeated_group_folds(table.labels, table.groups, 3, 2, 5)
    for i, (train, test) in enumerate(folds):
        model = LogisticRegression().fit(table.features[train], table.labels[train])
        expected[i // 3, test] = model.predict_proba(table.features[test])
    np.testing.assert_array_equal(proba, expected)


class Recorder(ClassifierMixin, BaseEstimator):
    """Takes groups like cliplib's probes, and remembers them."""

    seen: list[np.ndarray] = []  # noqa: RUF012

    def fit(self, x: Any, y: Any, *, groups: Any = None) -> Recorder:
        self.classes_ = np.unique(y)
        Recorder.seen.append(groups)
        return self

    def predict_proba(self, x: Any) -> np.ndarray:
        return np.full((len(x), len(self.classes_)), 1 / len(self.classes_))


def test_groups_reach_the_fit() -> None:
    table = copies(12, 2)
    Recorder.seen = []
    cross_validate_probe(Recorder, table, n_splits=3, n_repeats=1, progress=False)
    folds = repeated_group_folds(table.labels, table.groups, 3, 1, 0)
    for groups, (train, _) in zip(Recorder.seen, folds, strict=True):
        assert (groups == table.groups[train]).all()


def test_searches_get_groups_and_others_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    table = copies(24, 2)
    search = {"param_grid": {"C": [0.1, 1.0]}, "cv": GroupKFold(3)}  # GroupKFold fails without groups
    with caplog.at_level(logging.WARNING):
        cross_validate_probe(
            lambda: GridSearchCV(LogisticRegression(), **search), table, n_splits=2, n_repeats=1, progress=False
        )
        assert not caplog.text
        cross_validate_probe(LogisticRegression, table, n_splits=2, n_repeats=1, progress=False)
    assert "takes no groups" in caplog.text


def test_class_that_a_training_part_lacks_has_probability_zero() -> None:
    table = Table(np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 2, np.arange(12))
    proba = cross_validate_probe(Recorder, table, n_splits=2, n_repeats=1, progress=False)
    assert (proba == [0.5, 0.5, 0]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: next(repeated_group_folds([0, 1, 0, 1], [0, 0, 1, 1], 3)), "3 folds in 10 repeats"),
        (lambda: next(repeated_group_folds([0, 0, 1, 1], [0, 1, 2, 2], 2)), "class 1 lie in one group"),
        (lambda: next(repeated_group_folds([0, 1], None, 2, 0)), "n_repeats be at least 1"),
        (lambda: cross_validate_probe(Recorder, np.zeros((4, 2))), "Labels are missing"),
        (lambda: cross_validate_probe(Recorder, np.zeros((4, 2)), [0, 1]), "do not fit 2 labels"),
        (lambda: cross_validate_probe(Recorder, np.zeros((2, 2)), [0, 1], groups=[1]), "one group per row"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call: object, message: str) -> None:
    with pytest.raises(CliplibError, match=message):
        call()  # type: ignore[operator]
