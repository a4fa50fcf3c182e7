"""Worse copies of an image, at five strengths."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter, ImageOps

# Settings at strengths 1 to 5: standard deviation of Gaussian noise (1 is full scale) and of blur
# (pixels), JPEG quality, what is added to the value in HSV (1 is full scale), all as in ImageNet-C
# (Hendrycks and Dietterich, ICLR 2019, and its code); degrees of rotation.
CORRUPTIONS: dict[str, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1, 2, 3, 4, 6),
    "jpeg": (25, 18, 15, 10, 7),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "rotation": (5, 10, 15, 20, 30),
}


def corrupt(
    image: Image.Image, kind: str, strength: int, *, seed: int = 0
) -> Image.Image:
    """Return a worse copy of an image: RGB, its shorter side 224 pixels.

    `kind` is one of `CORRUPTIONS`, `strength` 1 to 5, or 0 to resize only; `seed` is of the noise.
    """
    if kind not in CORRUPTIONS or not 0 <= strength <= 5:
        raise ValueError(
            f"There is no {kind!r} of strength {strength}; kinds: {[*CORRUPTIONS]}."
        )
    rgb = ImageOps.cover(image.convert("RGB"), (224, 224), Image.Resampling.BICUBIC)
    if strength == 0:
        return rgb
    setting, pixels = CORRUPTIONS[kind][strength - 1], np.asarray(rgb)
    if kind == "noise":
        noise = np.random.default_rng(seed).normal(0, 255 * setting, pixels.shape)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    if kind == "blur":
        return rgb.filter(ImageFilter.GaussianBlur(setting))
    if kind == "jpeg":
        rgb.save(buffer := io.BytesIO(), "JPEG", quality=int(setting))
        return Image.open(buffer).convert("RGB")
    if kind == "brightness":
        hue, saturation, value = rgb.convert("HSV").split()
        brighter = value.point(lambda level: int(min(level + 255 * setting, 255)))
        return Image.merge("HSV", (hue, saturation, brighter)).convert("RGB")
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = tuple(int(channel) for channel in np.median(border, axis=0))
    return rgb.rotate(setting, Image.Resampling.BICUBIC, fillcolor=background)
