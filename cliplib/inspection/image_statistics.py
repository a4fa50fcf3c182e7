"""Statistics of an image that show no object: its edges, corners, brightness, detail.

A probe that reads only one of them, and still tells the classes apart, has found a
shortcut: a difference between classes other than their objects (see
`cliplib.inspection.shortcuts`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace

from cliplib.data.arrays import Floats
from cliplib.data.cache import ImageFunction

# Width and height of the patch of a corner or an edge, as shares of the image's.
PATCH_SHARE = 0.14
# Width of the border, as a share of the shorter side.
BORDER_SHARE = 0.04
# Number of squares a side to which a patch is reduced. A thumbnail has twice as many.
PATCH_SIDE = 4

# Position of each patch: shares of the way from left to right and from top to bottom.
PATCHES = {
    "top left corner": (0.0, 0.0),
    "top edge": (0.5, 0.0),
    "top right corner": (1.0, 0.0),
    "left edge": (0.0, 0.5),
    "right edge": (1.0, 0.5),
    "bottom left corner": (0.0, 1.0),
    "bottom edge": (0.5, 1.0),
    "bottom right corner": (1.0, 1.0),
}


def _squares(image: Image.Image, side: int) -> Floats:
    """Return the mean colours of side × side squares of an RGB image, flattened."""
    small = image.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float64).ravel()


def region(
    size: tuple[int, int], place: tuple[float, float], shares: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a part of an image, in pixels.

    `size` is the image's width and height, and `shares` are those of the part. `place`
    is a position as in `PATCHES`.
    """
    width = max(1, round(shares[0] * size[0]))
    height = max(1, round(shares[1] * size[1]))
    left = round(place[0] * (size[0] - width))
    top = round(place[1] * (size[1] - height))
    return left, top, left + width, top + height


def _patch(image: Image.Image, place: tuple[float, float]) -> Floats:
    """Return the colours of a patch's 4 × 4 squares, and its std in grey, (49,)."""
    patch = image.crop(region(image.size, place, (PATCH_SHARE, PATCH_SHARE)))
    std = np.asarray(patch.convert("L"), np.float64).std()
    return np.append(_squares(patch, PATCH_SIDE), std)


def _border(pixels: Floats) -> Floats:
    """Return the mean colour and std of each side of an image's border, (16,).

    `pixels` is (height, width, 3).
    """
    width = max(1, round(BORDER_SHARE * min(pixels.shape[:2])))
    sides = [pixels[:width], pixels[-width:], pixels[:, :width], pixels[:, -width:]]
    numbers = [[*side.mean(axis=(0, 1)), side.mean(axis=2).std()] for side in sides]
    return np.ravel(numbers)


def sharpness(grey: Image.Image) -> Floats:
    """Return the sharpness of an image at full, half and quarter size, (3,).

    It is log(1 + the variance of the Laplacian).
    """
    detail = []
    for scale in (1, 2, 4):
        size = (max(1, grey.width // scale), max(1, grey.height // scale))
        levels = np.asarray(grey.resize(size, Image.Resampling.BOX), np.float64)
        detail.append(np.log1p(laplace(levels, mode="nearest").var()))
    return np.array(detail)


def _blockiness(grey: Floats) -> float:
    """Return how much larger steps are between JPEG's 8 × 8 blocks than within them.

    The result is the logarithm of their ratio, 0 without blocks. `grey` is (h, w).
    """
    between: list[float] = []
    within: list[float] = []
    for axis in (0, 1):
        # Mean absolute difference of each row, or column, from the next.
        steps = np.abs(np.diff(grey, axis=axis)).mean(axis=1 - axis)
        crosses_blocks = np.arange(len(steps)) % 8 == 7
        between.extend(steps[crosses_blocks])
        within.extend(steps[~crosses_blocks])
    if not between:
        return 0.0
    return float(np.log((np.mean(between) + 0.1) / (np.mean(within) + 0.1)))


def _moments(pixels: Floats) -> Floats:
    """Return mean, std and skewness of each channel of pixels (h, w, 3), (9,)."""
    flat = pixels.reshape(-1, 3)
    mean = flat.mean(axis=0)
    std = flat.std(axis=0)
    skewness = np.cbrt(((flat - mean) ** 3).mean(axis=0))
    return np.concatenate([mean, std, skewness])


def _statistics(image: Image.Image) -> dict[str, Floats]:
    """Return the statistics of an RGB image by name; each is a row of numbers."""
    pixels = np.asarray(image, np.float64)
    grey = image.convert("L")
    levels = np.asarray(grey, np.float64)
    return {
        **{name: _patch(image, place) for name, place in PATCHES.items()},
        "border": _border(pixels),
        "brightness": np.array([levels.mean(), levels.std()]),
        "sharpness": sharpness(grey),
        "block edges": np.array([_blockiness(levels)]),
        "colour moments": _moments(pixels),
        "thumbnail": _squares(image, 2 * PATCH_SIDE),
    }


def _describe(images: list[Image.Image]) -> NDArray[np.float32]:
    """Return all statistics of RGB images, a row for each image."""
    rows = [np.concatenate([*_statistics(image).values()]) for image in images]
    return np.array(rows, np.float32)


def statistic_columns() -> dict[str, slice]:
    """Return the columns of `image_statistics` that belong to each statistic."""
    columns = {}
    start = 0
    for name, numbers in _statistics(Image.new("RGB", (16, 16))).items():
        columns[name] = slice(start, start + len(numbers))
        start += len(numbers)
    return columns


image_statistics = ImageFunction("picture_statistics_1", _describe)
"""Computes a row with all statistics of each image, float32, (n, 615)."""
