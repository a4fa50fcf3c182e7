"""Tests of cliplib.explain: maps against hand computations and planted evidence, and the tests of maps themselves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from scipy.stats import spearmanr
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from cliplib.data import decode
from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError, ImageError
from cliplib.explain import (
    as_seen,
    attention_rollout,
    deletion_insertion,
    overlay,
    probe_directions,
    randomised,
    rank_correlation,
    relevance,
)
from cliplib.probes import LinearProbe, MLPProbe

SPOT = (1, 2)  # the patch that holds the planted evidence
CHECKS = np.indices((8, 8)).sum(axis=0) % 2 * 2 - 1  # a chessboard of single pixels, -1 and 1: gone when blurred


def make_encoder(*, layers: int = 1, side: int = 32, patch: int = 8, heads: int = 2, dtype: str = "float32") -> Any:
    """An encoder of width 16 without a tokenizer, with random weights."""
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = CLIPConfig(
        vision_config={**tower, "image_size": side, "patch_size": patch},
        text_config={**tower, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        projection_dim=12,
    )
    torch.manual_seed(1)
    model = CLIPModel(config)
    with torch.no_grad():
        for parameter in model.vision_model.parameters():  # as made, all attention is nearly even
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    size = {"height": side, "width": side}
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=size)
    return ClipEncoder(model, processor, None, name="small", device="cpu", dtype=dtype)


def noise(n: int, side: int = 32) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture(scope="module")
def planted() -> Any:
    """A tower whose first feature rises with each patch that is a chessboard: even attention, no MLP."""
    encoder = make_encoder()
    tower, (block,) = encoder.model.vision_model, encoder.model.vision_model.encoder.layers
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
        for norm in (tower.pre_layrnorm, block.layer_norm1, block.layer_norm2, tower.post_layernorm):
            norm.weight.fill_(1)
        tower.embeddings.patch_embedding.weight[0] = torch.from_numpy(CHECKS / 64)
        tower.embeddings.position_embedding.weight[:, 1] = 1
        for linear in (block.self_attn.v_proj, block.self_attn.out_proj):
            linear.weight.copy_(torch.eye(16))
    return encoder


@pytest.fixture(scope="module")
def board() -> Image.Image:
    pixels = np.full((32, 32, 3), 120, dtype=np.uint8)
    pixels[8 * SPOT[0] : 8 * SPOT[0] + 8, 8 * SPOT[1] : 8 * SPOT[1] + 8] += (100 * CHECKS[..., None]).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_rollout_of_even_attention_is_what_the_formula_says(layers: int) -> None:
    encoder = make_encoder(layers=layers)
    with torch.no_grad():
        for block in encoder.model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight.zero_()
            block.self_attn.q_proj.bias.zero_()
    # Each layer keeps half of what was there and spreads the other half evenly over 17 tokens.
    np.testing.assert_allclose(attention_rollout(encoder, noise(2)), (1 - 0.5**layers) / 17, rtol=1e-5)


def one_layer(encoder: Any, image: Image.Image) -> tuple[Any, Any]:
    """The attention of the class token of a one-layer tower, (heads, 17), and pooled features as a function of it."""
    weights = {k: v.double().numpy() for k, v in encoder.model.vision_model.state_dict().items()}

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    pixels = encoder.preprocess(image).astype(np.float64).reshape(3, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4)
    patches = pixels.reshape(16, -1) @ weights["embeddings.patch_embedding.weight"].reshape(16, -1).T
    tokens = np.vstack([weights["embeddings.class_embedding"], patches])
    x = norm(tokens + weights["embeddings.position_embedding.weight"], "pre_layrnorm")
    layer = "encoder.layers.0"
    inner = norm(x, f"{layer}.layer_norm1")
    q, k, v = (linear(inner, f"{layer}.self_attn.{p}_proj").reshape(17, 2, 8).transpose(1, 0, 2) for p in "qkv")
    attention = softmax(q[:, :1] @ k.transpose(0, 2, 1) / np.sqrt(8), axis=-1)[:, 0]

    def pooled(a: Any) -> Any:
        y = x[0] + linear(np.concatenate([a[0] @ v[0], a[1] @ v[1]]), f"{layer}.self_attn.out_proj")
        h = linear(norm(y, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        return norm(y + linear(h / (1 + np.exp(-1.702 * h)), f"{layer}.mlp.fc2"), "post_layernorm")

    return attention, pooled


@pytest.mark.parametrize("kind", ["pooled", "projected"])
def test_one_layer_agrees_with_a_hand_written_tower_and_finite_differences(kind: str) -> None:
    encoder, (image,) = make_encoder(), noise(1)
    direction = np.random.default_rng(5).normal(size=16 if kind == "pooled" else 12)
    attention, pooled = one_layer(encoder, image)
    np.testing.assert_allclose(encoder.images([image], progress=False)[0], pooled(attention), rtol=2e-4, atol=2e-5)
    projection = encoder.model.visual_projection.weight.double().numpy()

    def logit(a: Any) -> float:
        if kind == "pooled":
            return float(pooled(a) @ direction)
        z = projection @ pooled(a)
        return float(encoder.logit_scale * z @ direction / np.linalg.norm(z) / np.linalg.norm(direction))

    gradient = np.zeros_like(attention)
    for at in np.ndindex(*attention.shape):
        step = np.zeros_like(attention)
        step[at] = 1e-5
        gradient[at] = (logit(attention + step) - logit(attention - step)) / 2e-5
    expected = np.maximum(gradient * attention, 0).mean(axis=0)[1:].reshape(4, 4)
    found = relevance(encoder, [image], direction, kind=kind)[0]  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())
    rollout = attention_rollout(encoder, [image])[0]
    np.testing.assert_allclose(rollout, attention.mean(axis=0)[1:].reshape(4, 4) / 2, rtol=1e-4)


def test_two_layers_multiply_from_the_output_to_the_input() -> None:
    encoder, images = make_encoder(layers=2), noise(2)
    tower = encoder.model.vision_model
    tower.set_attn_implementation("eager")
    x = torch.from_numpy(np.stack([encoder.preprocess(image) for image in images])).requires_grad_()
    seen = tower(pixel_values=x, output_attentions=True)
    gradients = torch.autograd.grad(seen.pooler_output[:, 3].sum(), seen.attentions)
    product = torch.eye(17).expand(2, 17, 17)
    for a, g in zip(seen.attentions, gradients, strict=True):  # Chefer et al.: R <- R + A R, forwards
        product = product + (a * g).clamp(min=0).mean(dim=1) @ product
    expected = product[:, 0, 1:].detach().reshape(2, 4, 4)
    np.testing.assert_allclose(relevance(encoder, images, np.eye(16)[3]), expected, rtol=1e-4, atol=1e-6)


def test_relevance_marks_planted_evidence_and_rollout_knows_of_no_class(planted: Any, board: Any) -> None:
    heat = relevance(planted, [board], np.eye(16)[0])[0]
    others = np.delete(heat.ravel(), np.ravel_multi_index(SPOT, heat.shape))
    assert heat[SPOT] > 10 * others.max()
    against = relevance(planted, [board], -np.eye(16)[0])[0]
    assert against[SPOT] == 0 < against.sum()  # what speaks against a class is not shown as speaking for it
    np.testing.assert_allclose(attention_rollout(planted, [board]), 0.5 / 17, rtol=1e-5)


def board_proba(features: Any) -> Any:
    return softmax(np.column_stack([np.zeros(len(features)), 60 * features[:, 0] + 12]), axis=1)


def test_deletion_and_insertion_tell_a_right_map_from_a_wrong_one(planted: Any, board: Any) -> None:
    heat = relevance(planted, [board] * 2, np.eye(16)[0])
    right, wrong = (
        deletion_insertion(planted, [board] * 2, order, [1, 0], board_proba, steps=16) for order in (heat, -heat)
    )
    whole = board_proba(planted.images([board], progress=False))[0]
    for curves in (right, wrong):
        assert curves.shares[[0, -1]].tolist() == [0, 1]
        np.testing.assert_allclose(curves.deletion[:, 0], whole[[1, 0]], rtol=1e-5)
        np.testing.assert_allclose(curves.insertion[:, -1], whole[[1, 0]], rtol=1e-5)
    # One patch held it all: whether it goes or comes first or last decides.
    high, low = whole[1], right.deletion[0, 16]
    assert high > 0.9 and low < 0.1
    np.testing.assert_allclose(right.deletion[0, 1:], low, rtol=1e-3)
    np.testing.assert_allclose(wrong.deletion[0, :16], high, rtol=1e-3)
    np.testing.assert_allclose(right.insertion[0, 1:], high, rtol=1e-2)
    np.testing.assert_allclose(wrong.insertion[0, :16], low, atol=0.02)
    np.testing.assert_allclose(right.deletion_auc[0], low + (high - low) / 32, rtol=1e-3)
    assert right.insertion_auc[0] > 0.9 > 0.1 > wrong.insertion_auc[0]
    np.testing.assert_allclose(right.deletion[0] + right.deletion[1], 1, rtol=1e-6)  # each picture its own class
    steady = deletion_insertion(planted, [board], heat[:1], [1], lambda f: np.full((len(f), 2), 0.25), steps=3)
    np.testing.assert_allclose([*steady.deletion_auc, *steady.insertion_auc], 0.25)


def test_deletion_of_a_prompt_s_class_sees_projected_features(planted: Any, board: Any) -> None:
    def proba(features: Any) -> Any:
        assert features.shape == (2 * 5, planted.projection_dim)
        return softmax(features[:, :2], axis=1)

    curves = deletion_insertion(planted, [board], np.zeros((1, 4, 4)), [1], proba, kind="projected", steps=4)
    whole = softmax(planted.images([board], kind="projected", progress=False)[:, :2], axis=1)[0, 1]
    np.testing.assert_allclose([curves.deletion[0, 0], curves.insertion[0, -1]], whole, rtol=1e-5)


def test_the_encoder_stays_as_it_was(tiny_encoder: ClipEncoder) -> None:
    images, implementation = noise(2), tiny_encoder.model.config.vision_config._attn_implementation
    before = tiny_encoder.images(images, progress=False)
    with torch.inference_mode():
        first = relevance(tiny_encoder, images, np.ones(32) * np.arange(32))
    assert np.array_equal(first, relevance(tiny_encoder, images, np.arange(32)))
    attention_rollout(tiny_encoder, images)
    assert np.array_equal(before, tiny_encoder.images(images, progress=False))
    assert tiny_encoder.model.config.vision_config._attn_implementation == implementation != "eager"
    assert not any(p.requires_grad or p.grad is not None for p in tiny_encoder.model.parameters())


def test_576_patches_in_batches_and_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = make_encoder(layers=2, side=48, patch=2), noise(3, 48)
    with monkeypatch.context() as patch:
        patch.setattr("cliplib.explain.maps._BATCH", 2)
        many = relevance(encoder, images, np.eye(16)[0])
    assert many.shape == (3, 24, 24) and many.dtype == np.float32
    np.testing.assert_allclose(many, relevance(encoder, images, np.eye(16)[0]), rtol=1e-3, atol=1e-6)
    each = np.stack([np.eye(16)[i] for i in range(3)])  # one direction for each picture
    separately = [relevance(encoder, [image], d)[0] for image, d in zip(images, each, strict=True)]
    np.testing.assert_allclose(relevance(encoder, images, each), separately, rtol=1e-3, atol=1e-6)
    half = attention_rollout(make_encoder(layers=2, dtype="bfloat16"), noise(1))
    np.testing.assert_allclose(half, attention_rollout(make_encoder(layers=2), noise(1)), rtol=0.2, atol=0.01)


def test_all_kinds_of_images_give_the_same_map(tiny_encoder: ClipEncoder, image_files: list[Path]) -> None:
    path = image_files[0]
    row = {"path": None, "bytes": path.read_bytes()}
    maps = attention_rollout(tiny_encoder, [path, str(path), path.read_bytes(), Image.open(path), row])
    np.testing.assert_allclose(maps, np.broadcast_to(maps[:1], maps.shape), rtol=1e-5)
    assert attention_rollout(tiny_encoder, []).shape == (0, 4, 4)


def test_directions_are_the_gradients_of_a_probe_s_logits() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(3, 5, (90, 6)), np.repeat(["a", "b", "c"], 30)
    X[:, 0] += 9 * (y == "b")
    for labels in (y, np.where(y == "b", "b", "a")):
        linear = LinearProbe(l2=1.0).fit(X, labels)
        mlp = MLPProbe(hidden=8, max_epochs=3).fit(X, labels)
        for probe in (linear, mlp):
            found = probe_directions(probe, X[:40], labels[:40])
            assert found.shape == (40, 6) and found.dtype == np.float32
            codes = np.searchsorted(probe.classes_, labels[:40])
            for axis in range(6):
                step = 1e-4 * np.eye(6)[axis]
                slope = (probe._logits(X[:40] + step) - probe._logits(X[:40] - step)) / 2e-4
                np.testing.assert_allclose(found[:, axis], slope[np.arange(40), codes], rtol=1e-3, atol=1e-5)


def test_randomised_forgets_from_the_output_towards_the_input(tiny_encoder: ClipEncoder) -> None:
    images = noise(4)
    encoders = {k: randomised(tiny_encoder, layers=k, seed=2) for k in (0, 1, 2)}
    trained, changed = tiny_encoder.model.vision_model, encoders[1].model.vision_model
    assert torch.equal(changed.encoder.layers[0].mlp.fc1.weight, trained.encoder.layers[0].mlp.fc1.weight)
    assert not torch.equal(changed.encoder.layers[1].mlp.fc1.weight, trained.encoder.layers[1].mlp.fc1.weight)
    direction = np.random.default_rng(1).normal(size=32)
    before = relevance(tiny_encoder, images, direction)
    np.testing.assert_allclose(relevance(encoders[0], images, direction), before, rtol=1e-5)
    assert (rank_correlation(before, relevance(encoders[2], images, direction)) < 0.9).all()
    whole = randomised(tiny_encoder, seed=2).model.vision_model
    assert torch.equal(whole.encoder.layers[1].mlp.fc1.weight, changed.encoder.layers[1].mlp.fc1.weight)
    assert not torch.equal(
        whole.embeddings.patch_embedding.weight, encoders[2].model.vision_model.embeddings.patch_embedding.weight
    )
    with pytest.raises(CliplibError, match=r"between 0 and 2.* got 3"):
        randomised(tiny_encoder, layers=3)


def test_rank_correlation_is_spearman_s() -> None:
    a, b = np.random.default_rng(0).integers(0, 9, (2, 5, 3, 4))
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlation(a, b), expected)
    np.testing.assert_allclose(rank_correlation(a, -a), -1)
    assert rank_correlation(a, np.ones_like(a)).tolist() == [0] * 5
    with pytest.raises(CliplibError, match="one shape"):
        rank_correlation(a, b[:, :2])


def test_overlay_marks_the_patch_in_the_middle_square(tiny_encoder: ClipEncoder) -> None:
    wide = Image.new("RGB", (96, 32), "white")
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    heat = np.zeros((4, 4))
    heat[SPOT] = 7
    drawn = np.asarray(overlay(tiny_encoder, wide, heat, side=64), dtype=float)
    assert drawn.shape == (64, 64, 3)
    redness = drawn[..., 0] - drawn[..., 2]
    assert np.unravel_index(redness.reshape(4, 16, 4, 16).mean((1, 3)).argmax(), (4, 4)) == SPOT
    np.testing.assert_allclose(drawn[48:, :16], 29, atol=2)  # far from it the picture in grey: blue, no white beside it
    flat = np.asarray(overlay(tiny_encoder, wide, np.ones((4, 4))))
    assert flat.shape == (32, 32, 3) and (flat == 29).all()  # a map without differences marks nothing
    seen = as_seen(tiny_encoder, wide)
    assert np.array_equal(np.asarray(seen), np.asarray(wide.crop((32, 0, 64, 32))))


def test_what_cannot_be_explained_is_said_in_one_sentence(
    tiny_encoder: ClipEncoder, image_files: list[Path], tmp_path: Path
) -> None:
    one, two = image_files[:1], [decode(path) for path in image_files[:2]]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    buffer = io.BytesIO()
    two[0].save(buffer, "PNG")
    with pytest.raises(ImageError, match=r"broken\.png"):
        attention_rollout(tiny_encoder, [*one, broken])
    for single in (str(one[0]), two[0], buffer.getvalue(), {"path": str(one[0])}):
        with pytest.raises(CliplibError, match="images must be a list"):
            attention_rollout(tiny_encoder, single)  # type: ignore[arg-type]
    for wrong in (np.ones(24), np.ones((3, 32)), np.full(32, np.nan)):
        with pytest.raises(CliplibError, match=r"directions must be finite, of shape \(32,\) or \(2, 32\)"):
            relevance(tiny_encoder, two, wrong)
    with pytest.raises(CliplibError, match="kind must be"):
        relevance(tiny_encoder, two, np.ones(32), kind="text")  # type: ignore[arg-type]
    proba = board_proba
    with pytest.raises(CliplibError, match=r"2 pictures need maps of shape \(2, 4, 4\)"):
        deletion_insertion(tiny_encoder, two, np.ones((2, 3, 4)), [0, 1], proba)
    with pytest.raises(CliplibError, match="steps must lie between 1 and the number of patches, 16; got 17"):
        deletion_insertion(tiny_encoder, two, np.ones((2, 4, 4)), [0, 1], proba, steps=17)
    with pytest.raises(CliplibError, match="heat must be a matrix"):
        overlay(tiny_encoder, two[0], np.ones(16))
    probe = LinearProbe(l2=1.0).fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(CliplibError, match=r"features must have the shape \(n, 4\)"):
        probe_directions(probe, np.eye(3), [0, 1, 0])
    with pytest.raises(CliplibError, match="knows no class 7"):
        probe_directions(probe, np.eye(4), [0, 1, 7, 0])
    with pytest.raises(CliplibError, match="not a str"):
        probe_directions("probe", np.eye(4), [0, 1, 1, 0])  # type: ignore[arg-type]
