"""Copies that are cropped or turned a little: pairs are proposed, then confirmed.

They are proposed by hashes of cropped and turned versions, and by similar features, and
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

# Smallest correlations of detail and of grey levels of a registered pair.
MIN_REGISTERED = 0.85
MIN_REGISTERED_GREY = 0.95
# Largest difference anywhere of a registered pair, in grey levels. Planted crops and
# turns of 800 photographs differ by up to 22.
MAX_REGISTERED_DIFFERENCE = 30
# Largest number of differing bits, of 64, at which hashes propose a pair.
MAX_WARPED_DISTANCE = 6
# Largest difference between the mean tints of two simple copies, on a scale of 0 to
# 255.
MAX_TINT_DIFFERENCE = 15
# Smallest cosine of standardised features that proposes a pair.
MIN_COSINE = 0.8
# The versions that are hashed, by scale and angle: zooms, turns, and turns whose empty
# corners are cropped.
ZOOMS = [(scale, 0.0) for scale in (1.0, 0.95, 0.9, 0.85, 0.8)]
TURNS = [(1.0, angle) for angle in (-8.0, -4.0, 4.0, 8.0)]
CROPPED_TURNS = [(0.85, -8.0), (0.9, -4.0), (0.9, 4.0), (0.85, 8.0)]
WARPS = similarity_maps([*ZOOMS, *TURNS, *CROPPED_TURNS])


def proposed_crops(
    grey: NDArray[np.uint8],
    index_a: Ints,
    index_b: Ints,
    features: Features | None,
    is_within: bool,
) -> Ints:
    """Return pairs of rows, (p, 2), of which one may show a part of the other.

    Either their hashes are close once one of them is cropped or turned, or their
    features are similar. Within one collection `index_a` and `index_b` are the same
    rows; otherwise `features` are not used.
    """
    proposed = [_close_once_warped(grey, index_a, index_b)]
    if not is_within:
        swapped = _close_once_warped(grey, index_b, index_a)
        proposed.append(swapped[:, ::-1])
    elif features is not None:
        has_features = np.isfinite(features[index_a]).all(axis=1)
        rows = index_a[has_features]
        if len(rows):
            proposed.append(rows[_similar_pairs(features[rows])])
    pairs = np.concatenate(proposed)
    if is_within:
        pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0)


def _close_once_warped(grey: NDArray[np.uint8], moving: Ints, fixed: Ints) -> Ints:
    """Return pairs, (p, 2), of a row of `moving` and a row of `fixed`.

    A cropped or turned version of the first image has a hash close to the second's.
    """
    warped_bits = _warped_bits(grey[moving])
    fixed_bits = low_frequency_bits(halved(grey[fixed]), 8)
    pairs = [np.zeros((0, 2), np.int64)]  # since there may be none
    for a, b, _ in close_hashes(warped_bits, fixed_bits, MAX_WARPED_DISTANCE):
        pairs.append(np.column_stack([moving[a], fixed[b]]))
    return np.concatenate(pairs)


@one_thread()
def _warped_bits(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the 64-bit hashes of images (n, s, s) in all warps, (n, 2 · warps, 1).

    The warps come first, then their mirror images.
    """
    bits = np.empty((len(grey), 2 * len(WARPS), 1), np.uint64)
    for batch in row_batches(len(grey), IMAGES_AT_ONCE):
        views = warped(halved(grey[batch]), WARPS).numpy()  # (warps, n, s/2, s/2)
        with_mirrored = np.concatenate([views, views[..., ::-1]])
        bits[batch] = low_frequency_bits(with_mirrored, 8).swapaxes(0, 1)
    return bits


def _similar_pairs(features: Features) -> Ints:
    """Return pairs of rows, (p, 2), whose standardised features have a high cosine."""
    standardised = StandardScaler().fit_transform(features)
    is_similar = radius_neighbors_graph(standardised, 1 - MIN_COSINE, metric="cosine")
    return np.column_stack(triu(is_similar).nonzero())


def confirmed_crops(
    records: NDArray[Any], proposed: Ints, min_correlation: float
) -> pd.DataFrame:
    """Return the proposed pairs of rows, (p, 2), that registration confirms.

    The result has the columns of `find_near_duplicates`, and some more.
    """
    rows_a = proposed[:, 0]
    rows_b = proposed[:, 1]
    pairs = register(records["grey"], rows_a, rows_b)
    is_simple = one_is_simple(records["grey"], rows_a, rows_b)
    max_difference = np.where(
        is_simple, MAX_SIMPLE_DIFFERENCE, MAX_REGISTERED_DIFFERENCE
    )
    # The tints of cells cannot be compared once one image is cropped, but mean tints
    # can. Simple images must agree in them.
    mean_tints = tints(records["colours"]).mean(axis=(2, 3))  # (n, 3)
    tint_difference = np.abs(mean_tints[rows_a] - mean_tints[rows_b]).max(axis=1)
    is_copy = (
        (pairs["correlation"] >= max(MIN_REGISTERED, min_correlation))
        & (pairs["grey"] >= MIN_REGISTERED_GREY)
        & (pairs["difference"] <= max_difference)
        & (~is_simple | (tint_difference <= MAX_TINT_DIFFERENCE))
    )
    orientation = np.where(pairs["is_mirrored"], "mirrored", "")
    pairs = pairs.assign(
        index_a=rows_a, index_b=rows_b, kind="cropped", orientation=orientation
    )
    return pairs[is_copy]
