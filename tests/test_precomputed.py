"""What is known of the images of brain MRI: sources, patients and boxes agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cliplib.features.duplicates import MIN_CORRELATION
from cliplib.features.hashes import ORIENTATIONS
from cliplib.inspection.erase import Box, ellipse
from study.precomputed import __main__ as precomputed
from study.results import committed_folder

SIZE = (200, 200)


def listed(name: str) -> pd.DataFrame:
    path = precomputed.HERE / f"brain_tumor_mri_{name}.csv"
    return pd.read_csv(path).set_index("id")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_box_is_oriented_as_the_image_is(orientation):
    on_original = np.array([0.3, 0.6, 0.1, 0.2])
    on_image = precomputed.orient_box(on_original, orientation)
    turned = ORIENTATIONS[orientation](ellipse(Box(*on_image), SIZE))
    assert (turned == ellipse(Box(*on_original), SIZE)).mean() > 0.999


def test_every_slice_has_a_source_and_few_are_in_doubt():
    sources = listed("sources")
    assert sources["source"].value_counts().to_dict() == {
        "cheng": 4750,
        "br35h": 1747,
        "other": 522,
    }
    assert ((sources["source"] != "other") == (sources["correlation"] > 0.82)).all()
    near_the_bar = (sources["correlation"] - MIN_CORRELATION).abs() < 0.05
    assert near_the_bar.sum() <= 2


def test_copies_are_of_one_source():
    """A cropped copy need not match the original, which is then "other" there."""
    sources = listed("sources").join(listed("groups"))
    known = sources[sources["source"] != "other"]
    assert (known.groupby("group")["source"].nunique() == 1).all()
    n_sources = sources.groupby("group")["source"].nunique()
    assert (n_sources > 1).sum() == 5


def test_the_audit_of_the_images_counts_the_groups_of_the_tables():
    """It needs the images, so that no build would notice older results."""
    figures = committed_folder()
    audit = pd.read_csv(figures / "audit_summary.csv", index_col="measure").T
    tables = pd.read_csv(figures / "group_counts.csv", index_col="data set")
    same = {"groups": "groups", "largest_group": "largest group"}
    same |= {"test_leaks_reoriented": "with a copy in training"}
    for of_audit, of_tables in same.items():
        assert audit[of_audit].to_dict() == tables[of_tables].to_dict()


def test_chengs_slices_are_those_with_a_patient_and_a_box():
    of_cheng = listed("sources").query("source == 'cheng'").index
    assert of_cheng.equals(listed("patients").index)
    assert of_cheng.equals(listed("boxes").index)
    assert [Box(*row) for row in listed("boxes").to_numpy()]


def test_nothing_alike_is_another_source():
    ids = pd.Series(["a", "b", "c"])
    links = {
        "one": pd.DataFrame({"correlation": [0.99, 0.5]}, index=[0, 1]),
        "two": pd.DataFrame({"correlation": [0.6]}, index=[1]),
    }
    found = precomputed.sources_of(ids, links)
    assert found["source"].tolist() == ["one", "other", "other"]
    assert found["correlation"].tolist() == [0.99, 0.6, 0.0]
