"""One picture, from a file or from bytes, to RGB: right pixels or an :class:`ImageError` that names the file."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from cliplib.errors import ImageError

logger = logging.getLogger(__name__)

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2")
)
"""File name endings (lower case) of what counts as a picture in a folder."""

# Named, because Pillow knows more: its EPS reader, for one, starts Ghostscript on what the file says.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")

_MOST_BYTES = 2**30
"""A larger file is refused unread: it may be sparse, and longer than the memory."""

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    source: str | os.PathLike[str] | bytes | Mapping[str, Any],
    name: str | None = None,
    *,
    opened: Callable[[Image.Image], None] = lambda image: None,
) -> Image.Image:
    """Decode a picture to RGB.

    The first frame or page counts. The EXIF orientation is applied. Transparency is dropped, not blended: the colours
    under it show, which is what OpenAI's preprocessing (``image.convert("RGB")``) gives. 16-bit grey is divided
    by 257, so that 65,535 becomes 255. Grey of 32-bit integers or floats has no range of its own: the smallest of
    0–1 (floats only), 0–255 and 0–65,535 that holds every value is taken as black to white. JPEG's draft mode (decoding
    at reduced size) is never used, because it changes the pixels.

    Parameters
    ----------
    source : path, bytes or mapping
        A file; the bytes of one; or a row of an undecoded ``datasets.Image`` column, ``{"path": ..., "bytes": ...}``.
    name : str, optional
        What an error calls the picture. Default: the path, or ``"<bytes>"``.
    opened : callable, optional
        Called with the picture as stored, before its pixels are decoded: with its format, mode and size.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, fully loaded, no open file behind it.

    Raises
    ------
    ImageError
        The file is missing, unreadable, larger than 1 GiB, not a picture, cut short, a decompression bomb (more than
        twice ``PIL.Image.MAX_IMAGE_PIXELS``), or its values fit no customary range.

    Notes
    -----
    Damage that a format's decoder does not notice stays unnoticed: a flipped bit within a JPEG, which has no checksum,
    changes pixels silently, and a PNG whose compressed data ends early, but properly, is black below.
    """
    content: Any = source
    if isinstance(source, Mapping):
        name = name or source.get("path")
        content = source.get("path") if source.get("bytes") is None else source["bytes"]
    is_file = isinstance(content, (str, os.PathLike))
    if not is_file and not isinstance(content, (bytes, bytearray, memoryview)):
        raise ImageError(name or repr(content)[:80], f"a path or bytes are needed, not {type(content).__name__}")
    name = name or (os.fsdecode(content) if is_file else "<bytes>")
    try:
        data = read(Path(os.fsdecode(content)), name) if is_file else bytes(content)
        if not data:
            raise ImageError(name, "it is empty")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            opened(image)
            image.load()
            return _to_rgb(_upright(image, name), name)
    except ImageError:
        raise
    except UnidentifiedImageError:
        reason = f"it is not a picture in a format that is read here ({', '.join(FORMATS)}), or it is damaged"
    except Image.DecompressionBombError:
        reason = "it would unpack to so many pixels that it may be an attack (a decompression bomb)"
    except MemoryError:
        reason = "there is not enough memory to unpack it"
    except Exception as error:  # damaged files make Pillow raise nearly anything, from SyntaxError to struct.error
        reason = f"it is damaged or cut short ({' '.join(str(error).split()).rstrip('.') or type(error).__name__})"
    raise ImageError(name, reason)


def read(path: Path, name: str) -> bytes:
    """The bytes of a picture's file; an :class:`ImageError` for a pipe, a device, or more than 1 GiB."""
    try:
        if not path.is_file():  # a pipe would block for ever
            found = os.path.lexists(path)
            raise ImageError(name, "it is not a regular file" if found else "there is no such file")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ImageError(name, f"it has {size:,} bytes, more than the {_MOST_BYTES:,} that are read here")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(name, error.strerror or type(error).__name__) from None


def _upright(image: Image.Image, name: str) -> Image.Image:
    # Not ImageOps.exif_transpose: it also writes the EXIF block anew, and fails on one with another broken tag.
    try:
        turn = _TURN.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # the pixels are whole, so a damaged note beside them is no reason to refuse
        logger.warning("%r: its EXIF block is damaged (%s); the picture is used as stored", name, error)
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if not all(image.size):
        raise ImageError(name, f"it has {image.width} x {image.height} pixels, so nothing to see")
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
        low, high = float(values.min()), float(values.max())  # NaN if any value is
        tops = (65535.0,) if image.mode.startswith("I;16") else (255.0, 65535.0)
        tops = (1.0, *tops) if image.mode == "F" else tops
        top = next((top for top in tops if low >= 0 and high <= top), None)
        if top is None:
            raise ImageError(name, f"its values, {low:g} to {high:g}, fit no customary range: save it with 8 bits")
        return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # same colours; spares Pillow's warning about transparency in a palette
    return image.convert("RGB")
