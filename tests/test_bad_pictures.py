"""Every kind of picture that a folder may hold: right features, or an ImageError that names the file; never silence."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cliplib.data import load_dataset
from cliplib.data.images import decode
from cliplib.encoder import ClipEncoder
from cliplib.errors import ImageError
from cliplib.store import FeatureStore

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

Array = np.ndarray[Any, Any]

SMALL = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
SEEN = np.asarray(Image.fromarray(SMALL).resize((24, 16), Image.Resampling.BILINEAR))
GREY = SEEN[..., 0]
OTHER = Image.fromarray(SEEN[::-1])
ORIENTED: dict[int, Callable[[Array], Array]] = {  # EXIF 2.32, tag 0x0112: where the first row and column belong
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90,
}  # fmt: skip
ARITHMETIC = base64.b64decode(  # 24 x 16 pixels, each 8 more than the one above it, by jpegtran -arithmetic
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQYE"
    "pRUk//yQALCAAQABgBAREA/8wABgAQEAX/2gAIAQEAAD8A/wCf1xJoB6GQM75na6qeiNuFFBL8COXa/9k="
)


def rgb(grey: Array) -> Array:
    return np.repeat(grey[..., None], 3, axis=2)


def encoded(image: Image.Image | Array, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def plain(data: bytes) -> Array:
    """What Pillow alone makes of a lossy file."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(SEEN, "JPEG", exif=exif)


def png(
    *chunks: tuple[bytes, bytes], size: tuple[int, int] = (24, 16), depth: int = 8, colour: int = 2, laced: int = 0
) -> bytes:
    """A PNG by hand: a header and chunks, with their lengths and checksums."""
    header = (b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, laced))
    parts = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
        for k, d in (header, *chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def packed(*images: Array) -> tuple[bytes, bytes]:
    return b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for image in images if image.size for row in image))


def interlaced() -> bytes:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return png(packed(*(SEEN[y::dy, x::dx] for x, y, dx, dy in passes)), laced=1)  # Adam7


def palette(transparent: bool) -> bytes:
    image = Image.fromarray((GREY // 64).astype(np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    return encoded(image, "PNG", **({"transparency": bytes([0, 128, 255, 255])} if transparent else {}))


def without_height() -> bytes:
    tag = struct.Struct("<HHII")  # ImageLength, LONG, one
    return encoded(SEEN, "TIFF").replace(tag.pack(257, 4, 1, 16), tag.pack(257, 4, 1, 0))


PALETTE = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)[GREY // 64]
JPEG, PNG = encoded(SEEN, "JPEG"), encoded(SEEN, "PNG")
STRIPS = {"20000x3": (3, 20000), "3x20000": (20000, 3), "1x1": (1, 1), "1x300": (300, 1)}
ALPHA = Image.fromarray(np.dstack([SEEN, GREY // 2]))
PAGES: dict[str, Any] = {"save_all": True, "append_images": [OTHER]}
FINE = (GREY.astype(np.uint16) * 257).astype(np.uint16)

# A file's content, and the pixels (h, w, 3) that are right.
RIGHT: dict[str, tuple[bytes, Array]] = {
    "mode 1": (encoded(Image.fromarray(GREY > 127), "PNG"), rgb(np.where(GREY > 127, 255, 0).astype(np.uint8))),
    "mode L": (encoded(GREY, "PNG"), rgb(GREY)),
    "mode LA": (encoded(Image.merge("LA", [Image.fromarray(GREY)] * 2), "PNG"), rgb(GREY)),
    "mode P": (palette(False), PALETTE),
    "mode P, transparent": (palette(True), PALETTE),
    "mode PA": (encoded(Image.open(io.BytesIO(palette(False))).convert("PA"), "TIFF"), PALETTE),
    "mode RGB": (PNG, SEEN),
    "mode RGBA": (encoded(ALPHA, "PNG"), SEEN),
    "mode I;16": (encoded(FINE, "PNG"), rgb(GREY)),
    "mode I;16, TIFF": (encoded(FINE, "TIFF"), rgb(GREY)),
    "mode I": (encoded(FINE.astype(np.int32), "TIFF"), rgb(GREY)),
    "mode F to 1": (encoded((GREY / 255).astype(np.float32), "TIFF"), rgb(GREY)),
    "mode F to 255": (encoded(GREY.astype(np.float32), "TIFF"), rgb(GREY)),
    "mode F to 65535": (encoded(FINE.astype(np.float32), "TIFF"), rgb(GREY)),
    "16 bits a colour": (png(packed((SEEN * np.uint16(256) + 77).astype(">u2")), depth=16), SEEN),
    "interlaced PNG": (interlaced(), SEEN),
    "PNG without its end": (PNG[:-12], SEEN),
    "animated PNG": (encoded(SEEN, "PNG", **PAGES), SEEN),
    "animated GIF": (encoded(PALETTE, "GIF", **PAGES), PALETTE),
    "animated WebP": (encoded(SEEN, "WEBP", lossless=True, **PAGES), SEEN),
    "WebP with alpha": (encoded(ALPHA, "WEBP", lossless=True, exact=True), SEEN),
    "TIFF pages": (encoded(SEEN, "TIFF", **PAGES), SEEN),
    "TIFF, LZW": (encoded(SEEN, "TIFF", compression="tiff_lzw"), SEEN),
    "BMP": (encoded(SEEN, "BMP"), SEEN),
    "PPM as text": (b"P3 24 16 255\n" + " ".join(map(str, SEEN.ravel())).encode(), SEEN),
    "JPEG 2000": (encoded(SEEN, "JPEG2000", irreversible=False), SEEN),
    "broken ICC": (encoded(SEEN, "PNG", icc_profile=b"broken"), SEEN),
    "broken EXIF, PNG": (encoded(SEEN, "PNG", exif=b"Exif\0\0nonsense"), SEEN),
    "arithmetic JPEG": (ARITHMETIC, plain(ARITHMETIC)),
    **{f"{name} pixels": (encoded(Image.new("L", shape[::-1], 90), "PNG"), np.full((*shape, 3), 90, np.uint8))
       for name, shape in STRIPS.items()},
    **{f"EXIF orientation {value}": (data, turn(plain(data)))
       for value, turn in ORIENTED.items() for data in [oriented(value)]},
    **{f"{name} JPEG": (data, plain(data)) for name, data in {
        "ordinary": JPEG, "progressive": encoded(SEEN, "JPEG", progressive=True),
        "grey": encoded(GREY, "JPEG"), "worst": encoded(SEEN, "JPEG", quality=1),
        "CMYK": encoded(Image.fromarray(SEEN).convert("CMYK"), "JPEG"),
        "broken ICC": encoded(SEEN, "JPEG", icc_profile=b"broken"),
        "broken EXIF": encoded(SEEN, "JPEG", exif=b"Exif\0\0nonsense"),
        "unknown orientation": oriented(77), "trailing text": JPEG + b"text",
        "no tables, the usual ones are meant": JPEG.replace(b"\xff\xc4", b"\xff\xef"),
        "several-picture": encoded(SEEN, "MPO", **PAGES),
    }.items()},
    **{f"mode {mode}, TIFF": (data, plain(data)) for mode in ("CMYK", "YCbCr")
       for data in [encoded(Image.fromarray(SEEN).convert(mode), "TIFF", compression="tiff_lzw")]},
}  # fmt: skip

NAMES = ["with space.JPG", "new\nline.png", "雪 и снег.png", "<b>&'\".png", "-rf.png", "%s{0}.png", "PNG inside.jpg",
         "n" * 250 + ".png", b"invalid \xff\xfe.png", "no suffix"]  # fmt: skip

BROKEN = r"it is damaged or cut short \("
FOREIGN = "it is not a picture in a format that is read here"

# A file's content, and why it is refused.
NO_PICTURE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "one byte": (b"\xff", FOREIGN),
    "zeros": (bytes(4096), FOREIGN),
    "text as JPEG": (b"This is a text.\n", FOREIGN),
    "web page as JPEG": (b"<!DOCTYPE html><title>404</title>", FOREIGN),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", FOREIGN),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", FOREIGN),  # Pillow would run Ghostscript
    "PDF": (b"%PDF-1.7\n", FOREIGN),
    "ZIP": (b"PK\x03\x04" + bytes(40), FOREIGN),
    "pickle": (pickle.dumps(SEEN), FOREIGN),
    "0 pixels wide": (png(packed(SEEN), size=(0, 16)), f"{BROKEN}|{FOREIGN}"),
    "0 pixels high, TIFF": (without_height(), f"it has 24 x 0 pixels|{BROKEN}|{FOREIGN}"),
    "bomb": (png(packed(SEEN), size=(40000, 40000)), ".*decompression bomb"),
    "bomb, JPEG": (JPEG.replace(struct.pack(">HH", 16, 24), struct.pack(">HH", 65500, 65500)), ".*decompression bomb"),
    "text bomb": (png((b"zTXt", b"k\0\0" + zlib.compress(bytes(2**23))), packed(SEEN)), BROKEN),
    "no rows": (png(), BROKEN),
    "wrong checksum": (PNG[:20] + b"\1" + PNG[21:], BROKEN + "|" + FOREIGN),
    "not a number": (encoded(np.array([[0, np.nan]], np.float32), "TIFF"), "its values, .* fit no customary range"),
    "below zero": (encoded(np.array([[-1, 1]], np.float32), "TIFF"), "its values, .* fit no customary range"),
    "beyond 65,535": (encoded(np.array([[0, 70000]], np.int32), "TIFF"), "its values, .* fit no customary range"),
}  # fmt: skip
WHOLE = {
    "JPEG": JPEG, "progressive JPEG": RIGHT["progressive JPEG"][0], "PNG": PNG, "interlaced PNG": interlaced(),
    "BMP": RIGHT["BMP"][0], "WebP": RIGHT["WebP with alpha"][0], "TIFF": encoded(SEEN, "TIFF"),
    "TIFF, LZW": RIGHT["TIFF, LZW"][0], "JPEG 2000": RIGHT["JPEG 2000"][0], "GIF": encoded(PALETTE, "GIF"),
}  # fmt: skip
RAW = encoded(Image.fromarray(SEEN).convert("YCbCr"), "TIFF")
try:
    RIGHT["mode YCbCr, TIFF, uncompressed"] = RAW, plain(RAW)
except OSError:  # Pillow before 13 writes it but cannot read it
    NO_PICTURE["mode YCbCr, TIFF, uncompressed"] = RAW, BROKEN
CUT = {
    f"{name}, {tenth} tenths": data[: len(data) * tenth // 10] for name, data in WHOLE.items() for tenth in range(10)
}
NO_PICTURE |= {name: (data, f"it is empty|{BROKEN}|{FOREIGN}") for name, data in CUT.items()}


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 107 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(JPEG)
        file.truncate(2**31)


# What stands in a file's place, and why it is refused.
NO_FILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "there is no such file"),
    "directory": (Path.mkdir, "it is not a regular file"),
    "dangling link": (lambda path: path.symlink_to("gone.png"), "it is not a regular file"),
    "looping link": (lambda path: path.symlink_to(path.name), "it is not a regular file"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
    "pipe": (os.mkfifo, "it is not a regular file"),
    "socket": (listen, "it is not a regular file"),
    "2 GiB": (sparse, "it has 2,147,483,648 bytes, more than the 1,073,741,824 that are read here"),
}


def place(folder: Path) -> tuple[list[Path], dict[Path, Array], dict[Path, str]]:
    """Lay every kind down in a folder; returns all, the right pixels of some, and why the others are refused."""
    right = {folder / f"{name}.png": pixels for name, (_, pixels) in RIGHT.items()}
    for name, (data, _) in RIGHT.items():
        (folder / f"{name}.png").write_bytes(data)
    for name in NAMES:
        path = folder / os.fsdecode(name)
        path.write_bytes(PNG)
        right[path] = SEEN
    (folder / "link.png").symlink_to("mode RGB.png")
    right[folder / "link.png"] = SEEN
    refused = {folder / f"{name}.jpg": reason for name, (_, reason) in (NO_PICTURE | NO_FILE).items()}
    for name, (data, _) in NO_PICTURE.items():
        (folder / f"{name}.jpg").write_bytes(data)
    for name, (make, _) in NO_FILE.items():
        make(folder / f"{name}.jpg")
    return sorted([*right, *refused]), right, refused


def said(error: ImageError, path: Path) -> str:
    """What is said of a file, on one line and with its name."""
    text = str(error)
    assert error.path == str(path) and text.startswith(f"Cannot read the image {str(path)!r}: ") and text.endswith(".")
    assert text.isprintable() and error.reason in text
    return error.reason


def test_there_are_many_kinds() -> None:
    assert len(RIGHT) + len(NAMES) >= 60 and len(NO_PICTURE) - len(CUT) + len(NO_FILE) >= 25 and len(CUT) == 100


@pytest.mark.parametrize("store", [False, True])
def test_features_and_reported_errors_are_all_there_is(
    tiny_encoder: ClipEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, store: bool
) -> None:
    (tmp_path / "x").mkdir()
    files, right, refused = place(tmp_path / "x")
    kept = FeatureStore(tmp_path / "f.sqlite") if store else None
    features = tiny_encoder.images(files, errors="report", store=kept, progress=False)
    errors = tiny_encoder.last_run.errors
    assert len(features) + len(errors) == len(files) == len(right) + len(refused)
    assert {files[row] for row in errors} == set(refused)
    for row, error in errors.items():
        assert re.match(refused[files[row]], said(error, files[row])), (files[row].name, error.reason)
    assert sorted(str(error) for error in errors.values()) == sorted(
        m for m in caplog.messages if m.startswith("Cannot")
    )
    seen = [Image.fromarray(right[file]) for file in files if file in right]
    np.testing.assert_array_equal(features, tiny_encoder.images(seen, progress=False))


def test_a_refused_file_stops_the_run_unless_it_shall_be_reported(tiny_encoder: ClipEncoder, tmp_path: Path) -> None:
    files, _, refused = place(tmp_path)
    for path, reason in refused.items():
        with pytest.raises(ImageError) as caught:
            tiny_encoder.images([tmp_path / "mode RGB.png", path], progress=False)
        assert re.match(reason, said(caught.value, path))
    with pytest.raises(ImageError):
        tiny_encoder.images(files, progress=False)


def test_a_data_set_of_every_kind_leaves_none_out(tiny_encoder: ClipEncoder, tmp_path: Path) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    files, _, refused = place(tmp_path / "pets" / "cat")
    with pytest.raises(ImageError, match=r"invalid \\\\xff\\\\xfe\.png': its name is not valid UTF-8, so rename it\.$"):
        load_dataset(tmp_path / "pets")
    for path in files:
        if os.fsencode(path).endswith((b"\xfe.png", b"suffix", b"nothing.jpg")):  # no name, no picture's name, no file
            path.unlink(missing_ok=True)
    dataset = load_dataset(tmp_path / "pets")
    assert dataset is not None and len(dataset) == len(files) - 3
    table = tiny_encoder.table(dataset, errors="report", progress=False)
    unreadable = json.loads(table.provenance["unreadable"])
    assert len(table) + len(unreadable) == len(dataset)
    assert set(unreadable) == {f"cat/{path.name}" for path in refused if path.name != "nothing.jpg"}
    assert sorted([*table.ids, *unreadable]) == sorted(dataset["id"])


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, which no permission stops."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(PNG)
    path.chmod(0)
    with as_nobody(), pytest.raises(ImageError) as caught:
        decode(path)
    assert said(caught.value, path) == "Permission denied"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Path.unlink, "No such file or directory"),
        (lambda path: path.write_bytes(PNG[:200]), BROKEN),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    ],
)
@pytest.mark.parametrize("store", [False, True])
def test_files_that_vanish_or_change_while_they_are_read(
    tiny_encoder: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, reason: str, store: bool
) -> None:
    files, read = [tmp_path / f"{i}.png" for i in range(5)], Path.read_bytes
    for path in files:
        path.write_bytes(PNG)

    def changing(path: Path) -> bytes:
        if path == files[2]:  # after it was found, before its bytes are there
            change(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", changing)
    kept = FeatureStore(tmp_path / "f.sqlite") if store else None
    features = tiny_encoder.images(files, errors="report", store=kept, progress=False)
    assert list(tiny_encoder.last_run.errors) == [2] and len(features) == 4
    assert re.match(reason, said(tiny_encoder.last_run.errors[2], files[2]))


FUZZED = [*WHOLE.values(), RIGHT["animated WebP"][0], RIGHT["animated GIF"][0], RIGHT["mode I;16, TIFF"][0],
          RIGHT["mode CMYK, TIFF"][0], RIGHT["EXIF orientation 6"][0], RIGHT["PPM as text"][0], ARITHMETIC]  # fmt: skip
PLACE = st.floats(0, 1, exclude_max=True)
HARM = st.tuples(
    st.sampled_from(["overwrite", "remove", "repeat", "insert", "graft"]),
    PLACE,
    PLACE,
    st.binary(min_size=1, max_size=8),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.sampled_from(FUZZED), other=st.sampled_from(FUZZED), harms=st.lists(HARM, min_size=1, max_size=6))
def test_fuzzed_files_are_decoded_or_refused(
    data: bytes, other: bytes, harms: list[tuple[str, float, float, bytes]]
) -> None:
    content = bytearray(data)
    for harm, first, second, some in harms:
        a, b = sorted((int(first * len(content)), int(second * len(content))))
        if harm == "overwrite":
            content[a : a + len(some)] = some
        elif harm == "remove":
            del content[a:b]
        elif harm == "repeat":
            content[b:b] = content[a:b]
        elif harm == "insert":
            content[a:a] = some
        else:
            content[a:] = other[int(second * len(other)) :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 2**20)  # so that a changed size costs little
        try:
            image = decode(bytes(content), "fuzzed.img")
        except ImageError as error:
            assert said(error, Path("fuzzed.img"))
        else:
            assert image.mode == "RGB" and all(image.size) and np.asarray(image).shape == (*image.size[::-1], 3)
