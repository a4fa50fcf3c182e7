"""Erase or keep what a box marks, to see whether a classifier looks at it.

A classifier that answers as before when the object is erased did not need it (Maguolo
and Nanni, Information Fusion 76, 2021, blacken the lungs of X-rays). Erasing needs
scikit-image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import (
    binary_dilation,
    find_objects,
    gaussian_filter,
    map_coordinates,
)

from cliplib.data.arrays import Bools, Floats

RIM = 4
"""Width in pixels of the rim around a hole, whose noise the filling gets."""
SMOOTHING = 3.0
"""Standard deviation in pixels of the blur that the filling continues."""
MOST_PIXELS = 1024
"""Of a hole that is filled pixel by pixel; a larger one is filled in a reduced copy."""


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
    on the filling. Raises ValueError if the ellipse leaves next to nothing, ImportError
    without scikit-image.
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
        If the mask is of another size, or leaves next to nothing of the image.
    ImportError
        If scikit-image is not installed.
    """
    pixels = np.asarray(image.convert("RGB"), np.float64)
    if mask.shape != pixels.shape[:2]:
        raise ValueError(
            f"The mask is of shape {mask.shape}: it must be {pixels.shape[:2]}, the "
            "image's height and width."
        )
    if mask.any():
        # Of a large hole, every step-th row and column is filled, and the rest is
        # interpolated between them: the filling is smooth.
        step = math.ceil(math.sqrt(mask.sum() / MOST_PIXELS))
        # All that the filling depends on: the rim, and a blur's reach of 4 deviations.
        margin = RIM + math.ceil(4 * max(SMOOTHING, step))
        rows_and_columns = _surroundings(mask, margin)
        around = pixels[rows_and_columns]
        hole = mask[rows_and_columns]
        filled = _continued(around, hole, step) + _noise(around, hole, seed)
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


def _continued(pixels: Floats, hole: Bools, step: int) -> Floats:
    """Return pixels (h, w, 3) that continue smoothly what lies round a hole (h, w).

    Only those within the hole, which must not be empty, are of use. What lies round it
    is blurred first, so that its grain is not drawn out into the hole. With a step
    above 1 every step-th row and column are filled, and the rest is interpolated
    between them. Raises ValueError where the hole leaves nothing of these, and
    ImportError without scikit-image.
    """
    blurred = _blurred(pixels, ~hole, max(SMOOTHING, step))
    first = step // 2
    every_step = (slice(first, None, step), slice(first, None, step))
    filled = _inpainted(blurred[every_step], hole[every_step])
    at_edge = blurred[binary_dilation(hole) & ~hole]  # (pixels, 3)
    filled = np.clip(filled, at_edge.min(axis=0), at_edge.max(axis=0))
    if step == 1:
        return filled
    # Where each row and column of the result lies among every step-th, (h, w) both.
    places = [(numbers - first) / step for numbers in np.indices(hole.shape)]
    channels = [
        map_coordinates(filled[..., channel], places, order=1, mode="nearest")
        for channel in range(filled.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def _inpainted(pixels: Floats, hole: Bools) -> Floats:
    """Return a copy of pixels (h, w, 3) in which scikit-image has filled a hole (h, w).

    Raises ValueError where the hole is all there is, and ImportError without
    scikit-image.
    """
    try:
        from skimage.restoration import inpaint_biharmonic
    except ImportError as error:
        raise ImportError(
            "Erasing needs scikit-image: pip install scikit-image."
        ) from error
    if hole.all():
        raise ValueError(
            "Next to nothing of the image would be left: mark a smaller part."
        )
    return np.asarray(inpaint_biharmonic(pixels, hole, channel_axis=-1))


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


def keep(image: Image.Image, box: Box) -> Image.Image:
    """Return a copy, RGB, that is black outside the ellipse round a box."""
    pixels = np.array(image.convert("RGB"))
    pixels[~ellipse(box, image.size)] = 0
    return Image.fromarray(pixels)
