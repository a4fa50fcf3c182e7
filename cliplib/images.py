"""Images: how one is read, and what its file says."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

logger = logging.getLogger(__name__)


ImageSource = (
    Any  # a path, bytes, a PIL image, an (h, w[, 3]) uint8 array, or {"path", "bytes"}
)


# Named, because Pillow knows more: its EPS reader, for one, runs Ghostscript on what the file says.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def image_list(images: Any) -> list[ImageSource]:
    """Return a list of images, also of a single one."""
    single = isinstance(
        images, str | os.PathLike | bytes | Image.Image | np.ndarray | Mapping
    )
    return [images] if single else list(images)


def image_name(source: ImageSource) -> str:
    """Return what a message calls an image: its path where it has one."""
    if isinstance(source, Mapping):
        source = source.get("path") or "<bytes>"
    if not isinstance(source, str | os.PathLike):
        return getattr(source, "filename", "") or f"<{type(source).__name__}>"
    return (
        os.fspath(source).encode("utf-8", "backslashreplace").decode()
    )  # it may hold any bytes


def image_bytes(source: ImageSource) -> bytes:
    """Return what identifies an image: the bytes of its file, or its pixels."""
    if isinstance(source, Mapping):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, bytes):
        return source
    if isinstance(source, Image.Image | np.ndarray):
        image = load_image(source)
        return f"{image.size}".encode() + image.tobytes()
    return Path(source).read_bytes()


def load_image(source: ImageSource, content: bytes | None = None) -> Image.Image:
    """Decode an image: RGB, upright, 16-bit grey scaled to 8 bits; the first frame or page counts.

    `content` are the file's bytes, if read already; an OSError names what cannot be decoded.
    """
    image = source
    try:
        if isinstance(source, np.ndarray):
            image = Image.fromarray(source)
        elif not isinstance(source, Image.Image):
            image = Image.open(
                io.BytesIO(content or image_bytes(source)), formats=FORMATS
            )
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F"):
            raise ValueError(
                "32-bit grey has no known range: save it with 8 or 16 bits"
            )
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        return image.convert("RGB")
    except Exception as error:  # damaged files make Pillow raise nearly anything
        unknown = isinstance(
            error, UnidentifiedImageError
        )  # its text has a buffer's address
        reason = (
            "empty, or in no known format" if unknown else error or type(error).__name__
        )
        raise OSError(
            f"Cannot read the image {image_name(source)!r}: {reason}."
        ) from error


def file_facts(source: ImageSource) -> dict[str, Any]:
    """Read what a file says of itself; quantisation is the mean of JPEG's first table, or 0."""
    content = image_bytes(source)
    facts = {"bytes": len(content), "digest": hashlib.blake2b(content).digest()}
    with Image.open(
        io.BytesIO(content), formats=FORMATS
    ) as image:  # reads the header only
        table = getattr(image, "quantization", {}).get(0, [0])
        facts |= {
            "format": image.format,
            "mode": image.mode,
            "quantisation": np.mean(table),
        }
        return facts | {"width": image.width, "height": image.height}
