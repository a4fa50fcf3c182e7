"""Erase, keep or crop what a box marks, to see whether a classifier looks at it.

A classifier that answers as before when the object is erased did not need it (Maguolo
and Nanni, Information Fusion 76, 2021, blacken the lungs of X-rays). Erasing needs
scikit-image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates

from cliplib.arrays import Bools, Floats

RIM = 4
"""Pixels around what is erased whose noise the filling gets."""
SMOOTHING = 3.0
"""Standard deviation in pixels of the blur that the filling continues."""
MOST_PIXELS = 4096
"""That are filled one by one: of a larger hole, a reduced copy is filled."""


@dataclass(frozen=True)
class Box:
    """Where an object lies: centre and size, as shares of the image's sides.

    As in YOLO's labels: `x_center` and `width` of the width, from the left; `y_center`
    and `height` of the height, from the top. A ValueError is raised for a box that does
    not meet the image.
    """

    x_center: float
    y_center: float
    width: float
    height: float

    def __post_init__(self) -> None:
        """Check that the box lies in the image."""
        centred = 0 <= self.x_center <= 1 and 0 <= self.y_center <= 1
        sized = 0 < self.width <= 1 and 0 < self.height <= 1
        if not (centred and sized):
            raise ValueError(
                f"{self}: give centre and size as shares of the image's sides, from 0 "
                "to 1."
            )

    def mirrored(self) -> Box:
        """Return the box on the other side of the vertical middle."""
        return Box(1 - self.x_center, self.y_center, self.width, self.height)


def ellipse(box: Box, size: tuple[int, int]) -> Bools:
    """Return which pixels (h, w) the ellipse through the box's corners holds.

    `size` is (w, h), as Pillow has it. The pixel at the box's centre always belongs.
    """
    width, height = size
    x = (np.arange(width) + 0.5) / width - box.x_center
    y = (np.arange(height) + 0.5) / height - box.y_center
    # An ellipse through the corners is √2 times as wide and as high as the box.
    across = np.square(x / (box.width / math.sqrt(2)))
    down = np.square(y / (box.height / math.sqrt(2)))
    mask = np.asarray(across[None, :] + down[:, None] <= 1)
    mask[np.abs(y).argmin(), np.abs(x).argmin()] = True
    return mask


def erase(image: Image.Image, box: Box, *, seed: int = 0) -> Image.Image:
    """Return a copy, RGB, without what is in the ellipse round a box.

    As `fill` does it; a ValueError is raised where the box fills the image.
    """
    return fill(image, ellipse(box, image.size), seed=seed)


def fill(image: Image.Image, mask: Bools, *, seed: int = 0) -> Image.Image:
    """Return a copy, RGB, whose masked pixels continue what surrounds them.

    The blurred surroundings are continued by scikit-image's biharmonic inpainting
    (Damelin and Hoang 2018) and kept within their range. On top comes noise that
    deviates as the rim does from its blur, the same in all channels: grey stays grey.

    Parameters
    ----------
    image
        In any mode.
    mask
        Which pixels (h, w) to fill.
    seed
        Of the noise.

    Raises
    ------
    ValueError
        If the mask is of another size, or leaves no pixel of the image.
    ImportError
        If scikit-image is not installed.
    """
    pixels = np.asarray(image.convert("RGB"), np.float64)
    if mask.shape != pixels.shape[:2]:
        raise ValueError(
            f"The mask is of shape {mask.shape}: it must be {pixels.shape[:2]}, the "
            "image's height and width."
        )
    if not mask.any():
        return image.convert("RGB")
    rim = binary_dilation(mask, iterations=RIM) & ~mask
    filled = _continued(pixels, mask)
    filled += _noise(pixels, mask, rim, seed)
    filled[~mask] = pixels[~mask]
    return Image.fromarray(np.clip(np.rint(filled), 0, 255).astype(np.uint8))


def _continued(pixels: Floats, mask: Bools) -> Floats:
    """Continue the blurred surroundings into the mask, (h, w, 3)."""
    try:
        from skimage.restoration import inpaint_biharmonic
    except ImportError as error:
        raise ImportError(
            "Erasing needs scikit-image: pip install scikit-image."
        ) from error
    step = math.ceil(math.sqrt(mask.sum() / MOST_PIXELS))
    blurred = _blurred(pixels, ~mask, max(SMOOTHING, step))
    # The filling is smooth, so that nothing is lost on every step-th pixel.
    offset = step // 2
    part = (slice(offset, None, step), slice(offset, None, step))
    small_mask = mask[part]
    if small_mask.all():
        raise ValueError("Nothing of the image would be left: mark a smaller part.")
    filled = inpaint_biharmonic(blurred[part], small_mask, channel_axis=-1)
    known = blurred[binary_dilation(mask) & ~mask]
    filled = np.clip(filled, known.min(axis=0), known.max(axis=0))
    if step == 1:
        return np.asarray(filled)
    places = [(axis - offset) / step for axis in np.indices(mask.shape)]
    channels = [
        map_coordinates(filled[..., channel], places, order=1, mode="nearest")
        for channel in range(filled.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def _blurred(pixels: Floats, known: Bools, sigma: float) -> Floats:
    """Blur pixels (h, w, c) of which only the known ones count."""
    weight = gaussian_filter(known.astype(np.float64), sigma)[..., None]
    total = gaussian_filter(pixels * known[..., None], (sigma, sigma, 0))
    return np.asarray(total / np.maximum(weight, 1e-9))


def _noise(pixels: Floats, mask: Bools, rim: Bools, seed: int) -> NDArray[np.float64]:
    """Draw noise (h, w, c) that deviates as the rim does from its blur."""
    detail = (pixels - _blurred(pixels, ~mask, SMOOTHING / 2))[rim]
    # The median is not moved by an edge that crosses the rim; 1.4826 makes a standard
    # deviation of it.
    deviation = 1.4826 * np.median(np.abs(detail), axis=0)
    white = np.random.default_rng(seed).normal(size=mask.shape)
    grainy = gaussian_filter(white, 0.7)  # neighbouring pixels resemble each other
    return np.asarray(grainy[..., None] / grainy.std() * deviation)


def keep(image: Image.Image, box: Box) -> Image.Image:
    """Return a copy, RGB, that is black outside the ellipse round a box."""
    pixels = np.array(image.convert("RGB"))
    pixels[~ellipse(box, image.size)] = 0
    return Image.fromarray(pixels)


def crop(image: Image.Image, box: Box, *, margin: float = 0.0) -> Image.Image:
    """Return the square around a box, RGB, moved where it would leave the image.

    Its side is the box's longer one and `margin` of that more on each side, and at most
    the image's shorter side.
    """
    if margin < 0:
        raise ValueError(f"margin={margin}: it must be 0 or more.")
    width, height = image.size
    longer = max(box.width * width, box.height * height)
    side = min(max(round(longer * (1 + 2 * margin)), 1), width, height)
    left = round(box.x_center * width - side / 2)
    top = round(box.y_center * height - side / 2)
    left = min(max(left, 0), width - side)
    top = min(max(top, 0), height - side)
    return image.convert("RGB").crop((left, top, left + side, top + side))
