"""Zero-shot classification, search and captions: images and texts that meet in CLIP's shared space.

Features here are projected: ``encoder.project(pooled)`` of images, ``encoder.texts(…)`` of texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from cliplib.encoder import ClipEncoder
from cliplib.resampling import Floats, Ints, bootstrap, group_codes, intervals

Features = NDArray[np.float32]
Bools = NDArray[np.bool_]


def cosines(a: ArrayLike, b: ArrayLike) -> Features:
    """Return the cosine similarities (n, m), float32, of features (n, d) and (m, d)."""
    x, y = _unit_length(a), _unit_length(b)
    if x.shape[1] != y.shape[1]:
        sizes = f"{x.shape[1]} and {y.shape[1]} dimensions"
        raise ValueError(f"Features of {sizes} do not compare: project both with one model.")
    return np.asarray(x @ y.T, np.float32)


def _unit_length(features: ArrayLike) -> Features:
    x = np.asarray(features)
    if x.ndim != 2 or x.dtype.kind not in "fiu" or not np.isfinite(x).all():
        raise ValueError("Features must be a matrix (n, d) of finite numbers: encode texts first.")
    x = x.astype(np.float32)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def zero_shot_weights(
    encoder: ClipEncoder,
    phrases: Sequence[str | Sequence[str]],
    templates: Sequence[str] = ("a photo of {}.",),
) -> Features:
    """Return the classifier that prompts describe: a direction for each class, (k, d), unit length.

    It is the normalised mean of the class's normalised prompts (Radford et al., ICML 2021, section
    3.1.4): each of its phrases, one or several, in the place ``{}`` of each template.
    """
    if isinstance(templates, str) or any(t.count("{}") != 1 for t in templates):
        raise ValueError("Templates must be a list of texts with one {} each: ['a photo of {}.'].")
    weights = []
    for ways in phrases:
        ways = [ways] if isinstance(ways, str) else ways
        prompts = [template.replace("{}", phrase) for phrase in ways for template in templates]
        if not prompts:
            raise ValueError("Every class needs at least one phrase and one template.")
        mean = _unit_length(encoder.texts(prompts)).mean(axis=0)
        weights.append(mean / np.linalg.norm(mean))
    return np.stack(weights)


def zero_shot_proba(images: ArrayLike, weights: ArrayLike, logit_scale: float) -> Floats:
    """Return class probabilities (n, k) of image features (n, d) by class directions (k, d).

    `logit_scale` is ``encoder.logit_scale``, over a temperature (`fit_temperature`) to calibrate.
    """
    logits = float(logit_scale) * cosines(images, weights)
    return softmax(logits.astype(np.float64), axis=1)


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
    `query_groups` (q,) none of the query's own group. Fewer columns where there are fewer rows or
    groups; equal similarities in gallery order.
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
        yield from cosines(x[start : start + 512], gallery)


def composed_query(
    images: ArrayLike, texts: ArrayLike, gallery: ArrayLike, *, weight: float = 0.5
) -> Features:
    """Return queries (q, d), unit length, that ask for both: like this image, but as the text says.

    Both are (q, d), or (1, d) for all; `weight` of the text goes from 0 to 1. Each is divided by
    the standard deviation of its similarities to the gallery (n, d): those of a text spread far
    less (modality gap, Liang et al., NeurIPS 2022), so the image would nearly always decide alone.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"The weight of the text must lie between 0 and 1, not be {weight}.")
    image = _unit_length(images) / cosines(images, gallery).std(axis=1, keepdims=True)
    text = _unit_length(texts) / cosines(texts, gallery).std(axis=1, keepdims=True)
    return _unit_length((1 - weight) * image + weight * text)


def caption_candidates(
    template: str, /, **slots: Sequence[str] | Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Return every sentence that a template gives, one a row, for :func:`caption` to choose from.

    Each word of a slot goes into its place ``{name}``. One slot may map classes to words: then the
    word tells the sentence's class. Columns: sentence, the word in each slot, and label, the class.
    """
    choices = []
    for name, words in slots.items():
        if not len(words) or f"{{{name}}}" not in template:
            raise ValueError(f"The slot {name!r} needs words, and a place {{{name}}} in the text.")
        if isinstance(words, Mapping):
            choices.append([{name: word, "label": c} for c in words for word in words[c]])
        else:
            choices.append([{name: word} for word in words])
    rows = []
    for combination in itertools.product(*choices):
        row = {key: value for choice in combination for key, value in choice.items()}
        rows.append({"sentence": " ".join(template.format(**row).split()), **row})
    return pd.DataFrame(rows)


def caption(images: ArrayLike, sentences: Sequence[str], features: ArrayLike) -> pd.DataFrame:
    """Choose for each image (n, d) the nearest of sentences with text features (m, d), m > 1.

    Columns: caption, score, runner_up, runner_up_score; scores are cosine similarities.
    """
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
    ks: Sequence[int] = (1, 5, 10),
) -> pd.DataFrame:
    """Measure how well each query ranks the gallery rows that carry its label, one query a row.

    Gallery rows of a query's own group, itself and its near-duplicates, are no candidates. Columns:
    share of the candidates that are right (the precision of an order by chance), rank of the first
    right one, average_precision (Manning et al. 2008, section 8.4), recall_at_k (is any of the
    first k right? Oh Song et al., CVPR 2016) and precision_at_k; NaN where nothing is right, and
    for a k above the number of candidates.
    """
    if (query_groups is None) != (gallery_groups is None):
        raise ValueError("Give the groups of both queries and gallery, or of neither.")
    labels, rows = np.asarray(gallery_labels), []
    candidates, ranked = np.ones((1, len(labels))), _each_query(queries, gallery)
    for i, (similar, label) in enumerate(zip(ranked, np.asarray(query_labels), strict=True)):
        if query_groups is not None:
            candidates[0] = np.asarray(gallery_groups) != np.asarray(query_groups)[i]
        rows.append(_measures(similar, labels == label, candidates, ks)[0])
    return pd.DataFrame(rows, columns=_names(ks))


def gallery_intervals(
    queries: ArrayLike,
    gallery: ArrayLike,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    ks: Sequence[int] = (1, 5, 10),
    **options: int,
) -> pd.DataFrame:
    """Return the means of :func:`rank_metrics` over a few fixed queries: value, low, high.

    The gallery's `groups` (n,) are drawn anew; `options` are n_boot and seed of that bootstrap.
    """
    labels = np.asarray(gallery_labels)
    ranked = list(zip(cosines(queries, gallery), np.asarray(query_labels), strict=True))
    codes = group_codes(groups, len(labels))

    def means(weights: Floats) -> Floats:
        drawn = weights[:, codes]
        each = [_measures(similar, labels == label, drawn, ks) for similar, label in ranked]
        return np.asarray(np.mean(each, axis=0))

    return intervals(bootstrap(means, codes, **options), _names(ks))


def _names(ks: Sequence[int]) -> list[str]:
    at = [f"{measure}_at_{k}" for measure in ("recall", "precision") for k in ks]
    return ["share", "rank", "average_precision", *at]


def _measures(similar: Features, right: Bools, drawn: Floats, ks: Sequence[int]) -> Floats:
    """Return one query's measures (draws, m); a gallery row counts as often as it was drawn."""
    order = np.argsort(right * 1e-12 - similar)  # of equal ones the wrong first: never flattered
    right, drawn = right[order], drawn[:, order]
    seen, hits = np.cumsum(drawn, axis=1), drawn * right
    found, n_right = np.cumsum(hits, axis=1), hits.sum(axis=1)
    rank = 1 + (drawn * (found == 0)).sum(axis=1)
    among = [np.diff(np.minimum(seen, k), axis=1, prepend=0) @ right for k in ks]
    precision = np.where(seen[:, -1:] < ks, np.nan, np.stack(among, axis=1) / ks)
    recall = np.where(np.isnan(precision), np.nan, precision > 0)
    later = np.maximum(hits - 1, 0) / 2  # a row drawn twice counts at the mean of its two ranks
    precise = hits * (found - later) / np.maximum(seen - later, 1)
    average_precision = precise.sum(axis=1) / np.maximum(n_right, 1)
    share = n_right / np.maximum(seen[:, -1], 1)
    measures = np.column_stack([share, rank, average_precision, recall, precision])
    measures[n_right == 0, 1:] = np.nan
    return measures
