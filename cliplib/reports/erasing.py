"""Erase the object and see whether a probe still knows the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from cliplib.data.arrays import Features
from cliplib.data.image import ImageSource, image_name, load_image
from cliplib.data.text_table import read_text_table
from cliplib.encoders.encoder import Encoder
from cliplib.evaluation.intervals import ratio_intervals
from cliplib.features.splits import group_folds
from cliplib.features.table import FeatureTable
from cliplib.inspection.erase import Box, erase
from cliplib.probes.base import Probe
from cliplib.probes.out_of_fold import fit_with_groups

BOX_COLUMNS = ("file", "x_center", "y_center", "width", "height")
WHOLE = "as they are"
WITHOUT = "object erased"
CONTROL = "as much erased on the other side"
"""Names of the variants of the images."""
MOST_EXAMPLES = 3
IMAGES_A_BATCH = 64


class Example(NamedTuple):
    """A row of the table, and its image without the object."""

    row: int
    after: Image.Image


@dataclass(frozen=True, eq=False)
class Erased:
    """What a probe makes of images without their object.

    Attributes
    ----------
    accuracy
        A row for each variant: images (how many have it), value, low and high of the
        accuracy. Variants are `WHOLE`, `WITHOUT`, and `CONTROL`: as much erased on the
        other side of the vertical middle, where that does not meet the object.
    examples
        At most three images without their object.
    """

    accuracy: pd.DataFrame
    examples: Sequence[Example]


def read_boxes(path: str, ids: Sequence[str]) -> dict[str, Box]:
    """Read from a CSV file where the objects of images lie.

    Parameters
    ----------
    path
        Its columns are file (an id, or a file name that only one image has), x_center,
        y_center, width and height (shares of the image's sides).
    ids
        The images' ids.

    Returns
    -------
    dict
        The box of each image that has one, by id.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a row names no image of these, its numbers are no box, or there is no row.
    """
    file_names = [PurePosixPath(image_id).name for image_id in ids]
    id_of = pd.Series(list(ids), file_names)
    id_of = id_of[~id_of.index.duplicated(keep=False)]  # by names of a single image
    known_ids = set(ids)
    boxes = {}
    table = read_text_table(Path(path), BOX_COLUMNS)  # its cells are texts
    for file, *numbers in table.itertuples(index=False):
        image_id = file if file in known_ids else id_of.get(file)
        if image_id is None:
            raise ValueError(f"{path!r} names {file!r}, which is no image here.")
        try:
            # The columns are in the order of the box's fields.
            boxes[image_id] = Box(*map(float, numbers))
        except ValueError as error:
            raise ValueError(f"{path!r}, {file!r}: {error}") from error
    if not boxes:
        raise ValueError(f"{path!r} has no box: below its first line, give one a row.")
    return boxes


def evaluate_erased(
    probe: Probe,
    table: FeatureTable,
    encoder: Encoder,
    images: Sequence[ImageSource],
    boxes: Mapping[str, Box],
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> Erased:
    """Train a probe on images as they are; test it on others, with the object erased.

    Parameters
    ----------
    probe
        A copy of it is fitted in each fold.
    table
        In the probe's readout, with the groups that are kept together.
    encoder
        The one that made the table.
    images
        The files of the table's rows, (n,).
    boxes
        Where objects lie, by the image's id; images without a box are trained on only.
    n_splits, seed
        Of the folds; the seed is also that of the filling and of the intervals.

    Raises
    ------
    ValueError
        If no image has a box, or one cannot be erased.
    """
    box_of_row = {
        row: boxes[image_id]
        for row, image_id in enumerate(table.ids)
        if image_id in boxes
    }
    if not box_of_row:
        raise ValueError("No image that was measured has a box.")
    mirrored_box_of_row = {
        row: box.mirrored()
        for row, box in box_of_row.items()
        # The two centres are at least a width apart: the boxes do not overlap.
        if abs(2 * box.x_center - 1) >= box.width
    }
    boxes_of = {WHOLE: box_of_row, WITHOUT: box_of_row, CONTROL: mirrored_box_of_row}
    features_of = {
        WHOLE: table.features,
        WITHOUT: _encode_erased(encoder, table, images, box_of_row, seed),
        CONTROL: _encode_erased(encoder, table, images, mirrored_box_of_row, seed),
    }
    every_row = range(len(table))
    has_variant = pd.DataFrame(
        {name: np.isin(every_row, [*chosen]) for name, chosen in boxes_of.items()}
    )
    is_right = pd.DataFrame(False, every_row, [*features_of])
    for train_rows, test_rows in group_folds(
        table.labels, table.groups, n_splits=n_splits, seed=seed, published=table.folds
    ):
        train = table.select(train_rows)
        fitted = fit_with_groups(probe, train.features, train.labels, train.groups)
        for name, features in features_of.items():
            answers = fitted.predict(features[test_rows])
            is_right.loc[test_rows, name] = answers == table.labels[test_rows]
    accuracy = ratio_intervals(
        is_right & has_variant,
        has_variant.to_numpy(float),
        groups=table.groups,
        seed=seed,
    )
    accuracy.insert(0, "images", has_variant.sum())
    rows = [*box_of_row]
    step = max(1, len(rows) // MOST_EXAMPLES)  # spreads examples over the table
    examples = [
        Example(row, _load_erased(images[row], box_of_row[row], seed))
        for row in rows[::step][:MOST_EXAMPLES]
    ]
    return Erased(accuracy, examples)


def _encode_erased(
    encoder: Encoder,
    table: FeatureTable,
    images: Sequence[ImageSource],
    box_of_row: Mapping[int, Box],
    seed: int,
) -> Features:
    """Return a table's features, those of rows with a box anew without the object."""
    rows = [*box_of_row]
    features = table.features.copy()
    for start in range(0, len(rows), IMAGES_A_BATCH):  # few decoded images at a time
        batch = rows[start : start + IMAGES_A_BATCH]
        erased = [_load_erased(images[row], box_of_row[row], seed) for row in batch]
        features[batch] = encoder.encode_images(
            erased, readout=table.readout, progress=False
        )
    return features


def _load_erased(source: ImageSource, box: Box, seed: int) -> Image.Image:
    """Load an image and erase the ellipse round a box.

    `seed` is that of the noise in the filling. The ValueError of `erase`, which lacks
    the image's name, gets it here.
    """
    image = load_image(source)
    try:
        return erase(image, box, seed=seed)
    except ValueError as error:
        raise ValueError(f"{image_name(source)}: {error}") from error
