"""The objects of TrashNet are those that pairs of photographs were judged to show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliplib.features.groups import connected_groups
from study.features import load_features
from study.objects import FILE, object_groups

VERDICTS = Path(__file__).parents[1] / "notebooks" / "object_verdicts.csv"


def test_objects_are_what_pairs_judged_the_same_join():
    listed = pd.read_csv(FILE)
    row = pd.Series(listed.index, listed["file"])
    verdicts = pd.read_csv(VERDICTS)
    assert set(verdicts["verdict"]) == {"same", "unsure", "not"}
    assert not verdicts.duplicated(["id_a", "id_b"]).any()
    same = verdicts[verdicts["verdict"] == "same"]
    joined = connected_groups(len(listed), row[same["id_a"]], row[same["id_b"]])
    assert joined.tolist() == listed["group"].tolist()


def test_no_pair_judged_not_the_same_is_joined():
    listed = pd.read_csv(FILE, index_col="file")["group"]
    verdicts = pd.read_csv(VERDICTS)
    other = verdicts[verdicts["verdict"] == "not"]
    first, second = (listed[other[side]].to_numpy() for side in ("id_a", "id_b"))
    assert (first != second).all()


def test_groups_hold_copies_and_objects_in_any_order(mini):
    table = load_features("trashnet", mini)
    groups = object_groups(table)
    assert pd.Series(groups).groupby(table.copies).nunique().max() == 1
    assert len(np.unique(groups)) < len(np.unique(table.copies))
    rows = np.random.default_rng(0).permutation(len(table))[:500]
    some = object_groups(table.select(rows))
    assert len(np.unique(some)) >= len(np.unique(groups[rows]))
    whole = pd.Series(groups[rows]).groupby(some).nunique()
    assert whole.max() == 1


def test_other_photographs_are_refused(mini):
    table = load_features("trashnet", mini).select([0, 1])
    with pytest.raises(ValueError, match="do not cover"):
        object_groups(replace(table, ids=np.array(["metal/a.jpg", "metal/b.jpg"])))
