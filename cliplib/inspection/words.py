"""Zero-shot classification: a classifier made of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from sklearn.preprocessing import normalize

from cliplib.data.arrays import Features, Floats
from cliplib.data.datasets import DatasetSpec
from cliplib.encoders.clip import ClipEncoder
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
        weights.append(normalize(encoder.texts(prompts)).mean(axis=0))
    return np.asarray(normalize(weights))


def zero_shot(encoder: ClipEncoder, table: FeatureTable, spec: DatasetSpec) -> Floats:
    """Return the probabilities of a data set's classes for a table's images.

    The classes are known by their phrases alone; the table may be of other images.

    Parameters
    ----------
    encoder
        The one that made the table.
    table
        Features of n images, in a readout that contains the pooled ones.
    spec
        The data set: its k classes, their phrases and templates, such as
        ``dataset_spec("trashnet")`` or that of a folder. For words of your own, take
        `zero_shot_weights`.

    Returns
    -------
    (n, k) float64

    Raises
    ------
    TypeError
        The spec is something else.
    """
    if not isinstance(spec, DatasetSpec):
        raise TypeError(
            "spec must be what dataset_spec(name or folder) returns; for words of your "
            "own, take zero_shot_weights."
        )
    weights = zero_shot_weights(encoder, list(spec.phrases.values()), spec.templates)
    # Rows of unit length, (n, p), as the weights (k, p): products are cosines.
    images = encoder.project(table.with_readout("pooled").features)
    logits = encoder.logit_scale * (images @ weights.T).astype(float)
    return np.asarray(softmax(logits, axis=1))
