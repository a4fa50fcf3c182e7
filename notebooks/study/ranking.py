"""How good the ranking of a search is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.data.arrays import Bools, Features
from cliplib.inspection.search import each_query

KS = (1, 5, 10)

MEASURES = (
    "share",
    "average_precision",
    *(f"recall_at_{k}" for k in KS),
    *(f"precision_at_{k}" for k in KS),
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
        Features (q, d) and (n, d), which are compared by cosine.
    query_labels, gallery_labels
        (q,) and (n,).
    query_groups, gallery_groups
        (q,) and (n,), such as of near-duplicates: gallery rows of a query's own group,
        itself among them, are no candidates.

    Returns
    -------
    A row for each query, with the columns `MEASURES`:

    share
        Of candidates that carry the query's label: precision by chance.
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
    gallery_labels = np.asarray(gallery_labels)
    measures = []
    similarities = each_query(queries, gallery)  # yields (n,) cosines for each query
    labels = np.asarray(query_labels)
    for query, (cosines, label) in enumerate(zip(similarities, labels, strict=True)):
        is_right = gallery_labels == label
        if query_groups is not None:
            own_group = np.asarray(query_groups)[query]
            is_candidate = np.asarray(gallery_groups) != own_group
            cosines = cosines[is_candidate]
            is_right = is_right[is_candidate]
        measures.append(_measures(cosines, is_right))
    return pd.DataFrame(measures, columns=list(MEASURES))


def _measures(cosines: Features, is_right: Bools) -> dict[str, float]:
    """Return the `MEASURES` of one query, by name, from its n candidates.

    `cosines` and `is_right`, whether a candidate carries the query's label, are (n,).
    Of equally similar ones the wrong are ranked first, so that ties raise no measure.
    """
    order = np.lexsort((is_right, -cosines))  # by falling cosine, then wrong ones first
    ranked_right = is_right[order]
    measures = dict.fromkeys(MEASURES, np.nan)
    if not ranked_right.any():
        return measures | {"share": 0.0}
    ranks = np.flatnonzero(ranked_right) + 1  # of the right ones, from 1
    n_right_so_far = np.arange(1, len(ranks) + 1)
    precisions = n_right_so_far / ranks  # at each of these ranks
    measures["share"] = float(ranked_right.mean())
    measures["average_precision"] = float(precisions.mean())
    for k in KS:
        if k <= len(ranked_right):
            measures[f"recall_at_{k}"] = float(ranked_right[:k].any())
            measures[f"precision_at_{k}"] = float(ranked_right[:k].mean())
    return measures
