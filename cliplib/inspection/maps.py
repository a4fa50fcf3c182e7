"""Heat maps of the patches that speak for an answer of a frozen CLIP."""

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

# Colour of the largest value of a map, a red.
MARK = "#c4512d"


def chefer_relevance(
    encoder: ClipEncoder,
    images: Iterable[ImageSource] | ImageSource,
    directions: ArrayLike,
    *,
    readout: str = "pooled",
) -> Features:
    """Measure how much each patch, through attention, raised a logit.

    The method is that of Chefer, Gur and Wolf, "Generic attention-model
    explainability", ICCV 2021, sections 3.1 and 3.2. Each block passes relevance on
    between tokens by a matrix: the identity plus the mean over heads of the positive
    part of attention times its gradient. The map is the relevance that reaches the
    class token through all blocks, whatever the readout; adding that of the patch
    tokens improved no map of "deep".

    Parameters
    ----------
    encoder, images
        A frozen CLIP, and n images or a single one.
    directions
        Direction of the logit, (d,) for all images or (n, d): a probe's
        ``logit_gradients``, or rows of `zero_shot_weights`. The logit is ``features @
        direction``, times the logit scale if the features are projected.
    readout
        Name of the readout of the directions: "pooled", "projected", "deep" or another
        of `READOUTS`.

    Returns
    -------
    (n, rows, columns) float32: a value for each patch, at least 0, without a unit

    Raises
    ------
    ValueError
        If there are several directions, but not as many as images.
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
            interpolate_pos_encoding=True,  # for other image sizes than in training
            output_attentions=True,
            output_hidden_states=True,
        )
        attentions = output.attentions  # (1, heads, tokens, tokens) for each block
        features = encoder.pool_hidden_states(output.hidden_states, readout)[0]
        direction = torch.tensor(by_image[i]).to(features)
        logit = scale * features @ direction
        gradients = torch.autograd.grad(logit, attentions)
        # A matrix (tokens, tokens) for each block, the first block first.
        matrices = [
            _relevance_matrix(attention, gradient)
            for attention, gradient in zip(attentions, gradients, strict=True)
        ]
        maps[i] = reaching_class_token(matrices).reshape(side, side)
    return maps


def tower_with_attention(encoder: ClipEncoder) -> Any:
    """Return a copy of a CLIP's vision tower that also returns its attention."""
    tower: Any = deepcopy(encoder.model.vision_model)
    tower.set_attn_implementation("eager")  # fused kernels do not return attention
    return tower


def patches_a_side(encoder: ClipEncoder) -> int:
    """Return the number of rows, and of columns, of patches in an image."""
    config: Any = encoder.model.config.vision_config
    return int(encoder.image_size // config.patch_size)


def _relevance_matrix(attention: Tensor, gradient: Tensor) -> Tensor:
    """Return the matrix by which a block passes relevance from columns to rows.

    It is the mean over heads of the positive part of attention times its gradient, both
    (1, heads, tokens, tokens) (Chefer, Gur and Wolf 2021, equation 5), plus the
    identity for the residual connection.
    """
    product = (attention * gradient)[0].detach()
    mean = product.clamp(min=0).mean(dim=0)
    return mean + torch.eye(len(mean)).to(mean)


def reaching_class_token(matrices: list[Tensor]) -> Features:
    """Return the relevance that reaches the class token from each patch, (patches,).

    `matrices` (tokens, tokens) are the relevance matrices of the blocks, the first
    block first. Token 0 is the class token. The result is row 0 of the product of all
    matrices, from the last block to the first.
    """
    row = torch.eye(len(matrices[0])).to(matrices[0])[:1]  # (1, tokens)
    for matrix in reversed(matrices):  # row by matrix: the full product is not needed
        row = row @ matrix
    return np.asarray(row[0, 1:].cpu().numpy())


def preprocessed_image(encoder: ClipEncoder, image: ImageSource) -> Image.Image:
    """Return an image as the vision tower sees it: square, `image_size` wide, RGB."""
    pixels = encoder.preprocess(image).transpose(1, 2, 0)  # (height, width, 3)
    # Undo the normalisation: shares of full brightness, 0 to 1.
    shares = pixels * encoder.processor.image_std + encoder.processor.image_mean
    levels = (255 * shares).round().clip(0, 255)
    return Image.fromarray(levels.astype(np.uint8))


def overlay(encoder: ClipEncoder, image: ImageSource, heat: ArrayLike) -> Image.Image:
    """Return a grey image, as the encoder sees it, with a heat map in red on it.

    `heat` (rows, columns) holds a value for each patch. The red is transparent at the
    smallest value, and 80% opaque at the largest.
    """
    grey = preprocessed_image(encoder, image).convert("L").convert("RGB")
    values = np.asarray(heat, np.float32)
    scaled = (values - values.min()) / (np.ptp(values) or 1)  # 0 to 1; a flat map is 0
    smooth = Image.fromarray(scaled).resize(grey.size, Image.Resampling.BICUBIC)
    opacity = 0.8 * np.asarray(smooth).clip(0, 1)  # bicubic interpolation overshoots
    mask = Image.fromarray((255 * opacity).round().astype(np.uint8))
    return Image.composite(Image.new("RGB", grey.size, MARK), grey, mask)


def heat_maps(
    encoder: ClipEncoder,
    probe: Probe,
    images: Sequence[ImageSource],
    labels: ArrayLike,
    readout: str,
) -> list[Image.Image]:
    """Return each of n images in grey, with red on the patches that support its label.

    `probe` was fitted to the encoder's features in the given readout. `labels` (n,) are
    true or predicted ones, among the probe's classes.
    """
    features = encoder.encode_images(images, readout=readout, progress=False)
    directions = probe.logit_gradients(features, labels)
    maps = chefer_relevance(encoder, images, directions, readout=readout)
    return [
        overlay(encoder, image, heat) for image, heat in zip(images, maps, strict=True)
    ]
