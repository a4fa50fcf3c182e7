"""Without any training: classes, pictures and sentences that find each other in CLIP's shared space.

Zero-shot classification follows Radford et al., "Learning transferable visual models from natural language
supervision", ICML 2021, sections 3.1.2 and 3.1.4: the text tower turns each class's prompts into one direction, and
these directions are the weights of a linear classifier on the projected image features.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from cliplib.errors import CliplibError

FloatArray = NDArray[np.float32]


class TextEncoder(Protocol):
    """What is needed of an encoder here: projected text features."""

    def texts(self, texts: Sequence[str], *, normalize: bool = False) -> FloatArray:
        """Features ``(n, d)``, float32, of `texts`."""
        ...


def normalized(features: ArrayLike) -> FloatArray:
    """Rows of `features` ``(n, d)`` at unit length, float32; a row of zeros stays as it is."""
    x = np.asarray(features, np.float32)
    if x.ndim != 2:
        raise CliplibError(f"Features must be a matrix of shape (n, d), not {x.shape}.")
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(norms > 0, norms, 1), np.float32)


def fill(templates: Sequence[str], phrase: str) -> list[str]:
    """Each template with `phrase` in the place of its ``{}``.

    Raises
    ------
    CliplibError
        There is no template, or one without exactly one ``{}``.
    """
    if isinstance(templates, str) or not len(templates):
        raise CliplibError("Templates must be a non-empty list of texts, such as ['a photo of {}.'].")
    if wrong := [t for t in templates if t.count("{}") != 1]:
        raise CliplibError(f"The template {wrong[0]!r} must hold the place of the class, {{}}, exactly once.")
    return [t.replace("{}", phrase) for t in templates]


def zero_shot_weights(
    encoder: TextEncoder, phrases: Sequence[Sequence[str]], templates: Sequence[str] = ("a photo of {}.",)
) -> FloatArray:
    """The classifier that the prompts describe: one direction per class.

    Every prompt's embedding is normalised, the mean over a class's prompts taken, and normalised again.

    Parameters
    ----------
    encoder : ClipEncoder
        Or anything with its ``texts``.
    phrases : sequence of k sequences of str
        One or more ways to put each class into words.
    templates : sequence of str
        Texts with one ``{}`` each; every phrase goes into every template.

    Returns
    -------
    ndarray of float32, shape (k, d)
        Rows of unit length.

    Raises
    ------
    CliplibError
        No classes, a class without a phrase, or a template without ``{}``.
    """
    if not len(phrases) or any(isinstance(p, str) or not len(p) for p in phrases):
        raise CliplibError(
            "Phrases must be one non-empty list of texts per class, such as [['glass'], ['a metal can']]."
        )
    prompts = [[t for phrase in of_class for t in fill(templates, phrase)] for of_class in phrases]
    embedded = encoder.texts([p for of_class in prompts for p in of_class], normalize=True)
    parts = np.split(embedded, np.cumsum([len(p) for p in prompts])[:-1])
    return normalized(np.stack([part.mean(axis=0) for part in parts]))


def zero_shot_logits(images: ArrayLike, weights: ArrayLike, logit_scale: float) -> FloatArray:
    """Scaled cosine similarities ``(n, k)`` of projected image features ``(n, d)`` and class weights ``(k, d)``.

    `logit_scale` is the model's own inverse temperature (`ClipEncoder.logit_scale`): with another, the classes stay
    the same and the probabilities do not.
    """
    return (np.float32(logit_scale) * cosines(images, weights)).astype(np.float32)


def zero_shot_proba(images: ArrayLike, weights: ArrayLike, logit_scale: float) -> NDArray[np.float64]:
    """Class probabilities ``(n, k)``: softmax of `zero_shot_logits`, rows sum to 1."""
    return np.asarray(softmax(zero_shot_logits(images, weights, logit_scale).astype(np.float64), axis=1))


def search(queries: ArrayLike, gallery: ArrayLike, k: int = 10) -> tuple[NDArray[np.int64], FloatArray]:
    """The `k` nearest gallery rows of each query by cosine similarity: exact, by matrix product.

    Parameters
    ----------
    queries, gallery : array-like of shape (q, d) and (n, d)
        Projected features of texts or images, in any combination; or a weighted sum of both, to search for a picture
        "but made of metal".
    k : int
        At most `n` are returned.

    Returns
    -------
    indices : ndarray of int64, shape (q, min(k, n))
        Rows of `gallery`, best first; equal scores in the order of the gallery.
    scores : ndarray of float32, same shape
        Cosine similarities.
    """
    if k < 1:
        raise CliplibError(f"k must be at least 1, not {k}.")
    scores = cosines(queries, gallery)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order.astype(np.int64), np.take_along_axis(scores, order, axis=1)


def blend(images: ArrayLike, texts: ArrayLike, gallery: ArrayLike, *, weight: float = 0.5) -> FloatArray:
    """Queries that ask for both at once: like this picture, but as the text says.

    The sum of the two directions, each divided by the standard deviation of its cosine similarities over the gallery.
    A text's spread far less than a picture's, since the two lie apart in the shared space (the modality gap, Liang et
    al., NeurIPS 2022): unscaled, the picture would nearly always decide alone.

    Parameters
    ----------
    images, texts : array-like of shape (q, d), or (1, d) for all
        Projected features, in pairs.
    gallery : array-like of shape (n, d)
        What will be searched; n at least 2.
    weight : float
        Of the text, from 0 (the picture alone) to 1 (the text alone).

    Returns
    -------
    ndarray of float32, shape (q, d)
        Rows of unit length, for :func:`search`.
    """
    if not 0 <= weight <= 1:
        raise CliplibError(f"The weight of the text must lie between 0 and 1, not be {weight}.")
    a, b = normalized(images), normalized(texts)
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise CliplibError(f"{len(a)} pictures and {len(b)} texts make no pairs: give equally many, or one for all.")
    scaled = [x / np.maximum(cosines(x, gallery).std(axis=1, keepdims=True), 1e-6) for x in (a, b)]
    return normalized((1 - weight) * scaled[0] + weight * scaled[1])


def recall_at_k(
    queries: ArrayLike, gallery: ArrayLike, matches: ArrayLike | None = None, ks: Sequence[int] = (1, 5, 10)
) -> dict[int, NDArray[np.bool_]]:
    """Whether one of a query's matches is among its `k` nearest: one truth value per query.

    The mean of an entry is recall@k as Radford et al. report it (appendix E.1, after Karpathy and Fei-Fei, CVPR 2015);
    the values themselves go into a bootstrap.

    Parameters
    ----------
    queries, gallery : array-like of shape (q, d) and (n, d)
        Projected features.
    matches : array-like of bool, shape (q, n), optional
        Which gallery rows are right for which query; by default row i for query i.
    ks : sequence of int

    Returns
    -------
    dict of int to ndarray of bool, shape (q,)
    """
    scores = cosines(queries, gallery)
    right = np.eye(len(scores), dtype=bool) if matches is None else np.asarray(matches, bool)
    if right.shape != scores.shape:
        raise CliplibError(f"Matches must have the shape (queries, gallery) {scores.shape}, not {right.shape}.")
    # The rank of the best match counts every row that scores at least as high: ties never flatter.
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    rank = (np.where(right, -np.inf, scores) >= best).sum(axis=1)
    return {k: (rank < k) & right.any(axis=1) for k in ks}


def sentence_bank(template: str, /, **slots: Sequence[str] | Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Every sentence that a template gives, for :func:`caption` to choose from.

    Parameters
    ----------
    template : str
        With one ``{name}`` for each slot, such as ``"a photo of {attribute} {object} {context}"``.
    **slots : sequence of str, or mapping of str to sequence of str
        What can stand in each place; the empty text leaves it out. In a mapping the keys are classes, and the sentence
        belongs to the class whose word it took.

    Returns
    -------
    DataFrame
        A row for each combination: ``sentence``, a column for each slot, and ``label``, the class, where a slot has
        some.

    Raises
    ------
    CliplibError
        A slot that is empty or not in the template exactly once, or two with classes.
    """
    if len(classed := [name for name, words in slots.items() if isinstance(words, Mapping)]) > 1:
        raise CliplibError(f"Only one slot can name the class, not both {classed[0]!r} and {classed[1]!r}.")
    if wrong := [name for name, words in slots.items() if not len(words) or template.count(f"{{{name}}}") != 1]:
        raise CliplibError(f"The slot {wrong[0]!r} needs words, and its place {{{wrong[0]}}} once in {template!r}.")
    by_class = [words if isinstance(words, Mapping) else {"": words} for words in slots.values()]
    choices = [[(word, label) for label, words in of.items() for word in words] for of in by_class]
    rows = []
    for combination in itertools.product(*choices):
        chosen = {name: word for name, (word, _) in zip(slots, combination, strict=True)}
        sentence = template
        for name, word in chosen.items():
            sentence = sentence.replace(f"{{{name}}}", word)
        row = {"sentence": " ".join(sentence.split()), **chosen}
        rows.append(row | ({"label": "".join(label for _, label in combination)} if classed else {}))
    return pd.DataFrame(rows)


def caption(images: ArrayLike, sentences: Sequence[str], features: ArrayLike) -> pd.DataFrame:
    """The best of a bank of candidate sentences for each picture.

    Parameters
    ----------
    images : array-like of shape (n, d)
        Projected image features.
    sentences : sequence of m >= 2 str
        The bank.
    features : array-like of shape (m, d)
        Projected text features of the bank.

    Returns
    -------
    DataFrame with n rows
        ``caption``, ``score``, ``runner_up``, ``runner_up_score``; scores are cosine similarities.
    """
    if len(sentences) < 2 or len(sentences) != len(np.asarray(features)):
        raise CliplibError("The bank needs at least two sentences, and one row of features for each.")
    order, scores = search(images, features, k=2)
    bank = np.asarray(sentences, dtype=object)
    return pd.DataFrame(
        {
            "caption": bank[order[:, 0]],
            "score": scores[:, 0],
            "runner_up": bank[order[:, 1]],
            "runner_up_score": scores[:, 1],
        }
    )


def cosines(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Cosine similarities ``(n, m)``, float32, of rows ``(n, d)`` and ``(m, d)``.

    Raises
    ------
    CliplibError
        Unequal d, or NaN.
    """
    x, y = normalized(a), normalized(b)
    if x.shape[1] != y.shape[1]:
        raise CliplibError(
            f"Features of {x.shape[1]} and of {y.shape[1]} dimensions cannot be compared: "
            "use projected features of one model."
        )
    out = np.asarray(x @ y.T, np.float32)
    if np.isnan(out).any():
        raise CliplibError("Features hold NaN or infinite numbers: leave those rows out.")
    return out
