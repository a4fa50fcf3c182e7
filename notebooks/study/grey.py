"""Grey levels of slices: counted, and given to another slice, whose order stays."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cliplib.data.arrays import Floats, Ints

BACKGROUND = 15
"""The brightest grey level, of 255, that counts as background, which is left alone."""
LEVELS = np.arange(256)


def counts_of_levels(image: Image.Image) -> Ints:
    """Return how many pixels have each grey level, (256,), 0 for the background's."""
    grey = np.asarray(image.convert("L"))
    counts = np.bincount(grey.ravel(), minlength=len(LEVELS))
    return np.where(LEVELS > BACKGROUND, counts, 0)


def with_levels_of(image: Image.Image, counts: Ints) -> Image.Image:
    """Return a copy, RGB, whose grey levels are distributed like those counted.

    By histogram specification (Gonzalez and Woods, "Digital image processing", section
    3.3): each level above the background becomes the one at the same quantile of
    `counts`, (256,), which are sums of `counts_of_levels`. So no pixel becomes darker
    than one that was darker than it; the background stays. ValueError where the image,
    or `counts`, has nothing but background.
    """
    own = counts_of_levels(image)
    if not own.any() or not counts.any():
        raise ValueError("There are no grey levels above the background.")
    there = counts > 0
    wanted = np.interp(_quantiles(own), _quantiles(counts)[there], LEVELS[there])
    new_level = np.where(LEVELS > BACKGROUND, np.rint(wanted), LEVELS).astype(np.uint8)
    grey = np.asarray(image.convert("L"))
    return Image.fromarray(new_level[grey]).convert("RGB")


def twelve_levels(image: Image.Image) -> Floats:
    """Return a slice's deciles, from 5% to 95%, its mean and its deviation, (12,)."""
    grey = np.asarray(image.convert("L"), float)
    deciles = np.percentile(grey, np.arange(5, 100, 10))
    return np.array([*deciles, grey.mean(), grey.std()])


def _quantiles(counts: Ints) -> Floats:
    """Return the quantile of each level, (256,): the middle of its pixels' ranks."""
    middle = np.cumsum(counts) - counts / 2
    return np.asarray(middle / counts.sum())
