"""Hashes of training images: short, shipped, and found again in a copy."""

import io

import numpy as np
from PIL import Image

from cliplib.data.cache import map_images
from cliplib.features.hashes import image_hash
from cliplib.features.training_hashes import short_hashes, training_hashes


def smooth(seed: int) -> Image.Image:
    """Draw a picture of large blots."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return small.resize((180, 150), Image.Resampling.BICUBIC)


def compressed(image: Image.Image) -> Image.Image:
    """Return an image saved as a JPEG of half its size."""
    file = io.BytesIO()
    image.resize((90, 75)).save(file, "JPEG", quality=70)
    return Image.open(file)


def test_a_copy_differs_in_two_bits_at_most_and_another_image_in_many() -> None:
    pictures = [smooth(seed) for seed in range(6)]
    copies = [compressed(picture) for picture in pictures]
    (of_pictures,) = map_images(pictures, image_hash)
    (of_copies,) = map_images(copies, image_hash)
    pairs = short_hashes(of_pictures)[:, None] ^ short_hashes(of_copies)
    distance = np.bitwise_count(pairs)
    assert np.diag(distance).max() <= 2
    assert distance[~np.eye(6, dtype=bool)].min() > 10


def test_hashes_of_the_37575_training_images_are_shipped() -> None:
    hashes = training_hashes()
    assert hashes.dtype == np.uint64
    assert len(hashes) == 37_575
    assert (hashes[1:] >= hashes[:-1]).all()
    # As random bits would, about half of all bits are set.
    assert 0.4 < np.bitwise_count(hashes).mean() / 64 < 0.6
