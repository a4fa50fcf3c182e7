"""Images: whatever can be read gives RGB, whatever cannot is named; each is decoded once."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cliplib import images as module
from cliplib.cache import FeatureCache, ImageFunction, map_images
from cliplib.images import image_bytes, load_image

MEAN = ImageFunction(
    "mean", lambda batch: np.array([[np.mean(image)] for image in batch])
)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


@pytest.fixture
def noise():
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(noise, mode, tmp_path):
    form = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    found = load_image(encoded(noise.convert(mode), form))
    assert (found.mode, found.size) == ("RGB", (30, 20))


def test_sixteen_bit_grey_keeps_its_range():
    values = np.array([[0, 257, 65535]], np.uint16)
    assert np.asarray(load_image(encoded(Image.fromarray(values))))[
        0, :, 0
    ].tolist() == [0, 1, 255]


def test_the_exif_orientation_is_applied(noise):
    exif = Image.Exif()
    exif[0x0112] = 6
    found = load_image(encoded(noise, "JPEG", exif=exif, quality=95))
    assert found.size == (20, 30)


@pytest.mark.parametrize(
    "kind", ["path", "bytes", "pil", "array", "row of a path", "row of bytes"]
)
def test_every_kind_of_source_gives_the_same_pixels(noise, kind, tmp_path):
    data = encoded(noise)
    (tmp_path / "a.png").write_bytes(data)
    path = str(tmp_path / "a.png")
    source = {
        "path": path,
        "bytes": data,
        "pil": noise,
        "array": np.asarray(noise),
        "row of a path": {"path": path, "bytes": None},
        "row of bytes": {"path": None, "bytes": data},
    }[kind]
    assert (np.asarray(load_image(source)) == np.asarray(noise)).all()
    assert isinstance(image_bytes(source), bytes)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", "cut"])
def test_an_unreadable_image_is_named(noise, content, tmp_path):
    data = encoded(noise)[:200] if content == "cut" else content
    (tmp_path / "broken.png").write_bytes(data)
    with pytest.raises(OSError, match=r"broken\.png"):
        load_image(tmp_path / "broken.png")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OSError, match=r"nowhere\.png"):
        load_image(tmp_path / "nowhere.png")


def test_formats_that_could_run_programs_are_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )
    with pytest.raises(OSError, match="a.png"):
        load_image(tmp_path / "a.png")


@pytest.fixture
def many(tmp_path):
    rng = np.random.default_rng(1)
    paths = []
    for i in range(41):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
        paths.append(path)
    return paths


def test_results_come_in_the_order_of_the_images(many):
    (found,) = map_images(many, MEAN)
    expected = [np.mean(load_image(path)) for path in many]
    np.testing.assert_allclose(found[:, 0], expected)


def test_an_image_is_decoded_once_for_all_functions_and_not_again(many, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        module, "load_image", lambda *a: decoded.append(1) or load_image(*a)
    )
    size = ImageFunction(
        "size", lambda batch: np.array([image.size for image in batch])
    )
    cache = FeatureCache()
    first = map_images(many, MEAN, size, cache=cache)
    assert len(decoded) == len(many)
    second = map_images(many, MEAN, size, cache=cache)
    assert len(decoded) == len(many)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()


def test_a_file_that_changed_is_computed_anew(many):
    cache = FeatureCache()
    before = map_images(many, MEAN, cache=cache)[0]
    Image.new("RGB", (8, 8), "white").save(many[3])
    after = map_images(many, MEAN, cache=cache)[0]
    assert after[3, 0] == 255
    assert (np.delete(after, 3) == np.delete(before, 3)).all()


def test_an_unreadable_image_stops_the_run_or_is_noted(many):
    many[7].write_bytes(b"broken")
    with pytest.raises(OSError, match=r"7\.png"):
        map_images(many, MEAN)
    errors: dict[int, str] = {}
    (found,) = map_images(many, MEAN, errors=errors)
    assert list(errors) == [7]
    assert "7.png" in errors[7]
    assert len(found) == len(many)


def test_an_interruption_keeps_the_batches_that_were_done(many):
    cache, calls = FeatureCache(), []

    def interrupted(batch):
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.zeros((len(batch), 1))

    with pytest.raises(KeyboardInterrupt):
        map_images(many, ImageFunction("f", interrupted), cache=cache, batch_size=8)
    done = sum(calls[:2])
    seen = []
    rest = ImageFunction(
        "f", lambda batch: seen.append(len(batch)) or np.zeros((len(batch), 1))
    )
    map_images(many, rest, cache=cache, batch_size=8)
    assert sum(seen) <= len(many) - done


def test_two_processes_may_share_the_cache(tmp_path):
    one, two = FeatureCache(tmp_path / "c.sqlite"), FeatureCache(tmp_path / "c.sqlite")
    one.put({"a": np.array([1.0, 2.0], np.float32)})
    assert two.get(["a", "b"])["a"].tolist() == [1.0, 2.0]


def test_a_damaged_cache_says_what_to_do(tmp_path):
    (tmp_path / "c.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(OSError, match="delete it"):
        FeatureCache(tmp_path / "c.sqlite")


def test_a_damaged_exif_block_names_the_image(noise, tmp_path):
    data = encoded(noise, exif=b"Exif\x00\x00no TIFF header")
    (tmp_path / "exif.png").write_bytes(data)
    errors: dict[int, str] = {}
    map_images([tmp_path / "exif.png"], MEAN, errors=errors)
    assert "exif.png" in errors[0]


@pytest.mark.parametrize("shape", [(4, 4, 3), (2, 4, 4, 3)])
def test_an_array_that_is_no_image_is_named(shape):
    with pytest.raises(OSError, match="<ndarray>"):
        load_image(np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_grey_of_unknown_range_is_not_clipped_in_silence(dtype):
    with pytest.raises(
        OSError, match="32-bit grey has no known range: save it with 8 or 16"
    ):
        load_image(encoded(Image.fromarray(np.full((2, 2), 7e4, dtype)), "TIFF"))


def test_a_cache_that_fails_later_is_no_fault_of_an_image(many, tmp_path):
    cache, errors = FeatureCache(tmp_path / "c.sqlite"), dict[int, str]()
    cache._db.execute("DROP TABLE features")
    for use in (lambda: cache.get(["a"]), lambda: cache.put({"a": np.ones(1)})):
        with pytest.raises(
            OSError, match=r"c\.sqlite .*set CLIPLIB_CACHE, or delete it"
        ):
            use()
    with pytest.raises(OSError, match="Cannot use the feature cache"):
        map_images(many, MEAN, cache=cache, errors=errors)
    assert not errors
