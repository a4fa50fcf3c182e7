"""Erase what a box marks, to see whether a classifier looks at it.

A classifier that answers as before when the object is erased did not need it (Maguolo
and Nanni, Information Fusion 76, 2021, blacken the lungs of X-rays). Erasing needs
scikit-image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import (
    binary_dilation,
    find_objects,
    gaussian_filter,
    map_coordinates,
)

from cliplib.data.arrays import Bools, Features, Floats, row_batches
from cliplib.data.image import ImageSource, image_name, load_image
from cliplib.data.text_table import named_images, read_text_table
from cliplib.encoders.encoder import Encoder
from cliplib.evaluation.intervals import share_with_interval
from cliplib.features.table import FeatureTable
from cliplib.probes.out_of_fold import Fit

# Width in pixels of the rim around a hole, whose noise the filling gets.
RIM = 4
# Standard deviation in pixels of the blur that the filling continues.
SMOOTHING = 3.0
# Of a hole that is filled pixel by pixel; a larger one is filled in a reduced copy.
MOST_PIXELS = 1024

BOX_COLUMNS = ("file", "x_center", "y_center", "width", "height")
# Names of the variants of the images.
AS_IS = "as they are"
WITHOUT = "object erased"
CONTROL = "as much erased on the other side"
MOST_EXAMPLES = 3

# Images without their object that are encoded together, and so are in memory.
BATCH_SIZE = 64


@dataclass(frozen=True)
class Box:
    """Where an object lies: centre and size, as shares of the image's sides.

    As in YOLO's labels: `x_center` and `width` of the width, from the left; `y_center`
    and `height` of the height, from the top. A ValueError is raised where the centre
    lies outside of the image, or a side is longer than the image's.
    """

    x_center: float
    y_center: float
    width: float
    height: float

    def __post_init__(self) -> None:
        """Check that the centre is in the image, and no side longer than its own."""
        centred = 0 <= self.x_center <= 1 and 0 <= self.y_center <= 1
        sized = 0 < self.width <= 1 and 0 < self.height <= 1
        if not (centred and sized):
            raise ValueError(
                f"{self}: give centre and size as shares of the image's sides: the "
                "centre from 0 to 1, the size above 0 and at most 1."
            )

    def mirrored(self) -> Box:
        """Return the box where it lies in the image mirrored left to right."""
        return Box(1 - self.x_center, self.y_center, self.width, self.height)


def ellipse(box: Box, size: tuple[int, int]) -> Bools:
    """Return which pixels (h, w) the ellipse through the box's corners holds.

    `size` is (w, h), as Pillow has it. The pixel at the box's centre always belongs.
    """
    width, height = size
    # From the box's centre to the middle of each column and row of pixels, in shares.
    x = (np.arange(width) + 0.5) / width - box.x_center
    y = (np.arange(height) + 0.5) / height - box.y_center
    # An ellipse through the corners is √2 times as wide and as high as the box: its
    # half axes are width / √2 and height / √2.
    across = np.square(x / (box.width / math.sqrt(2)))
    down = np.square(y / (box.height / math.sqrt(2)))
    mask = np.asarray(across[None, :] + down[:, None] <= 1)
    mask[np.abs(y).argmin(), np.abs(x).argmin()] = True
    return mask


def erase(image: Image.Image, box: Box, *, seed: int = 0) -> Image.Image:
    """Return a copy, RGB, in which a box's object is filled with its surroundings.

    Filled, by `fill`, is the ellipse through the box's corners; `seed` is of the noise
    on the filling. Raises ValueError if the ellipse leaves next to nothing.
    """
    return fill(image, ellipse(box, image.size), seed=seed)


def fill(image: Image.Image, mask: Bools, *, seed: int = 0) -> Image.Image:
    """Return a copy, RGB, whose masked pixels continue what surrounds them.

    The blurred surroundings are continued by scikit-image's biharmonic inpainting
    (Damelin and Hoang 2018) and kept within their range. Noise is added that deviates
    as the rim does from its blur, the same in all channels: grey stays grey.

    Parameters
    ----------
    image
        In any mode.
    mask
        True for the pixels (h, w) to fill.
    seed
        Of the noise.

    Raises
    ------
    ValueError
        If the mask leaves next to nothing of the image.
    """
    if not mask.any():
        return image.convert("RGB")
    pixels = np.asarray(image.convert("RGB"), np.float64)
    # Of a large hole, every step-th row and column is filled, and the rest is
    # interpolated between them: the filling is smooth.
    step = math.ceil(math.sqrt(mask.sum() / MOST_PIXELS))
    smoothing = max(SMOOTHING, step)
    # The filling depends on what a blur reaches from the rim: 4 deviations.
    reach = RIM + math.ceil(4 * smoothing)
    rows_and_columns = _surroundings(mask, reach)
    around = pixels[rows_and_columns]
    hole = mask[rows_and_columns]
    filled = _continued(around, hole, step, smoothing) + _noise(around, hole, seed)
    pixels[mask] = filled[hole]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _surroundings(mask: Bools, margin: int) -> tuple[slice, ...]:
    """Return slices of rows and of columns that hold the true pixels of a mask (h, w).

    They are `margin` pixels larger on each side; one true pixel there must be.
    """
    (tight,) = find_objects(mask.astype(np.int8))
    return tuple(
        slice(max(part.start - margin, 0), part.stop + margin) for part in tight
    )


def _continued(pixels: Floats, hole: Bools, step: int, smoothing: float) -> Floats:
    """Return pixels (h, w, 3) that continue smoothly what lies round a hole (h, w).

    Only those within the hole, which must not be empty, are of use. What lies round it
    is blurred first, by a Gaussian of the deviation `smoothing`, so that its grain is
    not drawn out into the hole. With a step above 1 every step-th row and column are
    filled, and the rest is interpolated between them. Raises ValueError where the hole
    leaves nothing of these.
    """
    from skimage.restoration import inpaint_biharmonic

    blurred = _blurred(pixels, ~hole, smoothing)
    first = step // 2
    every_step = (slice(first, None, step), slice(first, None, step))
    if hole[every_step].all():
        raise ValueError(
            "Next to nothing of the image would be left: mark a smaller part."
        )
    filled = inpaint_biharmonic(blurred[every_step], hole[every_step], channel_axis=-1)
    edge = blurred[binary_dilation(hole) & ~hole]  # (pixels, 3)
    filled = np.clip(filled, edge.min(axis=0), edge.max(axis=0))
    # Where each pixel and channel of the result lies among those filled.
    row, column, channel = np.indices(pixels.shape)
    row_filled = (row - first) / step
    column_filled = (column - first) / step
    places = [row_filled, column_filled, channel]
    return np.asarray(map_coordinates(filled, places, order=1, mode="nearest"))


def _blurred(pixels: Floats, is_known: Bools, sigma: float) -> Floats:
    """Blur pixels (h, w, c) by a Gaussian; those not known, by a mask (h, w), count 0.

    `sigma` is the Gaussian's standard deviation in pixels.
    """
    weight = gaussian_filter(is_known.astype(np.float64), sigma)[..., None]
    total = gaussian_filter(pixels * is_known[..., None], (sigma, sigma, 0))
    return np.asarray(total / np.maximum(weight, 1e-9))  # 0 far from any known pixel


def _noise(pixels: Floats, hole: Bools, seed: int) -> Floats:
    """Draw noise (h, w, 3) as strong as that of the rim around a hole (h, w).

    Its strength is how much the rim deviates from its own blur (standard deviation, by
    channel); its pattern is the same in all channels.
    """
    rim = binary_dilation(hole, iterations=RIM) & ~hole
    detail = (pixels - _blurred(pixels, ~hole, SMOOTHING / 2))[rim]  # (pixels, 3)
    # A median is not moved by an edge that crosses the rim. Times 1.4826 the median
    # absolute deviation is the standard deviation of a Gaussian.
    deviation = 1.4826 * np.median(np.abs(detail), axis=0)
    white = np.random.default_rng(seed).normal(size=hole.shape)
    grain = gaussian_filter(white, 0.7)  # neighbouring pixels resemble each other
    return np.asarray(grain[..., None] / grain.std() * deviation)


@dataclass(frozen=True, eq=False)
class Erased:
    """What a probe makes of images without their object.

    Attributes
    ----------
    accuracy
        A row for each variant: images (how many have it) and accuracy (an `Estimate`).
        Variants are `AS_IS`, `WITHOUT`, and `CONTROL`: as much erased on the other
        side of the vertical middle, where that does not meet the object.
    examples
        At most three rows of the table, and the box of each.
    """

    accuracy: pd.DataFrame
    examples: Mapping[int, Box]


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
    ImportError
        If scikit-image, by which what they mark is erased, is missing.
    FileNotFoundError
        If there is no such file.
    ValueError
        If a row names no image of these, its numbers are no box, there is no row, or
        two name the same image.
    """
    if find_spec("skimage") is None:
        raise ImportError(
            "Erasing needs scikit-image: pip install 'cliplib[report]', or leave "
            "the boxes out."
        )
    boxes: dict[str, Box] = {}
    table = read_text_table(Path(path), BOX_COLUMNS)  # its cells are texts
    images = named_images(table["file"], ids, Path(path))
    for image_id, (file, *numbers) in zip(images, table.to_numpy(), strict=True):
        if pd.isna(image_id):
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
    fits: Sequence[Fit],
    table: FeatureTable,
    encoder: Encoder,
    images: Sequence[ImageSource],
    boxes: Mapping[str, Box],
    *,
    seed: int = 0,
) -> Erased:
    """Test a probe, trained on images as they are, on others with the object erased.

    Parameters
    ----------
    fits
        The probe, fitted in each fold.
    table
        What it was fitted on.
    encoder
        The one that made the table.
    images
        The files of the table's rows, (n,).
    boxes
        Where objects lie, by the image's id, of one row at least; images without a box
        are trained on only.
    seed
        Of the filling and of the intervals.

    Raises
    ------
    ValueError
        If an object cannot be erased.
    """
    box_of_row = {
        row: boxes[image_id]
        for row, image_id in enumerate(table.ids)
        if image_id in boxes
    }
    mirrored_box_of_row = {
        row: box.mirrored()
        for row, box in box_of_row.items()
        # The two centres are at least a width apart: the boxes do not overlap.
        if abs(2 * box.x_center - 1) >= box.width
    }
    variants = {AS_IS: box_of_row, WITHOUT: box_of_row, CONTROL: mirrored_box_of_row}
    n_images = {}
    accuracy = {}
    for name, boxes_to_erase in variants.items():
        rows = [*boxes_to_erase]
        if not rows:  # each object lies in the middle: there is no other side
            continue
        features = table.features
        if name != AS_IS:
            features = _encode_erased(encoder, table, images, boxes_to_erase, seed)
        is_correct = np.zeros(len(table), bool)
        for fitted, test_rows in fits:
            answers = fitted.predict(features[test_rows])
            is_correct[test_rows] = answers == table.labels[test_rows]
        n_images[name] = len(rows)
        accuracy[name] = share_with_interval(
            is_correct[rows], groups=table.groups[rows], seed=seed
        )
    rows = [*box_of_row]
    step = max(1, len(rows) // MOST_EXAMPLES)  # spreads examples over the table
    examples = {row: box_of_row[row] for row in rows[::step][:MOST_EXAMPLES]}
    by_variant = pd.DataFrame({"images": n_images, "accuracy": accuracy})
    return Erased(by_variant, examples)


def _encode_erased(
    encoder: Encoder,
    table: FeatureTable,
    images: Sequence[ImageSource],
    box_of_row: Mapping[int, Box],
    seed: int,
) -> Features:
    """Return a table's features, those of rows with a box anew without the object."""
    features = table.features.copy()
    every_row = [*box_of_row]
    for batch in row_batches(len(every_row), BATCH_SIZE):
        rows = every_row[batch]
        erased = [_load_erased(images[row], box_of_row[row], seed) for row in rows]
        features[rows] = encoder.encode_images(
            erased, readout=table.readout, progress=False
        )
    return features


def _load_erased(source: ImageSource, box: Box, seed: int) -> Image.Image:
    """Load an image and erase the ellipse round a box; an error names the image."""
    image = load_image(source)
    try:
        return erase(image, box, seed=seed)
    except ValueError as error:
        raise ValueError(f"{image_name(source)}: {error}") from error
