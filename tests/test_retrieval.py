"""Search and its measures on features whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from cliplib.evaluation.intervals import ratio_intervals
from cliplib.inspection.search import search
from study.ranking import MEASURES, rank_metrics

# Row 0 is nearest to (1, 0), row 5 farthest.
ON_A_LINE = np.column_stack([np.ones(6), np.arange(6)])


@pytest.fixture
def space():
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(7, 8)), rng.normal(size=(60, 8))
    return queries, gallery, rng.integers(0, 3, 7), rng.integers(0, 3, 60)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# Search


def test_search_is_brute_force(space):
    queries, gallery, *_ = space
    order, scores = search(queries, gallery, k=60)
    cosine = unit(queries) @ unit(gallery).T
    assert np.array_equal(order, np.argsort(-cosine, axis=1))
    assert scores == pytest.approx(-np.sort(-cosine, axis=1), abs=1e-6)
    assert order.dtype == np.int64 and scores.dtype == np.float32
    assert search(queries, gallery, k=99)[0].shape == (7, 60)


@pytest.mark.parametrize("groups", [None, np.arange(20) // 2])
def test_many_queries_find_what_each_finds_alone(groups):
    rng = np.random.default_rng(3)
    queries, gallery = rng.normal(size=(1100, 4)), rng.normal(size=(20, 4))
    together = search(queries, gallery, k=3, groups=groups)[0]
    assert len(together) == 1100
    for i in (0, 511, 512, 1099):
        alone = search(queries[i : i + 1], gallery, k=3, groups=groups)[0]
        assert np.array_equal(alone[0], together[i])


def test_finds_hold_one_of_each_group_and_none_of_the_query_s():
    groups = [0, 0, 1, 1, 2, 0]
    order, scores = search(ON_A_LINE[:1], ON_A_LINE, 3, groups=groups)
    assert order.tolist() == [[0, 2, 4]] and (np.diff(scores) < 0).all()
    order, _ = search(ON_A_LINE[:1], ON_A_LINE, 3, groups=groups, query_groups=[0])
    assert order.tolist() == [[2, 4]]
    order, _ = search(ON_A_LINE[:1], ON_A_LINE, 3, groups=groups, query_groups=[9])
    assert order.tolist() == [[0, 2, 4]]


# Rankings


def test_all_queries_get_as_many_finds_as_the_one_with_fewest_groups():
    rows = np.eye(3)
    found, _ = search(rows[:2], rows, groups=[0, 1, 2], query_groups=[0, 99])
    assert found.shape == (2, 2)
    assert 0 not in found[0]


def test_each_query_is_spared_its_own_group():
    rows = np.eye(3)
    found, _ = search(rows, rows, groups=[0, 1, 2], query_groups=[2, 1, 0])
    assert [set(row) for row in found.tolist()] == [{0, 1}, {0, 2}, {1, 2}]


def test_average_precision_is_that_of_scikit_learn(space):
    queries, gallery, asked, labels = space
    got = rank_metrics(queries, gallery, asked, labels)
    cosine = unit(queries) @ unit(gallery).T
    for i, label in enumerate(asked):
        expected = average_precision_score(labels == label, cosine[i])
        assert got.average_precision[i] == pytest.approx(expected)
        ranked = labels[np.argsort(-cosine[i])] == label
        for k in (1, 5, 10):
            assert got[f"precision_at_{k}"][i] == pytest.approx(ranked[:k].mean())
            assert got[f"recall_at_{k}"][i] == ranked[:k].any()
        assert got.share[i] == pytest.approx((labels == label).mean())


def test_a_query_s_own_group_is_no_find():
    labels, groups = [0, 0, 1, 1, 0, 1], [7, 7, 7, 2, 3, 4]
    own = {"query_groups": [7], "gallery_groups": groups}
    got = rank_metrics(ON_A_LINE[:1], ON_A_LINE, [0], labels, **own).loc[0]
    assert got[["average_precision", "recall_at_1"]].tolist() == [0.5, 0]
    assert got.share == pytest.approx(1 / 3)
    assert rank_metrics(ON_A_LINE[:1], ON_A_LINE, [0], labels).recall_at_1[0] == 1


def test_nothing_to_find_and_too_few_candidates_are_undefined():
    got = rank_metrics(ON_A_LINE[:2], ON_A_LINE[:3], [5, 0], [0, 0, 1])
    assert got.drop(columns="share").iloc[0].isna().all() and got.share[0] == 0
    assert got.recall_at_1[1] == 1
    assert np.isnan(got.recall_at_5[1]) and np.isnan(got.precision_at_5[1])


def test_ties_never_flatter():
    got = rank_metrics(np.ones((1, 2)), np.ones((5, 2)), [1], [1, 1, 0, 0, 0]).loc[0]
    assert got[["precision_at_1", "precision_at_5"]].tolist() == [0, 0.4]
    assert got.average_precision == pytest.approx((1 / 4 + 2 / 5) / 2)


def test_means_of_queries_leave_out_what_is_undefined():
    frame = pd.DataFrame({"average_precision": [0.2, 0.4, np.nan, 0.6] * 10})
    got = ratio_intervals(frame, frame.notna(), groups=range(40), n_boot=100)
    assert got.value.tolist() == pytest.approx([0.4])


def test_groups_of_one_change_nothing(space):
    queries, gallery, *_ = space
    rows, cosines = search(queries, gallery, 9)
    same_rows, same_cosines = search(queries, gallery, 9, groups=np.arange(60))
    assert (rows == same_rows).all()
    assert cosines == pytest.approx(same_cosines, abs=1e-6)


def test_no_cosine_without_groups_exceeds_1():
    rows = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    _, cosines = search(rows, rows, 1)
    assert cosines.max() == 1


def test_measures_have_names(space):
    queries, gallery, asked, labels = space
    assert list(rank_metrics(queries, gallery, asked, labels)) == list(MEASURES)
    assert list(rank_metrics(queries[:0], gallery, [], labels)) == list(MEASURES)


def test_what_would_mislead_is_refused():
    with pytest.raises(ValueError, match="or of neither"):
        rank_metrics(ON_A_LINE, ON_A_LINE, range(6), range(6), query_groups=[1] * 6)
    with pytest.raises(ValueError, match="shorter"):
        rank_metrics(ON_A_LINE, ON_A_LINE, [0], range(6))
    with pytest.raises(ValueError, match="groups of both queries and gallery"):
        search(ON_A_LINE[:1], ON_A_LINE, 3, query_groups=[0])


@pytest.mark.parametrize("groups", [None, range(6)])
def test_a_search_for_nothing_is_refused(groups):
    for n_queries, k in ((1, 0), (1, -1), (0, 3)):
        with pytest.raises(ValueError, match="one query or more, and a k of 1"):
            search(ON_A_LINE[:n_queries], ON_A_LINE, k, groups=groups)
