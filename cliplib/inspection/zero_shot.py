"""Zero-shot classification: a classifier made of words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import softmax
from sklearn.preprocessing import normalize

from cliplib.data.arrays import Features, Floats
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.encoder import check_made_by
from cliplib.features.table import FeatureTable

DEFAULT_TEMPLATES = ("a photo of {}.",)


def zero_shot_weights(
    encoder: ClipEncoder,
    phrases: Sequence[str | Sequence[str]],
    templates: Sequence[str] = DEFAULT_TEMPLATES,
) -> Features:
    """Return a direction for each class, made of the text features of its prompts.

    An image's logit is the product of its projected features with the direction, times
    the logit scale. A class's prompts are each of its phrases in each template: "dog"
    in "a photo of {}." is "a photo of dog.". The direction is the normalised mean of
    their normalised features (Radford et al., ICML 2021, section 3.1.4).

    Parameters
    ----------
    encoder
        Whose text tower reads the prompts.
    phrases
        For each of k classes its name, or several ways to say it.
    templates
        Texts with a ``{}`` each.

    Returns
    -------
    (k, p) float32, rows of unit length; p is the encoder's ``projected_dim``.

    Raises
    ------
    ValueError
        If a class has no phrase, or a template no ``{}``.
    """
    if isinstance(phrases, str) or not all(phrases):
        raise ValueError("Give a list of phrases, one at least for each class.")
    if isinstance(templates, str) or not all("{}" in text for text in templates):
        raise ValueError("templates must be a list of texts with a {} each.")
    weights = []
    for of_class in phrases:
        wordings = [of_class] if isinstance(of_class, str) else of_class
        prompts = [
            template.replace("{}", wording)
            for wording in wordings
            for template in templates
        ]
        weights.append(normalize(encoder.encode_texts(prompts)).mean(axis=0))
    return np.asarray(normalize(weights))


def zero_shot(
    encoder: ClipEncoder,
    table: FeatureTable,
    phrases: (
        Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]] | None
    ) = None,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
) -> Floats:
    """Return the probabilities of k classes for a table's images, by words alone.

    Parameters
    ----------
    encoder
        The one that made the table.
    table
        Features of n images, in a readout that contains the pooled ones.
    phrases
        For each of k classes how to say it: a list of names, ``["brick", "grass"]``, or
        by the name of each of the table's classes one phrase or several, ``{"brick": "a
        wall of brick", "grass": ["grass", "a lawn"]}``. By default the names of the
        classes, with spaces for "_" and "-".
    templates
        Texts with a ``{}`` each for a phrase.

    Returns
    -------
    (n, k) float64, in the order of a list, or of the table's classes.

    Raises
    ------
    ValueError
        If a class has no phrase, a template no ``{}``, the phrases are of other classes
        than the table's, or another encoder made the table.
    TypeError
        If the encoder reads no texts, or is none.
    """
    check_made_by(table.provenance, encoder)
    if phrases is None:
        phrases = [re.sub("[_-]", " ", name) for name in table.classes]
    if isinstance(phrases, Mapping):
        if set(phrases) != set(table.classes):
            raise ValueError(
                f"Phrases are given for {', '.join(phrases)}: give them for the "
                f"table's classes, {', '.join(table.classes)}."
            )
        phrases = [phrases[name] for name in table.classes]
    weights = zero_shot_weights(encoder, phrases, templates)
    # Rows of unit length, (n, p), as the weights (k, p): products are cosines.
    images = encoder.project(table.with_readout("pooled").features)
    logits = encoder.logit_scale * (images @ weights.T).astype(float)
    return np.asarray(softmax(logits, axis=1))
