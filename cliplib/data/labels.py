"""Labels: the class of each image, by name or by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cliplib.data.arrays import Ints


def classes_of(y: ArrayLike) -> NDArray[Any]:
    """Return the sorted classes among labels (n,).

    ValueError if a label is missing (None or NaN).
    """
    _check_labels(y)
    return np.unique(np.asarray(y))


def label_indices(y: ArrayLike, classes: Sequence[object] | NDArray[Any]) -> Ints:
    """Return the index of each label's class, (n,).

    ``["dog", "cat"]`` among ``["cat", "dog"]`` gives ``[1, 0]``.

    Parameters
    ----------
    y
        Labels, (n,). Integers are returned as they are, as indices, unless the classes
        are integers too.
    classes
        The classes, in any order.

    Raises
    ------
    ValueError
        If a label is missing (None or NaN) or is not among the classes, or if two
        classes have the same name.
    """
    _check_labels(y)
    names = pd.Index([str(name) for name in classes])
    if not names.is_unique:
        raise ValueError(f"Two classes are called {names[names.duplicated()][0]!r}.")
    labels = np.asarray(y)
    # The kinds "i" and "u" are signed and unsigned integers.
    classes_are_integers = np.asarray(classes).dtype.kind in "iu"
    if labels.dtype.kind in "iu" and not classes_are_integers:
        return labels.astype(np.int64)
    label_names = [str(label) for label in labels]
    indices = names.get_indexer(label_names)  # -1 for an unknown name
    if (indices < 0).any():
        raise ValueError(
            f"The class {label_names[indices.argmin()]!r} is not among the classes "
            f"{', '.join(names)}: give one of these, or its index."
        )
    return np.asarray(indices, np.int64)


def _check_labels(y: ArrayLike) -> None:
    """Raise ValueError if labels are not (n,), or if one of them is missing."""
    # An array of objects, since an array of texts would hold NaN as the text "nan".
    is_missing = pd.isna(np.asarray(y, dtype=object))
    if is_missing.ndim != 1:
        raise ValueError(f"Labels must be (n,), and not {is_missing.shape}.")
    if is_missing.any():
        raise ValueError(
            f"{is_missing.sum()} of {len(is_missing)} images have no class, the first "
            f"in row {is_missing.argmax()}: leave them out."
        )
