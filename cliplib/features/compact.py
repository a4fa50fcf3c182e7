"""Features rounded to eight bits, which makes the committed tables small."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cliplib.data.arrays import Bools, Features

LARGEST_CODE = 127  # of an eight-bit number with a sign


def compress(features: Features, is_pooled: Bools) -> dict[str, NDArray[np.number]]:
    """Store equal rows once, pooled columns in sixteen bits, and the others in eight.

    Parameters
    ----------
    features
        Finite features, (n, d) float32.
    is_pooled
        Whether each column, (d,), is a pooled feature; p of them are.

    Returns
    -------
    dict
        ``pooled`` (u, p) float16, of the u different rows; ``codes`` (u, d - p) int8
        and ``scale`` (d - p,) float32, a factor of each column, whose product is about
        the other columns; ``rows`` (n,) int32, which of the u rows each of the n rows
        equals.
    """
    unique, rows = np.unique(features, axis=0, return_inverse=True)
    others = unique[:, ~is_pooled]
    largest = np.abs(others).max(axis=0, initial=0)
    scale = largest / LARGEST_CODE + np.float32(1e-12)  # not 0 for a column of zeros
    return {
        "rows": rows.astype(np.int32),
        "codes": np.rint(others / scale).astype(np.int8),
        "scale": scale,
        "pooled": unique[:, is_pooled].astype(np.float16),
    }


def expand(arrays: Mapping[str, NDArray[np.number]], is_pooled: Bools) -> Features:
    """Return the features (n, d) float32, rounded, from the arrays of `compress`.

    `is_pooled` (d,) must be the one that they were compressed with.
    """
    unique = np.empty((len(arrays["codes"]), len(is_pooled)), np.float32)
    unique[:, is_pooled] = arrays["pooled"]
    # Of u different rows: codes (u, d - p) times a scale for each column, (d - p,).
    others = np.multiply(arrays["codes"], arrays["scale"], dtype=np.float32)
    unique[:, ~is_pooled] = others
    return unique[np.asarray(arrays["rows"], np.int64)]
