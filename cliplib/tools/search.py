"""Search by image or by words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from cliplib.images.arrays import Features, Ints

QUERIES_AT_ONCE = 512  # whose similarities are in memory


def search(
    queries: ArrayLike,
    gallery: ArrayLike,
    k: int = 10,
    *,
    groups: ArrayLike | None = None,
    query_groups: ArrayLike | None = None,
) -> tuple[Ints, Features]:
    """Return each query's k nearest gallery rows by cosine, best first.

    Of equally near rows the one with the lower number comes first.

    Parameters
    ----------
    queries, gallery
        Features (q, d) and (n, d).
    k
        How many; fewer are returned where there are fewer.
    groups
        Of the gallery's rows (n,), its near-duplicates: only the nearest of each group
        is returned.
    query_groups
        Of the queries (q,): no row of a query's own group is returned.

    Returns
    -------
    Row numbers (q, k) int64, and cosines (q, k) float32.

    Raises
    ------
    ValueError
        If there are groups of the queries but not of the gallery, or k is below 1.
    """
    if groups is None and query_groups is not None:
        raise ValueError(
            "Give the groups of both queries and gallery, or of the gallery alone."
        )
    if k < 1:
        raise ValueError(f"k={k} must be 1 or more.")
    query_rows, gallery_rows = np.asarray(queries), np.asarray(gallery)
    if groups is None:
        return _nearest(query_rows, gallery_rows, min(k, len(gallery_rows)))
    codes = np.asarray(groups)
    own = None if query_groups is None else np.asarray(query_groups)
    return _nearest_of_groups(query_rows, gallery_rows, codes, own, k)


def _nearest(queries: Features, gallery: Features, k: int) -> tuple[Ints, Features]:
    """Search without groups."""
    if not len(queries):
        return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    one_more = min(k + 1, len(gallery))
    neighbours = NearestNeighbors(
        n_neighbors=one_more, metric="cosine", algorithm="brute"
    )
    distances, rows = neighbours.fit(gallery).kneighbors(queries)
    by_distance_then_row = np.lexsort((rows, distances))
    rows = np.take_along_axis(rows, by_distance_then_row, axis=1)
    distances = np.take_along_axis(distances, by_distance_then_row, axis=1)
    if one_more > k:
        # Which of equally near rows scikit-learn leaves out is chance: rank them all.
        tied = np.flatnonzero(distances[:, k - 1] == distances[:, k])
        for query, similar in zip(
            tied, each_query(queries[tied], gallery), strict=True
        ):
            rows[query, :k] = np.argsort(-similar, kind="stable")[:k]
            distances[query, :k] = 1 - similar[rows[query, :k]]
    return rows[:, :k].astype(np.int64), (1 - distances[:, :k]).astype(np.float32)


def _nearest_of_groups(
    queries: Features, gallery: Features, groups: Ints, own: Ints | None, k: int
) -> tuple[Ints, Features]:
    """Search with groups; by hand: no library takes one row a group.

    `own` are the groups of the queries, from which nothing is returned.
    """
    others = len(np.unique(groups))
    if own is not None and np.isin(own, groups).any():
        others -= 1
    width = min(k, others)
    rows = np.empty((len(queries), width), np.int64)
    cosines = np.empty((len(queries), width), np.float32)
    for query, similar in enumerate(each_query(queries, gallery)):
        order = np.argsort(-similar, kind="stable")
        if own is not None:
            order = order[groups[order] != own[query]]
        places_of_first = np.unique(groups[order], return_index=True)[1]
        rows[query] = order[np.sort(places_of_first)][:width]
        cosines[query] = similar[rows[query]]
    return rows, cosines


def each_query(queries: ArrayLike, gallery: ArrayLike) -> Iterator[Features]:
    """Yield the similarities (n,) of each query in turn."""
    query_rows = np.asarray(queries)
    for start in range(0, len(query_rows), QUERIES_AT_ONCE):
        yield from cosine_similarity(
            query_rows[start : start + QUERIES_AT_ONCE], gallery
        )
