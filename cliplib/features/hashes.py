"""What copies of an image are found by: digest, hash bits, grey levels, colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.fft import dct, dctn
from scipy.ndimage import gaussian_filter

from cliplib.data.arrays import Bools, Features, Floats, Ints, row_batches
from cliplib.data.cache import ImageFunction

# Side of the small grey image, in pixels.
GREY_SIDE = 64
# Number of the lowest frequencies in each direction that the hash keeps.
HASH_SIDE = 16
# Number of images whose detail is in memory at once.
IMAGES_AT_ONCE = 512

# How image b may be oriented relative to image a, such as "mirrored", and the function
# that turns squares of pixels (…, s, s) accordingly.
ORIENTATIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "": lambda squares: squares,
    "mirrored": lambda squares: squares[..., ::-1],
    "flipped": lambda squares: squares[..., ::-1, :],
    "turned 180°": lambda squares: squares[..., ::-1, ::-1],
    "turned 90° left": lambda squares: squares.swapaxes(-1, -2)[..., ::-1, :],
    "turned 90° right": lambda squares: squares.swapaxes(-1, -2)[..., ::-1],
    "transposed": lambda squares: squares.swapaxes(-1, -2),
    "transversed": lambda squares: squares.swapaxes(-1, -2)[..., ::-1, ::-1],
}

# Side of the colour thumbnail, in cells.
COLOUR_SIDE = 4
# Side of a block of the grey image, in pixels: an image has 8 × 8 blocks.
BLOCK_SIDE = 8
# Standard deviation of fine detail above which a block counts as detailed, and the
# number of detailed blocks below which an image is simple.
MIN_CONTRAST = 0.1
MIN_DETAILED_BLOCKS = 20
# Standard deviation of fine detail below which a block is of one colour, and the number
# of such blocks from which on an image is simple; photographs have none.
FLAT_CONTRAST = 0.01
MIN_FLAT_BLOCKS = 24
# Largest difference of two copies of a simple image, in grey levels. Copies differ by
# up to 15; each two of 1,797 handwritten digits differ by 40 or more.
MAX_SIMPLE_DIFFERENCE = 18
# An image is simple if 16 × 16 pixels lose less than this share of its contrast.
MAX_LOST = 0.1
# Share of pixels with one of the four most common of 64 grey levels, above which an
# image is a drawing.
MIN_DRAWN = 0.66

# What is kept of an image: a digest of its size and pixels; its hash in each
# orientation, 256 bits in four words; its grey levels; and its colours.
HASH_RECORD = np.dtype(
    [
        ("digest", "S16"),
        ("bits", "u8", (len(ORIENTATIONS), 4)),
        ("grey", "u1", (GREY_SIDE, GREY_SIDE)),
        ("colours", "u1", (3, COLOUR_SIDE, COLOUR_SIDE)),
    ]
)


def _hash(images: list[Image.Image]) -> NDArray[np.uint8]:
    """Return the `HASH_RECORD` of each of n images, as bytes (n, 4416)."""
    records = np.zeros(len(images), HASH_RECORD)
    records["digest"] = [_pixel_digest(image) for image in images]
    records["grey"] = [_small_grey(image) for image in images]
    turned = [orient(records["grey"]) for orient in ORIENTATIONS.values()]
    records["bits"] = low_frequency_bits(np.stack(turned, axis=1), HASH_SIDE)
    records["colours"] = [_colours(image) for image in images]
    return records.view(np.uint8).reshape(len(images), -1)


def hash_records(hashes: ArrayLike) -> NDArray[Any]:
    """View the result of `image_hash`, (n, 4416), as records of `HASH_RECORD`, (n,).

    ValueError for any other array, such as features or hashes of an older release.
    """
    rows = np.asarray(hashes)
    if rows.dtype != np.uint8 or rows.shape[1:] != (HASH_RECORD.itemsize,):
        raise ValueError(
            "Give images, or what image_hash makes of them, (n, "
            f"{HASH_RECORD.itemsize}) of uint8, and not {rows.shape} of {rows.dtype}."
        )
    return np.ascontiguousarray(rows).view(HASH_RECORD)[:, 0]


def _pixel_digest(image: Image.Image) -> bytes:
    """Return 16 bytes that only RGB images of the same size and pixels share."""
    return xxhash.xxh3_128_digest(f"{image.size}".encode() + image.tobytes())


def _small_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Return the grey levels, 0 to 255, of an image squeezed to a square, (64, 64)."""
    grey = image.convert("L")
    size = (GREY_SIDE, GREY_SIDE)
    # For speed, a large image is first shrunk by a whole factor, to no less than three
    # times this size, so that the result hardly changes.
    return np.asarray(grey.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _colours(image: Image.Image) -> NDArray[np.uint8]:
    """Return the mean colours of an image's 4 × 4 cells, (3, 4, 4)."""
    size = (COLOUR_SIDE, COLOUR_SIDE)
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=3.0)
    return np.asarray(small).transpose(2, 0, 1)


def tints(colours: NDArray[np.uint8]) -> Floats:
    """Return colour thumbnails (…, 3, s, s) less each cell's brightness: grey is 0."""
    return np.asarray(colours - colours.mean(axis=-3, keepdims=True))


def low_frequency_bits(grey: NDArray[Any], side: int) -> NDArray[np.uint64]:
    """Return which of the lowest frequencies of squares (…, s, s) are strong.

    Each bit stands for one of the side × side lowest frequencies of the discrete cosine
    transform, and says whether it is above their median, as in ``imagehash.phash``. The
    result is (…, words), each word of 64 bits.
    """
    rows = dct(grey.astype(np.float64), axis=-2)[..., :side, :]
    low = dct(rows, axis=-1)[..., :side].reshape(*grey.shape[:-2], side**2)
    above_median = low > np.median(low, axis=-1, keepdims=True)
    return np.packbits(above_median, axis=-1).view(np.uint64)


def fine_detail(grey: Features, sigma: float = 1.0, noise: float = 16.0) -> Features:
    """Return squares (…, s, s) less their local mean, divided by their local contrast.

    Local means are Gaussian, of width `sigma` in pixels. The local contrast is the root
    mean square of what is left (Jarrett et al., ICCV 2009, section 2.2). `noise`, in
    grey levels, is added to it, so that noise in even areas does not become detail.
    """
    widths = (0,) * (grey.ndim - 2) + (sigma, sigma)  # not across images
    fine = grey - gaussian_filter(grey, widths)
    return np.asarray(fine / (np.sqrt(gaussian_filter(fine**2, widths)) + noise))


def quantised_detail(grey: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return the `fine_detail` of grey images (n, s, s), rounded to int8.

    Each image is scaled to a largest absolute value of 127; a flat one is all 0.
    """
    detail = np.empty(grey.shape, np.int8)
    # In batches, since the intermediate float32 arrays take four times the memory.
    for batch in row_batches(len(grey), IMAGES_AT_ONCE):
        fine = fine_detail(grey[batch].astype(np.float32))
        peak = np.abs(fine).max(axis=(1, 2), keepdims=True)
        detail[batch] = np.rint(127 * fine / np.maximum(peak, 1e-3))
    return detail


def are_simple(grey: NDArray[np.uint8]) -> Bools:
    """Return whether each grey image (n, 64, 64) has too little detail to identify it.

    Different simple images can agree in all their detail. An image is simple if few of
    its blocks hold detail, or many are flat, as in icons and drawings; or if 16 × 16
    pixels suffice to draw it, as with a small image that was enlarged.
    """
    levels = grey.astype(np.float32)
    n_blocks = GREY_SIDE // BLOCK_SIDE
    blocks = (len(levels), n_blocks, BLOCK_SIDE, n_blocks, BLOCK_SIDE)
    contrast = fine_detail(levels).reshape(blocks).std(axis=(2, 4))
    has_few_detailed = (contrast > MIN_CONTRAST).sum(axis=(1, 2)) < MIN_DETAILED_BLOCKS
    has_many_flat = (contrast < FLAT_CONTRAST).sum(axis=(1, 2)) >= MIN_FLAT_BLOCKS
    sum_of_squares = levels.var(axis=(1, 2)) * GREY_SIDE**2
    is_enlarged = _loss_at_sixteen_pixels(levels) < MAX_LOST**2 * sum_of_squares
    return np.asarray(has_few_detailed | has_many_flat | is_enlarged)


def _loss_at_sixteen_pixels(levels: Features) -> Features:
    """Return the squared error of images (n, 64, 64) drawn with 16 × 16 pixels, (n,).

    They are enlarged again either pixel by pixel or smoothly; the smaller error counts.
    """
    cells = levels.reshape(-1, 16, 4, 16, 4)
    deviations = cells - cells.mean(axis=(2, 4), keepdims=True)
    loss_of_cells = (deviations**2).sum(axis=(1, 2, 3, 4))
    frequencies = dctn(levels, axes=(1, 2), norm="ortho")
    frequencies[:, :16, :16] = 0  # which a smooth enlargement keeps
    loss_of_smooth = (frequencies**2).sum(axis=(1, 2))
    return np.asarray(np.minimum(loss_of_cells, loss_of_smooth))


def are_drawings(grey: NDArray[np.uint8]) -> Bools:
    """Return whether each grey image (n, 64, 64) has few grey levels: a drawing."""
    counts = [np.bincount(image.ravel() // 4, minlength=64) for image in grey]
    sorted_counts = np.sort(np.reshape(counts, (-1, 64)), axis=1)
    return np.asarray(sorted_counts[:, -4:].sum(axis=1) > MIN_DRAWN * GREY_SIDE**2)


def one_is_simple(grey: NDArray[np.uint8], rows_a: Ints, rows_b: Ints) -> Bools:
    """Return whether at least one image of each pair of rows, (p,), is simple."""
    rows, positions = np.unique([rows_a, rows_b], return_inverse=True)
    is_simple = np.zeros(len(rows), bool)
    for batch in row_batches(len(rows), IMAGES_AT_ONCE):
        is_simple[batch] = are_simple(grey[rows[batch]])
    return np.asarray(is_simple[positions.reshape(2, -1)].any(axis=0))


def largest_difference(a: NDArray[Any], b: NDArray[Any], shared: Bools) -> float:
    """Return the largest difference of two squares (s, s) anywhere, in grey levels.

    Both are first brought to the same brightness, and to the contrast of the square
    with less contrast. Only pixels where `shared` (s, s) is true count.
    """
    contrast_a = max(a[shared].std(), 1.0)
    contrast_b = max(b[shared].std(), 1.0)
    difference = (a - a[shared].mean()) / contrast_a
    difference -= (b - b[shared].mean()) / contrast_b
    difference[~shared] = 0
    smooth = gaussian_filter(difference, 1.5)  # edges may be displaced by half a pixel
    return float(np.abs(smooth).max() * min(contrast_a, contrast_b))


image_hash = ImageFunction("image_hash_3", _hash)
"""What near-duplicates are found by, (n, 4416) uint8. The row of an unreadable image is
zeros, which match nothing."""
