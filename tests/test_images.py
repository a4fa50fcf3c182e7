"""Images: whatever can be read gives RGB, and whatever cannot is named."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
import pytest
from PIL import Image

from cliplib.data import image as module
from cliplib.data.image import (
    UnreadableImage,
    file_facts,
    image_bytes,
    image_list,
    load_image,
    readable_formats,
)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def pickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.fixture
def noise():
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(noise, mode, tmp_path):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 does not read the YCbCr TIFF that it wrote")
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


@pytest.mark.parametrize("name", ["gone.png", "O'Brien.png"])
@pytest.mark.parametrize("read", [image_bytes, load_image])
def test_the_reason_names_no_path(tmp_path, read, name):
    (tmp_path / name).symlink_to(tmp_path / "nowhere.png")
    for source in (tmp_path / name, {"path": str(tmp_path / name), "bytes": None}):
        with pytest.raises(UnreadableImage, match="Cannot read the image") as caught:
            read(source)
        assert caught.value.reason == "No such file or directory"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_what_is_wrong_with_an_image_is_copied_without_the_image(duplicate):
    wrong = UnreadableImage(b"Miller" * 1000, "empty")
    again = duplicate(wrong)
    assert type(again) is UnreadableImage and again.reason == "empty"
    assert str(again) == str(wrong) == "Cannot read the image '<bytes>': empty."
    assert b"Miller" not in pickle.dumps(wrong)


def test_formats_that_could_run_programs_are_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )
    with pytest.raises(OSError, match="a.png"):
        load_image(tmp_path / "a.png")


def test_a_damaged_exif_block_names_the_image(noise, tmp_path):
    data = encoded(noise, exif=b"Exif\x00\x00no TIFF header")
    (tmp_path / "exif.png").write_bytes(data)
    with pytest.raises(OSError, match=r"exif\.png"):
        load_image(tmp_path / "exif.png")


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


def test_grey_of_twelve_bits_does_not_come_out_dark(caplog):
    for _ in range(2):
        values = np.array([[0, 2048, 4095]], np.uint16)
        image = load_image(encoded(Image.fromarray(values)))
        assert np.asarray(image)[0, :, 0].tolist() == [0, 127, 255]
    assert caplog.text.count("taken for 12-bit ones") == 1


@pytest.mark.parametrize(("largest", "seen"), [(255, 255), (256, 63), (16384, 63)])
def test_the_depth_is_the_smallest_that_holds_all_values(largest, seen):
    image = load_image(encoded(Image.fromarray(np.array([[0, largest]], np.uint16))))
    assert np.asarray(image)[0, 1, 0] == seen


def test_a_phone_format_that_cannot_be_read_names_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "readable_formats", lambda: ("JPEG",))
    for brand in (b"heic", b"avif"):
        path = tmp_path / f"photo.{brand.decode()}"
        path.write_bytes(b"\0\0\0\x1cftyp" + brand + b"\0" * 20)
        with pytest.raises(OSError, match=r"photo\..*pip install pillow-heif.*as JPEG"):
            load_image(path)


@pytest.mark.skipif("AVIF" not in readable_formats(), reason="Pillow without AVIF")
def test_avif_is_read(noise):
    assert load_image(encoded(noise, "AVIF")).size == noise.size


def test_heic_is_read_where_its_package_is(noise):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(noise).save(file)
    assert load_image(file.getvalue()).size == noise.size


def test_arrays_of_paths_and_of_pixels_are_several_images(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    assert image_list(np.array(paths)) == paths
    assert image_list(np.array([str(path) for path in paths])) == [*map(str, paths)]
    pixels = np.zeros((3, 4, 5, 3), np.uint8)
    assert [image.shape for image in image_list(pixels)] == [(4, 5, 3)] * 3
    for one in (pixels[0], pixels[0, :, :, 0]):
        (image,) = image_list(one)
        assert image is one


def test_facts_are_those_of_the_file(noise):
    data = encoded(noise.convert("L"), "JPEG", quality=50)
    facts = file_facts(data)
    assert facts["bytes"] == len(data)
    assert (facts["format"], facts["mode"]) == ("JPEG", "L")
    assert (facts["width"], facts["height"]) == (30, 20)
    assert (facts["size"], facts["aspect"]) == ("30 × 20", 1.5)
    better = file_facts(encoded(noise, "JPEG", quality=95))
    assert facts["quality"] > better["quality"] > 0
    assert file_facts(encoded(noise))["quality"] == 0
    assert facts["profile"] == ""
    assert file_facts(encoded(noise, icc_profile=bytes(132)))["profile"] == "132"


def test_an_image_in_memory_has_no_file_facts(noise):
    for image in (noise, np.asarray(noise)):
        with pytest.raises(TypeError, match="is no file: give a path"):
            file_facts(image)


def test_too_many_pixels_are_refused(tmp_path, monkeypatch) -> None:
    Image.new("1", (2100, 1000)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # twice that are too many
    with pytest.raises(OSError, match=r"large\.png': .* exceeds limit of 2000000 pix"):
        load_image(tmp_path / "large.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("read", [image_bytes, load_image, file_facts])
def test_what_never_ends_is_not_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(OSError, match=f"{name}': it is no regular file"):
            read(tmp_path / name)


def test_a_file_of_too_many_bytes_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(2**29)  # without taking the room on the disk
    monkeypatch.setattr("pathlib.Path.read_bytes", None)  # would raise
    with pytest.raises(OSError, match=r"large\.jpg': it has more than 256 MiB: save a"):
        load_image(tmp_path / "large.jpg")


def test_a_large_image_is_shrunk_when_it_is_decoded(monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 1000)
    wide, small = (Image.new("1", size) for size in ((400, 100), (50, 20)))
    assert load_image(encoded(wide)).size == (60, 15)
    assert load_image(encoded(small)).size == small.size
    assert load_image(wide).size == (60, 15)


def test_an_empty_content_is_not_read_from_its_path(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = {"path": str(tmp_path / "a.png"), "bytes": b""}
    with pytest.raises(OSError, match=r"a\.png': empty"):
        load_image(row)
    assert load_image({**row, "bytes": None}).size == (8, 8)
    with pytest.raises(OSError, match="empty"):
        load_image({"bytes": None})


def test_huge_images_are_decoded_one_at_a_time(noise, monkeypatch):
    active, most = [], []

    def watched(image):
        active.append(image)
        time.sleep(0.02)
        most.append(len(active))
        active.pop()
        return image

    monkeypatch.setattr(module.ImageOps, "exif_transpose", watched)
    monkeypatch.setattr(module, "HUGE", 100)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(load_image, [encoded(noise)] * 8))
    assert max(most) == 1
    monkeypatch.setattr(module, "HUGE", 1000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(load_image, [encoded(noise)] * 8))
    assert max(most) > 1  # so that the test can fail


@pytest.mark.skipif(sys.platform != "linux", reason="it counts memory as Linux does")
def test_threads_give_the_memory_of_huge_images_back():
    program = """
import io, resource
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from cliplib.data import image
image.HUGE = 1
file = io.BytesIO()
Image.new("1", (4000, 4000)).save(file, "PNG")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def decode(_):
    image.load_image(file.getvalue())
with ThreadPoolExecutor(8) as pool:
    list(pool.map(decode, range(8)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 250  # one takes some 100 MiB
