"""File traces: what may give the class away without a look at what an image shows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import ArrayLike
from PIL import Image

from cliplib.data.arrays import Floats
from cliplib.data.cache import FeatureCache, ImageFunction, each_image, map_images
from cliplib.data.image import ImageSource, file_facts

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


FIELDS = (
    "format",
    "mode",
    "size",
    "aspect",
    "quality",
    "progressive",
    "resolution",
    "profile",
    "exif",
    "camera",
    "software",
)
"""What a file says of itself: columns of `file_fields`."""


def file_fields(images: Sequence[ImageSource]) -> pd.DataFrame:
    """Return what the files of n images say of themselves: `FIELDS`, a row for each.

    Size is "width × height", aspect width by height, quality the mean of JPEG's first
    quantisation table, 0 for other formats; the others are texts, "" where a file says
    nothing. An OSError names an image that cannot be read.
    """
    fields = pd.DataFrame([file_facts(image) for image in images])
    fields["size"] = _size(fields)
    fields["aspect"] = (fields["width"] / fields["height"]).round(2)
    fields["quality"] = fields["quantisation"].round(1)
    return fields[[*FIELDS]]


def file_traces(dataset: Dataset, *, cache: FeatureCache | None = None) -> pd.DataFrame:
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
    traces["bytes_per_pixel"] = traces["bytes"] / (traces["width"] * traces["height"])
    traces[["border_mean", "border_std", "mean"]] = levels
    traces = traces.astype({"format": "category", "mode": "category"})
    return traces[list(itertools.chain(*TRACE_COLUMNS.values()))]


def traces_by_class(traces: pd.DataFrame, classes: ArrayLike) -> pd.DataFrame:
    """Return a table in words of what the files of each class are like.

    Parameters
    ----------
    traces
        A row for each file, with the columns of `file_traces`.
    classes
        The class of each file, (n,).

    Returns
    -------
    DataFrame
        By class: the number of images; the most frequent format and mode, size, and
        mean of JPEG's quantisation table (0 for other files), each with its share of
        the class if there are others; median and quartiles of bytes a pixel, brightness
        and brightness of the border (grey levels, 0 to 255).
    """
    class_of_file = pd.Series(np.asarray(classes), traces.index, name="class")
    categories = {
        "format and mode": _format_and_mode(traces),
        "size": _size(traces),
        "JPEG's quantisation": traces["quantisation"].round(1).astype(str),
    }
    numbers = {
        "bytes a pixel": traces["bytes_per_pixel"],
        "brightness": traces["mean"],
        "brightness of the border": traces["border_mean"],
    }
    counts = class_of_file.value_counts(sort=False)
    table = pd.DataFrame({"images": counts}).sort_index()
    for name, values in categories.items():
        table[name] = values.groupby(class_of_file).agg(_most_frequent)
    for name, values in numbers.items():
        table[name] = values.groupby(class_of_file).agg(_quartiles)
    return table.rename_axis("class")


def kinds_of_files(traces: pd.DataFrame, classes: ArrayLike) -> pd.DataFrame:
    """Count the files of each format, mode and size, the most frequent kind first.

    `traces` is a table of `file_traces`, `classes` the class of each of its rows, (n,).
    Columns of the result: format and mode, size, images (their number), classes (how
    many of each, such as "cat 3, dog 1"), example (the id of one).
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
    most_frequent = str(counts.index[0])
    if len(counts) == 1:
        return most_frequent
    share = counts.iloc[0] / len(values)
    return f"{most_frequent} ({share:.0%}, {len(counts)} kinds)"


def _quartiles(values: pd.Series) -> str:
    """Write median and quartiles: "0.42 (0.3 to 0.51)"."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def _counts(classes: pd.Series) -> str:
    """Write how often each class occurs, the most frequent first: "cat 3, dog 1"."""
    counts = classes.value_counts()
    return ", ".join(f"{name} {count}" for name, count in counts.items())


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


grey_levels = ImageFunction("grey levels of border and image", each_image(_grey_levels))
"""Mean and deviation of the border (4% of the shorter side), mean of all: (3,)."""
