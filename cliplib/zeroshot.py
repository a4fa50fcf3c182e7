"""Zero-shot classification: a classifier made of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from sklearn.preprocessing import normalize

from cliplib.arrays import Features, Floats
from cliplib.data import DatasetSpec
from cliplib.encoder import ClipEncoder
from cliplib.features import FeatureTable


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
        raise ValueError(
            "Give a list of phrases, and of templates a list of texts with a {} each."
        )
    weights = []
    for ways in phrases:
        ways = [ways] if isinstance(ways, str) else ways
        prompts = [
            template.replace("{}", phrase) for phrase in ways for template in templates
        ]
        weights.append(normalize(encoder.texts(prompts)).mean(axis=0))
    return np.asarray(normalize(weights))


def zero_shot(encoder: ClipEncoder, table: FeatureTable, spec: DatasetSpec) -> Floats:
    """Return probabilities (n, k) of the k classes of a data set for the images of any table."""
    weights = zero_shot_weights(encoder, list(spec.phrases.values()), spec.templates)
    images = encoder.project(table.with_readout("pooled").features)
    return np.asarray(
        softmax(encoder.logit_scale * (images @ weights.T).astype(float), axis=1)
    )
