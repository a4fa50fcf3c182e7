"""What the pixels are, by mode, format and orientation; tests/test_bad_pictures.py goes through what may be wrong."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from cliplib.data.images import FORMATS, SUFFIXES, decode
from cliplib.errors import ImageError


def picture(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_equal_plain_convert(mode: str) -> None:
    image = picture().convert(mode)
    result = decode(encoded(image))
    assert result.mode == "RGB"
    assert np.array_equal(result, image.convert("RGB"))


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("YCbCr", "JPEG"), ("CMYK", "TIFF"), ("L", "JPEG"),
                                            ("RGB", "GIF"), ("RGB", "BMP"), ("RGB", "WEBP"), ("RGB", "PPM"),
                                            ("1", "TIFF"), ("RGB", "JPEG2000")])  # fmt: skip
def test_formats_equal_plain_convert(mode: str, kind: str) -> None:
    data = encoded(picture().convert(mode), kind)
    assert kind in FORMATS
    assert np.array_equal(decode(data), Image.open(io.BytesIO(data)).convert("RGB"))


def test_colour_under_transparency_shows() -> None:
    image = Image.new("RGBA", (3, 3), (10, 200, 30, 0))
    assert decode(encoded(image)).getpixel((1, 1)) == (10, 200, 30)
    palette = Image.new("P", (3, 3), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert decode(encoded(palette, transparency=bytes([255, 0]))).getpixel((0, 0)) == (9, 8, 7)
    grey = decode(encoded(Image.merge("LA", (Image.new("L", (3, 3), 77), Image.new("L", (3, 3), 0)))))
    assert grey.getpixel((0, 0)) == (77, 77, 77)


def test_sixteen_bits_scale_to_eight() -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.asarray(decode(encoded(Image.fromarray(values), kind)))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(("values", "expected"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 7.0, 255.0], [0, 7, 255]),
                                                  ([0.0, 257.0, 65535.0], [0, 1, 255])])  # fmt: skip
def test_float_takes_the_smallest_customary_range(values: list[float], expected: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert np.asarray(decode(data))[0, :, 1].tolist() == expected


def test_integers_take_the_smallest_customary_range() -> None:
    for values, expected in (([0, 1, 200], [0, 1, 200]), ([0, 257, 65535], [0, 1, 255])):
        data = encoded(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF")
        assert np.asarray(decode(data))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [-1.0, 70000.0, float("nan"), float("inf")])
def test_values_without_a_range_are_refused(value: float) -> None:
    data = encoded(Image.fromarray(np.array([[0.0, value]], dtype=np.float32)), "TIFF")
    with pytest.raises(ImageError, match="fit no customary range"):
        decode(data, "scan.tif")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), kind, exif=exif)
    result = decode(data)
    assert result.size == ((16, 24) if orientation >= 5 else (24, 16))
    assert np.array_equal(result, ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_said_and_ignored(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    data = encoded(picture(), kind, exif=b"Exif\x00\x00nonsense")
    assert np.array_equal(decode(data, "odd"), Image.open(io.BytesIO(data)).convert("RGB"))
    if kind != "JPEG":  # whose reader forgives
        assert "'odd': its EXIF block is damaged" in caplog.text


def test_unknown_orientation_is_ignored() -> None:
    for value in (0, 9, 77):
        exif = Image.Exif()
        exif[0x0112] = value
        assert decode(encoded(picture(), "JPEG", exif=exif)).size == (24, 16)


def test_first_frame_counts() -> None:
    frames = [picture(seed=s) for s in (1, 2, 3)]
    for kind in ("GIF", "WEBP", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.array_equal(decode(data), Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("size", [(1, 1), (20000, 3), (3, 5000)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    assert decode(encoded(Image.new("L", size))).size == size


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 1}, {"icc_profile": b"broken"}])
def test_jpeg_variants(options: dict[str, object]) -> None:
    data = encoded(picture(), "JPEG", **options)
    assert np.array_equal(decode(data), Image.open(io.BytesIO(data)).convert("RGB"))


def test_all_sources_agree(tmp_path: Path) -> None:
    path = tmp_path / "Grün weiß\n雪.png"
    path.write_bytes(encoded(picture()))
    data = path.read_bytes()
    for source in (path, str(path), data, {"path": str(path), "bytes": None}, {"path": None, "bytes": data}):
        assert np.array_equal(decode(source), picture())
    wrong_suffix = path.rename(tmp_path / "really_png.jpg")
    assert np.array_equal(decode(wrong_suffix), picture())


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no such file"):
        decode(tmp_path / "a\0b.jpg")
    for source, kind in ((3, "int"), (None, "NoneType"), ({"path": None, "bytes": None}, "NoneType")):
        with pytest.raises(ImageError, match=f"path or bytes are needed, not {kind}"):
            decode(source)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="it is empty") as caught:
        decode(b"", name="who.jpg")
    assert caught.value.path == "who.jpg"


def test_suffixes_are_lower_case_endings() -> None:
    assert {".jpg", ".png", ".tiff", ".webp"} <= SUFFIXES
    assert all(s.startswith(".") and s == s.lower() for s in SUFFIXES)
