"""Labels: names of classes, or indices into them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.data.arrays import Ints


def label_indices(
    y: ArrayLike, classes: Iterable[object] | None
) -> tuple[tuple[str, ...], Ints]:
    """Return the names of k classes, and each label's index among them, (n,).

    Parameters
    ----------
    y
        Labels, (n,): names, or whole numbers. Where there are `classes` whose names are
        no whole numbers, these are indices already, and are not checked.
    classes
        The names of the classes; by default what `y` holds, sorted.

    Raises
    ------
    ValueError
        If a label is missing (None or NaN), or is not among the classes.
    """
    # As objects, because NumPy turns NaN among texts into the text "nan".
    is_missing = pd.isna(np.asarray(y, dtype=object))
    if is_missing.ndim != 1:
        raise ValueError(f"Labels must be (n,), and not {is_missing.shape}.")
    if is_missing.any():
        raise ValueError(
            f"{is_missing.sum()} of {len(is_missing)} images have no class, the first "
            f"in row {is_missing.argmax()}: leave them out."
        )
    given = np.asarray(y)
    if classes is None:
        values, indices = np.unique(given, return_inverse=True)
        return tuple(str(value) for value in values), indices.astype(np.int64)
    names = tuple(str(name) for name in classes)
    are_numbers = np.asarray(classes).dtype.kind in "iu"
    if given.dtype.kind in "iu" and not are_numbers:  # indices already
        return names, given.astype(np.int64)
    labels = given.astype(np.str_)
    indices = pd.Index(names).get_indexer(labels)
    if (indices < 0).any():
        raise ValueError(
            f"The class {str(labels[indices.argmin()])!r} is not among the classes "
            f"{', '.join(names)}: give one of these, or its index."
        )
    return names, indices.astype(np.int64)
