"""Neighbours in file number that look alike are merged, nothing else is, and no group is ever split."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cliplib.audit.sequences import sequence_groups


def run_of_photos() -> tuple[list[str], NDArray[np.float64]]:
    """Numbers 1 to 40 of one class; 11 to 14 show one object, and so do 20 and 31."""
    features = np.random.default_rng(0).standard_normal((40, 64))
    features[10:14] = features[10] + 0.1 * features[10:14]
    features[30] = features[19]
    return [f"photos/metal/metal{k}.jpg" for k in range(1, 41)], features


def test_sequences_join_close_neighbours_only() -> None:
    ids, features = run_of_photos()
    groups = sequence_groups(ids, features, np.arange(40), similarity=0.6)
    assert len(set(groups[10:14])) == 1
    assert len(set(groups)) == 37  # 20 and 31 look alike, but are no neighbours
    order = np.random.default_rng(1).permutation(40)
    shuffled = sequence_groups([ids[k] for k in order], features[order], np.arange(40), similarity=0.6)
    assert len(set(shuffled)) == 37 and len(set(shuffled[np.isin(order, range(10, 14))])) == 1


def test_sequences_respect_folders_numbers_and_gaps() -> None:
    same = np.ones((6, 3)) + np.arange(6)[:, None] * 1e-9
    ids = ["a/x1.jp2", "a/x2.jp2", "b/x3.jp2", "b/x5.jp2", "2021/none.jpg", "2022/none.jpg"]
    assert sequence_groups(ids, same, np.arange(6), similarity=-1.0).tolist() == [0, 0, 1, 2, 3, 4]
    assert sequence_groups(ids, same, np.arange(6), gap=2, similarity=-1.0).tolist() == [0, 0, 1, 1, 2, 3]


def test_the_measured_threshold_leaves_unrelated_neighbours_apart(caplog: pytest.LogCaptureFixture) -> None:
    features = np.random.default_rng(0).standard_normal((1000, 32))
    features[500] = features[501] + 0.05 * features[500]
    ids = [f"metal{k}.jpg" for k in range(1000)]
    with caplog.at_level(logging.INFO, "cliplib.audit.sequences"):
        groups = sequence_groups(ids, features, np.arange(1000))
    assert groups[500] == groups[501]
    assert 970 <= len(set(groups)) <= 998  # one unrelated pair in a hundred passes, by construction
    assert "neighbours in file number" in caplog.text


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1, 1), st.integers(1, 5))
def test_sequences_never_split_a_group(seed: int, similarity: float, gap: int) -> None:
    rng = np.random.default_rng(seed)
    given_groups = rng.integers(0, 12, 30) * 7
    groups = sequence_groups([f"m{k}.jpg" for k in rng.permutation(30)], rng.standard_normal((30, 4)), given_groups,
                             gap=gap, similarity=similarity)  # fmt: skip
    assert pd.DataFrame({"given": given_groups, "out": groups}).groupby("given")["out"].nunique().max() == 1
    assert set(groups) == set(range(groups.max() + 1))


def test_sequences_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one row of features per image"):
        sequence_groups(["a1.jpg"], np.zeros((2, 3)), [0])
    with pytest.raises(ValueError, match="groups has shape"):
        sequence_groups(["a1.jpg"], np.zeros((1, 3)), [0, 1])
    with pytest.raises(ValueError, match="gap is 0"):
        sequence_groups(["a1.jpg"], np.zeros((1, 3)), [0], gap=0)
