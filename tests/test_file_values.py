"""A value of a file that belongs to one class is named, and none that does not."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from PIL import Image

from cliplib.data.image import file_facts
from cliplib.features.table import FeatureTable
from cliplib.inspection.file_values import values_of_one_class

N = 100


def table(groups: np.ndarray | None = None) -> FeatureTable:
    return FeatureTable.from_arrays(
        np.zeros((N, 1)), np.arange(N) % 2, classes=("cat", "dog"), groups=groups
    )


def cameras(n_with: int) -> pd.DataFrame:
    """Of the dogs, the first `n_with` are by a camera of their own."""
    camera = np.full(N, "A", object)
    camera[1 : 2 * n_with : 2] = "B"
    return pd.DataFrame({"camera": camera})


def test_a_camera_of_one_class_is_named_at_partial_strength() -> None:
    (found,) = values_of_one_class(cameras(30), table()).to_dict("records")
    assert (found["field"], found["value"], found["class"]) == ("camera", "B", "dog")
    assert found["images"] == found["of_all"] == 30
    assert found["p"] < 1e-6
    assert found["rows"] == [1, 3, 0, 2]


def test_images_of_other_classes_with_the_value_are_counted() -> None:
    fields = cameras(40)
    fields.iloc[0, 0] = "B"
    found = values_of_one_class(fields, table()).set_index("value")
    assert found.loc["B", ["images", "of_all"]].tolist() == [40, 41]


def test_a_few_files_prove_nothing() -> None:
    assert values_of_one_class(cameras(15), table()).empty


def test_groups_count_once() -> None:
    in_pairs_of_four = np.arange(N) // 8 * 2 + np.arange(N) % 2
    assert values_of_one_class(cameras(30), table(in_pairs_of_four)).empty


def test_a_group_of_two_classes_counts_in_both() -> None:
    both = table(np.arange(N) // 2)  # a cat and a dog each
    found = values_of_one_class(cameras(N // 2), both)
    assert found[["value", "class", "images"]].to_numpy().tolist() == [
        ["A", "cat", 50],
        ["B", "dog", 50],
    ]


def test_a_value_is_of_the_class_of_its_own_files() -> None:
    """Half the patients have a healthy image by A, then one of a tumour by B."""
    patients = np.repeat(np.arange(60), [2] * 30 + [1] * 30)
    labels = np.ones(90, int)
    labels[:60:2] = 0
    camera = np.full(90, "A", object)
    camera[1:60:2] = "B"
    images = FeatureTable.from_arrays(
        np.zeros((90, 1)), labels, classes=("healthy", "tumour"), groups=patients
    )
    assert values_of_one_class(pd.DataFrame({"camera": camera}), images).empty


def test_a_value_of_both_classes_is_not_named() -> None:
    fields = cameras(30)
    fields.iloc[0:8:2, 0] = "B"
    assert values_of_one_class(fields, table()).empty


def test_fields_are_those_of_the_file() -> None:
    def saved(form: str, size: tuple[int, int], **options: object) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, (90, 120, 30)).save(file, form, **options)
        return file.getvalue()

    exif = Image.Exif()
    exif[271], exif[272], exif[305] = "Maker", "Model\n1", "Editor " + "x" * 100
    images = [
        saved("PNG", (40, 20)),
        saved("JPEG", (40, 20), quality=50, exif=exif, dpi=(72, 72)),
        saved("JPEG", (20, 20), quality=95, progressive=True),
    ]
    facts = pd.DataFrame([file_facts(image) for image in images])
    fields = facts.loc[:, "format":"software"]
    assert [*fields][:5] == ["format", "mode", "size", "aspect", "quality"]
    assert [*fields][-2:] == ["camera", "software"]
    assert fields["format"].tolist() == ["PNG", "JPEG", "JPEG"]
    assert fields["size"].tolist() == ["40 × 20", "40 × 20", "20 × 20"]
    assert fields["aspect"].tolist() == [2, 2, 1]
    assert fields["quality"].iloc[1] > fields["quality"].iloc[2] > 0
    assert fields["camera"].tolist() == ["", r"Maker Model\n1", ""]
    assert fields["software"].iloc[1].startswith("Editor x")
    assert len(fields["software"].iloc[1]) == 60  # no endless text from a file
    assert fields["exif"].tolist() == ["", "271 272 305", ""]
    assert fields["progressive"].tolist() == ["", "", "yes"]
    assert fields["resolution"].iloc[1] == "(72, 72)"
