"""Encoders of random weights: what is known without anything learned.

A heat map that looks right proves nothing: it may not depend on what the tower has
learned.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from transformers import CLIPModel

from cliplib.encoders.clip import ClipEncoder


def randomize_weights(
    encoder: ClipEncoder, *, layers: int | None = None, seed: int = 0
) -> ClipEncoder:
    """Return an encoder with random weights: all, or those of the last `layers` blocks.

    A map that stays as it was explains the image, not the model (Adebayo et al.,
    "Sanity checks for saliency maps", NeurIPS 2018, section 3). The blocks are those of
    the vision tower; the layer norm after them gets new weights, too. The given encoder
    stays as it is.
    """
    with torch.random.fork_rng(devices=[]):  # restores torch's own generator
        torch.manual_seed(seed)
        random = CLIPModel(encoder.model.config)  # of new weights
    if layers is None:
        return with_weights(encoder, random, f"{encoder.name}, random weights")
    model = deepcopy(encoder.model)
    tower = model.vision_model
    random_tower = random.vision_model
    tower.post_layernorm.load_state_dict(random_tower.post_layernorm.state_dict())
    n_blocks = len(tower.encoder.layers)
    for number in range(max(n_blocks - layers, 0), n_blocks):
        random_block = random_tower.encoder.layers[number]
        tower.encoder.layers[number].load_state_dict(random_block.state_dict())
    return with_weights(encoder, model, f"{encoder.name}, last {layers} blocks random")


def with_weights(encoder: ClipEncoder, model: CLIPModel, name: str) -> ClipEncoder:
    """Return a copy of an encoder with the weights of a model, under another name."""
    other = deepcopy(encoder)
    other.model.load_state_dict(model.state_dict())
    other.name = name
    other.__dict__.pop("fingerprint", None)  # cached, of the weights before
    return other
