"""Statistics of an image that show no object: its edges, corners, brightness, detail.

A probe that reads one of them alone, and still tells the classes apart, has found a
shortcut: something other than what the images show (`cliplib.inspection.shortcuts`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace

from cliplib.data.arrays import Floats
from cliplib.data.cache import ImageFunction

# Side of a corner's or an edge's patch, as a share of the image's.
PATCH_SHARE = 0.14
# Width of the border, as a share of the shorter side.
BORDER_SHARE = 0.04
# A patch is reduced to so many squares a side; the centre of an image to twice so.
PATCH_SIDE = 4

# By name, where a patch lies: shares of the way from left to right, top to bottom.
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
    """Return mean colours of side x side squares of an RGB image, flat."""
    small = image.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float64).ravel()


def region(
    size: tuple[int, int], place: tuple[float, float], shares: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a part of an image of a size.

    `shares` are of the image's width and height, `place` is one of `PATCHES`.
    """
    width = max(1, round(shares[0] * size[0]))
    height = max(1, round(shares[1] * size[1]))
    left = round(place[0] * (size[0] - width))
    top = round(place[1] * (size[1] - height))
    return left, top, left + width, top + height


def _patch(image: Image.Image, place: tuple[float, float]) -> Floats:
    """Return colours of 4 x 4 squares of a patch, and its standard deviation, (49,)."""
    patch = image.crop(region(image.size, place, (PATCH_SHARE, PATCH_SHARE)))
    std = np.asarray(patch.convert("L"), np.float64).std()
    return np.append(_squares(patch, PATCH_SIDE), std)


def _border(pixels: Floats) -> Floats:
    """Return mean colour and std of the four sides of an image's border, (16,).

    `pixels` is (height, width, 3).
    """
    width = max(1, round(BORDER_SHARE * min(pixels.shape[:2])))
    sides = [pixels[:width], pixels[-width:], pixels[:, :width], pixels[:, -width:]]
    numbers = [[*side.mean(axis=(0, 1)), side.mean(axis=2).std()] for side in sides]
    return np.ravel(numbers)


def sharpness(grey: Image.Image) -> Floats:
    """Return the focus of an image at its size, a half and a quarter of it, (3,).

    It is the logarithm of the variance of the Laplacian.
    """
    detail = []
    for scale in (1, 2, 4):
        size = (max(1, grey.width // scale), max(1, grey.height // scale))
        levels = np.asarray(grey.resize(size, Image.Resampling.BOX), np.float64)
        detail.append(np.log1p(laplace(levels, mode="nearest").var()))
    return np.array(detail)


def _blockiness(grey: Floats) -> float:
    """Return how much larger steps are between JPEG's blocks of 8 pixels than in them.

    It is a logarithm of the ratio, 0 without blocks.
    """
    between: list[float] = []
    within: list[float] = []
    for axis in (0, 1):
        # The mean step from each row, or column, to the next.
        steps = np.abs(np.diff(grey, axis=axis)).mean(axis=1 - axis)
        leads_to_next_block = np.arange(len(steps)) % 8 == 7
        between.extend(steps[leads_to_next_block])
        within.extend(steps[~leads_to_next_block])
    if not between:
        return 0.0
    return float(np.log((np.mean(between) + 0.1) / (np.mean(within) + 0.1)))


def _moments(pixels: Floats) -> Floats:
    """Return mean, std and skewness of each colour of pixels (h, w, 3), (9,)."""
    flat = pixels.reshape(-1, 3)
    mean = flat.mean(axis=0)
    std = flat.std(axis=0)
    skewness = np.cbrt(((flat - mean) ** 3).mean(axis=0))
    return np.concatenate([mean, std, skewness])


def _statistics(image: Image.Image) -> dict[str, Floats]:
    """Return the statistics of an RGB image by name, each a row of numbers."""
    pixels = np.asarray(image, np.float64)
    grey = image.convert("L")
    levels = np.asarray(grey, np.float64)
    found = {name: _patch(image, place) for name, place in PATCHES.items()}
    found["border"] = _border(pixels)
    found["brightness"] = np.array([levels.mean(), levels.std()])
    found["sharpness"] = sharpness(grey)
    found["block edges"] = np.array([_blockiness(levels)])
    found["colour moments"] = _moments(pixels)
    found["thumbnail"] = _squares(image, 2 * PATCH_SIDE)
    return found


def _describe(images: list[Image.Image]) -> NDArray[np.float32]:
    rows = [np.concatenate([*_statistics(image).values()]) for image in images]
    return np.array(rows, np.float32)


def statistic_columns() -> dict[str, slice]:
    """Return which columns of `image_statistics` belong to which statistic."""
    columns = {}
    start = 0
    for name, numbers in _statistics(Image.new("RGB", (16, 16))).items():
        columns[name] = slice(start, start + len(numbers))
        start += len(numbers)
    return columns


image_statistics = ImageFunction("picture_statistics_1", _describe)
"""Of each image a row with all its statistics, float32, (n, 615)."""
