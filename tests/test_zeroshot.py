"""Zero-shot classification on features whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from cliplib import encode, load_dataset
from cliplib.inspection.zero_shot import zero_shot, zero_shot_weights


class Words:
    """A text encoder to be worked out by hand: counts of three words, doubled."""

    def encode_texts(self, texts):
        words = ("red", "green", "blue")
        return np.array(
            [[2 * text.split().count(word) for word in words] for text in texts]
        )


def test_weights_are_the_normalised_mean_of_normalised_prompts():
    got = zero_shot_weights(Words(), [["red", "green green green"]], ["{}"])
    # A plain mean would lean to green.
    assert got == pytest.approx(np.array([[1, 1, 0]]) / np.sqrt(2), abs=1e-6)


def test_every_phrase_goes_into_every_template():
    got = zero_shot_weights(Words(), [["red"], "blue"], ["{}", "green {}"])
    expected = np.array([[1 + 2**-0.5, 2**-0.5, 0], [0, 2**-0.5, 1 + 2**-0.5]])
    assert got == pytest.approx(
        expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-6
    )


def test_probabilities_are_those_of_transformers(tiny):
    images = [Image.new("RGB", (40, 40), color) for color in ("red", "white", "navy")]
    sentences = ["a photo of a cat.", "a photo of snow.", "rust"]
    tokens = tiny.tokenizer(sentences, padding=True, return_tensors="pt")
    pixels = torch.stack([torch.as_tensor(tiny.preprocess(image)) for image in images])
    with torch.no_grad():
        theirs = tiny.model(**tokens, pixel_values=pixels).logits_per_image.softmax(
            dim=1
        )
    weights = zero_shot_weights(tiny, sentences, ["{}"])
    ours = (
        tiny.logit_scale * tiny.encode_images(images, readout="projected") @ weights.T
    )
    assert softmax(ours, axis=1) == pytest.approx(theirs.numpy(), abs=1e-4)


def test_a_table_is_classified_by_the_names_of_its_classes(tiny, image_folder):
    folder = image_folder(n=2)
    table = replace(encode(folder, tiny), classes=("a_disc", "a-square", "stripes"))
    weights = zero_shot_weights(tiny, ["a disc", "a square", "stripes"])
    cosines = (
        tiny.encode_images(load_dataset(folder)["image"], readout="projected")
        @ weights.T
    )
    got = zero_shot(tiny, table)
    assert got == pytest.approx(softmax(tiny.logit_scale * cosines, axis=1), abs=1e-5)
    assert got.sum(axis=1) == pytest.approx(1)


def test_what_would_mislead_is_refused():
    with pytest.raises(ValueError, match="a list of texts with a {} each"):
        zero_shot_weights(Words(), [["red"]], "a photo of {}.")
    with pytest.raises(ValueError, match="a list of texts with a {} each"):
        zero_shot_weights(Words(), [["red"]], ["a photo."])
    with pytest.raises(ValueError, match="Give a list of phrases"):
        zero_shot_weights(Words(), "red")
    with pytest.raises(ValueError, match="one at least for each class"):
        zero_shot_weights(Words(), [["red"], []])


def test_phrases_are_a_plain_list_or_dict(tiny, image_folder):
    table = encode(image_folder(n=2), tiny)
    said = ["red", "a wall of brick", "sky"]
    by_list = zero_shot(tiny, table, said)
    by_name = dict(zip(table.classes, said, strict=True))
    by_dict = zero_shot(tiny, table, dict(reversed(by_name.items())))
    assert (by_list == by_dict).all() and by_list.shape == (len(table), 3)
    with pytest.raises(ValueError, match="Give a list of phrases"):
        zero_shot(tiny, table, "red")


def test_phrases_and_encoder_are_those_of_the_table(tiny, image_folder):
    table = encode(image_folder(n=2), tiny)
    with pytest.raises(ValueError, match="give them for the table's classes, "):
        zero_shot(tiny, table, {table.classes[0]: "red", "a stranger": "blue"})
    provenance = {**table.provenance, "model_fingerprint": "0" * 64}
    with pytest.raises(ValueError, match="made by another encoder than"):
        zero_shot(tiny, replace(table, provenance=provenance), ["red", "blue"])
