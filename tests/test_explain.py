"""Heat maps against hand computations and planted evidence, and the tests of maps themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_checkpoint
from PIL import Image
from scipy.special import softmax
from scipy.stats import spearmanr
from transformers import CLIPModel

from cliplib.encoder import ClipEncoder, readout_columns
from cliplib.explain import (
    attention_rollout,
    chefer_relevance,
    deletion_insertion,
    overlay,
    preprocessed_image,
    probe_directions,
    randomize_weights,
    rank_correlation,
)
from cliplib.probes import LinearProbe, MLPProbe

SPOT = (1, 2)  # the patch that holds the planted evidence
CHECKS = np.indices((8, 8)).sum(axis=0) % 2 * 2 - 1  # single pixels, -1 and 1: gone when blurred


def noise(n: int, side: int = 32) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(pixels) for pixels in rng.integers(0, 256, (n, side, side, 3), np.uint8)
    ]


def lively(encoder: ClipEncoder) -> ClipEncoder:
    """Return an encoder of large random weights: as they are made, all attention is nearly even."""
    torch.manual_seed(1)
    model = CLIPModel(encoder.model.config)
    with torch.no_grad():
        for parameter in model.vision_model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return encoder.with_weights(model, "lively")


@pytest.fixture(scope="module")
def one_block(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    folder = make_checkpoint(tmp_path_factory.mktemp("one"), layers=1)
    return lively(ClipEncoder(folder, cache=False))


@pytest.fixture(scope="module")
def planted(tiny: ClipEncoder) -> ClipEncoder:
    """A tower whose first feature rises with each patch that is a chessboard: even attention."""
    model = CLIPModel(tiny.model.config)
    tower, block = model.vision_model, model.vision_model.encoder.layers[0]
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
        for norm in (tower.pre_layrnorm, block.layer_norm1, tower.post_layernorm):
            norm.weight.fill_(1)
        tower.embeddings.patch_embedding.weight[0] = torch.from_numpy(CHECKS / 64)
        tower.embeddings.position_embedding.weight[:, 1] = 1
        for linear in (block.self_attn.v_proj, block.self_attn.out_proj):
            linear.weight.copy_(torch.eye(32))
    return tiny.with_weights(model, "planted")


@pytest.fixture(scope="module")
def board() -> Image.Image:
    pixels = np.full((32, 32, 3), 120, dtype=np.uint8)
    row, column = 8 * SPOT[0], 8 * SPOT[1]
    pixels[row : row + 8, column : column + 8] += (100 * CHECKS[..., None]).astype(np.uint8)
    return Image.fromarray(pixels)


def board_proba(features: Any) -> Any:
    return softmax(np.column_stack([np.zeros(len(features)), 60 * features[:, 0] + 12]), axis=1)


def test_rollout_of_even_attention_is_what_the_formula_says(tiny: ClipEncoder) -> None:
    even = randomize_weights(tiny)
    with torch.no_grad():
        for block in even.model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight.zero_()
            block.self_attn.q_proj.bias.zero_()
    # Each of three blocks keeps half of what was there and spreads the other half over 17 tokens.
    np.testing.assert_allclose(attention_rollout(even, noise(2)), (1 - 0.5**3) / 17, rtol=1e-5)


def by_hand(encoder: ClipEncoder, image: Image.Image) -> tuple[Any, Any]:
    """Return the class token's attention (4, 17) of a one-block tower, and pooled features of it."""
    weights = {k: v.double().numpy() for k, v in encoder.model.vision_model.state_dict().items()}

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    pixels = encoder.preprocess(image).astype(np.float64).reshape(3, 4, 8, 4, 8)
    kernels = weights["embeddings.patch_embedding.weight"].reshape(32, -1)
    patches = pixels.transpose(1, 3, 0, 2, 4).reshape(16, -1) @ kernels.T
    tokens = np.vstack([weights["embeddings.class_embedding"], patches])
    x = norm(tokens + weights["embeddings.position_embedding.weight"], "pre_layrnorm")
    layer = "encoder.layers.0"
    inner = norm(x, f"{layer}.layer_norm1")
    names = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
    q, k, v = (linear(inner, name).reshape(17, 4, 8).transpose(1, 0, 2) for name in names)
    attention = softmax(q[:, 0, None] @ k.transpose(0, 2, 1) / np.sqrt(8), axis=-1)[:, 0]

    def pooled(a: Any) -> Any:
        y = x[0] + linear((a[:, None] @ v).ravel(), f"{layer}.self_attn.out_proj")
        h = linear(norm(y, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        return norm(y + linear(h / (1 + np.exp(-1.702 * h)), f"{layer}.mlp.fc2"), "post_layernorm")

    return attention, pooled


@pytest.mark.parametrize("readout", ["pooled", "projected"])
def test_one_block_agrees_with_a_hand_written_tower_and_finite_differences(
    one_block: ClipEncoder, readout: str
) -> None:
    (image,) = noise(1)
    direction = np.random.default_rng(5).normal(size=32 if readout == "pooled" else 24)
    attention, pooled = by_hand(one_block, image)
    np.testing.assert_allclose(one_block.images(image)[0], pooled(attention), rtol=2e-4, atol=2e-5)
    projection = one_block.model.visual_projection.weight.double().numpy()

    def logit(a: Any) -> float:
        if readout == "pooled":
            return float(pooled(a) @ direction)
        z = projection @ pooled(a)
        return float(one_block.logit_scale * z @ direction / np.linalg.norm(z))

    gradient = np.zeros_like(attention)
    for at in np.ndindex(*attention.shape):
        step = np.zeros_like(attention)
        step[at] = 1e-5
        gradient[at] = (logit(attention + step) - logit(attention - step)) / 2e-5
    expected = np.maximum(gradient * attention, 0).mean(axis=0)[1:].reshape(4, 4)
    found = chefer_relevance(one_block, [image], direction, readout=readout)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())
    rollout = attention_rollout(one_block, [image])[0]
    np.testing.assert_allclose(rollout.ravel(), attention.mean(axis=0)[1:] / 2, rtol=1e-4)


def test_blocks_multiply_from_the_output_to_the_input_and_deep_reads_all_tokens(
    tiny: ClipEncoder,
) -> None:
    encoder, images = lively(tiny), noise(2)
    direction = np.random.default_rng(2).normal(
        size=encoder.images(images, readout="deep").shape[1]
    )
    tower = randomize_weights(encoder).model.vision_model
    tower.load_state_dict(encoder.model.vision_model.state_dict())
    tower.set_attn_implementation("eager")
    x = torch.from_numpy(np.stack([encoder.preprocess(image) for image in images])).requires_grad_()
    seen = tower(x, output_attentions=True, output_hidden_states=True)
    tokens = [tower.post_layernorm(state) for state in seen.hidden_states[1:]]
    parts = [t[:, 0] for t in tokens] + [t[:, 1:].mean(1) for t in tokens]
    parts += [t[:, 1:].var(1, correction=0).sqrt() for t in tokens]
    logit = (torch.cat(parts, dim=1) @ torch.tensor(direction, dtype=torch.float32)).sum()
    product = torch.eye(17).expand(2, 17, 17)
    gradients = torch.autograd.grad(logit, seen.attentions)
    for a, g in zip(seen.attentions, gradients, strict=True):  # as in the paper, forwards
        product = product + (a * g).clamp(min=0).mean(dim=1) @ product
    expected = product[:, 0, 1:].detach().reshape(2, 4, 4)
    found = chefer_relevance(encoder, images, direction, readout="deep")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("readout", ["pooled", "dinov2"])
def test_a_smaller_readout_is_the_deep_one_without_the_rest(
    tiny: ClipEncoder, readout: str
) -> None:
    columns = readout_columns(readout, tiny.dim, tiny.blocks)
    direction = np.zeros(len(readout_columns("deep", tiny.dim, tiny.blocks)))
    direction[columns] = np.random.default_rng(3).normal(size=len(columns))
    small = chefer_relevance(tiny, noise(2), direction[columns], readout=readout)
    deep = chefer_relevance(tiny, noise(2), direction, readout="deep")
    np.testing.assert_allclose(small, deep, rtol=1e-4, atol=1e-8)


def test_relevance_marks_planted_evidence_and_rollout_knows_of_no_class(
    planted: ClipEncoder, board: Image.Image
) -> None:
    heat = chefer_relevance(planted, [board], np.eye(32)[0])[0]
    others = np.delete(heat.ravel(), np.ravel_multi_index(SPOT, heat.shape))
    assert heat[SPOT] > 10 * others.max()
    against = chefer_relevance(planted, [board], -np.eye(32)[0])[0]
    assert against[SPOT] == 0 < against.sum()  # what speaks against a class is not shown
    assert np.ptp(attention_rollout(planted, [board])) < 1e-6


def test_deletion_and_insertion_tell_a_right_map_from_a_wrong_one(
    planted: ClipEncoder, board: Image.Image
) -> None:
    heat = chefer_relevance(planted, [board] * 2, np.eye(32)[0])
    right, wrong = (
        deletion_insertion(planted, [board] * 2, order, np.array([1, 0]), board_proba, steps=16)
        for order in (heat, -heat)
    )
    whole = board_proba(planted.images(board))[0]
    for curves in (right, wrong):
        assert curves.shares[[0, -1]].tolist() == [0, 1]
        np.testing.assert_allclose(curves.deletion[:, 0], whole[[1, 0]], rtol=1e-5)
        np.testing.assert_allclose(curves.insertion[:, -1], whole[[1, 0]], rtol=1e-5)
    # One patch held it all: whether it goes or comes first or last decides.
    high, low = whole[1], right.deletion[0, 16]
    assert high > 0.9 and low < 0.1
    np.testing.assert_allclose(right.deletion[0, 1:], low, rtol=1e-3)
    np.testing.assert_allclose(wrong.deletion[0, :16], high, rtol=1e-3)
    np.testing.assert_allclose(right.deletion_auc[0], low + (high - low) / 32, rtol=1e-3)
    assert right.insertion_auc[0] > 0.9 > 0.1 > wrong.insertion_auc[0]
