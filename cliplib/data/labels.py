"""Labels: names of classes, or indices into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cliplib.data.arrays import Ints


def classes_of(y: ArrayLike) -> NDArray[Any]:
    """Return the classes that labels (n,) hold, sorted.

    ValueError if a label is missing (None or NaN).
    """
    _check_labels(y)
    return np.unique(np.asarray(y))


def label_indices(y: ArrayLike, classes: Sequence[object] | NDArray[Any]) -> Ints:
    """Return each label's index among the classes, (n,).

    Parameters
    ----------
    y
        Labels, (n,): names, or whole numbers. Where no class is a whole number, these
        are indices already, and are not checked.
    classes
        The classes, in any order.

    Raises
    ------
    ValueError
        If a label is missing (None or NaN), or is not among the classes, or two of
        these have one name.
    """
    _check_labels(y)
    names = pd.Index([str(name) for name in classes])
    if not names.is_unique:
        raise ValueError(f"Two classes are called {names[names.duplicated()][0]!r}.")
    given = np.asarray(y)
    are_numbers = np.asarray(classes).dtype.kind in "iu"
    if given.dtype.kind in "iu" and not are_numbers:  # indices already
        return given.astype(np.int64)
    labels = [str(label) for label in given]
    indices = names.get_indexer(labels)
    if (indices < 0).any():
        raise ValueError(
            f"The class {labels[indices.argmin()]!r} is not among the classes "
            f"{', '.join(names)}: give one of these, or its index."
        )
    return np.asarray(indices, np.int64)


def _check_labels(y: ArrayLike) -> None:
    """Raise ValueError for labels that are not (n,), or of which one is missing."""
    # As objects, because NumPy turns NaN among texts into the text "nan".
    is_missing = pd.isna(np.asarray(y, dtype=object))
    if is_missing.ndim != 1:
        raise ValueError(f"Labels must be (n,), and not {is_missing.shape}.")
    if is_missing.any():
        raise ValueError(
            f"{is_missing.sum()} of {len(is_missing)} images have no class, the first "
            f"in row {is_missing.argmax()}: leave them out."
        )
