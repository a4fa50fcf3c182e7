"""Attention rollout: a heat map that knows of no class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cliplib.data.arrays import Features
from cliplib.data.image import ImageSource
from cliplib.encoders.clip import ClipEncoder
from cliplib.inspection.maps import (
    patches_a_side,
    reaching_class_token,
    tower_with_attention,
)


def attention_rollout(encoder: ClipEncoder, images: Sequence[ImageSource]) -> Features:
    """Follow the attention from the class token back to the patches.

    Abnar and Zuidema, ACL 2020, section 3: heads are averaged, and half of what leaves
    a block is taken to have passed it by. Returned is a value for each patch,
    (n, rows, columns) float32, at least 0 and of no unit.
    """
    tower = tower_with_attention(encoder)
    side = patches_a_side(encoder)
    maps = np.zeros((len(images), side, side), np.float32)
    for i, image in enumerate(images):
        pixels = torch.tensor(encoder.preprocess(image)[None], device=encoder.device)
        with torch.inference_mode():
            output = tower(
                pixels, interpolate_pos_encoding=True, output_attentions=True
            )
        # Of each block (1, heads, tokens, tokens), and what passes the block by.
        means = [attention[0].mean(dim=0) for attention in output.attentions]
        matrices = [mean + torch.eye(len(mean)).to(mean) for mean in means]
        maps[i] = reaching_class_token(matrices).reshape(side, side)
    return maps
