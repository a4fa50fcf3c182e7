"""A few labels of a new collection: drawn apart, and worth what they should be."""

import numpy as np
import pytest

from study.local_labels import draw_local, offsets_from, probe_on_both


def test_labels_are_drawn_by_class_and_no_group_is_on_both_sides() -> None:
    labels, groups = np.repeat([0, 1], 30), np.arange(60) // 3
    local, test = draw_local(labels, groups, 4, seed=0, draw=1)
    assert np.bincount(labels[local]).tolist() == [4, 4]
    assert not np.isin(groups[test], groups[local]).any()
    assert set(labels[test]) == {0, 1}
    other, _ = draw_local(labels, groups, 4, seed=0, draw=2)
    assert set(other) != set(local)
    with pytest.raises(ValueError, match="With 28 labels a class"):
        draw_local(labels, groups, 28, seed=0, draw=0)


def test_offsets_lift_the_class_that_was_named_too_seldom() -> None:
    log_proba = np.log(np.tile([0.8, 0.2], (20, 1)))
    labels = np.repeat([0, 1], [4, 16])
    offsets = offsets_from(log_proba, labels)
    assert (log_proba + offsets).argmax(axis=1).tolist() == [1] * 20
    assert abs(offsets.sum()) < 1e-3  # held back: neither class runs away


def test_a_few_local_images_weigh_as_much_as_all_at_home() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    home = x, (x[:, 0] > 0).astype(int)
    new = rng.normal(size=(200, 2))
    local = new[:40], (new[:40, 1] > 0).astype(int)  # told by another axis
    alone = probe_on_both(home, (new[:0], local[1][:0]), 1.0)
    both = probe_on_both(home, local, 1.0)
    right = (new[:, 1] > 0).astype(int)
    assert (alone.predict(new) == right).mean() < 0.58
    assert (both.predict(new) == right).mean() > 0.6
    share = np.abs(both.coef_[0])
    assert share[1] > 0.5 * share[0]
