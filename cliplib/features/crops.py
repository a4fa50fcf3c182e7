"""Pairs of images of which one may be cropped or turned a little, and which are.

They are proposed by hashes of cropped and turned versions, and by like features, and
confirmed by registration.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import triu
from sklearn.neighbors import radius_neighbors_graph
from sklearn.preprocessing import StandardScaler

from cliplib.data.arrays import Features, Ints, row_batches
from cliplib.data.threads import one_thread
from cliplib.features.hamming import close_hashes
from cliplib.features.hashes import (
    IMAGES_AT_ONCE,
    MAX_SIMPLE_DIFFERENCE,
    low_frequency_bits,
    one_is_simple,
    tints,
)
from cliplib.features.registration import halved, register, similarity_maps, warped

# Correlations of detail and of grey levels, once one image is laid over the other.
MIN_REGISTERED = 0.85
MIN_REGISTERED_GREY = 0.95
# In any one place. Planted crops and turns of 800 photographs differ by up to 22 there.
MAX_REGISTERED_DIFFERENCE = 30
# Differing bits of 64.
MAX_WARPED_DISTANCE = 6
# Of 255, between mean tints.
MAX_TINT_DIFFERENCE = 15
# Between standardised features.
MIN_COSINE = 0.8
# Crops and turns, but not both: enough to propose pairs by their hashes.
WARPS = similarity_maps(
    [(s, 0.0) for s in (1.0, 0.95, 0.9, 0.85, 0.8)] + [(1.0, a) for a in (-8, -4, 4, 8)]
)


def proposed_crops(
    grey: NDArray[np.uint8],
    index_a: Ints,
    index_b: Ints,
    features: Features | None,
    is_within: bool,
) -> Ints:
    """Return pairs of rows, (p, 2), that may show parts of one another.

    Their hashes are close once one of both is cropped or turned; or their features are.
    """
    proposed = [_with_close_versions(grey, index_a, index_b)]
    if not is_within:
        swapped = _with_close_versions(grey, index_b, index_a)
        proposed.append(swapped[:, ::-1])
    elif features is not None:
        known = index_a[np.isfinite(features[index_a]).all(axis=1)]
        if len(known):
            proposed.append(known[_like_rows(features[known])])
    pairs = np.concatenate(proposed)
    if is_within:
        pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0)


def _with_close_versions(grey: NDArray[np.uint8], moving: Ints, fixed: Ints) -> Ints:
    """Return pairs of rows, (p, 2): one of `moving`, then one of `fixed`.

    The hash of a cropped or turned version of the first is close to that of the second.
    """
    versions = _warped_bits(grey[moving])
    bits = low_frequency_bits(halved(grey[fixed]), 8)
    pairs = [np.zeros((0, 2), np.int64)]
    for rows_a, rows_b, _ in close_hashes(versions, bits, MAX_WARPED_DISTANCE):
        pairs.append(np.column_stack([moving[rows_a], fixed[rows_b]]))
    return np.concatenate(pairs)


@one_thread()
def _warped_bits(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return 64 bits of each image (n, s, s) in each of the warps, and mirrored.

    The answer is (n, 2 · warps, 1).
    """
    bits = [np.zeros((0, 2 * len(WARPS), 1), np.uint64)]
    for batch in row_batches(len(grey), IMAGES_AT_ONCE):
        views = warped(halved(grey[batch]), WARPS).numpy()
        both = np.concatenate([views, views[..., ::-1]])
        bits.append(low_frequency_bits(both, 8).swapaxes(0, 1))
    return np.concatenate(bits)


def _like_rows(features: Features) -> Ints:
    """Return pairs of rows, (p, 2), whose standardised features have a high cosine."""
    standardised = StandardScaler().fit_transform(features)
    alike = radius_neighbors_graph(standardised, 1 - MIN_COSINE, metric="cosine")
    return np.column_stack(triu(alike).nonzero())


def confirmed_crops(
    records: NDArray[Any], proposed: Ints, min_correlation: float
) -> pd.DataFrame:
    """Return those of the proposed pairs, (p, 2), that registration confirms."""
    rows_a = proposed[:, 0]
    rows_b = proposed[:, 1]
    found = register(records["grey"], rows_a, rows_b)
    is_simple = one_is_simple(records["grey"], rows_a, rows_b)
    max_difference = np.where(
        is_simple, MAX_SIMPLE_DIFFERENCE, MAX_REGISTERED_DIFFERENCE
    )
    # Of parts, only the mean tint can be compared. A simple image's must be the same.
    tint = tints(records["colours"]).mean(axis=(2, 3))
    tint_difference = np.abs(tint[rows_a] - tint[rows_b]).max(axis=1)
    is_copy = (
        (found["correlation"] >= max(MIN_REGISTERED, min_correlation))
        & (found["grey"] >= MIN_REGISTERED_GREY)
        & (found["difference"] <= max_difference)
        & (~is_simple | (tint_difference <= MAX_TINT_DIFFERENCE))
    )
    orientation = np.where(found["is_mirrored"], "mirrored", "")
    found = found.assign(
        index_a=rows_a, index_b=rows_b, kind="cropped", orientation=orientation
    )
    return found[is_copy]
