"""Heat maps over the patches that a frozen CLIP sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from cliplib.data.arrays import Features
from cliplib.data.image import ImageSource, image_list
from cliplib.encoders.clip import ClipEncoder
from cliplib.probes.base import Probe

# Colour of a map's largest value.
MARK = "#c4512d"


def chefer_relevance(
    encoder: ClipEncoder,
    images: Iterable[ImageSource] | ImageSource,
    directions: ArrayLike,
    *,
    readout: str = "pooled",
) -> Features:
    """Measure how much each patch, by way of attention, raised a logit.

    Chefer, Gur and Wolf, "Generic attention-model explainability", ICCV 2021, sections
    3.1 and 3.2: a block passes relevance on by a matrix, the identity plus the mean
    over heads of the positive part of attention times the logit's gradient by it.
    Returned is what reaches the class token through all blocks, whatever the readout:
    adding the patch tokens improved no map of "deep".

    Parameters
    ----------
    encoder, images
        A frozen CLIP, and n images for it, or one.
    directions
        (d,) for all images or (n, d), a probe's ``logit_gradients`` or rows of
        `zero_shot_weights`: the logit is ``features @ direction``, times the logit
        scale if projected.
    readout
        Name of the readout ("pooled", "projected", "deep" or another of `READOUTS`)
        whose features the directions belong to.

    Returns
    -------
    (n, rows, columns) float32: a value for each patch, at least 0 and of no unit

    Raises
    ------
    ValueError
        If there are several directions, but not one for each image.
    """
    sources = image_list(images)
    by_image = np.asarray(directions, np.float32)
    by_image = np.broadcast_to(by_image, (len(sources), by_image.shape[-1]))
    tower = tower_with_attention(encoder)
    scale = encoder.logit_scale if readout == "projected" else 1
    side = patches_a_side(encoder)
    bar = tqdm(sources, "heat maps", disable=len(sources) < 32)
    maps = np.zeros((len(sources), side, side), np.float32)
    for i, image in enumerate(bar):
        pixels = torch.tensor(encoder.preprocess(image)[None], device=encoder.device)
        output = tower(
            pixels.requires_grad_(),  # the weights are frozen: gradients start here
            interpolate_pos_encoding=True,  # for images of another size than trained on
            output_attentions=True,
            output_hidden_states=True,
        )
        attentions = output.attentions  # of each block (1, heads, tokens, tokens)
        features = encoder.pool_hidden_states(output.hidden_states, readout)[0]
        direction = torch.tensor(by_image[i]).to(features)
        logit = scale * features @ direction
        gradients = torch.autograd.grad(logit, attentions)
        # How each block passes relevance on, (tokens, tokens), the first block first.
        matrices = [
            _relevance_matrix(attention, gradient)
            for attention, gradient in zip(attentions, gradients, strict=True)
        ]
        maps[i] = reaching_class_token(matrices).reshape(side, side)
    return maps


def tower_with_attention(encoder: ClipEncoder) -> Any:
    """Return a copy of a CLIP's vision tower that gives its attention, too."""
    tower: Any = deepcopy(encoder.model.vision_model)
    tower.set_attn_implementation("eager")  # fused kernels never hold the attention
    return tower


def patches_a_side(encoder: ClipEncoder) -> int:
    """Return how many rows of patches an image is cut into; columns are as many."""
    config: Any = encoder.model.config.vision_config
    return int(encoder.image_size // config.patch_size)


def _relevance_matrix(attention: Tensor, gradient: Tensor) -> Tensor:
    """Return how a block passes relevance on, from tokens (columns) to tokens (rows).

    It is the mean over heads of the positive part of attention times the logit's
    gradient by it, both (1, heads, tokens, tokens) (Chefer, Gur and Wolf 2021, equation
    5), plus the identity, for the residual connection.
    """
    product = (attention * gradient)[0].detach()
    mean = product.clamp(min=0).mean(dim=0)
    return mean + torch.eye(len(mean)).to(mean)


def reaching_class_token(matrices: list[Tensor]) -> Features:
    """Return the relevance that reaches the class token from each patch, (patches,).

    `matrices` (tokens, tokens) say how each block passes it on, the first block first;
    token 0 is the class token. The result is row 0 of the matrices' product, in which
    the last block's is the leftmost.
    """
    row = torch.eye(len(matrices[0])).to(matrices[0])[:1]  # (1, tokens)
    for matrix in reversed(matrices):  # no full product is needed
        row = row @ matrix
    return np.asarray(row[0, 1:].cpu().numpy())


def preprocessed_image(encoder: ClipEncoder, image: ImageSource) -> Image.Image:
    """Return an image as the vision tower sees it: RGB, `image_size` pixels square."""
    pixels = encoder.preprocess(image).transpose(1, 2, 0)  # (height, width, 3)
    # Back from normalised values to shares of full brightness, 0 to 1.
    shares = pixels * encoder.processor.image_std + encoder.processor.image_mean
    levels = (255 * shares).round().clip(0, 255)
    return Image.fromarray(levels.astype(np.uint8))


def overlay(encoder: ClipEncoder, image: ImageSource, heat: ArrayLike) -> Image.Image:
    """Return an image in grey, as the encoder sees it, with a map of it in red.

    `heat` (rows, columns) holds a value for each patch. The red is transparent at the
    least of them, and 80% opaque at the largest.
    """
    grey = preprocessed_image(encoder, image).convert("L").convert("RGB")
    values = np.asarray(heat, np.float32)
    from_0_to_1 = (values - values.min()) / (np.ptp(values) or 1)  # 0 of a flat map
    smooth = Image.fromarray(from_0_to_1).resize(grey.size, Image.Resampling.BICUBIC)
    opacity = 0.8 * np.asarray(smooth).clip(0, 1)  # bicubic curves overshoot
    mask = Image.fromarray((255 * opacity).round().astype(np.uint8))
    return Image.composite(Image.new("RGB", grey.size, MARK), grey, mask)


def heat_maps(
    encoder: ClipEncoder,
    probe: Probe,
    images: Sequence[ImageSource],
    labels: ArrayLike,
    readout: str,
) -> list[Image.Image]:
    """Return each of n images in grey, with red where it speaks for its label.

    The probe was fitted to the encoder's features in the readout of this name; `labels`
    (n,), right or predicted ones, are among its classes.
    """
    features = encoder.encode_images(images, readout=readout, progress=False)
    directions = probe.logit_gradients(features, labels)
    maps = chefer_relevance(encoder, images, directions, readout=readout)
    return [
        overlay(encoder, image, heat) for image, heat in zip(images, maps, strict=True)
    ]
