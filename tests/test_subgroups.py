"""Parts of a class: what is planted is found, and nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cliplib.features.table import FeatureTable
from cliplib.inspection.name_forms import name_forms
from cliplib.inspection.subgroups import Subgroup, find_subgroups

N = 120


def table(ids: list[str], clusters: np.ndarray | None = None) -> FeatureTable:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, 20))
    if clusters is not None:
        features[:, :5] += 8 * clusters[:, None]
    return FeatureTable.from_arrays(
        features, np.arange(N) % 2, classes=("cat", "dog"), ids=ids
    )


def plain_ids() -> list[str]:
    return [f"{'dog' if row % 2 else 'cat'}/{row}.jpg" for row in range(N)]


def fields(camera: str | np.ndarray = "A") -> pd.DataFrame:
    return pd.DataFrame({"camera": camera, "size": "9 × 9"}, index=range(N))


def wrong_in(mask: np.ndarray, share: float = 0.8) -> np.ndarray:
    """Answers that are wrong in a share of the masked rows, and right elsewhere."""
    rng = np.random.default_rng(1)
    labels = np.arange(N) % 2
    return np.where(mask & (rng.random(N) < share), 1 - labels, labels)


def is_dog_of_archive() -> np.ndarray:
    row = np.arange(N)
    return (row % 2 == 1) & (row < N // 2)


def test_an_archive_is_named_by_the_form_of_its_names() -> None:
    archive = is_dog_of_archive()
    ids = [
        name.replace("/", "/MR_") if is_in else name
        for name, is_in in zip(plain_ids(), archive, strict=True)
    ]
    found = find_subgroups(table(ids), wrong_in(archive), fields())
    assert {part.by for part in found} == {"form of name"}
    (own,) = [archive for archive in found if archive.only_here]
    assert (own.class_name, own.name, own.n_images) == ("dog", "mr_#", 30)
    assert own.difference.high < -0.2
    assert archive[own.examples].tolist() == [True] * 4 + [False] * 4


def test_a_form_of_one_class_is_named_even_without_a_difference() -> None:
    ids = [
        name.replace("/", "/MR_") if is_in else name
        for name, is_in in zip(plain_ids(), is_dog_of_archive(), strict=True)
    ]
    found = find_subgroups(table(ids), np.arange(N) % 2, fields())
    assert [(part.name, part.only_here) for part in found] == [("mr_#", True)]


def test_a_camera_is_named_where_it_differs() -> None:
    archive = is_dog_of_archive()
    camera = np.where(np.arange(N) < N // 2, "old", "new")
    (found,) = find_subgroups(table(plain_ids()), wrong_in(archive), fields(camera))
    assert (found.by, found.class_name, found.only_here) == ("camera", "dog", False)
    assert abs(found.difference.value) > 0.5


def test_a_cluster_is_named_where_it_differs() -> None:
    archive = is_dog_of_archive()
    by_cluster = table(plain_ids(), archive)
    (found,) = find_subgroups(by_cluster, wrong_in(archive), fields())
    assert (found.by, found.class_name) == ("cluster", "dog")


@pytest.mark.parametrize("seed", range(5))
def test_errors_without_a_reason_name_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % 2
    predicted = np.where(rng.random(N) < 0.3, 1 - labels, labels)
    camera = rng.choice(["a", "b", "c"], N)
    found: list[Subgroup] = find_subgroups(
        table(plain_ids()), predicted, fields(camera)
    )
    assert not found


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("IMG_0012", "img_#"),
        ("IMG_7", "img_#"),
        ("20230511_1", "#8_#"),
        ("3fa9c2e1", "key8"),
        ("a b-1", "a b-#"),
    ],
)
def test_names_have_forms(name: str, form: str) -> None:
    in_both = [f"train/cat/{name}.jpg", f"dog/{name}.jpg"]
    assert name_forms(in_both, ["cat", "dog"]) == [form, form]


def test_words_that_tell_the_class_are_no_archive() -> None:
    ids = [f"{split}-{label[:2]}_{n}.jpg" for label in ("glioma", "none")
           for split in ("te", "tr") for n in range(10)]  # fmt: skip
    labels = ["glioma"] * 20 + ["none"] * 20
    assert set(name_forms(ids, labels)) == {"te-@_#", "tr-@_#"}
