"""Where a slice is cropped: round its tumour, at another place, or not quite there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image

from cliplib.data.image import ImageSource, load_image
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.table import FeatureTable
from cliplib.inspection.erase import Box
from study.data import PRECOMPUTED, load_dataset
from study.features import MissingImages
from study.states import first_in_head

MARGIN = 0.5
"""Of a box's width on its left and right, and of its height above and below."""


SLICES_OF_A_PATIENT = 6
"""At most so many are cropped at the mirrored place."""


def crop_in_proportion(
    image: Image.Image, box: Box, margin: float = MARGIN
) -> Image.Image:
    """Return the part of an image, RGB, round a box, with a margin on each side.

    The margin is that share of the box's width on its left and right, and of its height
    above and below. What would lie outside of the image is left out. The crop keeps the
    box's proportions: an encoder that takes squares stretches it.
    """
    width, height = image.size
    half_width = box.width * (0.5 + margin) * width  # in pixels, as all below
    half_height = box.height * (0.5 + margin) * height
    x, y = box.x_center * width, box.y_center * height
    left = min(max(round(x - half_width), 0), width - 1)
    top = min(max(round(y - half_height), 0), height - 1)
    right = min(max(round(x + half_width), left + 1), width)
    bottom = min(max(round(y + half_height), top + 1), height)
    return image.convert("RGB").crop((left, top, right, bottom))


def is_clear_of_mirror(box: Box, margin: float = 0.0) -> bool:
    """Say whether a box does not touch its mirrored one, widened by a margin."""
    distance = abs(1 - 2 * box.x_center)  # of the centres of both boxes
    return distance >= box.width * (1 + margin)


def inexact(box: Box, share: float, rng: np.random.Generator) -> Box:
    """Return a box moved, in any direction, by a share of its size, and scaled by it.

    It is moved by `share` times its width and height, and becomes larger or smaller by
    `share`, either as often. The centre stays in the image.
    """
    angle = rng.uniform(0, 2 * np.pi)
    factor = 1 + share * rng.choice([-1, 1])
    x = box.x_center + share * box.width * np.cos(angle)
    y = box.y_center + share * box.height * np.sin(angle)
    return Box(
        float(np.clip(x, 0, 1)),
        float(np.clip(y, 0, 1)),
        min(box.width * factor, 1.0),
        min(box.height * factor, 1.0),
    )


def random_box(
    image: Image.Image, boxes: Sequence[Box], rng: np.random.Generator
) -> Box | None:
    """Return a box of random place and size in the head; None if 50 draws find none.

    The place is that of one of the `boxes`, drawn, and the size that of another. It may
    meet the tumour.
    """

    def drawn() -> Iterator[Box]:
        for _ in range(50):
            place, size = (boxes[row] for row in rng.integers(len(boxes), size=2))
            yield Box(place.x_center, place.y_center, size.width, size.height)

    return first_in_head(image, drawn())


COMMITTED = PRECOMPUTED / "brain_tumor_mri_crops.safetensors"
MIRRORED = "mirrored/"
"""Before the id of a slice that is cropped at the mirrored place."""


def ids_to_crop(
    table: FeatureTable, boxes: Mapping[str, Box]
) -> tuple[list[str], list[str]]:
    """Return which slices are cropped, and which of them at the mirrored place as well.

    Of the slices with a box each picture is cropped once: the first of its
    near-duplicates. At the mirrored place, which must not touch the box, it is gliomas
    and meningiomas, `SLICES_OF_A_PATIENT` of each patient at most.
    """
    rows = np.flatnonzero(np.isin(table.ids, [*boxes]))
    rows = rows[~pd.Series(table.copies[rows]).duplicated()]
    kinds = np.array(table.classes)[table.labels[rows]]
    clear = [is_clear_of_mirror(boxes[id]) for id in table.ids[rows]]
    is_free = np.array(clear) & np.isin(kinds, ("glioma", "meningioma"))
    turn = pd.Series(table.groups[rows][is_free]).groupby(table.groups[rows][is_free])
    few = (turn.cumcount() < SLICES_OF_A_PATIENT).to_numpy()
    return table.ids[rows].tolist(), table.ids[rows][is_free][few].tolist()


def crop_table(
    table: FeatureTable,
    images: Mapping[str, ImageSource],
    boxes: Mapping[str, Box],
    encoder: ClipEncoder,
) -> FeatureTable:
    """Return the features of all crops: a row for each, named as `load_crops` reads it.

    `images` and `boxes` are by id, `table` is of brain MRI.
    """
    whole, opposite = ids_to_crop(table, boxes)
    places = [(id, boxes[id]) for id in whole]
    places += [(id, boxes[id].mirrored()) for id in opposite]
    features = []
    for start in range(0, len(places), 64):
        some = places[start : start + 64]
        made = [crop_in_proportion(load_image(images[id]), box) for id, box in some]
        features.append(encoder.map(made)[0])
    row_of = pd.Series(range(len(table)), table.ids)
    labels = table.labels[row_of[[id for id, _ in places]]]
    ids = [*whole, *(f"{MIRRORED}{id}" for id in opposite)]
    crops = FeatureTable.from_arrays(
        np.concatenate(features), labels, classes=table.classes, ids=ids
    )
    about = dict(table.provenance) | {"source": "crops, margin 0.5"}
    return replace(crops, provenance=about)


def committed_boxes() -> dict[str, Box]:
    """Return where each traced tumour of brain MRI lies, by the slice's id."""
    listed = pd.read_csv(PRECOMPUTED / "brain_tumor_mri_boxes.csv").set_index("id")
    return {
        id: Box(*row) for id, row in zip(listed.index, listed.to_numpy(), strict=True)
    }


def load_crops(
    table: FeatureTable,
    encoder: ClipEncoder,
    data: str | os.PathLike[str] | None = None,
) -> tuple[FeatureTable, FeatureTable]:
    """Return crops, and crops at the mirrored place, in place of slices of a table.

    The committed crops are taken where they are the encoder's; for another encoder,
    those of the images.

    Parameters
    ----------
    table
        Of brain MRI: labels, patients and folds are taken from it, by id.
    encoder, data
        What encodes the crops, and the folder with the images.

    Raises
    ------
    MissingImages
        If the committed crops are those of another encoder, and there are no images.
    """
    crops = FeatureTable.load(COMMITTED)
    if crops.provenance["model_fingerprint"] != encoder.fingerprint:
        dataset = load_dataset("brain_tumor_mri", data=data)
        if dataset is None:
            raise MissingImages(
                f"The committed crops are those of {crops.provenance['encoder']!r}, "
                f"not of {encoder.name!r}: name a folder with the images (data)."
            )
        images = dict(zip(dataset["id"][:], dataset["image"], strict=True))
        crops = crop_table(table, images, committed_boxes(), encoder)
    is_mirrored = np.char.startswith(crops.ids, MIRRORED)
    return (
        _in_place_of_slices(table, crops.select(~is_mirrored)),
        _in_place_of_slices(table, crops.select(is_mirrored)),
    )


def _in_place_of_slices(table: FeatureTable, crops: FeatureTable) -> FeatureTable:
    """Return the rows of a table that have a crop, with the crop's features."""
    row_of = pd.Series(range(len(crops)), np.char.replace(crops.ids, MIRRORED, ""))
    part = table.select(np.isin(table.ids, row_of.index))
    of_crops = crops.features[row_of[part.ids]]
    return part.with_features(of_crops, readout=crops.readout)
