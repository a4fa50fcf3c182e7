"""Few shots: as many as CoOp draws, each of another group, larger sets hold smaller."""

from __future__ import annotations

import numpy as np
import pytest

from study.few_shots import few_shot


@pytest.mark.parametrize(("shots", "held"), [(1, 1), (2, 2), (4, 4), (16, 4), (32, 8)])
def test_few_shot_draws_as_many_as_coop_does(shots, held):
    labels = np.repeat([0, 1, 2], 60)
    train, val = few_shot(labels, shots, seed=3)
    assert np.bincount(labels[train]).tolist() == [shots] * 3
    assert np.bincount(labels[val]).tolist() == [held] * 3
    assert not np.intersect1d(train, val).size


def test_few_shot_may_use_every_group_up():
    labels = np.repeat([0, 1], 8)
    train, val = few_shot(labels, 4)
    assert sorted([*train, *val]) == list(range(16))
    with pytest.raises(ValueError, match="needs 9 groups, 4 to validate"):
        few_shot(labels, 5)


def test_few_shots_are_of_different_groups_and_nested():
    labels, groups = np.repeat([0, 1], 60), np.arange(120) // 2
    larger = few_shot(labels, 8, groups=groups)
    smaller = few_shot(labels, 4, groups=groups)
    for few, more, count in zip(smaller, larger, (8, 4), strict=True):
        assert set(few) <= set(more)
        assert np.bincount(labels[few]).tolist() == [4, 4]
        assert np.bincount(labels[more]).tolist() == [count, count]
    drawn = groups[np.concatenate(larger)]
    assert len(set(drawn)) == len(drawn)
    assert (few_shot(labels, 8, seed=1)[0] != few_shot(labels, 8, seed=2)[0]).any()
    with pytest.raises(ValueError, match="needs 40 groups"):
        few_shot(labels, 32, groups=groups)
