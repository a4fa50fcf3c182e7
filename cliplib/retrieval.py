"""Search judged as a ranking, and exact search over more rows than memory holds.

A query is to find what carries its label: pictures of a class, the caption of a picture, the picture of a caption.
The measures are those of the field: recall@k, whether anything right is among the first k (Oh Song et al., "Deep metric
learning via lifted structured feature embedding", CVPR 2016; with one right answer that of Karpathy and Fei-Fei, CVPR
2015), precision@k, and average precision (Manning et al., *Introduction to Information Retrieval*, 2008, section 8.4),
whose mean over queries is mAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cliplib.errors import CliplibError
from cliplib.evaluation.bootstrap import Floats, Ints, bootstrap, group_codes, intervals, ratio
from cliplib.robustness import mean_interval
from cliplib.zeroshot import FloatArray, cosines, search

__all__ = ["gallery_intervals", "mean_intervals", "rank_metrics", "search_distinct", "search_rows"]

KS = (1, 5, 10)


def search_distinct(
    queries: ArrayLike, gallery: ArrayLike, k: int = 10, *, groups: ArrayLike, query_groups: ArrayLike | None = None
) -> tuple[Ints, FloatArray]:
    """The `k` nearest gallery rows of each query, one of each group: what a person looks at holds no picture twice.

    Parameters
    ----------
    queries, gallery : array-like of shape (q, d) and (n, d)
        Projected features.
    k : int
        Fewer are returned where there are fewer groups.
    groups : array-like of int, shape (n,)
        Near-duplicates in the gallery.
    query_groups : array-like of int, shape (q,), optional
        Groups of the gallery that the queries are from: each is left out of its query's answer.

    Returns
    -------
    indices, scores : ndarray of int64 and of float32, shape (q, at most k)
        As from :func:`cliplib.zeroshot.search`.
    """
    codes = _column(groups, len(np.asarray(gallery)), "groups")
    own = None if query_groups is None else _column(query_groups, len(np.asarray(queries)), "query_groups")
    order, scores = search(queries, gallery, k=max(1, len(codes)))
    k = min(k, len(np.unique(codes)) - (own is not None))
    chosen = np.empty((len(order), k), np.int64)
    for i, row in enumerate(codes[order]):
        firsts = np.sort(np.unique(row, return_index=True)[1])
        chosen[i] = (firsts if own is None else firsts[row[firsts] != own[i]])[:k]
    return np.take_along_axis(order, chosen, axis=1), np.take_along_axis(scores, chosen, axis=1)


def search_rows(queries: ArrayLike, rows: ArrayLike, k: int = 10, *, chunk: int = 1 << 12) -> tuple[Ints, FloatArray]:
    """Exact search over rows that need not fit into memory; the answer of :func:`cliplib.zeroshot.search`.

    Chunk after chunk is multiplied with the queries; of a chunk, only what beats a query's worst find so far is looked
    at again. Memory holds one chunk and its scores, whatever the number of rows.

    Parameters
    ----------
    queries : array-like of shape (q, d)
        Projected features.
    rows : array of shape (n, d)
        Projected features, float16 or float32: an array, or a memory-mapped file (``np.load(path, mmap_mode="r")``).
    k : int
    chunk : int
        Rows compared at once: few enough for the processor's cache, as each is passed over several times.

    Returns
    -------
    indices, scores : ndarray of int64 and of float32, shape (q, min(k, n))
    """
    if chunk < 1:
        raise CliplibError(f"chunk must be at least 1 row, not {chunk}.")
    gallery, size = np.asarray(rows), max(chunk, k)
    found, best = search(queries, gallery[:size], k)
    for start in range(size, len(gallery), size):
        scores = cosines(queries, gallery[start : start + size])
        for i in np.flatnonzero(scores.max(axis=1) > best[:, -1]):
            new = np.flatnonzero(scores[i] > best[i, -1])  # strictly: of equal scores the earlier row stays
            both = np.concatenate([best[i], scores[i, new]])
            kept = np.argsort(-both, kind="stable")[: best.shape[1]]
            found[i], best[i] = np.concatenate([found[i], new + start])[kept], both[kept]
    return found, best


def rank_metrics(
    queries: ArrayLike, gallery: ArrayLike, query_labels: ArrayLike, gallery_labels: ArrayLike, *,
    query_groups: ArrayLike | None = None, gallery_groups: ArrayLike | None = None, ks: Sequence[int] = KS,
) -> pd.DataFrame:  # fmt: skip
    """How well each query ranks the gallery.

    Parameters
    ----------
    queries, gallery : array-like of shape (q, d) and (n, d)
        Projected features.
    query_labels, gallery_labels : array-like of int, shape (q,) and (n,)
        A find is right when its label is the query's.
    query_groups, gallery_groups : array-like of int, shape (q,) and (n,), optional
        Both or neither. Gallery rows of the query's own group, itself and its near-duplicates, are no candidates.
    ks : sequence of int

    Returns
    -------
    DataFrame with q rows
        ``share``, of the candidates that are right: what an order by chance would have as expected precision at any k;
        ``rank`` of the first right one, counted from 1; ``average_precision``; ``recall_at_k`` (0 or 1) and
        ``precision_at_k``. NaN where nothing is right, and for a k above the number of candidates. Candidates of equal
        score are ranked wrong ones first, so that ties never flatter.
    """
    x, n_gallery = np.asarray(queries), len(np.asarray(gallery))
    asked, labels = _column(query_labels, len(x), "query_labels"), _column(gallery_labels, n_gallery, "gallery_labels")
    if (query_groups is None) != (gallery_groups is None):
        raise CliplibError("Give the groups of both queries and gallery, or of neither.")
    own = np.full(len(x), -1) if query_groups is None else _column(query_groups, len(x), "query_groups")
    groups = None if gallery_groups is None else _column(gallery_groups, n_gallery, "gallery_groups")
    columns = ["share", "rank", "average_precision"] + [f"{m}_at_{k}" for m in ("recall", "precision") for k in ks]
    out = np.full((len(x), len(columns)), np.nan)
    for start in range(0, len(x), 512):
        for i, scores in enumerate(cosines(x[start : start + 512], gallery), start):
            candidate = np.ones(n_gallery, bool) if groups is None else groups != own[i]
            right = labels == asked[i]
            hits, misses = np.sort(scores[right & candidate])[::-1], np.sort(scores[~right & candidate])
            n = hits.size + misses.size
            out[i, 0] = hits.size / n if n else np.nan
            if not hits.size:
                continue
            nth = np.arange(1, hits.size + 1)
            rank = nth + misses.size - np.searchsorted(misses, hits, side="left")
            at = [(rank <= k).sum() / k if k <= n else np.nan for k in ks]
            out[i, 1:] = [rank[0], (nth / rank).mean(), *np.sign(at), *at]
    return pd.DataFrame(out, columns=columns)


def mean_intervals(values: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Mean of each column with its interval, for queries that are a sample: ``value``, ``low``, ``high`` as columns.

    NaN entries do not count; a column of zeros and ones is a proportion. `options` are those of
    :func:`cliplib.robustness.mean_interval`: groups of the queries, n_boot, seed, level.
    """
    found = {}
    for name, column in values.items():
        defined = column.dropna()
        dtype = bool if defined.isin((0, 1)).all() else float
        found[name] = mean_interval(column.fillna(0).to_numpy(dtype), where=column.notna(), **options)
    return pd.DataFrame.from_dict(found, orient="index")


def gallery_intervals(
    queries: ArrayLike, gallery: ArrayLike, query_labels: ArrayLike, gallery_labels: ArrayLike, *,
    groups: ArrayLike | None = None, ks: Sequence[int] = KS, n_boot: int = 2000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Measures of a few fixed queries with 95 % intervals over galleries: the gallery's groups are drawn anew.

    Parameters as in :func:`rank_metrics`; `groups` are near-duplicates in the gallery, by default each row its own.

    Returns
    -------
    DataFrame
        Columns ``value``, ``low``, ``high``; rows ``share``, ``average_precision``, ``recall_at_k`` and
        ``precision_at_k``: means over the queries.
    """
    similar = cosines(queries, gallery)
    n = similar.shape[1]
    asked, labels = _column(query_labels, len(similar), "query_labels"), _column(gallery_labels, n, "gallery_labels")
    codes, n_groups = group_codes(groups, n)
    orders = [np.lexsort((labels == query, -scores)) for query, scores in zip(asked, similar, strict=True)]

    def statistic(weights: Floats) -> Floats:
        share, ap, precision = [], [], []
        for query, order in zip(asked, orders, strict=True):
            right, drawn = (labels[order] == query).astype(np.float64), weights[:, codes[order]]
            seen, hits = np.cumsum(drawn, axis=1), drawn * right
            later = np.maximum(hits - 1, 0) / 2  # of a row drawn twice, precision at the mean of its two ranks
            precise = ratio(np.cumsum(hits, axis=1) - later, seen - later)
            share.append(ratio(hits.sum(axis=1), seen[:, -1]))
            ap.append(ratio((hits * precise).sum(axis=1), hits.sum(axis=1)))
            precision.append([np.diff(np.minimum(seen, k), axis=1, prepend=0) @ right / k for k in ks])
        at = np.array(precision)  # (queries, ks, draws)
        means = [np.mean(share, axis=0), np.mean(ap, axis=0), *(at > 0).mean(axis=0), *at.mean(axis=0)]
        return np.stack(means, axis=1)

    draws = bootstrap(statistic, n_groups, n_rows=n, n_boot=n_boot, seed=seed)
    names = ["share", "average_precision", *(f"{m}_at_{k}" for m in ("recall", "precision") for k in ks)]
    return pd.DataFrame(intervals(draws), index=names, columns=["value", "low", "high"])


def _column(values: ArrayLike, n: int, name: str) -> NDArray[Any]:
    column = np.asarray(values)
    if column.shape != (n,):
        raise CliplibError(f"{name} must hold one entry for each of {n} rows, not an array of shape {column.shape}.")
    return column
