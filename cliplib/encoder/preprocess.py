"""A decoded picture to the numbers that CLIP's vision tower takes: the image processor's own result, only sooner."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil

from cliplib.errors import CliplibError

# What decides the pixels. Named, because a later transformers may add settings, and fingerprints have to outlive that.
_SETTINGS = (
    "do_convert_rgb", "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
    "do_normalize", "image_mean", "image_std", "do_pad", "pad_size",
)  # fmt: skip

_MANY_PIXELS = 2**26
"""A resized picture larger than this (a very long strip) is not made whole: only the part that is kept."""


def usable(image_processor: Any, side: int, name: str) -> Preprocessor:
    """A `Preprocessor` that was tried on one picture.

    Parameters
    ----------
    image_processor : transformers image processor
        See :class:`Preprocessor`.
    side : int
        Of the square that the model takes, in pixels.
    name : str
        What an error calls the model.

    Raises
    ------
    CliplibError
        Its settings make no sense, or pictures of another size.
    """
    try:
        found = Preprocessor(image_processor)
        found.check(side, name)
        found.settings()
    except CliplibError:
        raise
    except Exception as error:  # whatever a processor raises on settings that somebody else wrote
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}"
        raise CliplibError(
            f"The image processor of {name!r} cannot be used ({reason}): correct preprocessor_config.json."
        ) from None
    return found


class Preprocessor:
    """Resize, centre crop, rescale and normalise one RGB picture.

    For the settings that CLIP checkpoints have, the result equals that of ``CLIPImageProcessorPil`` to the bit, at
    several times its speed: Pillow resizes the picture directly, and since rescaling and normalising see only 256
    different values per channel, the processor itself fills a table of them once. For any other settings or class of
    processor, the processor is called.

    Parameters
    ----------
    image_processor : transformers image processor
        The Pillow one (``CLIPImageProcessorPil``), which needs no torchvision, or another with the same interface.
    """

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor
        self._table: NDArray[np.float32] | None = None  # (3, 256)
        p = image_processor
        usual = type(p) is CLIPImageProcessorPil and not p.do_pad
        if usual and p.do_resize and p.do_center_crop and p.do_rescale and p.do_normalize:
            size, crop = p.size, p.crop_size
            self._shortest, self._fixed = size.shortest_edge, (size.width, size.height)
            self._crop = (int(crop.width or 0), int(crop.height or 0))
            known = (self._shortest and not size.longest_edge) or (not self._shortest and all(self._fixed))
            if known and all(self._crop):
                ramp = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
                normalized = p.normalize(p.rescale(ramp, p.rescale_factor), p.image_mean, p.image_std)
                self._table = np.ascontiguousarray(normalized[:, 0], dtype=np.float32)

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixel values of one picture.

        Parameters
        ----------
        image : PIL.Image.Image
            Mode RGB.

        Returns
        -------
        (3, height, width) float32
            Normalised.
        """
        if self._table is None:
            return self._slow(image)
        width, height = image.size
        new = self._resized(width, height)
        left, top = (new[0] - self._crop[0]) // 2, (new[1] - self._crop[1]) // 2
        if left < 0 or top < 0:  # smaller than the crop: the processor pads
            return self._slow(image)
        resample = self.image_processor.resample
        if new[0] * new[1] > _MANY_PIXELS:
            x, y = width / new[0], height / new[1]
            box = (left * x, top * y, (left + self._crop[0]) * x, (top + self._crop[1]) * y)
            pixels = np.asarray(image.resize(self._crop, resample, box=box))
        else:
            pixels = np.asarray(image.resize(new, resample))
            pixels = pixels[top : top + self._crop[1], left : left + self._crop[0]]
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        out = np.empty(planes.shape, np.float32)
        for channel in range(3):  # "clip" changes nothing, as no index is out of range, but spares a copy
            np.take(self._table[channel], planes[channel], out=out[channel], mode="clip")
        return out

    def check(self, side: int, name: str) -> None:
        """Refuse an image processor that makes other pictures than `side` x `side` pixels, which the model takes.

        Raises
        ------
        CliplibError
            Naming both sizes.
        """
        seen = self(Image.new("RGB", (side + 9, side + 5))).shape
        if seen != (3, side, side):
            raise CliplibError(
                f"The image processor of {name!r} makes pictures of {seen[2]} x {seen[1]} pixels, but its vision tower "
                f"takes {side} x {side}: correct preprocessor_config.json."
            )

    def settings(self) -> dict[str, Any]:
        """All that decides the result, JSON-ready: for fingerprints."""
        found: dict[str, Any] = {"processor": type(self.image_processor).__name__}
        for name in _SETTINGS:
            value = getattr(self.image_processor, name, None)
            if value is None:
                continue
            if name in ("size", "crop_size", "pad_size"):
                found[name] = {k: int(v) for k, v in sorted(dict(value).items()) if v is not None}
            elif name in ("image_mean", "image_std"):
                found[name] = [float(v) for v in value]
            else:
                found[name] = float(value) if name == "rescale_factor" else int(value)
        return found

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if not self._shortest:
            return int(self._fixed[0]), int(self._fixed[1])
        short, long = sorted((width, height))
        new_short, new_long = int(self._shortest), int(self._shortest * long / short)
        return (new_short, new_long) if width <= height else (new_long, new_short)

    def _slow(self, image: Image.Image) -> NDArray[np.float32]:
        pixels = self.image_processor(images=image, return_tensors="np")["pixel_values"][0]
        return np.asarray(pixels, dtype=np.float32)
