"""What is shown in place of a marked object, beside the library's erased and kept one.

Controls for an erased tumour: another place in the head that is as bright, mirrored
tissue in place of a smooth filling, and the same ellipse on a healthy slice. And for
photographs on an even board: where the object is.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image
from scipy.ndimage import (
    binary_closing,
    binary_dilation,
    binary_fill_holes,
    binary_opening,
    distance_transform_edt,
    label,
)
from scipy.signal import fftconvolve

from cliplib.images.arrays import Bools, Floats
from cliplib.study.corruption import head_mask
from cliplib.tools.erase import RIM, Box, ellipse

IN_HEAD = 0.9
"""Share of an ellipse that has to lie in the head."""
FEATHER = 3.0
"""Pixels over which pasted tissue fades in."""
BOARD_DISTANCE = 6.0
"""From the board, in units of CIELAB, from which on a pixel is no board."""
OBJECT_SHARES = (0.01, 0.65)
"""Of the photograph: a smaller or a larger object was not cut out rightly."""
SAME_AREA = 0.8
"""Of a mask that has to be left where it is moved to."""
UNEVEN, DARK = 2.5, 60.0
"""Median error of the border, and mean lightness in CIELAB, of what is no board."""


def _grey_and_head(image: Image.Image) -> tuple[Floats, Bools]:
    """Return the grey levels of a slice and which pixels are the head, (h, w) both."""
    grey = np.asarray(image.convert("L"))
    return grey.astype(np.float64), head_mask(grey)


def box_elsewhere(image: Image.Image, box: Box) -> Box | None:
    """Return the place in the head that is most nearly as bright as a box.

    A box of the same size, whose ellipse does not meet that of the box itself; None
    where the head has no room for one.
    """
    grey, head = _grey_and_head(image)
    own = ellipse(box, image.size)
    # Means over the ellipse moved to every pixel at once.
    rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
    kernel = own[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float)
    kernel /= kernel.sum()

    def moved_mean(values: Floats | Bools) -> Floats:
        # Ellipses are symmetric: convolution and correlation are the same.
        return np.asarray(fftconvolve(values.astype(float), kernel, mode="same"))

    fits = moved_mean(head) >= IN_HEAD
    fits &= moved_mean(own) < 1e-6
    if not fits.any():
        return None
    difference = np.abs(moved_mean(grey) - grey[own].mean())
    y, x = np.unravel_index(np.where(fits, difference, np.inf).argmin(), fits.shape)
    height, width = fits.shape
    return Box((x + 0.5) / width, (y + 0.5) / height, box.width, box.height)


def first_in_head(image: Image.Image, boxes: Iterable[Box]) -> Box | None:
    """Return the first of some boxes that lies in the head, if any does."""
    _, head = _grey_and_head(image)
    for box in boxes:
        if head[ellipse(box, image.size)].mean() >= IN_HEAD:
            return box
    return None


def with_mirrored_tissue(image: Image.Image, box: Box) -> Image.Image | None:
    """Return a slice with tissue of the other side in the ellipse round a box.

    It is mirrored at the middle of the head, fades in over a few pixels, and is as
    bright at the rim as what surrounds it. None where the ellipse and its mirror meet,
    or the mirror lies outside the head.
    """
    grey, head = _grey_and_head(image)
    hole = ellipse(box, image.size)
    columns = np.flatnonzero(head.any(axis=0))
    twice_middle = columns[0] + columns[-1]
    source = np.clip(twice_middle - np.arange(grey.shape[1]), 0, grey.shape[1] - 1)
    touched = binary_dilation(hole, iterations=RIM)
    meets = (hole & touched[:, source]).any()
    if meets or head[:, source][hole].mean() < IN_HEAD:
        return None
    rim = touched & ~hole
    tissue = grey[:, source]
    tissue = tissue + np.median(grey[rim]) - np.median(tissue[rim])
    share = np.clip(distance_transform_edt(hole) / FEATHER, 0, 1)
    mixed = share * tissue + (1 - share) * grey
    pixels = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def object_on_board(image: Image.Image) -> Bools | None:
    """Return which pixels (h, w) show the object on an even board, with its shadow.

    The board is a quadratic surface, in each channel of CIELAB, through the
    photograph's border; what differs from it, closed and without holes, is the object.
    None where that is too little or too much to be right, or the border is uneven or
    dark: an object that fills the frame has no board.
    """
    from skimage.color import rgb2lab

    lab = rgb2lab(np.asarray(image.convert("RGB")))
    board, error = _board(lab)
    if error > UNEVEN or board[..., 0].mean() < DARK:
        return None
    distance = np.linalg.norm(lab - board, axis=2)
    differs = binary_opening(distance > BOARD_DISTANCE, iterations=1)
    whole = binary_fill_holes(binary_closing(differs, iterations=4))
    parts, _ = label(whole)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    # Specks on the board are no part of it; a lid beside its bottle is.
    large = sizes > max(0.1 * sizes.max(), 0.002 * parts.size)
    mask = np.asarray(binary_dilation(large[parts], iterations=5))
    smallest, largest = OBJECT_SHARES
    return mask if smallest <= mask.mean() <= largest else None


def _board(lab: Floats) -> tuple[Floats, float]:
    """Fit a surface (h, w, 3) to the border of lab; return its median error as well."""
    height, width = lab.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    border = np.ones((height, width), bool)
    border[8:-8, 8:-8] = False
    rows = terms[border]
    values = lab[border]
    kept = np.ones(len(rows), bool)
    for _ in range(5):  # an object may cross the border
        surface = np.linalg.lstsq(rows[kept], values[kept], rcond=None)[0]
        errors = np.linalg.norm(values - rows @ surface, axis=1)
        kept = errors <= max(2.5 * np.median(errors), 2.0)
    return np.asarray(terms @ surface), float(np.median(errors))


def moved_off(mask: Bools) -> Bools | None:
    """Return a mask moved by half the image, without what it shares with itself.

    None where less than `SAME_AREA` of it is left.
    """
    height, width = mask.shape
    moved = np.roll(mask, (height // 2, width // 2), axis=(0, 1))
    moved &= ~binary_dilation(mask, iterations=RIM)
    return moved if moved.sum() >= SAME_AREA * mask.sum() else None
