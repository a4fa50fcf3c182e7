"""Heat maps over the patches that a frozen CLIP sees, and tests of what such a map is worth.

A map that looks right proves nothing: `randomize_weights` asks whether it depends on what the tower
has learned, `deletion_insertion` whether the classifier depends on the patches that it marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm
from transformers import CLIPModel

from cliplib.arrays import Features, Floats
from cliplib.encoder import ClipEncoder, readout_columns
from cliplib.images import ImageSource, image_list
from cliplib.probes import LinearProbe, MLPProbe, logit_gradients


def chefer_relevance(
    encoder: ClipEncoder, images: Any, directions: Any, *, readout: str = "pooled"
) -> Features:
    """Measure how much each patch, by way of attention, raised a logit: (n, rows, columns), >= 0.

    Chefer, Gur and Wolf, "Generic attention-model explainability", ICCV 2021, sections 3.1 and 3.2:
    in each block, the mean over heads of the positive part of attention times its gradient is added
    to what is passed on. Whatever the readout, the class token's row of the result is returned:
    rows of patch tokens improved no map of "deep". The logit is ``features @ direction``, times the
    logit scale if projected. `directions`, (d,) or (n, d), are `logit_gradients` or rows of
    `zero_shot_weights`. With None it is attention rollout (Abnar and Zuidema, ACL 2020, section 3),
    whatever the class: heads are averaged, and half of each block is taken to pass it by.
    """
    sources, maps = image_list(images), []
    tower = deepcopy(encoder.model.vision_model)
    tower.set_attn_implementation("eager")  # the fused kernels never hold the attention
    side = encoder.image_size // tower.config.patch_size
    eye = torch.eye(side**2 + 1, device=encoder.device)
    shown = {"output_attentions": True, "output_hidden_states": True}
    for i, image in enumerate(tqdm(sources, "heat maps", disable=len(sources) < 32)):
        x = torch.tensor(
            encoder.preprocess(image)[None], device=encoder.device, requires_grad=True
        )
        seen = tower(x, interpolate_pos_encoding=True, **shown)
        if directions is None:
            matrices = [(a[0].detach().mean(dim=0) + eye) / 2 for a in seen.attentions]
        else:
            direction = directions if np.ndim(directions) == 1 else directions[i]
            scale = encoder.logit_scale if readout == "projected" else 1
            features = encoder.read_states(seen.hidden_states, readout)[0]
            logit = scale * features @ torch.as_tensor(np.asarray(direction)).to(x)
            pairs = zip(
                seen.attentions,
                torch.autograd.grad(logit, seen.attentions),
                strict=True,
            )
            matrices = [
                (a * g)[0].detach().clamp(min=0).mean(dim=0) + eye for a, g in pairs
            ]
        row = eye[:1]
        for matrix in reversed(matrices):
            row = row @ matrix
        maps.append(row[0, 1:].cpu().numpy())
    return np.reshape(maps, (-1, side, side))


def preprocessed_image(encoder: ClipEncoder, image: ImageSource) -> Image.Image:
    """Return an image as the vision tower sees it: RGB, `ClipEncoder.image_size` pixels square."""
    pixels = encoder.preprocess(image).transpose(1, 2, 0)
    levels = 255 * (pixels * encoder.processor.image_std + encoder.processor.image_mean)
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def overlay(encoder: ClipEncoder, image: ImageSource, heat: ArrayLike) -> Image.Image:
    """Draw a map (rows, columns), from its least to its largest value, in red over a grey image."""
    values = np.asarray(heat, np.float32)
    shade = Image.fromarray((values - values.min()) / (np.ptp(values) or 1))
    grey = preprocessed_image(encoder, image).convert("L").convert("RGB")
    smooth = np.asarray(shade.resize(grey.size, Image.Resampling.BICUBIC)).clip(0, 1)
    mask = Image.fromarray((0.8 * 255 * smooth).round().astype(np.uint8))
    return Image.composite(Image.new("RGB", grey.size, "#c4512d"), grey, mask)


def heat_maps(
    encoder: ClipEncoder,
    probe: LinearProbe | MLPProbe,
    images: Any,
    labels: Any,
    readout: str,
) -> list[Image.Image]:
    """Return images with what spoke for their labels laid over them, for a probe of a readout."""
    features = encoder.images(images, readout=readout, progress=False)
    towards = logit_gradients(probe, features, labels)
    maps = chefer_relevance(encoder, images, towards, readout=readout)
    return [
        overlay(encoder, image, heat) for image, heat in zip(images, maps, strict=True)
    ]


def randomize_weights(
    encoder: ClipEncoder, *, layers: int | None = None, seed: int = 0
) -> ClipEncoder:
    """Return an encoder that has learned nothing, or whose last `layers` blocks have not.

    A map that stays as it was explains the image, not the model (Adebayo et al., "Sanity checks for
    saliency maps", NeurIPS 2018, section 3). The layer norm after the blocks goes with them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = CLIPModel(encoder.model.config)
    if layers is None:
        return encoder.with_weights(fresh, f"{encoder.name}, random weights")
    model = deepcopy(encoder.model)
    tower, random = model.vision_model, fresh.vision_model
    tower.post_layernorm.load_state_dict(random.post_layernorm.state_dict())
    blocks = zip(tower.encoder.layers, random.encoder.layers, strict=True)
    for block, drawn in list(blocks)[::-1][:layers]:
        block.load_state_dict(drawn.state_dict())
    return encoder.with_weights(model, f"{encoder.name}, last {layers} blocks random")


def deletion_insertion(
    encoder: ClipEncoder,
    images: Sequence[ImageSource],
    maps: NDArray[Any],
    targets: NDArray[Any],
    predict_proba: Callable[[Features], ArrayLike],
    *,
    readout: str = "pooled",
    steps: int = 8,
) -> tuple[Floats, Floats]:
    """Delete, and insert, patches in the order of a map, and watch the probability of a class.

    RISE (Petsiuk, Das and Saenko, BMVC 2018, section 4.1), by patches instead of pixels: deletion
    greys the most relevant first; insertion puts them back into a blurred image. Only the
    difference to another order, such as a random one, means something. `maps` are (n, rows,
    columns), `targets` (n,) columns of `predict_proba`. Returns the shares of patches (s + 1,), and
    the probabilities (2, n, s + 1) of deletion and of insertion.
    """
    patch = encoder.model.config.vision_config.patch_size
    side, rng, found = encoder.image_size // patch, np.random.default_rng(0), []
    patch_of = np.minimum(np.arange(encoder.image_size) // patch, side - 1)
    columns = readout_columns(readout, encoder.dim, encoder.blocks)
    taken = np.rint(np.linspace(0, side**2, steps + 1))
    for image, heat, target in zip(
        tqdm(images, "deletion"), maps, targets, strict=True
    ):
        pixels, rank = encoder.preprocess(image), np.empty(side**2)
        rank[np.lexsort((rng.random(side**2), -np.ravel(heat)))] = np.arange(side**2)
        first = (rank < taken[:, None]).reshape(
            -1, 1, side, side
        )  # those that go, or come
        mask = first[:, :, patch_of[:, None], patch_of]
        blurred = gaussian_filter(
            pixels, (0, encoder.image_size / 16, encoder.image_size / 16)
        )
        changed = np.concatenate(
            [np.where(mask, 0, pixels), np.where(mask, pixels, blurred)]
        )
        proba = np.asarray(
            predict_proba(encoder.encode_pixels(changed)[:, columns]), np.float64
        )
        found.append(proba[:, target].reshape(2, -1))
    return taken / side**2, np.stack(found, axis=1)
