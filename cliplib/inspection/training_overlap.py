"""Images of a folder that the embedded encoder was trained on.

Hashes of its training images are stored. They have 64 bits, for the 8 × 8 lowest
frequencies of the 16 × 16 of `image_hash`. Copies with another size or compression
nearly always differ in at most two bits. Crops are not found, not even one by 3% of
each side.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from cliplib.data.arrays import Bools
from cliplib.features.hamming import close_hashes
from cliplib.features.hashes import HASH_SIDE, hash_records, quantised_detail

# The sorted hashes of 37,575 training images, written by ``study.recipe.hashes``.
FILE = files("cliplib") / "mini" / "training_hashes.npy"
# Fingerprints of the encoder that was trained on them, in float32 and bfloat16.
FINGERPRINTS = ("af90344f40a74abf93ac3fb66c65e06e", "7fe77b287d8f118dee1eaec8e2a1b938")
# Number of lowest frequencies in each direction that a short hash has.
SHORT_SIDE = 8
# Largest number of bits, of 64, in which the hashes of copies differ.
MOST_BITS = 2
# Least standard deviation of an image's detail; below it, a hash means nothing.
FLAT = 1.0


def find_training_overlap(hashes: NDArray[np.uint8]) -> Bools:
    """Tell which images the embedded model, "mini", was trained on, (n,).

    Copies with another size or compression are found, too, but not crops. The training
    images of other models are unknown.

    Parameters
    ----------
    hashes
        Results of `image_hash` for n readable images, (n, 4416).
    """
    detail = quantised_detail(hash_records(hashes)["grey"])
    rows = np.flatnonzero(detail.std(axis=(1, 2)) >= FLAT)
    short = short_hashes(hashes[rows])[:, None, None]
    was_seen = np.zeros(len(hashes), bool)
    # Batches of pairs: numbers in `short`, numbers of training hashes, and orientation.
    batches = close_hashes(short, training_hashes()[:, None], MOST_BITS)
    for numbers_in_short, _, _ in batches:
        was_seen[rows[numbers_in_short]] = True
    return was_seen


def training_hashes() -> NDArray[np.uint64]:
    """Return the hashes of the images that the embedded model was trained on, (n,)."""
    with FILE.open("rb") as file:
        return np.asarray(np.load(file), np.uint64)


def short_hashes(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Shorten results of `image_hash`, (n, bytes), to 64 bits for each image, (n,).

    Only the hash of the upright image is used. An unreadable image has the hash 0.
    """
    words = np.ascontiguousarray(hash_records(hashes)["bits"][:, 0])
    bits = np.unpackbits(words.view(np.uint8), axis=1)
    square = bits.reshape(-1, HASH_SIDE, HASH_SIDE)
    lowest = square[:, :SHORT_SIDE, :SHORT_SIDE].reshape(-1, SHORT_SIDE**2)
    return np.packbits(lowest, axis=1).view(np.uint64)[:, 0]
