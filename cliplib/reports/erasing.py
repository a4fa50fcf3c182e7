"""Erase the object and see whether a probe still knows the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from cliplib.data.arrays import Features, Ints
from cliplib.data.image import ImageSource, image_name, load_image
from cliplib.encoders.encoder import Encoder
from cliplib.evaluation.comparison import compare
from cliplib.evaluation.intervals import Share, ratio_intervals
from cliplib.features.groups import read_text_table
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
    """The id of an image, and the image as it is and without its object."""

    id: str
    before: Image.Image
    after: Image.Image


class Variant(NamedTuple):
    """Rows of the table, (m,), and the features, (m, d), to test in their place."""

    rows: Ints
    features: Features


@dataclass(frozen=True, eq=False)
class Erased:
    """What a probe makes of images without their object.

    Attributes
    ----------
    accuracy
        A row for each variant: images (how many have it), value, low and high of the
        accuracy. Variants are `WHOLE`, `WITHOUT`, and `CONTROL`: as much erased on the
        other side of the vertical middle, where that does not meet the object.
    loss
        Accuracy as they are less accuracy without the object, on the same images.
    control_loss
        Accuracy as they are less that of the control; None where no box leaves room.
    examples
        At most three images with and without their object.
    """

    accuracy: pd.DataFrame
    loss: Share
    control_loss: Share | None
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
    rows = np.array([*box_of_row])
    mirrored_box_of_row = {
        row: box.mirrored()
        for row, box in box_of_row.items()
        # The two centres are at least a width apart: the boxes do not overlap.
        if abs(2 * box.x_center - 1) >= box.width
    }
    variants = {
        WHOLE: Variant(rows, table.features[rows]),
        WITHOUT: _encode_erased(encoder, table, images, box_of_row, seed),
        CONTROL: _encode_erased(encoder, table, images, mirrored_box_of_row, seed),
    }
    predicted = _predict_out_of_fold(probe, table, variants, n_splits, seed)
    loss = _loss(table, predicted, WITHOUT, seed)
    assert loss is not None  # since some image has a box
    step = max(1, len(rows) // MOST_EXAMPLES)  # spreads examples over the table
    return Erased(
        accuracy=_accuracy_by_variant(table, predicted, seed),
        loss=loss,
        control_loss=_loss(table, predicted, CONTROL, seed),
        examples=[
            Example(
                id=str(table.ids[row]),
                before=load_image(images[row]),
                after=_load_erased(images[row], box_of_row[row], seed),
            )
            for row in rows.tolist()[::step][:MOST_EXAMPLES]
        ],
    )


def _encode_erased(
    encoder: Encoder,
    table: FeatureTable,
    images: Sequence[ImageSource],
    box_of_row: Mapping[int, Box],
    seed: int,
) -> Variant:
    """Encode the images of the rows that have a box, with the object in it erased.

    The features are of the readout of `table`, which the probe reads.
    """
    rows = [*box_of_row]
    parts = [table.features[:0]]  # the result if there is no box
    for start in range(0, len(rows), IMAGES_A_BATCH):  # few decoded images at a time
        batch = rows[start : start + IMAGES_A_BATCH]
        erased = [_load_erased(images[row], box_of_row[row], seed) for row in batch]
        parts.append(
            encoder.encode_images(erased, readout=table.readout, progress=False)
        )
    return Variant(np.array(rows, np.int64), np.concatenate(parts))


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


def _predict_out_of_fold(
    probe: Probe,
    table: FeatureTable,
    variants: Mapping[str, Variant],
    n_splits: int,
    seed: int,
) -> pd.DataFrame:
    """Return the class that is predicted for each variant of each row, (n, variants).

    Each fold's rows are predicted by a probe that was trained on the other folds'
    images as they are. NaN stands where a row lacks the variant.
    """
    predicted = pd.DataFrame(np.nan, range(len(table)), list(variants))
    folds = group_folds(
        table.labels,
        table.groups,
        n_splits=n_splits,
        seed=seed,
        published=table.folds,
    )
    for train_rows, test_rows in folds:
        train = table.select(train_rows)
        fitted = fit_with_groups(probe, train.features, train.labels, train.groups)
        for name, variant in variants.items():
            is_tested = np.isin(variant.rows, test_rows)
            if is_tested.any():
                answers = fitted.predict(variant.features[is_tested])
                predicted.loc[variant.rows[is_tested], name] = answers
    return predicted


def _accuracy_by_variant(
    table: FeatureTable, predicted: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """Return the accuracy of each variant, in rows, on the images that have it.

    Columns: images (how many), value, low and high. `predicted` (n, variants) are
    classes, NaN where an image lacks the variant.
    """
    has_variant = predicted.notna()
    is_right = predicted.eq(table.labels, axis=0)  # never where it is NaN
    accuracy = ratio_intervals(
        is_right, has_variant.to_numpy(float), groups=table.groups, seed=seed
    )
    accuracy.insert(0, "images", has_variant.sum())
    return accuracy


def _loss(
    table: FeatureTable, predicted: pd.DataFrame, variant: str, seed: int
) -> Share | None:
    """Return the accuracy on images as they are less that on a variant of the same.

    `predicted` (n, variants) are classes, NaN where an image lacks the variant. None if
    all images lack it.
    """
    pair = predicted[[WHOLE, variant]].dropna()
    if pair.empty:
        return None
    whole = pair[WHOLE]
    rows = pair.index
    groups = table.groups[rows]
    loss = compare(table.labels[rows], whole, pair[variant], groups=groups, seed=seed)
    return Share.of(loss)
