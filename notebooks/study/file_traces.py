"""File traces: what may give the class away without a look at what an image shows."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pandas as pd
from datasets import Dataset
from PIL import Image

from cliplib.data.arrays import Floats
from cliplib.data.cache import ImageFunction, ResultCache, map_images
from cliplib.data.image import ImageSource, file_facts, image_bytes

TRACE_COLUMNS = {
    "size": ("width", "height"),
    "colour mode": ("mode", "format"),
    "quantisation": ("quantisation",),
    "texture": ("bytes_per_pixel",),
    "border": ("border_mean", "border_std"),
    "brightness": ("mean",),
}
"""Columns of `file_traces` by kind.

Bytes per pixel are no trace of a file's making, but texture: fine structure is what
JPEG and PNG spend bytes on. Encoding all images of the MRI set anew, with the same
settings, hardly changes their order (Spearman above 0.9999).
"""


def file_traces(dataset: Dataset, *, cache: ResultCache | None = None) -> pd.DataFrame:
    """Measure what may give the class away without a look at what an image shows.

    Returns a row for each id, with the columns of `TRACE_COLUMNS`: width and height in
    pixels, mode and format as categories, quantisation (the mean of JPEG's first table,
    0 for other formats), bytes per pixel, mean and standard deviation of the border's
    grey levels (0 to 255), and the image's mean grey level.
    """
    images = list(dataset["image"])
    ids = pd.Index(dataset["id"], name="id")
    # First, because its error names an image that cannot be read. One array (n, 3) is
    # returned for the one function.
    (levels,) = map_images(images, grey_levels, cache=cache, progress="file traces")
    traces = pd.DataFrame([file_facts(image) for image in images], ids)
    traces["quantisation"] = [_quantisation(image) for image in images]
    traces["bytes_per_pixel"] = traces["bytes"] / (traces["width"] * traces["height"])
    traces[["border_mean", "border_std", "mean"]] = levels
    traces = traces.astype({"format": "category", "mode": "category"})
    return traces[list(itertools.chain(*TRACE_COLUMNS.values()))]


def _quantisation(source: ImageSource) -> float:
    """Return the mean of a JPEG's first quantisation table, 0 of other formats.

    It is the quality of `file_facts` before that is rounded.
    """
    with Image.open(io.BytesIO(image_bytes(source))) as image:
        return float(np.mean(getattr(image, "quantization", {}).get(0, 0)))


def _grey_levels(image: Image.Image) -> Floats:
    """Return mean and deviation of the border's grey levels, and the mean of all, (3,).

    Levels are from 0 to 255; the border is 4% of the shorter side wide.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float64)  # (height, width)
    border_width = max(1, round(0.04 * min(grey.shape)))
    inside = slice(border_width, -border_width)
    is_border = np.ones(grey.shape, dtype=bool)
    is_border[inside, inside] = False
    border = grey[is_border]
    return np.array([border.mean(), border.std(), grey.mean()])


grey_levels = ImageFunction(
    "grey levels of border and image",
    lambda images: np.array([_grey_levels(image) for image in images]),
)
"""Mean and deviation of the border (4% of the shorter side), mean of all: (3,)."""
