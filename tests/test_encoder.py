"""The encoder: its features are those of transformers, in every readout."""

from __future__ import annotations

import copy
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import make_checkpoint
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from cliplib.data.cache import ResultCache
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.readouts import readout_columns


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


def test_pixels_are_those_of_transformers_bit_for_bit(tiny, mini, photos):
    for encoder in (tiny, mini):
        theirs = np.stack(encoder.processor(photos)["pixel_values"])
        ours = np.stack([encoder.preprocess(photo) for photo in photos])
        assert ours.dtype == theirs.dtype == np.float32
        assert (ours == theirs).all()


def test_features_are_those_of_transformers(tiny, photos, reference):
    pooled = reference[3].pooler_output.numpy()
    found = tiny.encode_images(photos, readout="pooled")
    np.testing.assert_allclose(found, pooled, atol=1e-5)
    projected = reference[2].image_embeds.numpy()
    np.testing.assert_allclose(
        tiny.encode_images(photos, readout="projected"), projected, atol=1e-5
    )
    np.testing.assert_allclose(tiny.project(pooled), projected, atol=1e-5)
    texts = tiny.encode_texts(["red", "a photo of a disc"])
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
    deep = tiny.encode_images(photos, readout="deep")
    np.testing.assert_allclose(deep, torch.cat(expected, 1).numpy(), atol=1e-5)


def test_every_smaller_readout_is_a_part_of_the_deep_one(tiny, photos):
    deep = tiny.encode_images(photos, readout="deep")
    sizes = {"pooled": 32, "deep": 288}
    for readout, size in sizes.items():
        columns = readout_columns(readout, tiny.width, tiny.blocks)
        found = tiny.encode_images(photos, readout=readout)
        assert found.shape == (5, size)
        assert (found == deep[:, columns]).all()
    with pytest.raises(ValueError, match="there are pooled"):
        tiny.encode_images(photos, readout="deeper")


def test_an_images_features_do_not_depend_on_what_stands_beside_it(tiny, photos):
    together = tiny.encode_images(photos * 8, readout="deep")
    alone = np.concatenate(
        [tiny.encode_images(photo, readout="deep") for photo in photos]
    )
    assert (together[:5] == alone).all()
    assert (together[5:10] == alone).all()


def test_two_encoders_never_share_cached_features(checkpoint, photos, tmp_path):
    cache = ResultCache(tmp_path / "shared")
    one = ClipEncoder(checkpoint, cache=cache)
    two = ClipEncoder(make_checkpoint(tmp_path / "other", seed=1), cache=cache)
    larger = ClipEncoder(checkpoint, cache=cache, image_size=48)
    assert len({one.fingerprint, two.fingerprint, larger.fingerprint}) == 3
    a, b, c = (encoder.encode_images(photos[2:3]) for encoder in (one, two, larger))
    assert not np.allclose(a, b)
    assert not np.allclose(a, c)


def change_config(tower, name, value):
    def change(encoder):
        setattr(getattr(encoder.model.config, tower), name, value)

    return change


def change_processor(name, value):
    def change(encoder):
        setattr(encoder.processor, name, value)

    return change


def change_a_weight(encoder):
    encoder.model.vision_model.post_layernorm.bias[3] += 0.5


INGREDIENTS = {
    "weight": change_a_weight,
    "dtype": lambda encoder: setattr(encoder, "dtype", "bfloat16"),
    "mean": change_processor("image_mean", [0.5, 0.5, 0.5]),
    "std": change_processor("image_std", [0.5, 0.5, 0.5]),
    "resample": change_processor("resample", 2),
    "size": change_processor("size", {"shortest_edge": 40}),
    "resize": change_processor("do_resize", False),
    "crop size": change_processor("crop_size", {"height": 40, "width": 40}),
    "crop": change_processor("do_center_crop", False),
    "rescale": change_processor("do_rescale", False),
    "scale": change_processor("rescale_factor", 1 / 128),
    "normalize": change_processor("do_normalize", False),
    "convert": change_processor("do_convert_rgb", False),
    "pad": change_processor("do_pad", True),
    "pad size": change_processor("pad_size", {"height": 40, "width": 40}),
    "activation": change_config("vision_config", "hidden_act", "gelu"),
    "epsilon": change_config("vision_config", "layer_norm_eps", 1e-3),
    "heads": change_config("vision_config", "num_attention_heads", 2),
    "image size": change_config("vision_config", "image_size", 40),
    "patch size": change_config("vision_config", "patch_size", 4),
    "text activation": change_config("text_config", "hidden_act", "gelu"),
    "text epsilon": change_config("text_config", "layer_norm_eps", 1e-3),
    "text heads": change_config("text_config", "num_attention_heads", 2),
    "text end": change_config("text_config", "eos_token_id", 7),
}


def test_every_ingredient_changes_the_fingerprint(checkpoint):
    fresh = ClipEncoder(checkpoint, cache=None)
    fingerprints = {"": copy.deepcopy(fresh).fingerprint}
    for name, change in INGREDIENTS.items():
        encoder = copy.deepcopy(fresh)
        change(encoder)
        fingerprints[name] = encoder.fingerprint
    assert len(set(fingerprints.values())) == len(fingerprints)


def test_the_embedded_model_is_the_one_that_made_the_committed_features(mini):
    assert mini.fingerprint == "af90344f40a74abf93ac3fb66c65e06e"
    assert mini.image_function.name == f"deep:{mini.fingerprint}"
    fast = ClipEncoder("mini", cache=None, image_size=160, dtype="bfloat16")
    assert fast.fingerprint == "80ac8223b414d2ee1fc925b1502bef93"


def test_devices_do_not_share_cached_features(tiny):
    function = tiny.image_function
    elsewhere = copy.copy(tiny)
    elsewhere.device = "cuda:0"
    assert function.key("0") == f"deep:{tiny.fingerprint}:0"
    assert elsewhere.image_function.key("0") != function.key("0")


def test_a_fingerprint_depends_on_weights_not_on_the_place(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "copy")
    names = ("copy", checkpoint)
    one, two = (ClipEncoder(tmp_path / name, cache=None).fingerprint for name in names)
    assert one == two


def test_another_input_size_interpolates_positions_as_transformers_does(
    checkpoint, photos
):
    encoder = ClipEncoder(checkpoint, cache=None, image_size=48)
    pixels = np.stack([encoder.preprocess(photo) for photo in photos])
    assert pixels.shape[2:] == (48, 48)
    model = CLIPModel.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        expected = model.vision_model(
            torch.from_numpy(pixels), interpolate_pos_encoding=True
        )
    found = encoder.encode_images(photos, readout="pooled")
    np.testing.assert_allclose(found, expected.pooler_output.numpy(), atol=1e-5)


def test_bfloat16_moves_features_a_little_and_is_part_of_the_fingerprint(
    checkpoint, tiny, photos
):
    fast = ClipEncoder(checkpoint, cache=None, dtype="bfloat16")
    exact, found = (e.encode_images(photos, readout="deep") for e in (tiny, fast))
    change = np.abs(found - exact).mean() / np.abs(exact).mean()
    assert found.dtype == np.float32 and 0 < change < 0.02
    assert fast.fingerprint != tiny.fingerprint


def test_precisions_are_accepted_by_torch_s_own_names(checkpoint):
    encoder = ClipEncoder(checkpoint, cache=None, dtype=torch.bfloat16)
    assert encoder.dtype == "bfloat16"
    assert ClipEncoder(checkpoint, cache=None, dtype=torch.float32).dtype == "float32"


def test_the_setting_decides_the_precision_unless_it_is_named(checkpoint, monkeypatch):
    assert ClipEncoder(checkpoint, cache=None).dtype == "float32"
    monkeypatch.setenv("CLIPLIB_DTYPE", "bfloat16")
    assert ClipEncoder(checkpoint, cache=None).dtype == "bfloat16"
    assert ClipEncoder(checkpoint, cache=None, dtype="float32").dtype == "float32"
    monkeypatch.setenv("CLIPLIB_DTYPE", "half")
    with pytest.raises(ValueError, match="half"):
        ClipEncoder(checkpoint, cache=None)


@pytest.mark.parametrize("dtype", ["fp16", "float16", torch.float16, torch.float64])
def test_another_precision_is_refused_at_once(checkpoint, dtype):
    with pytest.raises(ValueError, match="must be 'float32' or 'bfloat16'"):
        ClipEncoder(checkpoint, cache=None, dtype=dtype)


def test_a_cached_encoder_can_be_copied(checkpoint, photos, tmp_path):
    cache = ResultCache(tmp_path / "features")
    encoder = ClipEncoder(checkpoint, cache=cache)
    expected = encoder.encode_images(photos, readout="deep")
    other = copy.deepcopy(encoder)
    assert other.cache.folder == cache.folder
    assert other.model is not encoder.model
    assert (other.encode_images(photos, readout="deep") == expected).all()
    assert other.fingerprint == encoder.fingerprint


def test_arrays_of_paths_and_of_images_are_taken(tiny, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    expected = tiny.encode_images(paths)
    assert (tiny.encode_images(np.array(paths)) == expected).all()
    assert (tiny.encode_images(pixels) == expected).all()
    assert (tiny.encode_images(pixels[0]) == expected[:1]).all()


def test_projected_features_have_unit_length(tiny, photos):
    for rows in (
        tiny.encode_images(photos, readout="projected"),
        tiny.encode_texts(["red"]),
    ):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_a_text_that_is_cut_is_named(tiny, caplog):
    with caplog.at_level(logging.WARNING):
        tiny.encode_texts(["a photo of a disc " * 20])
    assert "Cut to 16 tokens: 'a photo of a disc" in caplog.text


def test_an_unreadable_image_is_named(tiny, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"broken\.png"):
        tiny.encode_images([tmp_path / "broken.png"])


def test_no_image_has_no_row_of_features(tiny):
    for readout in ("pooled", "deep"):
        expected = (0, len(readout_columns(readout, tiny.width, tiny.blocks)))
        assert tiny.encode_images([], readout=readout).shape == expected


def test_the_number_of_threads_changes_no_bit(tiny, photos):
    threads = torch.get_num_threads()
    found = []
    for number in (1, 4):
        torch.set_num_threads(number)
        found.append(tiny.encode_images(photos * 9, readout="deep"))
    torch.set_num_threads(threads)
    assert (found[0] == found[1]).all()


def test_a_model_downloaded_before_needs_no_network(checkpoint, tmp_path, monkeypatch):
    hub = tmp_path / "models--somebody--clip"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("abc")
    shutil.copytree(checkpoint, hub / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = ClipEncoder("somebody/clip", cache=None)
    assert encoder.name == "somebody/clip"
    assert encoder.fingerprint == ClipEncoder(checkpoint, cache=None).fingerprint


def test_without_a_network_the_reason_is_said_at_once(caplog):
    with pytest.raises(OSError, match="not downloaded whole before.*HF_HUB_OFFLINE"):
        ClipEncoder("openai/clip-vit-base-patch32", cache=None)
    assert not caplog.records


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
    expected = ClipEncoder(folder, cache=None).fingerprint
    (folder / "model.safetensors").unlink()
    positions = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    torch.save(state | positions, folder / "pytorch_model.bin")
    assert ClipEncoder(folder, cache=None).fingerprint == expected

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
    smaller = ClipEncoder("mini", cache=None, image_size=112)
    assert smaller.preprocess(photos[0]).shape == (3, 112, 112)
    assert smaller.fingerprint != mini.fingerprint
    wide = Image.new("RGB", (64, 32))
    wide.paste("white", (0, 0, 8, 32))  # outside of a crop from the centre
    assert np.ptp(smaller.preprocess(wide)[0]) > 1


def test_one_text_is_a_text(tiny):
    assert (tiny.encode_texts("red") == tiny.encode_texts(["red"])).all()
    assert tiny.encode_texts([]).shape == (0, tiny.projected_dim)


def test_many_texts_come_in_their_order(tiny):
    texts = [" ".join(["red", "disc", "blue"][: 1 + i % 3]) for i in range(300)]
    many = tiny.encode_texts(texts)
    assert many.shape == (300, 24)
    np.testing.assert_allclose(many[299:], tiny.encode_texts(texts[299]), atol=1e-6)
