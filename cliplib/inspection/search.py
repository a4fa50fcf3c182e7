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

# Number of queries whose similarities to all gallery rows are in memory together.
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
        Features (q, d), or, if an `encoder` is given, one or several texts.
    gallery
        Features (n, d), or a feature table. To be searched by texts, features must be
        projected, and a table's readout must contain the pooled features.
    k
        Number of rows for each query. All queries get fewer if the gallery has fewer
        rows, or if one query has fewer groups to choose from.
    encoder
        The encoder that made the gallery; it encodes the texts.
    groups
        Groups of the gallery's rows, (n,), such as near-duplicates: only the nearest
        row of each group is returned.
    query_groups
        Groups of the queries, (q,): no row of a query's own group is returned.

    Returns
    -------
    Row numbers (q, m) int64, and cosines (q, m) float32, where m is at most k.

    Raises
    ------
    TypeError
        If the encoder cannot encode texts, or what is given beside a table is no
        encoder.
    ValueError
        If there is no query, `k` is less than 1, the queries have groups but the
        gallery has none, texts are given without an encoder, or the table was made by
        another encoder.
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
    """Search as `search` does if the gallery's rows have groups, (n,)."""
    rows_by_query = []
    cosines_by_query = []
    for query, cosines in enumerate(each_query(queries, gallery)):
        nearest_first = np.argsort(-cosines, kind="stable")
        sorted_groups = pd.Series(groups[nearest_first])
        is_kept = ~sorted_groups.duplicated()
        if query_groups is not None:
            is_kept &= sorted_groups != query_groups[query]
        rows = nearest_first[is_kept][:k]
        rows_by_query.append(rows)
        cosines_by_query.append(cosines[rows])
    m = min(map(len, rows_by_query))
    return (
        np.stack([rows[:m] for rows in rows_by_query]),
        np.stack([cosines[:m] for cosines in cosines_by_query], dtype=np.float32),
    )


def _features_of(
    queries: Any, gallery: ArrayLike | FeatureTable, encoder: Encoder | None
) -> tuple[Any, Any]:
    """Return comparable features of queries (q, d) and of a gallery (n, d).

    With an encoder, the queries are texts, and a table's features are projected into
    the space that they share with texts.
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
    """Yield each query's cosines (n,) with all gallery rows; queries are (q, d)."""
    query_rows = np.asarray(queries)
    for batch in row_batches(len(query_rows), BATCH_SIZE):
        yield from cosine_similarity(query_rows[batch], gallery)
