"""Zero-shot classification, search and captions, on projected features of images and texts."""

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
from cliplib.resampling import Floats, Ints, bootstrap, group_codes, intervals

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
    if not all("{}" in template for template in templates):
        raise ValueError("Templates must be a list of texts with a {} each: ['a photo of {}.'].")
    weights = []
    for ways in phrases:
        ways = [ways] if isinstance(ways, str) else ways
        prompts = [template.replace("{}", phrase) for phrase in ways for template in templates]
        mean = normalize(encoder.texts(prompts)).mean(axis=0)
        weights.append(mean / np.linalg.norm(mean))
    return np.stack(weights)


def zero_shot_proba(images: ArrayLike, weights: ArrayLike, logit_scale: float) -> Floats:
    """Return class probabilities (n, k) of image features (n, d) by class directions (k, d)."""
    logits = float(logit_scale) * cosine_similarity(images, weights)
    return softmax(logits.astype(np.float64), axis=1)


def zero_shot(encoder: ClipEncoder, table: FeatureTable, spec: DatasetSpec) -> Floats:
    """Return class probabilities (n, k) of a table's images by the phrases of its data set."""
    phrases = [spec.phrases[name] for name in table.classes]
    weights = zero_shot_weights(encoder, phrases, spec.templates)
    shared = encoder.project(table.readout("pooled").features)
    return zero_shot_proba(shared, weights, encoder.logit_scale)


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
    codes = np.arange(len(np.asarray(gallery))) if groups is None else np.asarray(groups)
    width = min(k, len(np.unique(codes)) - (query_groups is not None))
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


def composed_query(
    images: ArrayLike, texts: ArrayLike, gallery: ArrayLike, *, weight: float = 0.5
) -> Features:
    """Return queries (q, d), unit length, that ask for both: like this image, but as the text says.

    Both are (q, d), or (1, d) for all. Each is divided by the standard deviation of its
    similarities to the gallery (n, d): those of a text spread far less (modality gap, Liang et al.,
    NeurIPS 2022), so the image would nearly always decide alone.
    """
    image = normalize(images) / cosine_similarity(images, gallery).std(axis=1, keepdims=True)
    text = normalize(texts) / cosine_similarity(texts, gallery).std(axis=1, keepdims=True)
    return normalize((1 - weight) * image + weight * text)


def caption(images: ArrayLike, sentences: Sequence[str], features: ArrayLike) -> pd.DataFrame:
    """Return caption, score, runner_up and runner_up_score of each image (n, d), by cosine."""
    rows, scores = search(images, features, k=2)
    best = np.asarray(sentences, object)[rows]
    chosen = pd.DataFrame({"caption": best[:, 0], "score": scores[:, 0]})
    return chosen.assign(runner_up=best[:, 1], runner_up_score=scores[:, 1])


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
    labels, rows = np.asarray(gallery_labels), []
    candidates, ranked = np.ones((1, len(labels))), _each_query(queries, gallery)
    for i, (similar, label) in enumerate(zip(ranked, np.asarray(query_labels), strict=True)):
        if query_groups is not None:
            candidates[0] = np.asarray(gallery_groups) != np.asarray(query_groups)[i]
        rows.append(_measures(similar, labels == label, candidates)[0])
    return pd.DataFrame(rows, columns=MEASURES)


def gallery_intervals(
    queries: ArrayLike,
    gallery: ArrayLike,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    **options: int,
) -> pd.DataFrame:
    """Return the means of :func:`rank_metrics` over a few fixed queries: value, low, high.

    The gallery's `groups` (n,) are drawn anew; `options` are n_boot and seed of that bootstrap.
    """
    labels = np.asarray(gallery_labels)
    ranked = list(zip(cosine_similarity(queries, gallery), np.asarray(query_labels), strict=True))
    codes = group_codes(groups, len(labels))

    def means(weights: Floats) -> Floats:
        each = [_measures(similar, labels == label, weights) for similar, label in ranked]
        return np.asarray(np.mean(each, axis=0))

    return intervals(bootstrap(means, codes, **options), MEASURES)


def _measures(similar: Features, right: NDArray[np.bool_], drawn: Floats) -> Floats:
    """Return one query's measures (draws, m); a gallery row counts as often as it was drawn."""
    order = np.argsort(right * 1e-12 - similar)  # of equal ones the wrong first: never flattered
    right, drawn = right[order], drawn[:, order]
    seen, hits = np.cumsum(drawn, axis=1), drawn * right
    found, n_right = np.cumsum(hits, axis=1), hits.sum(axis=1)
    among = [np.diff(np.minimum(seen, k), axis=1, prepend=0) @ right for k in KS]
    precision = np.where(seen[:, -1:] < KS, np.nan, np.stack(among, axis=1) / KS)
    recall = np.where(np.isnan(precision), np.nan, precision > 0)
    later = np.maximum(hits - 1, 0) / 2  # a row drawn twice counts at the mean of its two ranks
    precise = hits * (found - later) / np.maximum(seen - later, 1)
    average_precision = precise.sum(axis=1) / np.maximum(n_right, 1)
    share = n_right / np.maximum(seen[:, -1], 1)
    measures = np.column_stack([share, average_precision, recall, precision])
    measures[n_right == 0, 1:] = np.nan
    return measures
