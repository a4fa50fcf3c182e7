"""The quick preprocessing: the same bits as the processor's, for every size and setting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from cliplib.encoder import preprocess
from cliplib.encoder.preprocess import Preprocessor
from cliplib.errors import CliplibError

SIZES = [(224, 224), (256, 341), (341, 256), (500, 375), (225, 224), (224, 231), (1, 1), (17, 3), (3, 90), (640, 97)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def reference(processor: Any, image: Image.Image) -> np.ndarray:
    pixels: np.ndarray = processor(images=image, return_tensors="np")["pixel_values"][0]
    return pixels


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}},
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 33, "width": 33}, "resample": 2},
        {"size": {"height": 48, "width": 64}, "crop_size": {"height": 48, "width": 48}},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.7], "rescale_factor": 1 / 127},
    ],
    ids=["default", "112", "odd", "fixed", "other numbers"],
)
def test_equals_the_processor_to_the_bit(size: tuple[int, int], settings: dict[str, Any]) -> None:
    processor, image = CLIPImageProcessorPil(**settings), picture(*size)
    quick = Preprocessor(processor)
    assert quick._table is not None
    ours = quick(image)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(ours, reference(processor, image), strict=True)


def test_random_sizes_equal_to_the_bit() -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    quick, rng = Preprocessor(processor), np.random.default_rng(1)
    for seed in range(60):
        image = picture(int(rng.integers(1, 200)), int(rng.integers(1, 200)), seed)
        np.testing.assert_array_equal(quick(image), reference(processor, image))


@pytest.mark.parametrize(
    "settings",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_center_crop": False, "size": {"height": 32, "width": 32}},
        {"do_resize": False, "crop_size": {"height": 20, "width": 20}},
        {"size": {"shortest_edge": 30}, "crop_size": {"height": 32, "width": 32}},  # pads
    ],
    ids=str,
)
def test_other_settings_go_through_the_processor(settings: dict[str, Any]) -> None:
    processor, image = CLIPImageProcessorPil(**settings), picture(50, 40)
    np.testing.assert_array_equal(Preprocessor(processor)(image), reference(processor, image).astype(np.float32))


def test_a_subclass_goes_through_its_own_code() -> None:
    class Inverted(CLIPImageProcessorPil):
        def normalize(self, image: np.ndarray, mean: Any, std: Any, **kwargs: Any) -> np.ndarray:
            return 1 - image

    processor, image = Inverted(), picture(50, 40)
    np.testing.assert_array_equal(Preprocessor(processor)(image), reference(processor, image))
    assert Preprocessor(processor).settings() != Preprocessor(CLIPImageProcessorPil()).settings()


def test_very_long_strip_is_cut_before_it_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = CLIPImageProcessorPil()
    image = picture(900, 20)
    whole = Preprocessor(processor)(image)
    monkeypatch.setattr(preprocess, "_MANY_PIXELS", 1000)
    step = 1 / 255 / min(processor.image_std)  # one level of 256, in normalised units
    assert np.abs(Preprocessor(processor)(image) - whole).max() <= 1.001 * step
    assert Preprocessor(processor)(Image.new("RGB", (20000, 3), (255, 0, 0))).shape == (3, 224, 224)


def test_settings_tell_processors_apart() -> None:
    seen = [
        str(Preprocessor(CLIPImageProcessorPil(**changed)).settings())
        for changed in ({}, {"resample": 2}, {"image_mean": [0.5, 0.5, 0.5]}, {"size": {"shortest_edge": 256}})
    ]
    assert len(set(seen)) == 4
    assert seen[0] == str(Preprocessor(CLIPImageProcessorPil()).settings())


def test_check_names_both_sizes() -> None:
    Preprocessor(CLIPImageProcessorPil()).check(224, "model")
    with pytest.raises(CliplibError, match=r"'model' makes pictures of 224 x 224 pixels, .* takes 336 x 336"):
        Preprocessor(CLIPImageProcessorPil()).check(336, "model")
