"""File traces: what may give the class away without a look at what an image shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
from datasets import Dataset
from PIL import Image

from cliplib.arrays import Floats
from cliplib.images.cache import FeatureCache, ImageFunction, each_image, map_images
from cliplib.images.image import file_facts

SHORTCUTS = {
    "size": ("width", "height"),
    "colour mode": ("mode", "format"),
    "quantisation": ("quantisation",),
    "texture": ("bytes_per_pixel",),
    "border": ("border_mean", "border_std"),
    "brightness": ("mean",),
}
"""Columns of `metadata_features` by kind.

Bytes per pixel are no trace of a file's making, but texture: fine structure is what
JPEG and PNG spend bytes on. Encoding all images of the MRI set anew, with the same
settings, hardly changes their order (Spearman above 0.9999).
"""


def metadata_features(
    dataset: Dataset, *, cache: FeatureCache | None = None
) -> pd.DataFrame:
    """Measure what may give the class away without a look at what an image shows.

    Returns a row for each id, with the columns of `SHORTCUTS`: facts of the file, of
    which format and mode are categories, and grey levels (0 to 255).
    """
    images = list(dataset["image"])
    ids = pd.Index(dataset["id"], name="id")
    # First, because it names an image that cannot be read.
    (levels,) = map_images(images, grey_levels, cache=cache, progress="file traces")
    facts = pd.DataFrame([file_facts(image) for image in images], ids)
    facts["bytes_per_pixel"] = facts["bytes"] / (facts["width"] * facts["height"])
    names = ["border_mean", "border_std", "mean"]
    frame = facts.join(pd.DataFrame(levels, ids, names))
    frame = frame.astype({"format": "category", "mode": "category"})
    return frame[[column for columns in SHORTCUTS.values() for column in columns]]


def _grey_levels(image: Image.Image) -> Floats:
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    width = max(1, round(0.04 * min(grey.shape)))
    is_border = np.ones(grey.shape, dtype=bool)
    is_border[width:-width, width:-width] = False
    border = grey[is_border]
    return np.array([border.mean(), border.std(), grey.mean()])


grey_levels = ImageFunction("grey levels of border and image", each_image(_grey_levels))
"""Mean and deviation of the border (4% of the shorter side), mean of all: (3,)."""
