"""Changed copies of an image: worse ones, at five strengths, and neutral ones."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from scipy.ndimage import binary_fill_holes, label
from scipy.stats import norm, rankdata

from cliplib.data.arrays import Bools

# Settings at strengths 1 to 5: standard deviation of Gaussian noise (1 is full scale)
# and of blur (pixels), JPEG quality, what is added to the value in HSV (1 is full
# scale), all as in ImageNet-C (Hendrycks and Dietterich, ICLR 2019, and its code);
# degrees of rotation.
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

    `kind` is one of `CORRUPTIONS`, `strength` 1 to 5, or 0 to resize only; `seed` is of
    the noise. ValueError for another kind or strength.
    """
    if kind not in CORRUPTIONS or not 0 <= strength <= 5:
        raise ValueError(
            f"There is no {kind!r} of strength {strength}; kinds: {[*CORRUPTIONS]}."
        )
    rgb = ImageOps.cover(image.convert("RGB"), (224, 224), Image.Resampling.BICUBIC)
    if strength == 0:
        return rgb
    setting = CORRUPTIONS[kind][strength - 1]
    if kind == "noise":
        return _noisy(rgb, setting, seed)
    if kind == "blur":
        return rgb.filter(ImageFilter.GaussianBlur(setting))
    if kind == "jpeg":
        return _compressed(rgb, int(setting))
    if kind == "brightness":
        return _brighter(rgb, setting)
    return _rotated(rgb, setting)


def _noisy(rgb: Image.Image, deviation: float, seed: int) -> Image.Image:
    """Add Gaussian noise; its standard `deviation` is a share of full scale, 0 to 1."""
    pixels = np.asarray(rgb)
    noise = np.random.default_rng(seed).normal(0, 255 * deviation, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _compressed(rgb: Image.Image, quality: int) -> Image.Image:
    """Return an image as it comes back from a JPEG of this quality, 1 to 95."""
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _brighter(rgb: Image.Image, share: float) -> Image.Image:
    """Return an image whose HSV value is raised by a share of full scale, 0 to 1."""
    hue, saturation, value = rgb.convert("HSV").split()
    brighter = value.point(lambda level: int(min(level + 255 * share, 255)))
    return Image.merge("HSV", (hue, saturation, brighter)).convert("RGB")


def _rotated(rgb: Image.Image, degrees: float) -> Image.Image:
    """Rotate counter-clockwise; corners get the median colour of the border."""
    pixels = np.asarray(rgb)
    # The outermost rows and columns of pixels, (2 w + 2 h, 3).
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(int(channel) for channel in np.median(border, axis=0))
    return rgb.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=colour)


def neutral_copy(
    image: Image.Image, *, side: int = 224, mean: float = 128, deviation: float = 40
) -> Image.Image:
    """Return a slice of a head without what its file, frame and exposure give away.

    A control experiment: a probe that does as well on neutral copies does not live on
    colour mode, size, background or grey levels. The copy is grey and `side` pixels
    square, padded where the slice is not square. All outside the head is 0. Inside,
    grey levels become those of a Gaussian (`mean`, standard `deviation`) by histogram
    specification (Gonzalez and Woods, "Digital image processing", section 3.3), clipped
    to 1 to 255: order and shapes stay, exposure and contrast go. What stays, too, are
    the head's place and scale in the frame, sharpness, and the traces of earlier
    compression. Save copies without loss, as PNG.

    ValueError if nothing stands out from the background.
    """
    grey = np.asarray(
        ImageOps.pad(image.convert("L"), (side, side), Image.Resampling.BICUBIC)
    )
    head = head_mask(grey)
    # Of each pixel of the head, the share of darker ones, above 0 and below 1. Ranks
    # are from 1; equal levels have their mean rank.
    shares_below = (rankdata(grey[head]) - 0.5) / head.sum()
    levels = norm.ppf(shares_below, mean, deviation).clip(1, 255)  # the quantiles
    neutral = np.zeros(grey.shape, np.uint8)
    neutral[head] = levels.round().astype(np.uint8)
    return Image.fromarray(neutral)


def head_mask(grey: NDArray[np.uint8]) -> Bools:
    """Return which pixels (h, w) of a grey slice belong to the head.

    The head is the largest connected part, its holes filled, of all that is brighter
    than a threshold. That lies a tenth of the way from the 2nd to the 98th percentile
    of the grey levels (Smith, Human Brain Mapping 17, 2002, section "brain/non-brain
    estimation"). ValueError if nothing is brighter. Where the background is noisy and
    touches the head, some of it counts as head: neither smoothing nor Otsu's threshold
    did better on slices of the MRI set.
    """
    levels = np.asarray(grey, np.float64)
    dark, bright = np.percentile(levels, (2, 98))
    # Connected parts are numbered from 1; 0 is the background.
    part_of_pixel, _ = label(levels > dark + 0.1 * (bright - dark))
    sizes = np.bincount(part_of_pixel.ravel())  # in pixels
    sizes[0] = 0
    if not sizes.any():
        raise ValueError("No head stands out: all of the slice is about as dark.")
    return np.asarray(binary_fill_holes(part_of_pixel == sizes.argmax()))
