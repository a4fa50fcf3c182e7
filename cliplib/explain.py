"""Heat maps over the patches that a frozen CLIP sees, and tests of what such a map is worth.

A map that looks right proves nothing: `randomize_weights` asks whether it depends on what the tower
has learned, `deletion_insertion` whether the classifier depends on the patches that it marks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr
from scipy.stats import norm, spearmanr
from tqdm.auto import tqdm
from transformers import CLIPModel

from cliplib.encoder import ClipEncoder, Features, readout_columns
from cliplib.images import ImageSource
from cliplib.probes import MLPProbe, Probe

Floats = NDArray[np.float64]


def attention_rollout(encoder: ClipEncoder, images: Any) -> Features:
    """Measure how much of each patch reaches the class token, whatever the class.

    Attention rollout (Abnar and Zuidema, ACL 2020, section 3): heads are averaged, and half of each
    block's output is taken to come through the residual connection. The shares, (n, rows, columns),
    and the class token's own sum to 1.
    """
    return _maps(encoder, images)


def chefer_relevance(
    encoder: ClipEncoder, images: Any, directions: ArrayLike, *, readout: str = "pooled"
) -> Features:
    """Measure how much each patch, by way of attention, raised a logit: (n, rows, columns), >= 0.

    Chefer, Gur and Wolf, "Generic attention-model explainability", ICCV 2021, sections 3.1 and 3.2:
    in each block, the mean over heads of the positive part of attention times its gradient is added
    to what is passed on. Whatever the readout, the class token's row of the result is returned, and
    gradients come from all tokens that it reads: rows of patch tokens improved no map of "deep".

    The logit is ``features @ direction``, times the logit scale if projected. `directions`, (d,) or
    one for each of n images (n, d), are those of `probe_directions` or rows of `zero_shot_weights`.
    """
    return _maps(encoder, images, np.asarray(directions, np.float32), readout)


def _maps(
    encoder: ClipEncoder, images: Any, directions: Features | None = None, readout: str = ""
) -> Features:
    """Multiply a matrix for each block, from the last to the first, and take the class row."""
    single = isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray | Mapping)
    sources = [images] if single else list(images)
    tower = deepcopy(encoder.model.vision_model)
    tower.set_attn_implementation("eager")  # the fused kernels never hold the attention
    side = encoder.image_size // tower.config.patch_size
    eye = torch.eye(side**2 + 1, device=encoder.device)
    heads = tower.config.num_hidden_layers * tower.config.num_attention_heads
    size = max(1, min(32, 2**26 // (heads * eye.numel())))  # images whose attention fits in 256 MB
    shown = {"output_attentions": True, "output_hidden_states": True}
    maps = [np.empty((0, side, side), np.float32)]
    for start in tqdm(range(0, len(sources), size), desc="heat maps", disable=len(sources) <= size):
        pixels = np.stack([encoder.preprocess(image) for image in sources[start : start + size]])
        x = torch.tensor(pixels, device=encoder.device, requires_grad=True)
        seen = tower(x, interpolate_pos_encoding=True, **shown)
        if directions is None:
            matrices = [(a.detach().mean(dim=1) + eye) / 2 for a in seen.attentions]
        else:
            features = encoder.read_states(seen.hidden_states, readout)
            features = features * (encoder.logit_scale if readout == "projected" else 1)
            width = features.shape[1]
            if directions.shape[-1] != width:
                raise ValueError(f"directions must have {width} columns for {readout!r} features.")
            towards = np.broadcast_to(directions, (len(sources), width))[start : start + size]
            logits = features * torch.tensor(towards).to(x)
            gradients = torch.autograd.grad(logits.sum(), seen.attentions)
            pairs = zip(seen.attentions, gradients, strict=True)
            matrices = [(a * g).detach().clamp(min=0).mean(dim=1) + eye for a, g in pairs]
        row = eye[:1].expand(len(x), 1, -1)
        for matrix in reversed(matrices):
            row = row @ matrix
        maps.append(row[:, 0, 1:].reshape(-1, side, side).cpu().numpy())
    return np.concatenate(maps)


def probe_directions(probe: Probe, features: ArrayLike, classes: ArrayLike) -> Features:
    """Return the gradient of a class's logit with respect to each row of features, (n, d).

    Of a linear probe these are the class's weights; of an MLP those of its tangent at the row.
    `features` (n, d) are as the probe was trained on, `classes` (n,) as ``probe.predict`` gives.
    """
    wanted = np.asarray(classes)
    if unknown := set(wanted.tolist()) - set(probe.classes_.tolist()):
        raise ValueError(f"The probe knows no class {min(unknown)!r}, only {probe.classes_}.")
    weights = probe.coef_[np.searchsorted(probe.classes_, wanted)]
    if isinstance(probe, MLPProbe):
        scaled = (np.asarray(features) - probe.mean_) / probe.scale_
        z = scaled @ probe.hidden_coef_.T + probe.hidden_intercept_
        slope = ndtr(z) + z * norm.pdf(z)  # of GELU
        weights = (weights * slope) @ probe.hidden_coef_
    return np.asarray(weights / probe.scale_, np.float32)


def preprocessed_image(encoder: ClipEncoder, image: ImageSource) -> Image.Image:
    """Return an image as the vision tower sees it: RGB, `ClipEncoder.image_size` pixels square."""
    pixels = encoder.preprocess(image).transpose(1, 2, 0)
    levels = 255 * (pixels * encoder.processor.image_std + encoder.processor.image_mean)
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def overlay(encoder: ClipEncoder, image: ImageSource, heat: ArrayLike) -> Image.Image:
    """Draw a map (rows, columns) in red over the grey image that the vision tower sees.

    Colours run from the map's least value to its largest, so two images cannot be compared.
    """
    values = np.asarray(heat, np.float32)
    if values.ndim != 2:
        raise ValueError(f"heat must be one map (rows, columns), not of shape {values.shape}.")
    shade = (values - values.min()) / (np.ptp(values) or 1)
    grey = preprocessed_image(encoder, image).convert("L").convert("RGB")
    smooth = np.asarray(Image.fromarray(shade).resize(grey.size, Image.Resampling.BICUBIC))
    mask = (0.8 * 255 * smooth.clip(0, 1)).round().astype(np.uint8)
    return Image.composite(Image.new("RGB", grey.size, "#c4512d"), grey, Image.fromarray(mask))


def randomize_weights(
    encoder: ClipEncoder, *, layers: int | None = None, seed: int = 0
) -> ClipEncoder:
    """Return an encoder that has learned nothing, or whose last `layers` blocks have not.

    Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 3: a map that stays as
    it was explains the image, not the model. The layer norm after the blocks goes with them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = CLIPModel(encoder.model.config)
    if layers is None:
        return encoder.with_weights(fresh, f"{encoder.name}, random weights")
    model = deepcopy(encoder.model)
    tower, random = model.vision_model, fresh.vision_model
    depth = len(tower.encoder.layers)
    if not 1 <= layers <= depth:
        raise ValueError(f"layers must lie between 1 and {depth}, the tower's depth, not {layers}.")
    tower.post_layernorm.load_state_dict(random.post_layernorm.state_dict())
    for block in range(depth - layers, depth):
        tower.encoder.layers[block].load_state_dict(random.encoder.layers[block].state_dict())
    return encoder.with_weights(model, f"{encoder.name}, last {layers} blocks random")


def rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Return Spearman's correlation of maps (n, rows, columns), image by image, (n,).

    A map whose patches are all equal has no order, and correlates with none: 0.
    """
    found = [spearmanr(np.ravel(x), np.ravel(y)).statistic for x, y in zip(a, b, strict=True)]
    return np.nan_to_num(found)


@dataclass(frozen=True, eq=False)
class Curves:
    """Probability (n, s + 1) of each image's class by the share (s + 1,) deleted or inserted.

    A good map has a small area (n,) under the curve of deletion, a large one under insertion.
    """

    shares: Floats
    deletion: Floats
    insertion: Floats
    deletion_auc: Floats
    insertion_auc: Floats


def deletion_insertion(
    encoder: ClipEncoder,
    images: Sequence[ImageSource],
    maps: NDArray[Any],
    targets: NDArray[Any],
    predict_proba: Callable[[Features], ArrayLike],
    *,
    readout: str = "pooled",
    steps: int = 8,
    seed: int = 0,
) -> Curves:
    """Delete, and insert, patches in the order of a map, and watch the probability of a class.

    RISE (Petsiuk, Das and Saenko, BMVC 2018, section 4.1), by patches instead of pixels: deletion
    greys the most relevant first; insertion puts them back into a blurred image. Neither occurs in
    nature, so only the difference to another order, such as a random one, means something.

    `maps` are (n, rows, columns), patches of equal value in random order, cut into `steps`;
    `targets` (n,) the columns of the classes in `predict_proba` of features of `readout`.
    """
    patch = encoder.model.config.vision_config.patch_size
    side = encoder.image_size // patch
    if np.shape(maps) != (len(images), side, side):
        raise ValueError(f"maps must have the shape {(len(images), side, side)} of the patches.")
    patch_of = np.minimum(np.arange(encoder.image_size) // patch, side - 1)
    part = "pooled" if readout == "projected" else readout
    columns = readout_columns(part, encoder.dim, encoder.blocks)
    taken = np.rint(np.linspace(0, side**2, steps + 1))
    rng = np.random.default_rng(seed)
    found = []
    for image, heat, target in zip(tqdm(images, "deletion"), maps, targets, strict=True):
        pixels = encoder.preprocess(image)
        rank = np.empty(side**2)
        rank[np.lexsort((rng.random(side**2), -np.ravel(heat)))] = np.arange(side**2)
        first = (rank < taken[:, None]).reshape(-1, 1, side, side)  # those that go, or come
        mask = first[:, :, patch_of[:, None], patch_of]
        blurred = gaussian_filter(pixels, (0, encoder.image_size / 16, encoder.image_size / 16))
        changed = np.concatenate([np.where(mask, 0, pixels), np.where(mask, pixels, blurred)])
        features = encoder.encode_pixels(changed)[:, columns]
        if readout == "projected":
            features = encoder.project(features)
        proba = np.asarray(predict_proba(features), np.float64)
        found.append(proba[:, target].reshape(2, -1))
    curves = np.stack(found, axis=1)
    shares = taken / side**2
    return Curves(shares, *curves, *np.trapezoid(curves, shares, axis=2))


def heat_maps(
    encoder: ClipEncoder,
    probe: Probe,
    images: Sequence[ImageSource],
    labels: ArrayLike,
    readout: str,
) -> list[Image.Image]:
    """Return images with what spoke for their labels laid over them, for a probe of a readout."""
    features = encoder.images(images, readout=readout, progress=False)
    directions = probe_directions(probe, features, labels)
    maps = chefer_relevance(encoder, images, directions, readout=readout)
    return [overlay(encoder, image, heat) for image, heat in zip(images, maps, strict=True)]
