"""The encoder: its features are transformers' own, in every readout; checkpoints are checked."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from conftest import make_checkpoint
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from cliplib.cache import FeatureCache
from cliplib.encoder import ClipEncoder, readout_columns


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (32, 32), (90, 31), (33, 200), (64, 64)]
    return [
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes
    ]


@pytest.fixture(scope="module")
def reference(checkpoint, photos):
    """What transformers gives for the photos: inputs, and outputs of both towers."""
    model = CLIPModel.from_pretrained(checkpoint).eval()
    processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
    inputs = processor(images=photos, return_tensors="pt")
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
    texts = ["red", "a photo of a disc"]
    inputs |= tokenizer(texts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = model(**inputs)
        states = model.vision_model(inputs["pixel_values"], output_hidden_states=True)
    return model, inputs, out, states


def test_pixels_are_those_of_transformers(tiny, photos, reference):
    found = np.stack([tiny.preprocess(photo) for photo in photos])
    np.testing.assert_allclose(found, reference[1]["pixel_values"], atol=1e-6)


def test_features_are_those_of_transformers(tiny, photos, reference):
    pooled = reference[3].pooler_output.numpy()
    np.testing.assert_allclose(tiny.images(photos), pooled, atol=1e-5)
    projected = reference[2].image_embeds.numpy()
    np.testing.assert_allclose(
        tiny.images(photos, readout="projected"), projected, atol=1e-5
    )
    np.testing.assert_allclose(tiny.project(pooled), projected, atol=1e-5)
    texts = tiny.texts(["red", "a photo of a disc"])
    np.testing.assert_allclose(texts, reference[2].text_embeds.numpy(), atol=1e-5)


def test_the_deep_readout_holds_tokens_means_and_deviations_of_the_last_blocks(
    tiny, photos, reference
):
    model, _, _, states = reference
    with torch.inference_mode():
        tokens = [
            model.vision_model.post_layernorm(s) for s in states.hidden_states[-3:]
        ]
    expected = [t[:, 0] for t in tokens] + [t[:, 1:].mean(1) for t in tokens]
    expected += [t[:, 1:].std(1, correction=0) for t in tokens]
    deep = tiny.images(photos, readout="deep")
    np.testing.assert_allclose(deep, torch.cat(expected, 1).numpy(), atol=1e-5)


def test_every_smaller_readout_is_a_part_of_the_deep_one(tiny, photos):
    deep = tiny.images(photos, readout="deep")
    sizes = {"pooled": 32, "class_tokens": 96, "dinov2": 128, "means": 192, "deep": 288}
    for readout, size in sizes.items():
        columns = readout_columns(readout, tiny.dim, tiny.blocks)
        found = tiny.images(photos, readout=readout)
        assert found.shape == (5, size)
        assert (found == deep[:, columns]).all()
    with pytest.raises(ValueError, match="there are pooled"):
        tiny.images(photos, readout="deeper")


def test_an_images_features_do_not_depend_on_what_stands_beside_it(tiny, photos):
    together = tiny.images(photos * 8, readout="deep")
    alone = np.concatenate([tiny.images(photo, readout="deep") for photo in photos])
    assert (together[:5] == alone).all()
    assert (together[5:10] == alone).all()


def test_two_encoders_never_share_cached_features(checkpoint, photos, tmp_path):
    cache = FeatureCache(tmp_path / "shared.sqlite")
    one = ClipEncoder(checkpoint, cache=cache)
    two = ClipEncoder(make_checkpoint(tmp_path / "other", seed=1), cache=cache)
    squashed = ClipEncoder(checkpoint, cache=cache, squash=True)
    assert len({one.fingerprint, two.fingerprint, squashed.fingerprint}) == 3
    a, b, c = (encoder.images(photos[2:3]) for encoder in (one, two, squashed))
    assert not np.allclose(a, b)
    assert not np.allclose(a, c)


def test_a_fingerprint_depends_on_weights_not_on_the_place(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "copy")
    names = ("copy", checkpoint)
    one, two = (ClipEncoder(tmp_path / name, cache=False).fingerprint for name in names)
    assert one == two


def test_squashing_shows_the_whole_image(checkpoint):
    wide = Image.new("RGB", (64, 32))
    wide.paste("white", (0, 0, 8, 32))  # outside the centre crop
    crop, squash = (
        ClipEncoder(checkpoint, cache=False, squash=s) for s in (False, True)
    )
    assert np.ptp(crop.preprocess(wide)[0]) == 0
    assert np.ptp(squash.preprocess(wide)[0]) > 1


def test_another_input_size_interpolates_positions_as_transformers_does(
    checkpoint, photos
):
    encoder = ClipEncoder(checkpoint, cache=False, image_size=48)
    pixels = np.stack([encoder.preprocess(photo) for photo in photos])
    assert pixels.shape[2:] == (48, 48)
    model = CLIPModel.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        expected = model.vision_model(
            torch.from_numpy(pixels), interpolate_pos_encoding=True
        )
    np.testing.assert_allclose(
        encoder.images(photos), expected.pooler_output.numpy(), atol=1e-5
    )


def test_bfloat16_moves_features_a_little_and_is_part_of_the_fingerprint(
    checkpoint, tiny, photos
):
    fast = ClipEncoder(checkpoint, cache=False, dtype="bfloat16")
    exact, found = (e.images(photos, readout="deep") for e in (tiny, fast))
    change = np.abs(found - exact).mean() / np.abs(exact).mean()
    assert found.dtype == np.float32 and 0 < change < 0.02
    assert fast.fingerprint != tiny.fingerprint


def test_projected_features_have_unit_length(tiny, photos):
    for rows in (tiny.images(photos, readout="projected"), tiny.texts(["red"])):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_a_text_that_is_cut_is_named(tiny, caplog):
    with caplog.at_level(logging.WARNING):
        tiny.texts(["a photo of a disc " * 20])
    assert "Cut to 16 tokens: 'a photo of a disc" in caplog.text


def test_an_unreadable_image_is_named(tiny, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"broken\.png"):
        tiny.images([tmp_path / "broken.png"])


def test_no_image_has_no_row_of_features(tiny):
    for readout in ("pooled", "deep"):
        expected = (0, len(readout_columns(readout, tiny.dim, tiny.blocks)))
        assert tiny.images([], readout=readout).shape == expected


def test_the_number_of_threads_changes_no_bit(tiny, photos):
    threads = torch.get_num_threads()
    found = []
    for number in (1, 4):
        torch.set_num_threads(number)
        found.append(tiny.images(photos * 9, readout="deep"))
    torch.set_num_threads(threads)
    assert (found[0] == found[1]).all()


def test_other_weights_under_the_same_preprocessing(tiny, tmp_path, photos):
    other = CLIPModel.from_pretrained(make_checkpoint(tmp_path / "other", seed=2))
    encoder = tiny.with_weights(other, "other")
    assert encoder.fingerprint != tiny.fingerprint
    assert not np.allclose(encoder.images(photos), tiny.images(photos))


def test_a_missing_model_says_what_works():
    for name in ("./nowhere", "nobody/nothing"):
        with pytest.raises(OSError, match=f"{name}.*'mini'"):
            ClipEncoder(name)


@pytest.mark.parametrize(
    "fault", ["another type", "no weights", "cut weights", "no tokenizer"]
)
def test_a_faulty_checkpoint_is_refused(fault, tmp_path):
    folder = make_checkpoint(tmp_path / "faulty")
    if fault == "another type":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    elif fault == "no weights":
        (folder / "model.safetensors").unlink()
    elif fault == "cut weights":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    else:
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(OSError, match="faulty"):
        ClipEncoder(folder)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    folder = make_checkpoint(tmp_path / "incomplete")
    model = CLIPModel.from_pretrained(folder)
    state = {
        k: v for k, v in model.state_dict().items() if "visual_projection" not in k
    }
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(OSError, match="lacks weights"):
        ClipEncoder(folder)


def test_openais_own_files_load_from_a_pickle_of_tensors_only(tmp_path):
    folder = make_checkpoint(tmp_path / "openai")
    state = CLIPModel.from_pretrained(folder).state_dict()
    expected = ClipEncoder(folder, cache=False).fingerprint
    (folder / "model.safetensors").unlink()
    positions = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    torch.save(state | positions, folder / "pytorch_model.bin")
    assert ClipEncoder(folder, cache=False).fingerprint == expected

    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('code of a checkpoint was run')",))

    torch.save(state | {"bomb": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="openai"):
        ClipEncoder(folder)


def test_it_shows_itself(tiny):
    assert repr(tiny).startswith("ClipEncoder(")
    assert "32 px" in repr(tiny)


def test_an_encoder_that_squashes_does_so_at_another_size(mini, photos):
    smaller = ClipEncoder("mini", cache=False, image_size=112)
    squashed = ClipEncoder("mini", cache=False, image_size=112, squash=True)
    assert smaller.preprocess(photos[0]).shape == (3, 112, 112)
    assert smaller.fingerprint == squashed.fingerprint != mini.fingerprint


def test_one_text_is_a_text(tiny):
    assert (tiny.texts("red") == tiny.texts(["red"])).all()
