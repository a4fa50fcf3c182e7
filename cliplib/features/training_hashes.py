"""Hashes of the images that the embedded model was trained on, 64 bits each.

They are the bits of the 8 × 8 lowest frequencies of ``image_hash``, which has 16 × 16.
Copies of another size or compression nearly always differ in two bits at most; a crop
by three hundredths of each side is not found.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from cliplib.features.hashes import HASH_RECORD, HASH_SIDE

FILE = files("cliplib") / "mini" / "training_hashes.npy"
"""Of 37,575 images, sorted; ``study.recipe.hashes`` writes it."""
SHORT_SIDE = 8  # lowest frequencies in each direction


def training_hashes() -> NDArray[np.uint64]:
    """Return the hashes of the images that the embedded model was trained on, (n,)."""
    with FILE.open("rb") as file:
        return np.asarray(np.load(file), np.uint64)


def short_hashes(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Shorten what ``image_hash`` gives, (n, bytes), to 64 bits an image, (n,).

    Images are hashed as they are, upright. An unreadable image has the hash 0.
    """
    records = np.ascontiguousarray(hashes).view(HASH_RECORD)[:, 0]
    words = np.ascontiguousarray(records["bits"][:, 0])
    bits = np.unpackbits(words.view(np.uint8), axis=1)
    square = bits.reshape(-1, HASH_SIDE, HASH_SIDE)
    lowest = square[:, :SHORT_SIDE, :SHORT_SIDE].reshape(-1, SHORT_SIDE**2)
    return np.packbits(lowest, axis=1).view(np.uint64)[:, 0]
