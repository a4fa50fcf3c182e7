"""Heat maps through the frozen vision tower, and their drawing over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from cliplib.data import decode
from cliplib.encoder import ClipEncoder, ImageSource, Kind
from cliplib.encoder.arguments import check_images
from cliplib.encoder.pipeline import upright_rgb
from cliplib.errors import CliplibError
from cliplib.figures import palette
from cliplib.probes import LinearProbe, MLPProbe

Floats: TypeAlias = NDArray[np.float32]

_MEMORY = 2**28  # bytes for the attention of one batch and its gradient
_BATCH = 32  # pictures at a time at most


def attention_rollout(encoder: ClipEncoder, images: Sequence[ImageSource]) -> Floats:
    """How much of each patch reaches the class token if attention is followed through all layers, whatever the class.

    Attention rollout (Abnar and Zuidema, ACL 2020, section 3): heads are averaged, half of each layer's output is taken
    to come through the residual connection, and the layers' matrices are multiplied.

    Parameters
    ----------
    encoder : ClipEncoder
        Is left as it is: a copy of its vision tower computes, in float32, with its attention made visible.
    images : sequence of n paths, bytes, PIL images or rows of a data set
        As `ClipEncoder.images` takes them.

    Returns
    -------
    (n, rows, columns) float32
        Shares, one per patch; with the class token's own share they sum to 1.

    Raises
    ------
    ImageError
        A picture cannot be read.
    CliplibError
        One picture in the place of a list, or a tower whose attention cannot be seen.
    """
    return _maps(encoder, images, None, "pooled")


def relevance(
    encoder: ClipEncoder, images: Sequence[ImageSource], directions: ArrayLike, *, kind: Kind = "pooled"
) -> Floats:
    """How much each patch, by way of attention, raised a logit that is read from the features along a direction.

    Chefer, Gur and Wolf, "Generic attention-model explainability", ICCV 2021, sections 3.1 and 3.2, for self-attention
    alone: in each layer, the mean over heads of the positive part of attention times its gradient is added to what is
    passed on. What lowers the logit is not shown.

    Parameters
    ----------
    encoder, images
        As in `attention_rollout`.
    directions : (d,) or (n, d) array-like
        One for all pictures, or one for each: a class's weights, as `probe_directions` or `zero_shot_weights` give
        them.
    kind : {"pooled", "projected"}
        "pooled": the logit is ``features @ direction``, as in a probe. "projected": it is CLIP's own for a prompt, the
        cosine of projected features and direction, times `ClipEncoder.logit_scale`.

    Returns
    -------
    (n, rows, columns) float32
        Not negative; to be compared within a picture, not between pictures.

    Raises
    ------
    ImageError
        A picture cannot be read.
    CliplibError
        As `attention_rollout`; an unknown kind, or directions that fit neither pictures nor features.
    """
    check_images(images, kind, "raise", None, None)
    shape = (len(images), encoder.dim if kind == "pooled" else encoder.projection_dim)
    given = np.asarray(directions, dtype=np.float32)
    if given.shape not in (shape[1:], shape) or not np.isfinite(given).all():
        raise CliplibError(
            f"directions must be finite, of shape ({shape[1]},) or {shape} for {kind} features of {shape[0]} pictures, "
            f"not of shape {given.shape}."
        )
    return _maps(encoder, images, np.broadcast_to(given, shape), kind)


def probe_directions(probe: LinearProbe | MLPProbe, features: ArrayLike, classes: ArrayLike) -> Floats:
    """Gradient of one class's logit with respect to the features: (n, d) float32, for `relevance`.

    Of a linear probe these are the weights of the class, the same at every row. Of an MLP they are those of its tangent
    at the row.

    Parameters
    ----------
    probe : LinearProbe or MLPProbe
        Fitted.
    features : (n, d) array-like
        Pooled, as the probe was trained on.
    classes : (n,) array-like
        The class of each row, of the kind that ``probe.predict`` returns.

    Raises
    ------
    NotFittedError
        The probe has not been fitted.
    CliplibError
        Another kind of classifier, or arrays that do not fit it.
    """
    if not isinstance(probe, LinearProbe | MLPProbe):
        raise CliplibError(f"probe must be a LinearProbe or an MLPProbe, not a {type(probe).__name__}.")
    check_is_fitted(probe)
    x, wanted = np.asarray(features, dtype=np.float64), np.asarray(classes)
    if x.ndim != 2 or x.shape[1] != probe.n_features_in_ or wanted.shape != x.shape[:1]:
        raise CliplibError(
            f"features must have the shape (n, {probe.n_features_in_}) and classes (n,), not {x.shape}, {wanted.shape}."
        )
    if unknown := sorted(set(wanted.tolist()) - set(probe.classes_.tolist())):
        raise CliplibError(f"The probe knows no class {unknown[0]!r}: it was trained on {probe.classes_.tolist()}.")
    codes = np.searchsorted(probe.classes_, wanted)
    if isinstance(probe, LinearProbe):
        two = len(probe.coef_) == 1  # whose logits are -w/2 and w/2
        weights = np.concatenate([-probe.coef_, probe.coef_]) / 2 if two else probe.coef_
        return np.asarray(weights[codes], dtype=np.float32)
    learned = (probe.mean_, probe.scale_, probe.hidden_coef_, probe.hidden_intercept_, probe.coef_, probe.intercept_)
    with torch.inference_mode(False), torch.enable_grad():
        mean, scale, w1, b1, w2, b2 = (torch.from_numpy(np.array(a)) for a in learned)
        rows = torch.from_numpy(x.copy()).requires_grad_()
        hidden = getattr(torch.nn.functional, probe.activation)((rows - mean) / scale @ w1 + b1)
        logits = (hidden @ w2 + b2).gather(1, torch.from_numpy(codes)[:, None])
        return torch.autograd.grad(logits.sum(), rows)[0].numpy().astype(np.float32)


def as_seen(encoder: ClipEncoder, image: ImageSource) -> Image.Image:
    """The picture as the vision tower sees it: resized and cropped, `image_size` pixels square, RGB."""
    p = encoder.preprocess.image_processor
    mean, std = ([0, 0, 0], [1, 1, 1]) if not p.do_normalize else (p.image_mean, p.image_std)
    pixels = encoder.preprocess(picture(image, 0)).transpose(1, 2, 0) * np.array(std) + np.array(mean)
    return Image.fromarray((pixels / (p.rescale_factor if p.do_rescale else 1)).round().clip(0, 255).astype(np.uint8))


def overlay(encoder: ClipEncoder, image: ImageSource, heat: ArrayLike, *, side: int = 0) -> Image.Image:
    """The picture as the vision tower sees it, in grey, and over it a map: the more relevant, the more red.

    Parameters
    ----------
    encoder : ClipEncoder
        Whose preprocessing decides what part of the picture is seen.
    image : path, bytes, PIL image or row of a data set
    heat : (rows, columns) array-like
        From `attention_rollout` or `relevance`; drawn from its least value to its largest, so that the colours of two
        pictures cannot be compared.
    side : int
        Of the result, in pixels; 0: as many as the tower sees.

    Raises
    ------
    CliplibError
        The map is not a matrix of finite numbers; an `ImageError` for a picture that cannot be read.
    """
    values = np.asarray(heat, dtype=np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise CliplibError(f"heat must be a matrix of finite numbers, one per patch, not of shape {values.shape}.")
    size = (side or encoder.image_size,) * 2
    shade = Image.fromarray((values - values.min()) / (float(np.ptp(values)) or 1.0))
    mask = np.asarray(shade.resize(size, Image.Resampling.BICUBIC)).clip(0, 1) * (0.8 * 255)
    grey = as_seen(encoder, image).convert("L").resize(size, Image.Resampling.BICUBIC).convert("RGB")
    red = Image.new("RGB", size, tuple(round(255 * c) for c in to_rgb(palette[2])))
    return Image.composite(red, grey, Image.fromarray(mask.round().astype(np.uint8)))


def _maps(encoder: ClipEncoder, images: Sequence[ImageSource], directions: Floats | None, kind: Kind) -> Floats:
    """The class token's row of the product of a matrix per layer (last @ ... @ first), without the token itself."""
    check_images(images, kind, "raise", None, None)
    with torch.inference_mode(False):  # a copy: another thread may be using the encoder
        tower = deepcopy(encoder.model.vision_model).float().eval()
    tower.set_attn_implementation("eager")  # the fused kernels never hold the weights
    (side, _), config, n = grid(encoder), tower.config, len(images)
    per_image = 8 * config.num_hidden_layers * config.num_attention_heads * (side**2 + 1) ** 2
    size = max(1, min(_BATCH, _MEMORY // per_image))
    out = np.zeros((n, side, side), np.float32)
    eye = torch.eye(side**2 + 1, device=encoder.device)
    for start in tqdm(range(0, n, size), desc=f"{encoder.name}: maps", unit="batch", disable=n <= size):
        rows = slice(start, min(start + size, n))
        pixels = np.stack([encoder.preprocess(picture(images[i], i)) for i in range(rows.start, rows.stop)])
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.from_numpy(pixels).to(encoder.device).requires_grad_()  # so that attention is part of a graph
            seen = tower(pixel_values=x, output_attentions=True)
            attention = seen.attentions
            if not attention or len(attention) != config.num_hidden_layers:
                raise CliplibError(f"The vision tower of {encoder.name!r} does not give its attention: no map of it.")
            if directions is None:
                matrices = [(a.detach().mean(dim=1) + eye) / 2 for a in attention]
            else:
                logits = _logits(encoder, seen.pooler_output, torch.from_numpy(directions[rows].copy()), kind)
                gradients = torch.autograd.grad(logits.sum(), attention)
                raised = [(g * a).clamp(min=0).mean(dim=1) for g, a in zip(gradients, attention, strict=True)]
                matrices = [r.detach() + eye for r in raised]
        row = eye[:1].expand(len(x), 1, -1)
        for matrix in reversed(matrices):
            row = row @ matrix
        out[rows] = row[:, 0, 1:].reshape(-1, side, side).cpu().numpy()
    if not np.isfinite(out).all():
        raise CliplibError(f"The maps of {encoder.name!r} are not finite: its weights are too large for float32.")
    return out


def _logits(encoder: ClipEncoder, pooled: torch.Tensor, directions: torch.Tensor, kind: Kind) -> torch.Tensor:
    towards = directions.to(encoder.device)
    if kind == "pooled":
        return (pooled * towards).sum(dim=1)
    features = encoder.model.visual_projection(pooled)
    return encoder.logit_scale * torch.nn.functional.cosine_similarity(features, towards)


def grid(encoder: ClipEncoder) -> tuple[int, int]:
    """Return how many patches a side has, and how many pixels a patch."""
    patch = int(encoder.model.config.vision_config.patch_size)
    return encoder.image_size // patch, patch


def picture(image: Any, position: int) -> Image.Image:
    """Return a picture decoded, upright, in RGB; an error calls one without a name by its position."""
    return upright_rgb(image, f"<image {position}>") if isinstance(image, Image.Image) else decode(image)
