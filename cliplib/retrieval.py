"""Search by image or by words, and how good its ranking is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics.pairwise import cosine_similarity

from cliplib.arrays import Features, Ints

KS = (1, 5, 10)


MEASURES = ["share", "average_precision"]
MEASURES += [f"{measure}_at_{k}" for measure in ("recall", "precision") for k in KS]


def search(
    queries: ArrayLike,
    gallery: ArrayLike,
    k: int = 10,
    *,
    groups: ArrayLike | None = None,
    query_groups: ArrayLike | None = None,
) -> tuple[Ints, Features]:
    """Return each query's k nearest gallery rows, best first: row numbers and cosines, (q, k) each.

    With `groups` (n,), the near-duplicates in the gallery, only the nearest of each group; with
    `query_groups` (q,) none of the query's own. Fewer columns where there are fewer to be found.
    """
    if groups is None and query_groups is not None:
        raise ValueError(
            "Give the groups of both queries and gallery, or of the gallery alone."
        )
    codes = (
        np.arange(len(np.asarray(gallery))) if groups is None else np.asarray(groups)
    )
    own = query_groups is not None and np.isin(query_groups, codes).any()
    width = min(k, len(np.unique(codes)) - own)
    rows = np.empty((len(np.asarray(queries)), width), np.int64)
    similarities = np.empty(rows.shape, np.float32)
    for i, similar in enumerate(_each_query(queries, gallery)):
        order = np.argsort(-similar, kind="stable")
        if query_groups is not None:
            order = order[codes[order] != np.asarray(query_groups)[i]]
        if groups is not None:
            order = order[np.sort(np.unique(codes[order], return_index=True)[1])]
        rows[i] = order[:width]
        similarities[i] = similar[rows[i]]
    return rows, similarities


def _each_query(queries: ArrayLike, gallery: ArrayLike) -> Iterator[Features]:
    """Yield the similarities (n,) of each query in turn, with those of 512 in memory at most."""
    x = np.asarray(queries)
    for start in range(0, len(x), 512):
        yield from cosine_similarity(x[start : start + 512], gallery)


def rank_metrics(
    queries: ArrayLike,
    gallery: ArrayLike,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    query_groups: ArrayLike | None = None,
    gallery_groups: ArrayLike | None = None,
) -> pd.DataFrame:
    """Measure how well each query ranks the gallery rows that carry its label, one query a row.

    Rows of a query's own group, itself and its near-duplicates, are no candidates. Columns: share
    of right candidates (precision by chance), average_precision (Manning et al. 2008, section 8.4),
    recall_at_k (is any of the first k right? Oh Song et al., CVPR 2016) and precision_at_k; NaN
    where nothing is right, and for a k above the number of candidates.
    """
    if (query_groups is None) != (gallery_groups is None):
        raise ValueError("Give the groups of both queries and gallery, or of neither.")
    labels, rows, ranked = np.asarray(gallery_labels), [], _each_query(queries, gallery)
    for i, (similar, label) in enumerate(
        zip(ranked, np.asarray(query_labels), strict=True)
    ):
        right = labels == label
        if query_groups is not None:
            others = np.asarray(gallery_groups) != np.asarray(query_groups)[i]
            similar, right = similar[others], right[others]
        rows.append(_measures(similar, right))
    return pd.DataFrame(rows, columns=MEASURES)


def _measures(similar: Features, right: NDArray[np.bool_]) -> list[float]:
    """Return one query's measures; of equal candidates the wrong come first: never flattered."""
    right = right[np.lexsort((right, -similar))]
    if not right.any():
        return [0] + [np.nan] * (len(MEASURES) - 1)
    ranks = np.flatnonzero(right) + 1
    average_precision = (np.arange(1, len(ranks) + 1) / ranks).mean()
    precision = [right[:k].mean() if k <= len(right) else np.nan for k in KS]
    recall = [share if np.isnan(share) else float(share > 0) for share in precision]
    return [right.mean(), average_precision, *recall, *precision]
