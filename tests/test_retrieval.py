"""Search as a ranking, and over rows on disk: against plain products, scikit-learn, and cases worked out by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from cliplib import zeroshot as zs
from cliplib.errors import CliplibError
from cliplib.retrieval import gallery_intervals, mean_intervals, rank_metrics, search_distinct, search_rows

ON_A_LINE = np.column_stack([np.ones(6), np.arange(6)])  # row 0 is nearest to (1, 0), row 5 the farthest


@pytest.fixture
def space():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 8)), rng.normal(size=(60, 8)), rng.integers(0, 3, 7), rng.integers(0, 3, 60)


def test_average_precision_is_scikit_learn_s(space):
    queries, gallery, asked, labels = space
    got = rank_metrics(queries, gallery, asked, labels)
    cosine = zs.normalized(queries) @ zs.normalized(gallery).T
    for i, label in enumerate(asked):
        assert got.average_precision[i] == pytest.approx(average_precision_score(labels == label, cosine[i]))
        ranked = labels[np.argsort(-cosine[i])] == label
        assert got["rank"][i] == np.flatnonzero(ranked)[0] + 1
        for k in (1, 5, 10):
            assert got[f"precision_at_{k}"][i] == pytest.approx(ranked[:k].mean())
            assert got[f"recall_at_{k}"][i] == ranked[:k].any()
        assert got.share[i] == pytest.approx((labels == label).mean())


def test_recall_agrees_with_that_of_the_first_captions(space):
    queries, gallery, _, _ = space
    own = np.arange(7)
    got = rank_metrics(queries, gallery[:7], own, own, ks=(1, 5))
    for k, found in zs.recall_at_k(queries, gallery[:7], ks=(1, 5)).items():
        assert got[f"recall_at_{k}"].tolist() == found.tolist()
    assert got.average_precision.tolist() == pytest.approx((1 / got["rank"]).tolist())  # one right answer


def test_the_own_group_is_no_find():
    labels, groups = [0, 0, 1, 1, 0, 1], [7, 7, 7, 2, 3, 4]
    got = rank_metrics(ON_A_LINE[:1], ON_A_LINE, [0], labels, query_groups=[7], gallery_groups=groups, ks=(1, 3))
    assert got.loc[0, ["rank", "average_precision", "recall_at_1", "precision_at_3"]].tolist() == [2, 0.5, 0, 1 / 3]
    assert got.share[0] == pytest.approx(1 / 3)
    free = rank_metrics(ON_A_LINE[:1], ON_A_LINE, [0], labels, ks=(1,))
    assert free["rank"][0] == 1


def test_nothing_to_find_and_too_few_candidates_are_undefined():
    got = rank_metrics(ON_A_LINE[:2], ON_A_LINE[:3], [5, 0], [0, 0, 1], ks=(2, 4))
    assert got.drop(columns="share").iloc[0].isna().all() and got.share[0] == 0
    assert got.recall_at_2[1] == 1 and np.isnan(got.recall_at_4[1]) and np.isnan(got.precision_at_4[1])


def test_ties_never_flatter():
    got = rank_metrics(np.ones((1, 2)), np.ones((4, 2)), [1], [1, 1, 0, 0], ks=(2, 3))
    assert got.loc[0, ["rank", "precision_at_2", "precision_at_3"]].tolist() == [3, 0, 1 / 3]
    assert got.average_precision[0] == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_intervals_over_galleries_hold_the_values_of_each_query():
    rng = np.random.default_rng(4)
    labels, asked = rng.integers(0, 3, 900), np.arange(3)
    queries, gallery = np.eye(3), np.eye(3)[labels] + rng.normal(size=(900, 3))
    each = rank_metrics(queries, gallery, asked, labels)
    got = gallery_intervals(queries, gallery, asked, labels, groups=np.arange(900) // 2, n_boot=200)
    for name in ("share", "average_precision", "recall_at_5", "precision_at_10"):
        assert got.value[name] == pytest.approx(each[name].mean())
    assert (got.low <= got.value).all() and (got.value <= got.high).all()
    assert got.low["average_precision"] < got.high["average_precision"] < got.low["average_precision"] + 0.1


def test_a_gallery_of_copies_tells_no_more_than_one_of_them():
    rng = np.random.default_rng(1)
    gallery, labels = rng.normal(size=(40, 4)), rng.integers(0, 2, 40)
    one = gallery_intervals(gallery[:2] + 1, gallery, [0, 1], labels, ks=(1,), n_boot=200)
    five = gallery_intervals(gallery[:2] + 1, np.repeat(gallery, 5, axis=0), [0, 1], np.repeat(labels, 5),
                             groups=np.repeat(np.arange(40), 5), ks=(1,), n_boot=200)  # fmt: skip
    width = (five.high - five.low) / (one.high - one.low)
    assert 0.7 < width["average_precision"] < 1.3  # counted row by row it would shrink to about 0.45


def test_means_leave_out_what_is_undefined_and_bound_proportions():
    frame = pd.DataFrame({"ap": [0.2, 0.4, np.nan, 0.6], "recall": [1.0, 1.0, 1.0, np.nan]})
    got = mean_intervals(frame, groups=[0, 1, 2, 3], n_boot=100)
    assert got.value.tolist() == pytest.approx([0.4, 1.0])
    assert got.low["recall"] == pytest.approx(0.025 ** (1 / 3)) and got.high["recall"] == 1  # Clopper-Pearson, 3 groups


def test_distinct_finds_hold_one_of_each_group_and_none_of_the_query_s():
    order, scores = search_distinct(ON_A_LINE[:1], ON_A_LINE, 3, groups=[0, 0, 1, 1, 2, 0])
    assert order.tolist() == [[0, 2, 4]] and (np.diff(scores) < 0).all()
    order, _ = search_distinct(ON_A_LINE[:1], ON_A_LINE, 3, groups=[0, 0, 1, 1, 2, 0], query_groups=[0])
    assert order.tolist() == [[2, 4]]


@pytest.mark.parametrize(("dtype", "chunk", "k"), [("float16", 7, 3), ("float32", 64, 10), ("float32", 4, 9)])
def test_search_on_disk_is_the_plain_search(tmp_path, dtype, chunk, k):
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(150, 6)).astype(dtype)
    rows[90:] = rows[:60]  # equal scores in distant chunks: the earlier row has to win
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    found, scores = search_rows(queries := rng.normal(size=(5, 6)), mapped, k, chunk=chunk)
    expected, plain = zs.search(queries, rows, k)
    assert found.tolist() == expected.tolist()
    assert scores == pytest.approx(plain, abs=1e-6)
    assert search_rows(queries, mapped, 1000, chunk=chunk)[0].shape == (5, 150)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    peaks = []
    for n in (4_000, 40_000):
        rows = np.lib.format.open_memmap(tmp_path / f"{n}.npy", "w+", np.float16, (n, 16))
        rows[:] = np.random.default_rng(3).normal(size=(n, 16))
        tracemalloc.start()
        search_rows(np.ones((2, 16)), rows, 5, chunk=1_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rank_metrics(ON_A_LINE, ON_A_LINE, [0], range(6)), "query_labels must hold one entry for each of 6"),
        (lambda: rank_metrics(ON_A_LINE, ON_A_LINE, range(6), range(6), query_groups=range(6)), "of neither"),
        (lambda: rank_metrics(ON_A_LINE, ON_A_LINE[:, :1], range(6), range(6)), "2 and of 1 dimensions"),
        (lambda: search_distinct(ON_A_LINE, ON_A_LINE, groups=[1, 2]), "groups must hold"),
        (lambda: search_rows(ON_A_LINE, ON_A_LINE, chunk=0), "at least 1 row"),
    ],
)
def test_wrong_arguments_are_one_sentence(call, words):
    with pytest.raises(CliplibError, match=words) as error:
        call()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
