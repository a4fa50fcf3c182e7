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

# Pixels of the small grey image, in each direction.
GREY_SIDE = 64
# Lowest frequencies in each direction, which the hash keeps.
HASH_SIDE = 16
# Images whose detail is in memory together.
IMAGES_AT_ONCE = 512

# What image b may be of image a, such as "mirrored", and the function that turns
# squares of pixels (…, s, s) into that.
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

# Cells of the colour thumbnail in each direction.
COLOUR_SIDE = 4
# Pixels of a block of the grey image, in each direction: there are 64 blocks.
BLOCK_SIDE = 8
# Of detail in a block that holds some, and how many such an image has that is not
# simple.
MIN_CONTRAST = 0.1
MIN_DETAILED_BLOCKS = 20
# Of detail in a block of one colour, and how many such a drawing has; photographs have
# none.
FLAT_CONTRAST = 0.01
MIN_FLAT_BLOCKS = 24
# Of 1,797 digits, all pairs differ by 40 grey levels somewhere; simple copies by 15.
MAX_SIMPLE_DIFFERENCE = 18
# Share of a simple image's contrast that is lost when 16 pixels a side draw it.
MAX_LOST = 0.1
# Share of a drawing's pixels that have the most common four of 64 grey levels.
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
    """Return what is kept of n images, a `HASH_RECORD` each, as bytes (n, 4416)."""
    records = np.zeros(len(images), HASH_RECORD)
    records["digest"] = [_pixel_digest(image) for image in images]
    records["grey"] = [_small_grey(image) for image in images]
    records["bits"] = _hash_bits(records["grey"])
    records["colours"] = [_colours(image) for image in images]
    return records.view(np.uint8).reshape(len(images), -1)


def hash_records(hashes: ArrayLike) -> NDArray[Any]:
    """View what `image_hash` returns, (n, 4416), as records of `HASH_RECORD`, (n,).

    ValueError for what is no such array, as features or hashes of an older release.
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
    """Return an image's grey levels, 0 to 255, squeezed to a square, (64, 64)."""
    grey = image.convert("L")
    size = (GREY_SIDE, GREY_SIDE)
    # A large image is first shrunk by a whole factor, which is fast, to three times
    # this size or more, so that the answer hardly changes.
    return np.asarray(grey.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _colours(image: Image.Image) -> NDArray[np.uint8]:
    """Return the mean colours of an image's 4 × 4 parts, (3, 4, 4)."""
    size = (COLOUR_SIDE, COLOUR_SIDE)
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=3.0)
    return np.asarray(small).transpose(2, 0, 1)


def tints(colours: NDArray[np.uint8]) -> Floats:
    """Return thumbnails (n, 3, s, s) less the brightness of each part: grey is 0."""
    return np.asarray(colours - colours.mean(axis=1, keepdims=True))


def _hash_bits(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash grey images (n, s, s) in each of 8 orientations: (n, 8, 4) words of 64 bits.

    Each bit says whether one of the 16 × 16 lowest frequencies is above their median.
    """
    turned = [orient(grey) for orient in ORIENTATIONS.values()]
    return low_frequency_bits(np.stack(turned, axis=1), HASH_SIDE)


def low_frequency_bits(grey: NDArray[Any], side: int) -> NDArray[np.uint64]:
    """Return which of the lowest frequencies of squares (…, s, s) are strong.

    Of side × side frequencies (of the discrete cosine transform) each bit says whether
    it is above their median, as in ``imagehash.phash``. The answer is (…, words), of 64
    bits each.
    """
    rows = dct(grey.astype(np.float64), axis=-2)[..., :side, :]
    low = dct(rows, axis=-1)[..., :side].reshape(*grey.shape[:-2], side**2)
    above_median = low > np.median(low, axis=-1, keepdims=True)
    return np.packbits(above_median, axis=-1).view(np.uint64)


def fine_detail(grey: Features, sigma: float = 1.0, noise: float = 16.0) -> Features:
    """Return squares (…, s, s) less their local mean, over their local contrast.

    The contrast is the root mean square of what is left (Jarrett et al., ICCV 2009,
    section 2.2). Local means are Gaussian. `noise`, in grey levels, is added to the
    contrast, so that noise in even parts does not become detail.
    """
    widths = (0,) * (grey.ndim - 2) + (sigma, sigma)  # not across images
    fine = grey - gaussian_filter(grey, widths)
    return np.asarray(fine / (np.sqrt(gaussian_filter(fine**2, widths)) + noise))


def quantised_detail(grey: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return the `fine_detail` of grey images (n, s, s) in whole numbers up to 127.

    Each image is scaled to a largest absolute value of 127; a flat one is all 0.
    """
    detail = np.empty(grey.shape, np.int8)
    # In batches, since on the way they are four times this.
    for batch in row_batches(len(grey), IMAGES_AT_ONCE):
        fine = fine_detail(grey[batch].astype(np.float32))
        peak = np.abs(fine).max(axis=(1, 2), keepdims=True)
        detail[batch] = np.rint(127 * fine / np.maximum(peak, 1e-3))
    return detail


def are_simple(grey: NDArray[np.uint8]) -> Bools:
    """Return whether each grey image (n, 64, 64) holds too little detail to tell by.

    A simple image holds detail in few of its parts, as an icon or a drawing does, or is
    a small image enlarged: 16 × 16 pixels draw it as well. Different ones can look
    alike in all the detail that they have.
    """
    levels = grey.astype(np.float32)
    n_blocks = GREY_SIDE // BLOCK_SIDE
    blocks = (len(levels), n_blocks, BLOCK_SIDE, n_blocks, BLOCK_SIDE)
    contrast = fine_detail(levels).reshape(blocks).std(axis=(2, 4))
    has_few_parts = (contrast > MIN_CONTRAST).sum(axis=(1, 2)) < MIN_DETAILED_BLOCKS
    is_mostly_flat = (contrast < FLAT_CONTRAST).sum(axis=(1, 2)) >= MIN_FLAT_BLOCKS
    squared_contrast = levels.var(axis=(1, 2)) * GREY_SIDE**2
    is_enlarged = _lost_by_sixteen_pixels(levels) < MAX_LOST**2 * squared_contrast
    return np.asarray(has_few_parts | is_mostly_flat | is_enlarged)


def _lost_by_sixteen_pixels(levels: Features) -> Features:
    """Return the sum of squares that images (n, 64, 64) lose at 16 × 16 pixels, (n,).

    These are enlarged again, each pixel to a square, or smoothly: the lesser loss.
    """
    pixels = levels.reshape(-1, 16, 4, 16, 4)
    beside_mean = pixels - pixels.mean(axis=(2, 4), keepdims=True)
    lost_by_squares = (beside_mean**2).sum(axis=(1, 2, 3, 4))
    frequencies = dctn(levels, axes=(1, 2), norm="ortho")
    frequencies[:, :16, :16] = 0  # which the smooth ones keep
    lost_smoothly = (frequencies**2).sum(axis=(1, 2))
    return np.asarray(np.minimum(lost_by_squares, lost_smoothly))


def are_drawings(grey: NDArray[np.uint8]) -> Bools:
    """Return whether each image (n, 64, 64) has few grey levels, as a drawing has."""
    counts = [np.bincount(image.ravel() // 4, minlength=64) for image in grey]
    sorted_counts = np.sort(np.reshape(counts, (-1, 64)), axis=1)
    return np.asarray(sorted_counts[:, -4:].sum(axis=1) > MIN_DRAWN * GREY_SIDE**2)


def one_is_simple(grey: NDArray[np.uint8], rows_a: Ints, rows_b: Ints) -> Bools:
    """Return whether one image of each pair, (p,), is a simple one."""
    rows, place = np.unique([rows_a, rows_b], return_inverse=True)
    is_simple = np.zeros(len(rows), bool)
    for batch in row_batches(len(rows), IMAGES_AT_ONCE):
        is_simple[batch] = are_simple(grey[rows[batch]])
    return np.asarray(is_simple[place.reshape(2, -1)].any(axis=0))


def largest_difference(a: NDArray[Any], b: NDArray[Any], shared: Bools) -> float:
    """Return how many grey levels two squares (s, s) differ where they do most.

    Brightness and contrast are made the same before: those of the square of less
    contrast. Places that are not shared, (s, s), do not count.
    """
    contrast_a = max(a[shared].std(), 1.0)
    contrast_b = max(b[shared].std(), 1.0)
    difference = (a - a[shared].mean()) / contrast_a
    difference -= (b - b[shared].mean()) / contrast_b
    difference[~shared] = 0
    smooth = gaussian_filter(difference, 1.5)  # since edges lie between pixels
    return float(np.abs(smooth).max() * min(contrast_a, contrast_b))


image_hash = ImageFunction("image_hash_3", _hash)
"""What near-duplicates are found by, (n, 4416) uint8. The row of an unreadable image is
zeros, which match nothing."""
