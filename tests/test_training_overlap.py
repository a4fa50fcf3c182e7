"""Images that the embedded encoder was trained on are found again, and no others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cliplib.data.cache import map_images
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.hashes import image_hash
from cliplib.inspection import training_overlap as module
from cliplib.inspection.training_overlap import (
    find_training_overlap,
    short_hashes,
    training_hashes,
)


def smooth(seed: int) -> Image.Image:
    """Draw a picture of large blots."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return small.resize((180, 150), Image.Resampling.BICUBIC)


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[Image.Image]:
    """Images of which the encoder's training hashes are, for once."""
    images = [smooth(seed) for seed in range(25)]
    (hashes,) = map_images(images, image_hash)
    known = np.sort(short_hashes(hashes))
    monkeypatch.setattr(module, "training_hashes", lambda: known)
    return images


def test_copies_of_training_images_are_found(trained_on: list[Image.Image]) -> None:
    smaller = [image.resize((90, 75)) for image in trained_on]
    others = [smooth(seed) for seed in range(100, 140)]
    found = find_training_overlap(*map_images([*others, *smaller], image_hash))
    assert found.tolist() == [False] * 40 + [True] * 25


def test_flat_images_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = [Image.new("RGB", (60, 60), (level, 90, 90)) for level in (0, 120)]
    (hashes,) = map_images(flat, image_hash)
    monkeypatch.setattr(module, "training_hashes", lambda: short_hashes(hashes))
    assert not find_training_overlap(hashes).any()


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_embedded_encoder_is_known_by_its_fingerprint(dtype: str) -> None:
    encoder = ClipEncoder("mini", cache=None, dtype=dtype)
    assert encoder.fingerprint in module.FINGERPRINTS
