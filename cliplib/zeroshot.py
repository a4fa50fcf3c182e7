"""Without any training: classes, pictures and sentences that find each other in CLIP's shared space.

Zero-shot classification follows Radford et al., "Learning transferable visual models from natural language
supervision", ICML 2021, sections 3.1.2 and 3.1.4: the text tower turns each class's prompts into one direction, and
these directions are the weights of a linear classifier on the projected image features.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    return (np.float32(logit_scale) * _similarity(images, weights)).astype(np.float32)


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
    scores = _similarity(queries, gallery)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order.astype(np.int64), np.take_along_axis(scores, order, axis=1)


def recall_at_k(
    queries: ArrayLike, gallery: ArrayLike, matches: ArrayLike | None = None, ks: Sequence[int] = (1, 5, 10)
) -> dict[int, NDArray[np.bool_]]:
    """Whether one of a query's matches is among its `k` nearest: one truth value per query.

    The mean of an entry is recall@k as Radford et al. report it (section 3.2, after Karpathy and Fei-Fei, CVPR 2015);
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
    scores = _similarity(queries, gallery)
    right = np.eye(len(scores), dtype=bool) if matches is None else np.asarray(matches, bool)
    if right.shape != scores.shape:
        raise CliplibError(f"Matches must have the shape (queries, gallery) {scores.shape}, not {right.shape}.")
    # The rank of the best match counts every row that scores at least as high: ties never flatter.
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    rank = (np.where(right, -np.inf, scores) >= best).sum(axis=1)
    return {k: (rank < k) & right.any(axis=1) for k in ks}


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


def _similarity(a: ArrayLike, b: ArrayLike) -> FloatArray:
    x, y = normalized(a), normalized(b)
    if x.shape[1] != y.shape[1]:
        raise CliplibError(
            f"Features of {x.shape[1]} and of {y.shape[1]} dimensions cannot be compared: "
            "use projected features of one model."
        )
    return np.asarray(x @ y.T, np.float32)
