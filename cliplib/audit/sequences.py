"""Runs of file numbers that show one object: an assumption that makes groups coarser, for photos taken in a row."""

from __future__ import annotations

import itertools
import logging
import posixpath
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

logger = logging.getLogger(__name__)

FAR_QUANTILE = 0.99
"""Neighbours in file number count as one object when closer than this share of the far pairs in the same folder."""

MIN_SIMILARITY = 0.5
"""The cosine used instead where there are fewer than :data:`MIN_FAR_PAIRS` far pairs to measure it on."""

MIN_FAR_PAIRS = 100


def sequence_groups(
    ids: Sequence[str],
    features: ArrayLike,
    groups: ArrayLike,
    *,
    gap: int = 1,
    similarity: float | None = None,
) -> NDArray[np.int64]:
    """Merge groups of images that are neighbours in file number and close in their features.

    An assumption, not a finding: where photos are numbered in the order they were taken, as in TrashNet, neighbours
    that look alike to the encoder are taken to show the same object. Only neighbours are compared.

    Parameters
    ----------
    ids : sequence of str, length n
        Such as ``"metal/metal203.jpg"``: all up to the last number in the name must agree.
    features : array-like of float, shape (n, d)
        Standardised here, column by column, over all n.
    groups : array-like of int, shape (n,)
        Groups to start from; none is ever split.
    gap : int
        Largest difference between the numbers of neighbours.
    similarity : float, optional
        Smallest cosine of their standardised features, -1 to 1. Default: measured, since its scale depends on the
        encoder, as the 99th percentile over images of the same folder that are far apart in number. So one in a
        hundred unrelated neighbours is merged by mistake.

    Returns
    -------
    ndarray of int64, shape (n,)
        Group per image, numbered by first appearance; coarser than or equal to `groups`.

    Raises
    ------
    ValueError
        Lengths differ, or `gap` is below 1.
    """
    given = np.unique(np.asarray(groups), return_inverse=True)[1]
    if given.shape != (len(ids),):
        raise ValueError(f"groups has shape {given.shape}, but there are {len(ids)} ids.")
    i, j, _ = neighbours(ids, features, gap, similarity)
    first = np.unique(given, return_index=True)[1]
    chain = np.column_stack([first[given], np.arange(len(ids))])
    return components(len(ids), np.concatenate([chain, np.column_stack([i, j])]))


def neighbours(
    ids: Sequence[str], features: ArrayLike, gap: int, similarity: float | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows of neighbours in file number whose features are close, and the cosine."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) != len(ids):
        raise ValueError(f"features has shape {x.shape}, but there are {len(ids)} ids: one row of features per image.")
    if gap < 1:
        raise ValueError(f"gap is {gap}: neighbours differ by at least 1 in their number.")
    stems = (posixpath.splitext(name)[0] for name in ids)  # an ending such as .jp2 holds a number of its own
    found = ((k, re.fullmatch(r"(.*?)(\d+)[^\d/]*", stem, re.DOTALL)) for k, stem in enumerate(stems))
    numbered = sorted((match[1], int(match[2]), k) for k, match in found if match)
    near: list[tuple[int, int]] = []
    far: list[tuple[int, int]] = []
    for _, members in itertools.groupby(numbered, key=lambda entry: entry[0]):
        run = list(members)
        near.extend((a[2], b[2]) for a, b in itertools.pairwise(run) if b[1] - a[1] <= gap)
        if len(run) >= 20:  # else the far ones are not far
            far.extend((a[2], b[2]) for a, b in zip(run, run[len(run) // 2 :], strict=False))
    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    (i, j), (a, b) = (np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T for pairs in (near, far))
    cosine = np.einsum("nd,nd->n", x[i], x[j])
    if similarity is None:
        enough = len(far) >= MIN_FAR_PAIRS
        similarity = float(np.quantile(np.einsum("nd,nd->n", x[a], x[b]), FAR_QUANTILE)) if enough else MIN_SIMILARITY
    keep = cosine >= similarity
    logger.info("%d of %d neighbours in file number have a cosine of %.3f or more", keep.sum(), len(keep), similarity)
    return i[keep], j[keep], cosine[keep]


def components(n: int, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Connected components of n nodes, numbered by first appearance."""
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(n, n))
    return np.asarray(pd.factorize(connected_components(graph, directed=False)[1])[0], dtype=np.int64)
