"""Images of a folder that the embedded encoder was trained on.

Its training images are known by hashes of 64 bits, those of the 8 × 8 lowest
frequencies of `image_hash`, which has 16 × 16. Copies of another size or compression
nearly always differ in two bits at most; a crop by three hundredths of each side is not
found.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from cliplib.data.arrays import Bools
from cliplib.features.hamming import close_hashes
from cliplib.features.hashes import (
    HASH_SIDE,
    hash_records,
    quantised_detail,
)

# Of 37,575 images, sorted; ``study.recipe.hashes`` writes it.
FILE = files("cliplib") / "mini" / "training_hashes.npy"
# Fingerprints of the encoder that was trained on them, in float32 and bfloat16.
FINGERPRINTS = ("af90344f40a74abf93ac3fb66c65e06e", "7fe77b287d8f118dee1eaec8e2a1b938")
SHORT_SIDE = 8  # lowest frequencies in each direction
# Hashes of 64 bits that differ in so many are of one image.
MOST_BITS = 2
# Images whose detail deviates less are empty; their hashes mean nothing.
FLAT = 1.0


def find_training_overlap(hashes: NDArray[np.uint8]) -> Bools:
    """Tell which images the embedded model, "mini", was trained on, (n,).

    Copies of another size or compression are found as well; cropped ones are not. Of
    other models' training images nothing is known here.

    Parameters
    ----------
    hashes
        What `image_hash` gives for n images that can be read, (n, 4416).
    """
    detail = quantised_detail(hash_records(hashes)["grey"])
    rows = np.flatnonzero(detail.std(axis=(1, 2)) >= FLAT)
    short = short_hashes(hashes[rows])[:, None, None]
    was_seen = np.zeros(len(hashes), bool)
    # Some pairs at a time: which of `short`, with which training hash, and how turned.
    for close, _, _ in close_hashes(short, training_hashes()[:, None], MOST_BITS):
        was_seen[rows[close]] = True
    return was_seen


def training_hashes() -> NDArray[np.uint64]:
    """Return the hashes of the images that the embedded model was trained on, (n,)."""
    with FILE.open("rb") as file:
        return np.asarray(np.load(file), np.uint64)


def short_hashes(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Shorten what `image_hash` gives, (n, bytes), to 64 bits an image, (n,).

    Images are hashed as they are, upright. An unreadable image has the hash 0.
    """
    words = np.ascontiguousarray(hash_records(hashes)["bits"][:, 0])
    bits = np.unpackbits(words.view(np.uint8), axis=1)
    square = bits.reshape(-1, HASH_SIDE, HASH_SIDE)
    lowest = square[:, :SHORT_SIDE, :SHORT_SIDE].reshape(-1, SHORT_SIDE**2)
    return np.packbits(lowest, axis=1).view(np.uint64)[:, 0]
