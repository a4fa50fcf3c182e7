"""Published folds: kept, and completed for the other groups."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from cliplib import FeatureTable
from study.folds import FoldedTable, completed_folds, out_of_fold_proba, with_folds


def table(y, groups, folds) -> FoldedTable:
    made = FeatureTable.from_arrays(np.zeros((len(y), 1)), y, groups=groups)
    return with_folds(made, folds)


def folds_of_groups(groups, folds):
    """Each group's folds, as a list of sets."""
    return [set(folds[groups == group]) for group in np.unique(groups)]


class CountingRows(ClassifierMixin, BaseEstimator):
    """A classifier that answers with the number of rows that it was fitted on."""

    def fit(self, X, y):
        self.classes_, self.n = np.unique(y), len(X)
        return self

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), self.n)


def test_rows_keep_their_folds_and_new_groups_have_none():
    folded = table(np.arange(12) % 3, np.arange(12) // 2, np.arange(12) // 2 % 3)
    for index in ([3, 1, 7], np.arange(12) > 8, slice(4, 6), 5):
        part = folded.select(index)
        assert (part.folds == part.ids.astype(int) // 2 % 3).all()
    assert (folded.with_features(np.ones((12, 2))).folds == folded.folds).all()
    assert not folded.with_groups(np.arange(12) // 3).folds.any()
    assert repr(folded).startswith("FeatureTable(12 ")
    assert with_folds(folded, np.ones(12)).folds.tolist() == [1] * 12


def test_published_folds_are_kept_and_the_others_are_dealt_into_them():
    groups = np.arange(200) // 2
    y = np.repeat([0, 1], 100)
    published = np.where(groups < 40, groups % 5 + 1, 0)
    folds = completed_folds(table(y, groups, published))
    given_fold = groups[:80] % 5
    assert (folds[:80] == given_fold).all()
    assert np.bincount(folds[80:100]).tolist() == [4] * 5
    assert np.bincount(folds[100:]).tolist() == [20] * 5
    assert all(len(found) == 1 for found in folds_of_groups(groups, folds))
    other = completed_folds(table(y, groups, published), seed=1)
    assert (other[:80] == given_fold).all()
    assert (other[80:] != folds[80:]).any()


@pytest.mark.parametrize("left", [1, 2, 4, 6])
def test_few_groups_beside_published_folds_are_dealt(left):
    groups = np.repeat(np.arange(40), 3)
    y = np.repeat(np.arange(40) % 4, 3)
    published = np.where(groups < 40 - left, groups % 5 + 1, 0)
    folds = completed_folds(table(y, groups, published))
    assert all(len(found) == 1 for found in folds_of_groups(groups, folds))
    assert len(set(folds[published == 0])) == min(left, 5)


def test_the_fold_of_a_group_beside_published_ones_is_drawn_from_all():
    groups = np.repeat(np.arange(50), [*[2] * 49, 12])
    y = np.arange(110) % 2
    published = np.where(groups < 49, groups % 5 + 1, 0)
    drawn = {
        completed_folds(table(y, groups, published), seed=seed)[-1]
        for seed in range(30)
    }
    assert drawn == set(range(5))


def test_folds_that_contradict_a_group_or_each_other_are_refused():
    y, groups = np.repeat([0, 1], 10), np.repeat(list("abcdefghij"), 2)
    for of_a_group in ((2, 3), (2, 0)):
        published = np.zeros(20, int)
        published[2:4] = of_a_group
        with pytest.raises(ValueError, match="one for each group"):
            completed_folds(table(y, groups, published))
    with pytest.raises(ValueError, match="must be from 1 to 5"):
        completed_folds(table(y, groups, np.full(20, 6)))


def test_the_tables_folds_are_used_unless_groups_are_given():
    y, groups = np.arange(100) % 2, np.arange(100)
    published = np.repeat([1, 2, 3, 4, 5], [60, 10, 10, 10, 10])
    given = table(y, groups, published)
    own = [40, 90, 90, 90, 90]  # rows that the fold's classifier is fitted on
    proba = out_of_fold_proba(CountingRows(), given)
    assert proba[:, 0].tolist() == np.repeat(own, [60, 10, 10, 10, 10]).tolist()
    assert (out_of_fold_proba(CountingRows(), given, groups=groups)[:, 0] == 80).all()
    plain = FeatureTable.from_arrays(given.features, y, groups=groups)
    assert (out_of_fold_proba(CountingRows(), plain)[:, 0] == 80).all()
