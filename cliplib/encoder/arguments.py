"""What :class:`cliplib.encoder.ClipEncoder` is asked to work on, checked before any work begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplib.errors import CliplibError, is_unicode
from cliplib.store import FeatureStore


def check_images(images: Any, kind: Any, errors: Any, batch_size: Any, store: Any) -> None:
    """Refuse arguments of :meth:`cliplib.encoder.ClipEncoder.images` that cannot be meant.

    Raises
    ------
    CliplibError
        One sentence that names the argument.
    """
    check_kind(kind)
    if errors not in ("raise", "report"):
        raise CliplibError(f"errors must be 'raise' or 'report', not {errors!r}.")
    if batch_size is not None:
        check_batch_size(batch_size)
    if not isinstance(store, FeatureStore | None):
        raise CliplibError(f"store must be a FeatureStore, such as FeatureStore(path), not one {type(store).__name__}.")
    if isinstance(images, (str, bytes, os.PathLike, Image.Image, Mapping)) or not hasattr(images, "__len__"):
        raise CliplibError(f"images must be a list of paths, bytes or PIL images, not one {type(images).__name__}.")


def check_dataset(dataset: Any) -> None:
    """Refuse what :meth:`cliplib.encoder.ClipEncoder.table` cannot make a table of."""
    lacking = [name for name in ("image", "label", "id", "split") if name not in getattr(dataset, "column_names", ())]
    if lacking:
        raise CliplibError(
            f"dataset must be one that load_dataset gives, but this {type(dataset).__name__} lacks the columns "
            f"{', '.join(lacking)}."
        )


def pooled_rows(pooled: Any, dim: int) -> NDArray[np.float32]:
    """Pooled features, (n, dim), as float32, or a refusal."""
    try:
        array = np.asarray(pooled)
    except ValueError:  # rows of several lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf" or array.ndim != 2 or array.shape[1] != dim:
        raise CliplibError(f"pooled must be numbers of shape (n, {dim}), not {array.dtype} {array.shape}.")
    return np.array(array, dtype=np.float32)


def check_texts(texts: Any, batch_size: Any) -> None:
    """The same for :meth:`cliplib.encoder.ClipEncoder.texts`."""
    check_batch_size(batch_size)
    if isinstance(texts, str) or not hasattr(texts, "__len__") or not all(isinstance(text, str) for text in texts):
        raise CliplibError("texts must be a list of str.")
    if odd := [text for text in texts if not is_unicode(text)]:
        raise CliplibError(f"The text {odd[0]!r} is not valid Unicode: correct or remove it.")


def check_kind(kind: Any) -> None:
    """Refuse a kind of features that there is not."""
    if kind not in ("pooled", "projected"):
        raise CliplibError(f"kind must be 'pooled' or 'projected', not {kind!r}.")


def check_batch_size(batch_size: Any) -> None:
    """Refuse a number of images or texts that is none."""
    if not (isinstance(batch_size, (int, np.integer)) and batch_size >= 1):
        raise CliplibError(f"batch_size must be a whole number of at least 1, not {batch_size!r}.")
