"""Images of a folder that the embedded encoder was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliplib.data.arrays import Ints
from cliplib.data.cache import FeatureCache, map_images
from cliplib.data.image import ImageSource
from cliplib.features.hamming import close_hashes
from cliplib.features.hashes import hash_records, image_hash, quantised_detail
from cliplib.features.training_hashes import short_hashes, training_hashes

MOST_BITS = 2
"""Hashes of 64 bits that differ in so many are of one image."""
FLAT = 1.0
"""Images whose detail deviates less are empty; their hashes mean nothing."""
NOTABLE_IMAGES = 20
NOTABLE_SHARE = 0.05
"""Fewer images, and a smaller share, may be chance among products on white."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Which images the encoder was trained on: their rows, of n images in all."""

    rows: Ints
    n_images: int

    @property
    def share(self) -> float:
        """The share of the images that it was trained on."""
        return len(self.rows) / self.n_images

    @property
    def notable(self) -> bool:
        """Whether they are too many for chance: 20 images and 5% at least."""
        return len(self.rows) >= NOTABLE_IMAGES and self.share >= NOTABLE_SHARE


def seen_in_training(
    images: Sequence[ImageSource], *, cache: FeatureCache | None = None
) -> Seen:
    """Find the images that the embedded model, "mini", was trained on.

    Copies of another size or compression are found as well; cropped ones are not. Of
    other models' training images nothing is known here.

    Parameters
    ----------
    images
        n images that can be read.
    cache
        Where their hashes are kept.
    """
    (hashes,) = map_images(images, image_hash, cache=cache)
    return Seen(_rows_seen(hashes), len(images))


def _rows_seen(hashes: NDArray[np.uint8]) -> Ints:
    detail = quantised_detail(hash_records(hashes)["grey"])
    rows = np.flatnonzero(detail.std(axis=(1, 2)) >= FLAT)
    short = short_hashes(hashes[rows])[:, None, None]
    close = close_hashes(short, training_hashes()[:, None], MOST_BITS)
    seen = [np.zeros(0, np.int64), *(rows_seen for rows_seen, *_ in close)]
    return np.asarray(rows[np.unique(np.concatenate(seen))])
