"""Tables with features rounded to eight bits, which makes the committed files small."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from cliplib import FeatureTable
from cliplib.data.arrays import Bools, Features
from cliplib.features.storage import NUMBERS, pooled_columns, write_arrays

LARGEST_CODE = 127  # of an eight-bit number with a sign


def save_compact(table: FeatureTable, path: str | os.PathLike[str]) -> None:
    """Write a table of the readout "deep" to one file, for `FeatureTable.load`.

    Pooled features are kept in float16, all others in eight bits, and equal rows once.
    """
    arrays = {name: vars(table)[name] for name in NUMBERS}
    arrays |= _compressed(table.features, pooled_columns(table.provenance))
    write_arrays(path, arrays, vars(table))


def _compressed(features: Features, is_pooled: Bools) -> dict[str, NDArray[np.number]]:
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
