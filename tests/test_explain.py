"""Heat maps against hand computations and planted evidence, and tests of maps."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from scipy.special import softmax
from transformers import CLIPModel

from cliplib.encoders.clip import ClipEncoder
from cliplib.inspection.maps import (
    MARK,
    chefer_relevance,
    heat_maps,
    overlay,
    preprocessed_image,
)
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.mlp import MLPProbe
from study.deletion import deletion_insertion
from study.random_weights import randomize_weights, with_weights
from study.rollout import attention_rollout

SPOT = (1, 2)  # the patch that holds the planted evidence
# Single pixels, -1 and 1: gone when blurred.
CHECKS = np.indices((8, 8)).sum(axis=0) % 2 * 2 - 1


def noise(n: int, side: int = 32) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(pixels)
        for pixels in rng.integers(0, 256, (n, side, side, 3), np.uint8)
    ]


def lively(encoder: ClipEncoder) -> ClipEncoder:
    """Return an encoder of large random weights, whose attention is not even."""
    torch.manual_seed(1)
    model = CLIPModel(encoder.model.config)
    with torch.no_grad():
        for parameter in model.vision_model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return with_weights(encoder, model, "lively")


@pytest.fixture(scope="module")
def planted(tiny: ClipEncoder) -> ClipEncoder:
    """A tower of even attention whose first feature rises with each chessboard."""
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
    return with_weights(tiny, model, "planted")


@pytest.fixture(scope="module")
def board() -> Image.Image:
    pixels = np.full((32, 32, 3), 120, dtype=np.uint8)
    row, column = 8 * SPOT[0], 8 * SPOT[1]
    pixels[row : row + 8, column : column + 8] += (100 * CHECKS[..., None]).astype(
        np.uint8
    )
    return Image.fromarray(pixels)


def board_proba(features: Any) -> Any:
    return softmax(
        np.column_stack([np.zeros(len(features)), 80 * features[:, 0] + 8]), axis=1
    )


def test_rollout_of_even_attention_is_what_the_formula_says(tiny: ClipEncoder) -> None:
    even = randomize_weights(tiny)
    with torch.no_grad():
        for block in even.model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight.zero_()
            block.self_attn.q_proj.bias.zero_()
    # Each of three blocks keeps all and spreads as much over 17 tokens.
    np.testing.assert_allclose(
        attention_rollout(even, noise(2)), (2**3 - 1) / 17, rtol=1e-5
    )


def read(encoder: ClipEncoder, states: Any, readout: str) -> Any:
    """Write out a readout of a tower's states, with gradients."""
    tokens = [encoder.model.vision_model.post_layernorm(state) for state in states[1:]]
    if readout == "pooled":
        return tokens[-1][:, 0]
    if readout == "projected":
        projected = encoder.model.visual_projection(tokens[-1][:, 0])
        return encoder.logit_scale * projected / projected.norm(dim=1, keepdim=True)
    parts = [t[:, 0] for t in tokens] + [t[:, 1:].mean(1) for t in tokens]
    return torch.cat(
        [*parts, *(t[:, 1:].var(1, correction=0).sqrt() for t in tokens)], dim=1
    )


@pytest.mark.parametrize("readout", ["pooled", "projected", "deep"])
def test_relevance_is_the_class_token_s_row_of_the_paper_s_product(
    tiny: ClipEncoder, readout: str
) -> None:
    encoder, images = lively(tiny), noise(2)
    width = encoder.encode_images(images, readout=readout, progress=False).shape[1]
    direction = np.random.default_rng(2).normal(size=width).astype(np.float32)
    tower = deepcopy(encoder.model.vision_model)
    tower.set_attn_implementation("eager")
    x = torch.from_numpy(
        np.stack([encoder.preprocess(image) for image in images])
    ).requires_grad_()
    seen = tower(x, output_attentions=True, output_hidden_states=True)
    logits = read(encoder, seen.hidden_states, readout) @ torch.from_numpy(direction)
    gradients = torch.autograd.grad(logits.sum(), seen.attentions)
    product = torch.eye(17).expand(2, 17, 17)
    for a, g in zip(
        seen.attentions, gradients, strict=True
    ):  # R <- R + A R, from the input on
        product = product + (a * g).clamp(min=0).mean(dim=1) @ product
    expected = product[:, 0, 1:].detach().reshape(2, 4, 4)
    found = chefer_relevance(encoder, images, direction, readout=readout)
    np.testing.assert_allclose(
        found, expected, rtol=1e-4, atol=1e-6 * float(expected.max())
    )


def test_relevance_marks_planted_evidence_and_rollout_knows_of_no_class(
    planted: ClipEncoder, board: Image.Image
) -> None:
    heat = chefer_relevance(planted, [board], np.eye(32)[0])[0]
    others = np.delete(heat.ravel(), np.ravel_multi_index(SPOT, heat.shape))
    assert heat[SPOT] > 10 * others.max()
    against = chefer_relevance(planted, [board], -np.eye(32)[0])[0]
    assert (
        against[SPOT] == 0 < against.sum()
    )  # what speaks against a class is not shown
    assert np.ptp(attention_rollout(planted, [board])) < 1e-6


def test_deletion_and_insertion_tell_a_right_map_from_a_wrong_one(
    planted: ClipEncoder, board: Image.Image
) -> None:
    heat = chefer_relevance(planted, [board] * 2, np.eye(32)[0])
    (shares, right), (_, wrong) = (
        deletion_insertion(
            planted, [board] * 2, order, np.array([1, 0]), board_proba, steps=16
        )
        for order in (heat, -heat)
    )
    deleted, inserted = right
    pooled = planted.encode_images(board, readout="pooled", progress=False)
    whole = board_proba(pooled)[0]
    assert shares[[0, -1]].tolist() == [0, 1]
    np.testing.assert_allclose(deleted[:, 0], whole[[1, 0]], rtol=1e-5)
    np.testing.assert_allclose(inserted[:, -1], whole[[1, 0]], rtol=1e-5)
    # One patch held it all: whether it goes or comes first or last decides.
    high, low = whole[1], deleted[0, 16]
    assert high > 0.9 and low < 0.1
    np.testing.assert_allclose(deleted[0, 1:], low, rtol=1e-3)
    np.testing.assert_allclose(wrong[0, 0, :16], high, rtol=1e-3)
    assert inserted[0, 1:].min() > 0.9 > 0.1 > wrong[1, 0, :16].max()


def test_deletion_reads_what_the_classifier_reads(tiny: ClipEncoder) -> None:
    def proba(features: Any) -> Any:
        seen.append(features)
        return softmax(features[:, :2], axis=1)

    flat, target = np.zeros((1, 4, 4)), np.array([1])
    for readout in ("pooled", "deep"):
        seen: list[Any] = []
        _, p = deletion_insertion(
            tiny, noise(1), flat, target, proba, readout=readout, steps=4
        )
        whole = tiny.encode_images(noise(1), readout=readout, progress=False)
        assert seen[0].shape == (2 * 5, whole.shape[1])
        ends = [p[0, 0, 0], p[1, 0, -1]]  # nothing deleted, everything inserted
        np.testing.assert_allclose(ends, softmax(whole[:, :2], axis=1)[0, 1], rtol=1e-5)


def test_patches_of_a_map_without_differences_go_in_equal_parts(
    planted: ClipEncoder, board: Image.Image
) -> None:
    flat = np.zeros((1, 4, 4))
    shares, curves = deletion_insertion(
        planted, [board], flat, np.array([1]), board_proba, steps=4
    )
    assert shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.shape == (2, 1, 5)
    assert curves[0, 0, 1] > 0.9 > 0.1 > curves[0, 0, -1]


def test_a_map_of_another_shape_is_refused(tiny: ClipEncoder) -> None:
    with pytest.raises(ValueError, match="4 x 4 for each of 1 images"):
        deletion_insertion(
            tiny, noise(1), np.zeros((1, 3, 3)), np.array([0]), board_proba
        )
    with pytest.raises(ValueError, match="broadcast"):
        chefer_relevance(tiny, noise(2), np.zeros((3, 32)))
    with pytest.raises(ValueError, match="longer"):
        deletion_insertion(
            tiny, noise(1), np.zeros((1, 4, 4)), np.array([0, 1]), board_proba
        )


@pytest.mark.parametrize(
    "probe",
    [LinearProbe(Cs=(0.1,)), KernelProbe(), MLPProbe(hidden=8)],
    ids=["linear", "kernel", "MLP"],
)
def test_heat_maps_show_what_spoke_for_a_label_to_any_probe(
    planted: ClipEncoder,
    board: Image.Image,
    probe: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cliplib.probes.mlp.LEARNING_RATE", 0.02)
    plain = Image.new("RGB", (32, 32), (120, 120, 120))
    rng = np.random.default_rng(0)
    images = [board, plain] * 30
    features = planted.encode_images(images, readout="pooled", progress=False)
    features = features + rng.normal(0, 1e-3, features.shape).astype(np.float32)
    probe.fit(features, ["board", "plain"] * 30)
    images = heat_maps(planted, probe, [board, board], ["board", "plain"], "pooled")
    pixels = np.asarray(images[0], dtype=float)
    redness = pixels[..., 0] - pixels[..., 2]
    by_patch = redness.reshape(4, 8, 4, 8).mean((1, 3))
    assert np.unravel_index(by_patch.argmax(), (4, 4)) == SPOT
    assert images[0].tobytes() != images[1].tobytes()


def test_heat_maps_are_those_of_the_readout_that_is_named(tiny: ClipEncoder) -> None:
    images, labels = noise(12), np.arange(12) % 2
    features = tiny.encode_images(images, readout="deep", progress=False)
    probe = LinearProbe(Cs=(0.1,)).fit(features, labels)
    (found,) = heat_maps(tiny, probe, images[:1], labels[:1], "deep")
    slopes = probe.logit_gradients(features[:1], labels[:1])
    (heat,) = chefer_relevance(tiny, images[:1], slopes, readout="deep")
    assert found.tobytes() == overlay(tiny, images[0], heat).tobytes()


def test_maps_do_not_depend_on_other_images_and_leave_the_encoder_as_it_was(
    tiny: ClipEncoder,
) -> None:
    images, directions = (
        noise(5, side=40),
        np.random.default_rng(4).normal(size=(5, 32)),
    )
    before = tiny.encode_images(images[:2], progress=False)
    maps = chefer_relevance(tiny, images, directions)
    for row in (0, 4):
        alone = chefer_relevance(tiny, images[row], directions[row])[0]
        np.testing.assert_allclose(maps[row], alone, rtol=1e-3, atol=1e-8)
    assert np.array_equal(before, tiny.encode_images(images[:2], progress=False))
    assert not any(
        p.requires_grad or p.grad is not None for p in tiny.model.parameters()
    )
    assert tiny.model.config.vision_config._attn_implementation != "eager"


def test_a_larger_input_gives_a_larger_map(checkpoint: Path) -> None:
    large = ClipEncoder(
        checkpoint, cache=None, image_size=50
    )  # two pixels no patch covers
    heat = chefer_relevance(large, noise(1), np.arange(32))
    assert heat.shape == attention_rollout(large, noise(1)).shape == (1, 6, 6)
    deletion_insertion(large, noise(1), heat, np.array([0]), board_proba, steps=3)


def test_random_weights_are_drawn_from_the_output_towards_the_input(
    tiny: ClipEncoder,
) -> None:
    last, whole = (
        randomize_weights(tiny, layers=1, seed=2),
        randomize_weights(tiny, seed=2),
    )
    towers = [encoder.model.vision_model.encoder for encoder in (tiny, last, whole)]
    trained, partly, random = (
        [layer.mlp.fc1.weight for layer in t.layers] for t in towers
    )
    assert torch.equal(partly[1], trained[1]) and torch.equal(partly[2], random[2])
    assert not torch.equal(random[2], trained[2])
    again, other = (randomize_weights(tiny, seed=seed).fingerprint for seed in (2, 3))
    assert again == whole.fingerprint != other != tiny.fingerprint


def test_overlay_marks_the_patch_in_what_the_tower_sees(tiny: ClipEncoder) -> None:
    wide = Image.new("RGB", (96, 32), "white")
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    seen = np.asarray(preprocessed_image(tiny, wide))
    assert np.array_equal(seen, np.asarray(wide.crop((32, 0, 64, 32))))
    (grainy,) = noise(1)  # of the tower's size already: nothing changes
    assert preprocessed_image(tiny, grainy).tobytes() == grainy.tobytes()
    heat = np.zeros((4, 4))
    heat[SPOT] = 7
    drawn = np.asarray(overlay(tiny, wide, heat), dtype=float)
    redness = drawn[..., 0] - drawn[..., 2]
    assert (
        np.unravel_index(redness.reshape(4, 8, 4, 8).mean((1, 3)).argmax(), (4, 4))
        == SPOT
    )
    assert np.abs(drawn[24:, :8] - 29).max() <= 2  # far from it the image in grey: blue
    assert (
        np.asarray(overlay(tiny, wide, np.ones((4, 4)))) == 29
    ).all()  # no differences, no marks


def test_overlay_covers_four_fifths_at_most_and_nothing_at_least(
    tiny: ClipEncoder,
) -> None:
    black = Image.new("RGB", (32, 32))
    left = np.tile([1.0, 1.0, 0.0, 0.0], (4, 1))
    drawn = np.asarray(overlay(tiny, black, left), dtype=int)
    expected = 0.8 * np.array(ImageColor.getrgb(MARK))
    assert np.abs(drawn[:, 0] - expected).max() <= 1
    assert drawn[:, -1].max() == 0
    # Where smoothing swings beyond the ends, the opacity stays at them.
    assert (np.diff(drawn[0, :, 0]) <= 0).all()


def test_no_random_layer_leaves_all_blocks_and_more_than_all_change_all(
    tiny: ClipEncoder,
) -> None:
    same = randomize_weights(tiny, layers=0).model.vision_model.encoder.state_dict()
    assert all(
        (same[n] == w).all()
        for n, w in tiny.model.vision_model.encoder.state_dict().items()
    )
    all_of_them, more = (
        randomize_weights(tiny, layers=layers, seed=2).fingerprint for layers in (3, 4)
    )
    assert all_of_them == more != tiny.fingerprint
