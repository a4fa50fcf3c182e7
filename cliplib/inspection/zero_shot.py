"""Zero-shot classification, by the names of the classes alone."""

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
    """Return a direction for each class: the mean text feature of its prompts.

    An image's logit for a class is the product of its projected features with the
    direction, times the logit scale. The prompts of a class are each of its phrases in
    each template: "dog" in "a photo of {}." gives "a photo of dog.". The features of
    the prompts are normalised, and so is their mean (Radford et al., ICML 2021, section
    3.1.4).

    Parameters
    ----------
    encoder
        The CLIP that encodes the prompts.
    phrases
        For each of k classes, one phrase or several, such as its name.
    templates
        Texts that contain ``{}``, the place of the phrase.

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
    for class_phrases in phrases:
        if isinstance(class_phrases, str):
            class_phrases = [class_phrases]
        prompts = [
            template.replace("{}", phrase)
            for phrase in class_phrases
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
    """Return the probabilities of k classes for a table's images, without training.

    Parameters
    ----------
    encoder
        The encoder that made the table.
    table
        Features of n images, in a readout that contains the pooled features.
    phrases
        One phrase or several for each of k classes: a list, ``["brick", "grass"]``, or
        a mapping from the names of the table's classes, ``{"brick": "a wall of brick",
        "grass": ["grass", "a lawn"]}``. By default, the names of the table's classes,
        with spaces instead of "_" and "-".
    templates
        Texts that contain ``{}``, the place of the phrase.

    Returns
    -------
    (n, k) float64, in the order of the list, or of the table's classes.

    Raises
    ------
    ValueError
        If a class has no phrase, a template no ``{}``, a mapping has other classes than
        the table, or the table was made by another encoder.
    TypeError
        If the encoder cannot encode texts, or `encoder` is not an encoder.
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
    # Rows of the images (n, p) and of the weights (k, p) have unit length: their
    # products are cosines.
    images = encoder.project(table.with_readout("pooled").features)
    logits = encoder.logit_scale * (images @ weights.T).astype(float)
    return np.asarray(softmax(logits, axis=1))
