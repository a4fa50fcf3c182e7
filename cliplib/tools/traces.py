"""File traces: what may give the class away without a look at what an image shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import ArrayLike
from PIL import Image

from cliplib.images.arrays import Floats
from cliplib.images.cache import FeatureCache, ImageFunction, each_image, map_images
from cliplib.images.image import file_facts

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

FILE_TRACES = ("size", "colour mode", "quantisation", "texture")
"""Kinds that somebody's way of saving leaves; texture is the picture's as well."""
PICTURE_TRACES = ("border", "brightness")
"""Kinds that are the picture itself."""


def file_traces(dataset: Dataset, *, cache: FeatureCache | None = None) -> pd.DataFrame:
    """Measure what may give the class away without a look at what an image shows.

    Returns a row for each id, with the columns of `TRACE_COLUMNS`: of the file, format
    and mode being categories, and grey levels (0 to 255).
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
    return frame[[column for columns in TRACE_COLUMNS.values() for column in columns]]


def traces_by_class(traces: pd.DataFrame, classes: ArrayLike) -> pd.DataFrame:
    """Return in words what the files of each class are like.

    Parameters
    ----------
    traces
        As from `file_traces`, (n, 9).
    classes
        The class of each file, (n,).

    Returns
    -------
    DataFrame
        By class: images; the most frequent format and mode, and size, with its share;
        median and quartiles of bytes a pixel, brightness and brightness of the border.
    """
    names = pd.Series(np.asarray(classes), traces.index, name="class")
    kinds = {
        "format and mode": _format_and_mode(traces),
        "size": _size(traces),
        "JPEG's quantisation": traces["quantisation"].round(1).astype(str),
    }
    numbers = {
        "bytes a pixel": traces["bytes_per_pixel"],
        "brightness": traces["mean"],
        "brightness of the border": traces["border_mean"],
    }
    table = pd.DataFrame({"images": names.value_counts(sort=False)}).sort_index()
    for name, values in kinds.items():
        table[name] = values.groupby(names).agg(_most_frequent)
    for name, values in numbers.items():
        table[name] = values.groupby(names).agg(_quartiles)
    return table.rename_axis("class")


def kinds_of_files(traces: pd.DataFrame, classes: ArrayLike) -> pd.DataFrame:
    """Count files of one format, mode and size, the most frequent kind first.

    `traces` and `classes` are as in `traces_by_class`. Columns: format and mode, size,
    images, classes (how many of each, in words), example (an id).
    """
    files = pd.DataFrame(
        {
            "format and mode": _format_and_mode(traces),
            "size": _size(traces),
            "class": np.asarray(classes),
            "id": traces.index,
        }
    )
    kinds = files.groupby(["format and mode", "size"], sort=False)
    table = kinds.agg(
        images=("id", "size"), classes=("class", _counts), example=("id", "first")
    )
    table = table.sort_values("images", ascending=False, kind="stable")
    return table.reset_index()


def _format_and_mode(traces: pd.DataFrame) -> pd.Series:
    return traces["format"].astype(str) + " " + traces["mode"].astype(str)


def _size(traces: pd.DataFrame) -> pd.Series:
    return traces["width"].astype(str) + " × " + traces["height"].astype(str)


def _most_frequent(values: pd.Series) -> str:
    """Write the most frequent value: "PNG RGB", or "PNG RGB (80%, 3 kinds)"."""
    counts = values.value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    return (
        f"{counts.index[0]} ({counts.iloc[0] / len(values):.0%}, {len(counts)} kinds)"
    )


def _quartiles(values: pd.Series) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def _counts(classes: pd.Series) -> str:
    counts = classes.value_counts()
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _grey_levels(image: Image.Image) -> Floats:
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    width = max(1, round(0.04 * min(grey.shape)))
    is_border = np.ones(grey.shape, dtype=bool)
    is_border[width:-width, width:-width] = False
    border = grey[is_border]
    return np.array([border.mean(), border.std(), grey.mean()])


grey_levels = ImageFunction("grey levels of border and image", each_image(_grey_levels))
"""Mean and deviation of the border (4% of the shorter side), mean of all: (3,)."""
