"""Search by image or by words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from cliplib.data.arrays import Features, Ints, row_batches
from cliplib.encoders.encoder import Encoder, check_made_by
from cliplib.features.table import FeatureTable

# Queries whose similarities to all gallery rows are in memory together.
BATCH_SIZE = 512


def search(
    queries: ArrayLike | str | Sequence[str],
    gallery: ArrayLike | FeatureTable,
    k: int = 10,
    *,
    encoder: Encoder | None = None,
    groups: ArrayLike | None = None,
    query_groups: ArrayLike | None = None,
) -> tuple[Ints, Features]:
    """Return each query's k nearest gallery rows by cosine, best first.

    Parameters
    ----------
    queries
        Features (q, d); or, with an `encoder`, one text or several.
    gallery
        Features (n, d), or a feature table. For texts they are the projected ones, or
        of a table in a readout that contains the pooled ones.
    k
        How many. All queries get fewer where the gallery has fewer rows, or where one
        of them has fewer groups to choose from.
    encoder
        What made the gallery, to read texts; without it, queries are features.
    groups
        Groups of the gallery's rows (n,), such as near-duplicates: only the nearest row
        of each group is returned.
    query_groups
        Groups of the queries (q,): no row of a query's own group is returned.

    Returns
    -------
    Row numbers (q, m) int64, and cosines (q, m) float32, where m is k or fewer.

    Raises
    ------
    TypeError
        If the encoder reads no texts, or is none, beside a table.
    ValueError
        If there is no query, `k` is less than 1, there are groups of the queries but
        not of the gallery, texts lack an encoder, or another one made the table.
    """
    if groups is None and query_groups is not None:
        raise ValueError(
            "Give the groups of both queries and gallery, or of the gallery alone."
        )
    query_rows, gallery_rows = _features_of(queries, gallery, encoder)
    if k < 1 or len(query_rows) == 0:
        raise ValueError("Give one query or more, and a k of 1 or more.")
    if groups is None:
        n_found = min(k, len(gallery_rows))
        neighbours = NearestNeighbors(n_neighbors=n_found, metric="cosine")
        distances, rows = neighbours.fit(gallery_rows).kneighbors(query_rows)
        return rows, np.asarray(1 - distances, np.float32)
    group_of_query = None if query_groups is None else np.asarray(query_groups)
    return _nearest_of_each_group(
        query_rows, gallery_rows, np.asarray(groups), group_of_query, k
    )


def _nearest_of_each_group(
    queries: Any, gallery: Any, groups: Ints, query_groups: Ints | None, k: int
) -> tuple[Ints, Features]:
    """Return what `search` returns where the gallery's rows have groups, (n,)."""
    rows_found = []
    cosines_found = []
    for query, cosines in enumerate(each_query(queries, gallery)):
        nearest_first = np.argsort(-cosines, kind="stable")
        groups_in_order = pd.Series(groups[nearest_first])
        is_wanted = ~groups_in_order.duplicated()
        if query_groups is not None:
            is_wanted &= groups_in_order != query_groups[query]
        rows = nearest_first[is_wanted][:k]
        rows_found.append(rows)
        cosines_found.append(cosines[rows])
    n_found = min(map(len, rows_found))
    return (
        np.stack([rows[:n_found] for rows in rows_found]),
        np.stack([cosines[:n_found] for cosines in cosines_found], dtype=np.float32),
    )


def _features_of(
    queries: Any, gallery: ArrayLike | FeatureTable, encoder: Encoder | None
) -> tuple[Any, Any]:
    """Return features of queries (q, d) and of a gallery (n, d), which may be a table.

    With an encoder, queries are texts, and a table is projected to where they are.
    """
    if encoder is None:
        if np.asarray(queries).dtype.kind == "U":
            raise ValueError("Give encoder=, what made the gallery, to read texts.")
        rows = gallery.features if isinstance(gallery, FeatureTable) else gallery
        return queries, rows
    if not isinstance(gallery, FeatureTable):
        return encoder.encode_texts(queries), gallery
    check_made_by(gallery.provenance, encoder)
    texts = encoder.encode_texts(queries)
    return texts, encoder.project(gallery.with_readout("pooled").features)


def each_query(queries: ArrayLike, gallery: ArrayLike) -> Iterator[Features]:
    """Yield for each of the queries (q, d) its cosines with all gallery rows, (n,)."""
    query_rows = np.asarray(queries)
    for batch in row_batches(len(query_rows), BATCH_SIZE):
        yield from cosine_similarity(query_rows[batch], gallery)
