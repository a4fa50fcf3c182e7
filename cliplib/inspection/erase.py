"""Erase the object that a box marks, to see whether a classifier looks at it.

A classifier whose answers stay the same without the object did not need it (Maguolo and
Nanni, Information Fusion 76, 2021, blacken the lungs of X-rays). Erasing requires
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

# Width of the rim around a hole, in pixels. The noise of the filling is as strong as
# that of the rim.
RIM = 4
# Standard deviation, in pixels, of the blur of the surroundings before they are
# continued into a hole.
SMOOTHING = 3.0
# Largest hole, in pixels, that is filled pixel by pixel. In larger ones only every
# second, third … row and column is filled, and the rest interpolated.
MOST_PIXELS = 1024

BOX_COLUMNS = ("file", "x_center", "y_center", "width", "height")
# Names of the variants of the images that a probe is tested on.
AS_IS = "as they are"
WITHOUT = "object erased"
CONTROL = "as much erased on the other side"
MOST_EXAMPLES = 3

# Number of images that are in memory, and encoded, together.
BATCH_SIZE = 64


@dataclass(frozen=True)
class Box:
    """Where an object lies: centre and size, as shares of the image's sides.

    As in YOLO's labels, `x_center` and `width` are shares of the image's width, from
    the left; `y_center` and `height` are shares of its height, from the top. A
    ValueError is raised if the centre is outside the image, or a side is longer than
    the image's.
    """

    x_center: float
    y_center: float
    width: float
    height: float

    def __post_init__(self) -> None:
        """Check that the centre is in the image, and that no side is too long."""
        is_inside = 0 <= self.x_center <= 1 and 0 <= self.y_center <= 1
        is_sized = 0 < self.width <= 1 and 0 < self.height <= 1
        if not (is_inside and is_sized):
            raise ValueError(
                f"{self}: give centre and size as shares of the image's sides: the "
                "centre from 0 to 1, the size above 0 and at most 1."
            )

    def mirrored(self) -> Box:
        """Return the box of the object if the image is mirrored left to right."""
        return Box(1 - self.x_center, self.y_center, self.width, self.height)


def ellipse(box: Box, size: tuple[int, int]) -> Bools:
    """Return a mask (h, w) of the pixels within the ellipse through the box's corners.

    `size` is (w, h), as in Pillow. The pixel at the box's centre is always included.
    """
    width, height = size
    # Distances of the columns' and rows' middles from the box's centre, as shares of
    # the image's sides.
    x = (np.arange(width) + 0.5) / width - box.x_center
    y = (np.arange(height) + 0.5) / height - box.y_center
    # An ellipse through the corners is √2 times as wide and as high as the box, so that
    # its semi-axes are width / √2 and height / √2.
    across = np.square(x / (box.width / math.sqrt(2)))
    down = np.square(y / (box.height / math.sqrt(2)))
    mask = np.asarray(across[None, :] + down[:, None] <= 1)
    mask[np.abs(y).argmin(), np.abs(x).argmin()] = True
    return mask


def erase(image: Image.Image, box: Box, *, seed: int = 0) -> Image.Image:
    """Return an RGB copy of an image, whose object is replaced by its surroundings.

    The ellipse through the box's corners is filled by `fill`, with noise of the random
    seed. A ValueError is raised if the ellipse leaves almost nothing of the image.
    """
    return fill(image, ellipse(box, image.size), seed=seed)


def fill(image: Image.Image, mask: Bools, *, seed: int = 0) -> Image.Image:
    """Return an RGB copy of an image, whose masked pixels continue their surroundings.

    The blurred surroundings are continued by scikit-image's biharmonic inpainting
    (Damelin and Hoang 2018), within their range. Noise as strong as that of the rim is
    added. Its pattern is the same in all channels, so that grey stays grey.

    Parameters
    ----------
    image
        An image of any mode.
    mask
        True for the pixels (h, w) to fill.
    seed
        Random seed of the noise.

    Raises
    ------
    ValueError
        If the mask leaves almost nothing of the image.
    """
    if not mask.any():
        return image.convert("RGB")
    pixels = np.asarray(image.convert("RGB"), np.float64)
    # In a large hole only every step-th row and column is filled.
    step = math.ceil(math.sqrt(mask.sum() / MOST_PIXELS))
    smoothing = max(SMOOTHING, step)
    # More distant pixels do not matter: a blur reaches 4 standard deviations.
    margin = RIM + math.ceil(4 * smoothing)
    region = _slices_around(mask, margin)
    hole = mask[region]
    filling = _smooth_filling(pixels[region], hole, step, smoothing)
    noise = _noise(pixels[region], hole, seed)
    pixels[mask] = (filling + noise)[hole]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _slices_around(mask: Bools, margin: int) -> tuple[slice, ...]:
    """Return slices of the rows and columns that contain a mask (h, w) with a margin.

    At least one pixel of the mask must be true. `margin` is in pixels, on each side.
    """
    (bounding_box,) = find_objects(mask.astype(np.int8))
    return tuple(
        slice(max(side.start - margin, 0), side.stop + margin) for side in bounding_box
    )


def _smooth_filling(pixels: Floats, hole: Bools, step: int, smoothing: float) -> Floats:
    """Return pixels (h, w, 3) that smoothly continue the surroundings of a hole (h, w).

    Only the pixels within the hole are meant to be used. The surroundings are blurred
    first, by a Gaussian of the standard deviation `smoothing`, so that their grain does
    not become streaks. Every step-th row and column is filled, and the pixels between
    them are interpolated. A ValueError is raised if the hole covers all of these rows
    and columns.
    """
    from skimage.restoration import inpaint_biharmonic

    blurred = _blurred(pixels, ~hole, smoothing)
    first = step // 2
    grid = (slice(first, None, step), slice(first, None, step))
    if hole[grid].all():
        raise ValueError(
            "Next to nothing of the image would be left: mark a smaller part."
        )
    filled = inpaint_biharmonic(blurred[grid], hole[grid], channel_axis=-1)
    edge = blurred[binary_dilation(hole) & ~hole]  # (pixels, 3)
    filled = np.clip(filled, edge.min(axis=0), edge.max(axis=0))
    # Coordinates in `filled` of each pixel and channel of the result.
    row, column, channel = np.indices(pixels.shape)
    coordinates = [(row - first) / step, (column - first) / step, channel]
    return np.asarray(map_coordinates(filled, coordinates, order=1, mode="nearest"))


def _blurred(pixels: Floats, is_known: Bools, sigma: float) -> Floats:
    """Blur pixels (h, w, c) by a Gaussian, without those that are not known.

    `is_known` is a mask (h, w), and `sigma` the standard deviation in pixels.
    """
    weight = gaussian_filter(is_known.astype(np.float64), sigma)[..., None]
    total = gaussian_filter(pixels * is_known[..., None], (sigma, sigma, 0))
    return np.asarray(total / np.maximum(weight, 1e-9))  # 0 far from all known pixels


def _noise(pixels: Floats, hole: Bools, seed: int) -> Floats:
    """Draw noise (h, w, 3) as strong as that of the rim around a hole (h, w).

    The strength of a channel is the standard deviation of the rim from its own blur.
    The pattern is the same in all channels.
    """
    rim = binary_dilation(hole, iterations=RIM) & ~hole
    detail = (pixels - _blurred(pixels, ~hole, SMOOTHING / 2))[rim]  # (pixels, 3)
    # For a Gaussian, the standard deviation is 1.4826 times the median absolute
    # deviation. An edge that crosses the rim does not affect the median.
    deviation = 1.4826 * np.median(np.abs(detail), axis=0)
    white = np.random.default_rng(seed).normal(size=hole.shape)
    grain = gaussian_filter(white, 0.7)  # neighbouring pixels resemble each other
    return np.asarray(grain[..., None] / grain.std() * deviation)


@dataclass(frozen=True, eq=False)
class Erased:
    """How accurate a probe is on images without their object.

    Attributes
    ----------
    accuracy
        A row for each variant: images (their number) and accuracy (an `Estimate`). The
        variants are `AS_IS`, `WITHOUT`, and `CONTROL`, in which the mirrored box is
        erased; only images whose object does not meet the mirrored box have it.
    examples
        Boxes of at most three images, by row of the table.
    """

    accuracy: pd.DataFrame
    examples: Mapping[int, Box]


def read_boxes(path: str, ids: Sequence[str]) -> dict[str, Box]:
    """Read the boxes of the images' objects from a CSV file.

    Parameters
    ----------
    path
        CSV file with the columns file (an id, or a file name that only one image has),
        x_center, y_center, width and height (shares of the image's sides).
    ids
        The images' ids.

    Returns
    -------
    dict
        The box of each image that has one, by id.

    Raises
    ------
    ImportError
        If scikit-image is missing, without which nothing can be erased.
    FileNotFoundError
        If there is no such file.
    ValueError
        If a row names an unknown image or its numbers are not a box, if there is no
        row, or if two rows name the same image.
    """
    if find_spec("skimage") is None:
        raise ImportError(
            "Erasing needs scikit-image: pip install 'cliplib[report]', or leave "
            "the boxes out."
        )
    boxes: dict[str, Box] = {}
    table = read_text_table(Path(path), BOX_COLUMNS)  # all cells are texts
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
    """Test a probe on images with their object erased; it was trained on whole images.

    Parameters
    ----------
    fits
        The probe, fitted in each fold.
    table
        The table that it was fitted on.
    encoder
        The encoder that made the table.
    images
        The images of the table's rows, (n,).
    boxes
        Boxes of the objects, by image id, for at least one row. Images without a box
        are only trained on.
    seed
        Random seed of the fillings and of the intervals.

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
        # The two boxes do not overlap if their centres are at least a width apart.
        if abs(2 * box.x_center - 1) >= box.width
    }
    variants = {AS_IS: box_of_row, WITHOUT: box_of_row, CONTROL: mirrored_box_of_row}
    n_images = {}
    accuracy = {}
    for name, boxes_to_erase in variants.items():
        rows = [*boxes_to_erase]
        if not rows:  # no control: all objects lie in the middle of their image
            continue
        features = table.features
        if name != AS_IS:
            features = _encode_erased(encoder, table, images, boxes_to_erase, seed)
        is_correct = np.zeros(len(table), bool)
        for estimator, test_rows in fits:
            predicted = estimator.predict(features[test_rows])
            is_correct[test_rows] = predicted == table.labels[test_rows]
        n_images[name] = len(rows)
        accuracy[name] = share_with_interval(
            is_correct[rows], groups=table.groups[rows], seed=seed
        )
    rows = [*box_of_row]
    step = max(1, len(rows) // MOST_EXAMPLES)  # spreads the examples over the table
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
    """Return a table's features, in which rows with a box are encoded without it."""
    features = table.features.copy()
    rows_with_box = [*box_of_row]
    for batch in row_batches(len(rows_with_box), BATCH_SIZE):
        rows = rows_with_box[batch]
        erased = [_load_erased(images[row], box_of_row[row], seed) for row in rows]
        features[rows] = encoder.encode_images(
            erased, readout=table.readout, progress=False
        )
    return features


def _load_erased(source: ImageSource, box: Box, seed: int) -> Image.Image:
    """Load an image and erase the object in a box; an error names the image."""
    image = load_image(source)
    try:
        return erase(image, box, seed=seed)
    except ValueError as error:
        raise ValueError(f"{image_name(source)}: {error}") from error
