"""Features in eight bits: what makes the committed tables small."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cliplib.images.arrays import Bools, Features

LARGEST_CODE = 127  # of an eight-bit number with a sign


def compress(features: Features, exact: Bools) -> dict[str, NDArray[np.number]]:
    """Keep equal rows once, some columns in sixteen bits, and the others in eight.

    Parameters
    ----------
    features
        Finite features, (n, d) float32.
    exact
        Which columns, (d,), are worth sixteen bits.

    Returns
    -------
    dict
        ``rows`` (n,) int32: of each image the row in the other arrays, u in number;
        ``pooled`` (u, e) float16: the exact columns; ``codes`` (u, d - e) int8 and
        ``scale`` (d - e,) float32: the others, as ``codes * scale``.
    """
    unique, rows = np.unique(features, axis=0, return_inverse=True)
    coarse = unique[:, ~exact]
    largest = np.abs(coarse).max(axis=0, initial=0)
    scale = largest / LARGEST_CODE + np.float32(1e-12)  # columns of zeros have one, too
    return {
        "rows": rows.astype(np.int32),
        "codes": np.rint(coarse / scale).astype(np.int8),
        "scale": scale,
        "pooled": unique[:, exact].astype(np.float16),
    }


def expand(arrays: Mapping[str, NDArray[np.number]], exact: Bools) -> Features:
    """Return the features, (n, d) float32, that `compress` was given, nearly."""
    unique = np.empty((len(arrays["codes"]), len(exact)), np.float32)
    unique[:, exact] = arrays["pooled"]
    unique[:, ~exact] = np.multiply(arrays["codes"], arrays["scale"], dtype=np.float32)
    return unique[np.asarray(arrays["rows"], np.int64)]
