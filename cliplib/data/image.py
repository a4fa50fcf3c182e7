"""Images: how an image is read, and what its file says about it."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from cliplib.data.warn import warn_once
from cliplib.data.wording import printable

# A file: its path, its content, or a row {"path", "bytes"} of a data set.
FileSource: TypeAlias = (
    str | os.PathLike[str] | bytes | Mapping[str, str | bytes | None]
)
# One image: a file, an image of Pillow, or pixels (h, w) or (h, w, 3).
ImageSource: TypeAlias = FileSource | Image.Image | NDArray[np.generic]
# One image, several, an array of paths, or pixels (n, h, w, 3).
Images: TypeAlias = ImageSource | Iterable[ImageSource]
SINGLE_IMAGES = (str, os.PathLike, bytes, Image.Image, Mapping)

# Formats that are read. Pillow reads more, some of them dangerous: for EPS it runs the
# program Ghostscript on the file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
# How many bits grey values may use in files of 16 bits; scanners seldom use all.
BIT_DEPTHS = (8, 10, 12, 14, 16)
# Largest image file that is read, in bytes (256 MiB).
MOST_BYTES = 2**28
# Largest decoded image, in pixels (16.8 million). Larger ones are shrunk, since many
# are in memory at once, and encoders shrink them further anyway.
MOST_PIXELS = 2**24
# Images with more pixels are decoded one at a time, since decoding takes much memory.
HUGE = 4 * MOST_PIXELS
_huge_lock = threading.Lock()


class UnreadableImage(OSError):
    """An image cannot be read; `reason` is a clause that says why, without its path."""

    def __init__(self, source: ImageSource, reason: str) -> None:
        self.name = image_name(source)
        self.reason = reason
        super().__init__(f"Cannot read the image '{self.name}': {reason}.")

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        """Pickle the name in place of the source, which may be large."""
        return type(self), (self.name, self.reason)


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Return those `FORMATS` that the installed Pillow reads.

    If the package pillow-heif is installed, it is registered with Pillow.
    """
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def image_list(images: Images) -> list[ImageSource]:
    """Return one image or several as a list; no file is read.

    Parameters
    ----------
    images
        One image or several: paths, files' contents, images of Pillow, arrays (h, w, 3)
        of uint8, or rows ``{"path", "bytes"}`` of a data set. Several may also be an
        array of paths, or of pixels, (n, h, w, 3).

    Raises
    ------
    TypeError
        If a whole row of a data set, with image and label, stands for an image.
    """
    if isinstance(images, SINGLE_IMAGES):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim in (2, 3):  # pixels of one image
        return [images]
    sources = list(images)
    for source in sources:
        if isinstance(source, Mapping) and not source.keys() & {"path", "bytes"}:
            raise TypeError(
                "A row of a data set is no image: give its column, dataset['image'], "
                "or take encode(dataset)."
            )
    return sources


def image_name(source: ImageSource) -> str:
    """Return the name of an image: its path, or else its type, such as "<ndarray>"."""
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
    elif isinstance(source, Mapping):
        name = str(source.get("path") or "<bytes>")
    else:  # an image of Pillow may have the name of its file
        name = getattr(source, "filename", "") or f"<{type(source).__name__}>"
    return printable(name)


def image_bytes(source: ImageSource) -> bytes:
    """Return bytes that identify an image: its file's content, or its size and pixels.

    Images of Pillow and arrays are identified by their size and RGB pixels. A row of a
    data set with neither bytes nor path gives b"", which `load_image` rejects.
    UnreadableImage if the file cannot be read.
    """
    if isinstance(source, Image.Image | np.ndarray):
        image = load_image(source)
        return f"{image.size}".encode() + image.tobytes()
    try:
        return _file_content(source)
    except OSError as error:
        raise UnreadableImage(source, _why_unreadable(error, source)) from error


def _file_content(source: FileSource) -> bytes:
    """Return the content of an image's file, which is read if only a path is given."""
    if isinstance(source, Mapping):
        bytes_or_path = source.get("bytes")
        if bytes_or_path is None:
            bytes_or_path = source.get("path") or b""
        return _file_content(bytes_or_path)
    if isinstance(source, bytes):
        return source
    path = Path(source)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
        raise OSError("it is no regular file")
    if status.st_size > MOST_BYTES:
        raise OSError(f"it has more than {MOST_BYTES >> 20} MiB: save a smaller copy")
    return path.read_bytes()


def load_image(source: ImageSource, content: bytes | None = None) -> Image.Image:
    """Decode an image to 8-bit RGB, turned upright by its EXIF orientation.

    Only the first of several frames or pages is decoded. Grey values of 16 bits are
    scaled to 8 bits: the image's depth is the smallest of 8, 10, 12, 14 and 16 bits
    that holds its largest value, and a warning says so if it is not 16. Comments and
    other metadata are left out. Images of more than `MOST_PIXELS` are shrunk.

    Parameters
    ----------
    source
        A path, a file's content, an image of Pillow, an array (h, w) or (h, w, 3) of
        uint8, or a row ``{"path", "bytes"}`` of a data set.
    content
        The file's content, if it has been read already.

    Raises
    ------
    UnreadableImage
        If the image cannot be decoded.
    """
    try:
        image = _open(source, content)
        is_huge = image.width * image.height > HUGE
        if is_huge:
            # Pillow's usual blocks of 16 MiB would be kept by each thread for its next
            # image. The C library returns blocks above 32 MiB to the system at once.
            Image.core.set_block_size(2**26)  # type: ignore[attr-defined]
        with _huge_lock if is_huge else nullcontext():
            return _decoded(image)
    except Exception as error:  # damaged files raise errors of many types
        reason = _why_unreadable(error, source, content)
        raise UnreadableImage(source, reason) from error


def _decoded(image: Image.Image) -> Image.Image:
    """Return an image upright, in 8-bit RGB, and with at most `MOST_PIXELS`."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey has no known range: save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = _scaled_to_8_bits(image)
    rgb = image.convert("RGB")
    # Else Pillow writes comments, such as a patient's name, into every file that is
    # made from the image.
    rgb.info.clear()
    excess = rgb.width * rgb.height / MOST_PIXELS
    if excess > 1:
        rgb.thumbnail((rgb.width / excess**0.5, rgb.height / excess**0.5))
    return rgb


def _open(source: ImageSource, content: bytes | None) -> Image.Image:
    """Return an image of Pillow; an image of a file is not decoded yet.

    `content` is the file's content, or None if it has not been read.
    """
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    file = io.BytesIO(_file_content(source) if content is None else content)
    return Image.open(file, formats=readable_formats())


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale a 16-bit grey image to 8 bits.

    Its depth is taken to be the smallest of `BIT_DEPTHS` that holds its largest value,
    with a warning if that is less than 16 bits.
    """
    # As 32 bits, since values are multiplied by 255.
    values = np.asarray(image).astype(np.uint32)
    largest = int(values.max(initial=0))
    depth = next(bits for bits in BIT_DEPTHS if largest < 2**bits)
    if depth < 16:
        warn_once(
            f"A 16-bit grey image holds no value above {2**depth - 1}: such images are "
            f"taken for {depth}-bit ones, so that they do not come out dark. Where "
            "images differ in this, so does the scale of their greys: save them with 8 "
            "bits, all on one scale."
        )
    return Image.fromarray((values * 255 // (2**depth - 1)).astype(np.uint8))


def _why_unreadable(
    error: Exception, source: ImageSource, content: bytes | None = None
) -> str:
    """Return a clause that says why an image cannot be read, without its path.

    `error` is what reading the image has raised. `content` is the file's content, or
    None if it has not been read.
    """
    if isinstance(source, np.ndarray):
        return f"an array must be (h, w) or (h, w, 3) of uint8 ({error})"
    if isinstance(error, OSError) and error.strerror:  # str(error) holds the path
        return error.strerror
    if not isinstance(error, UnidentifiedImageError):
        return str(error) or type(error).__name__
    # Pillow's message for an unknown format only names the address of a buffer.
    start = (image_bytes(source) if content is None else content)[:12]
    if start[4:8] == b"ftyp":  # HEIC or AVIF (ISO/IEC 14496-12)
        return "HEIC and AVIF may need pip install pillow-heif; or save it as JPEG"
    return "empty, or in no known format"


def file_facts(source: ImageSource) -> dict[str, Any]:
    """Read what an image's file says about the image, without decoding its pixels.

    Returns
    -------
    dict
        bytes (the file's size), digest (blake2b of its content, 64 bytes), width and
        height in pixels; format and mode (Pillow's names), size ("width × height"),
        aspect (width divided by height), quality (the mean of JPEG's first quantisation
        table, larger with stronger compression; 0 for other formats). The others are
        texts, "" if there is none: progressive, resolution (dots per inch), profile
        (size of the colour profile), exif (numbers of the EXIF entries), camera and
        software.

    Raises
    ------
    TypeError
        If the image is in memory and has no file.
    """
    if isinstance(source, Image.Image | np.ndarray):
        raise TypeError(
            f"{image_name(source)} is no file: give a path, or a file's content."
        )
    content = image_bytes(source)
    with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
        tables = getattr(image, "quantization", {})  # tables of a JPEG, by number
        return {
            "bytes": len(content),
            "digest": hashlib.blake2b(content).digest(),
            "width": image.width,
            "height": image.height,
            "format": image.format,
            "mode": image.mode,
            "size": f"{image.width} × {image.height}",
            "aspect": float(np.round(image.width / image.height, 2)),
            "quality": float(np.round(np.mean(tables.get(0, 0)), 1)),
            "progressive": "yes" if image.info.get("progressive") else "",
            "resolution": _file_text(image.info.get("dpi", "")),
            "profile": _file_text(len(image.info.get("icc_profile") or b"") or ""),
            **_exif_facts(image),
        }


def _exif_facts(image: Image.Image) -> dict[str, str]:
    """Return the numbers of an image's EXIF entries, its camera and its software."""
    try:
        exif = image.getexif()
        entries = {number: exif[number] for number in sorted(exif)}
    except Exception:  # damaged EXIF raises errors of many types
        return {"exif": "damaged", "camera": "", "software": ""}
    maker_and_model = f"{entries.get(Base.Make, '')} {entries.get(Base.Model, '')}"
    return {
        "exif": _file_text(" ".join(map(str, entries))),
        "camera": _file_text(maker_and_model),
        "software": _file_text(entries.get(Base.Software, "")),
    }


def _file_text(value: object) -> str:
    """Return a value from a file as a text of at most 60 printable characters."""
    return printable(str(value).strip("\0 "))[:60]
