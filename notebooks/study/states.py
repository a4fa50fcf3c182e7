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

from cliplib.data.arrays import Bools, Floats
from cliplib.inspection.erase import RIM, Box, ellipse
from study.corruption import head_mask

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
UNEVEN = 2.5
"""Median error of the fit to the border, in CIELAB, above which there is no board."""
DARK = 60.0
"""Mean lightness in CIELAB, 0 to 100, below which there is no board."""


def _grey_and_head(image: Image.Image) -> tuple[Floats, Bools]:
    """Return grey levels, 0 to 255, and a mask of the head of a slice, (h, w) both."""
    grey = np.asarray(image.convert("L"))
    return grey.astype(np.float64), head_mask(grey)


def keep(image: Image.Image, box: Box) -> Image.Image:
    """Return a copy, RGB, that is black outside the ellipse round a box."""
    pixels = np.array(image.convert("RGB"))
    pixels[~ellipse(box, image.size)] = 0
    return Image.fromarray(pixels)


def box_elsewhere(image: Image.Image, box: Box) -> Box | None:
    """Return a box of the same size elsewhere in the head, as bright as can be found.

    Of all places where its ellipse lies in the head and does not meet that of the box,
    it is the one whose mean grey level is nearest to the box's; None if there is none.
    """
    grey, head = _grey_and_head(image)
    in_box = ellipse(box, image.size)  # (h, w)
    inside_head = _means_over_ellipse(head, in_box) >= IN_HEAD
    overlap = _means_over_ellipse(in_box, in_box)
    is_apart = overlap < 1e-6  # 0, but for the rounding of the convolution
    fits = inside_head & is_apart
    if not fits.any():
        return None
    difference = np.abs(_means_over_ellipse(grey, in_box) - grey[in_box].mean())
    least = np.where(fits, difference, np.inf).argmin()
    y, x = np.unravel_index(least, fits.shape)
    height, width = fits.shape
    # The middle of that pixel, in shares of the sides.
    return Box((x + 0.5) / width, (y + 0.5) / height, box.width, box.height)


def _means_over_ellipse(values: Floats | Bools, mask: Bools) -> Floats:
    """Return the means of `values` over an ellipse round each of the pixels, (h, w).

    The ellipse is that of `mask`, (h, w), moved; it lies within the image as a whole,
    as that of a box does. Outside the image values count as 0.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    cut_out = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    weights = cut_out.astype(float)
    weights /= weights.sum()
    # An ellipse is symmetric: but for single pixels of its rim, convolution, which
    # turns the weights by 180°, is correlation.
    return np.asarray(fftconvolve(values.astype(float), weights, mode="same"))


def first_in_head(image: Image.Image, boxes: Iterable[Box]) -> Box | None:
    """Return the first box with `IN_HEAD` of its ellipse in the head; None if none."""
    _, head = _grey_and_head(image)
    for box in boxes:
        if head[ellipse(box, image.size)].mean() >= IN_HEAD:
            return box
    return None


def with_mirrored_tissue(image: Image.Image, box: Box) -> Image.Image | None:
    """Return a slice with tissue of the other side in the ellipse round a box.

    The tissue is mirrored at the middle of the head, fades in over `FEATHER` pixels,
    and is shifted in brightness to fit what surrounds it. None where the ellipse and
    its mirror image meet, or less than `IN_HEAD` of the mirror image is in the head.
    """
    grey, head = _grey_and_head(image)
    hole = ellipse(box, image.size)  # (h, w)
    head_columns = np.flatnonzero(head.any(axis=0))
    twice_middle = head_columns[0] + head_columns[-1]
    width = grey.shape[1]
    # Of each column of the image, the number of the one that lies opposite.
    opposite = np.clip(twice_middle - np.arange(width), 0, width - 1)
    with_rim = binary_dilation(hole, iterations=RIM)
    meets = (hole & with_rim[:, opposite]).any()
    if meets or head[:, opposite][hole].mean() < IN_HEAD:
        return None
    rim = with_rim & ~hole
    tissue = grey[:, opposite]
    tissue = tissue + np.median(grey[rim]) - np.median(tissue[rim])
    pixels_from_edge = distance_transform_edt(hole)  # 0 outside the hole
    opacity = np.clip(pixels_from_edge / FEATHER, 0, 1)
    mixed = opacity * tissue + (1 - opacity) * grey
    pixels = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def object_on_board(image: Image.Image) -> Bools | None:
    """Return which pixels (h, w) show the object on an even board, with its shadow.

    The board is a quadratic surface, in each channel of CIELAB, fitted to the border of
    the photograph; what is further than `BOARD_DISTANCE` from it, its gaps closed, is
    the object. None where its area is not within `OBJECT_SHARES`, the border is uneven,
    or the fitted surface dark: around an object that fills the frame there is no board.
    """
    from skimage.color import rgb2lab

    lab = rgb2lab(np.asarray(image.convert("RGB")))
    board, error_at_border = _board(lab)
    lightness = board[..., 0]
    if error_at_border > UNEVEN or lightness.mean() < DARK:
        return None
    distance = np.linalg.norm(lab - board, axis=2)
    # Widths are in pixels, for TrashNet's photographs of about 256 by 341.
    differs = binary_opening(distance > BOARD_DISTANCE, iterations=1)
    filled = binary_fill_holes(binary_closing(differs, iterations=4))
    # Connected parts are numbered from 1; 0 is the board.
    part_of_pixel, _ = label(filled)
    sizes = np.bincount(part_of_pixel.ravel())  # in pixels
    sizes[0] = 0
    # Specks on the board do not belong to the object; a lid beside its bottle does.
    is_large = sizes > max(0.1 * sizes.max(), 0.002 * part_of_pixel.size)
    # Wider by 5 pixels, so that nothing of its rim is left out.
    mask = np.asarray(binary_dilation(is_large[part_of_pixel], iterations=5))
    smallest, largest = OBJECT_SHARES
    if not smallest <= mask.mean() <= largest:
        return None
    return mask


def _board(lab: Floats) -> tuple[Floats, float]:
    """Fit a quadratic surface to the border, 8 pixels wide, of an image in CIELAB.

    Returns the surface and the median distance of the border from it; image and surface
    are (h, w, 3). It is fitted five times: as an object may cross the border, pixels
    far from the last surface are left out.
    """
    height, width = lab.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)  # (h, w, 6)
    is_border = np.ones((height, width), bool)
    is_border[8:-8, 8:-8] = False
    border_terms = terms[is_border]  # (pixels, 6)
    border_lab = lab[is_border]  # (pixels, 3)
    is_fitted = np.ones(len(border_lab), bool)
    for _ in range(5):
        coefficients, *_ = np.linalg.lstsq(  # (6, 3)
            border_terms[is_fitted], border_lab[is_fitted], rcond=None
        )
        errors = np.linalg.norm(border_lab - border_terms @ coefficients, axis=1)
        is_fitted = errors <= max(2.5 * np.median(errors), 2.0)
    return np.asarray(terms @ coefficients), float(np.median(errors))


def moved_off(mask: Bools) -> Bools | None:
    """Return a mask (h, w) moved by half the image, down and to the right.

    What leaves the image on one side comes in on the other. Pixels that meet the mask
    in its old place, or its rim, are left out; None where less than `SAME_AREA` of the
    mask remains.
    """
    height, width = mask.shape
    moved = np.roll(mask, (height // 2, width // 2), axis=(0, 1))
    moved &= ~binary_dilation(mask, iterations=RIM)
    if moved.sum() < SAME_AREA * mask.sum():
        return None
    return moved
