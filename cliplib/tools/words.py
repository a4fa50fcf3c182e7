"""Zero-shot classification: a classifier made of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from sklearn.preprocessing import normalize

from cliplib.encode.clip import ClipEncoder
from cliplib.images.arrays import Features, Floats
from cliplib.images.data import DatasetSpec
from cliplib.tables.features import FeatureTable

DEFAULT_TEMPLATES = ("a photo of {}.",)


def zero_shot_weights(
    encoder: ClipEncoder,
    phrases: Sequence[str | Sequence[str]],
    templates: Sequence[str] = DEFAULT_TEMPLATES,
) -> Features:
    """Return the classifier that prompts describe, a direction for each class.

    It is the normalised mean of the class's normalised prompts (Radford et al., ICML
    2021, section 3.1.4): each of its phrases in the place ``{}`` of each template.

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
    (k, p) float32, of unit length.

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
    for wordings in phrases:
        wordings = [wordings] if isinstance(wordings, str) else wordings
        prompts = [
            template.replace("{}", wording)
            for wording in wordings
            for template in templates
        ]
        weights.append(normalize(encoder.texts(prompts)).mean(axis=0))
    return np.asarray(normalize(weights))


def zero_shot(encoder: ClipEncoder, table: FeatureTable, spec: DatasetSpec) -> Floats:
    """Classify the images of a table by the words of a data set, which may be another.

    Parameters
    ----------
    encoder
        The one that made the table.
    table
        In a readout that holds the pooled features.
    spec
        Its k classes, their phrases and templates.

    Returns
    -------
    (n, k) float64: probabilities.
    """
    weights = zero_shot_weights(encoder, list(spec.phrases.values()), spec.templates)
    images = encoder.project(table.with_readout("pooled").features)
    logits = encoder.logit_scale * (images @ weights.T).astype(float)
    return np.asarray(softmax(logits, axis=1))
