"""Zero-shot classification and search, on projected features of images and texts."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

from cliplib.data import DatasetSpec
from cliplib.encoder import ClipEncoder, Features
from cliplib.features import FeatureTable
from cliplib.resampling import Floats, Ints

KS = (1, 5, 10)
MEASURES = ["share", "average_precision"]
MEASURES += [f"{measure}_at_{k}" for measure in ("recall", "precision") for k in KS]


def zero_shot_weights(
    encoder: ClipEncoder,
    phrases: Sequence[str | Sequence[str]],
    templates: Sequence[str] = ("a photo of {}.",),
) -> Features:
    """Return the classifier that prompts describe: a direction for each class, (k, d), unit length.

    It is the normalised mean of the class's normalised prompts (Radford et al., ICML 2021, section
    3.1.4): each of its phrases, one or several, in the place ``{}`` of each template.
    """
    if isinstance(phrases, str) or not all("{}" in template for template in templates):
        raise ValueError("Give a list of phrases, and of templates a list of texts with a {} each.")
    weights = []
    for ways in phrases:
        ways = [ways] if isinstance(ways, str) else ways
        prompts = [template.replace("{}", phrase) for phrase in ways for template in templates]
        weights.append(normalize(encoder.texts(prompts)).mean(axis=0))
    return np.asarray(normalize(weights))


def zero_shot(encoder: ClipEncoder, table: FeatureTable, spec: DatasetSpec) -> Floats:
    """Return probabilities (n, k) of the k classes of a data set for the images of any table."""
    weights = zero_shot_weights(encoder, list(spec.phrases.values()), spec.templates)
    images = encoder.project(table.readout("pooled").features)
    return np.asarray(softmax(encoder.logit_scale * (images @ weights.T).astype(float), axis=1))


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
        raise ValueError("Give the groups of both queries and gallery, or of the gallery alone.")
    codes = np.arange(len(np.asarray(gallery))) if groups is None else np.asarray(groups)
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
    for i, (similar, label) in enumerate(zip(ranked, np.asarray(query_labels), strict=True)):
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
