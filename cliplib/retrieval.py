"""Search by image or by words, and how good its ranking is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from cliplib.arrays import Bools, Features, Ints

KS = (1, 5, 10)
MEASURES = (
    "share",
    "average_precision",
    *(f"recall_at_{k}" for k in KS),
    *(f"precision_at_{k}" for k in KS),
)
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
            tied, _each_query(queries[tied], gallery), strict=True
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
    for query, similar in enumerate(_each_query(queries, gallery)):
        order = np.argsort(-similar, kind="stable")
        if own is not None:
            order = order[groups[order] != own[query]]
        places_of_first = np.unique(groups[order], return_index=True)[1]
        rows[query] = order[np.sort(places_of_first)][:width]
        cosines[query] = similar[rows[query]]
    return rows, cosines


def _each_query(queries: ArrayLike, gallery: ArrayLike) -> Iterator[Features]:
    """Yield the similarities (n,) of each query in turn."""
    query_rows = np.asarray(queries)
    for start in range(0, len(query_rows), QUERIES_AT_ONCE):
        yield from cosine_similarity(
            query_rows[start : start + QUERIES_AT_ONCE], gallery
        )


def rank_metrics(
    queries: ArrayLike,
    gallery: ArrayLike,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    query_groups: ArrayLike | None = None,
    gallery_groups: ArrayLike | None = None,
) -> pd.DataFrame:
    """Measure how well each query ranks the gallery rows that carry its label.

    Parameters
    ----------
    queries, gallery
        Features (q, d) and (n, d).
    query_labels, gallery_labels
        (q,) and (n,).
    query_groups, gallery_groups
        (q,) and (n,), near-duplicates: rows of a query's own group, itself among them,
        are no candidates.

    Returns
    -------
    A row for each query, with the columns `MEASURES`:

    share
        Of right candidates: precision by chance.
    average_precision
        Manning et al. 2008, section 8.4.
    recall_at_k
        Whether any of the first k is right (Oh Song et al., CVPR 2016).
    precision_at_k
        Share of right ones among the first k.

    All but the share are NaN where nothing is right, and for a k above the number of
    candidates.

    Raises
    ------
    ValueError
        If only one side has groups, or labels are not as many as features.
    """
    if (query_groups is None) != (gallery_groups is None):
        raise ValueError("Give the groups of both queries and gallery, or of neither.")
    labels, candidates = np.asarray(query_labels), np.asarray(gallery_labels)
    measures = []
    similarities = _each_query(queries, gallery)
    for query, (similar, label) in enumerate(zip(similarities, labels, strict=True)):
        right = candidates == label
        if query_groups is not None:
            others = np.asarray(gallery_groups) != np.asarray(query_groups)[query]
            similar, right = similar[others], right[others]
        measures.append(_measures(similar, right))
    return pd.DataFrame(measures, columns=list(MEASURES))


def _measures(similar: Features, right: Bools) -> dict[str, float]:
    """Measure one query's ranking; of equal candidates the wrong ones come first."""
    ranking = right[np.lexsort((right, -similar))]  # never flattered by a tie
    measures = dict.fromkeys(MEASURES, np.nan)
    if not ranking.any():
        return measures | {"share": 0.0}
    ranks = np.flatnonzero(ranking) + 1
    measures["share"] = float(ranking.mean())
    measures["average_precision"] = float((np.arange(1, len(ranks) + 1) / ranks).mean())
    for k in KS:
        if k <= len(ranking):
            measures[f"recall_at_{k}"] = float(ranking[:k].any())
            measures[f"precision_at_{k}"] = float(ranking[:k].mean())
    return measures
