"""Other vision models: features are those of transformers; what is none is refused."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from transformers import (
    BertConfig,
    BertModel,
    BitImageProcessorPil,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from cliplib.aids.decision_aid import DecisionAid
from cliplib.data.cache import ResultCache, map_images
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.encoder import FunctionEncoder
from cliplib.encoders.vision import VisionEncoder, load_encoder
from cliplib.features.encode import encode
from cliplib.inspection.search import search
from cliplib.inspection.zero_shot import zero_shot
from cliplib.probes.linear import LinearProbe

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SEES = {"image_size": 32, "patch_size": 8}
SQUARE = {"height": 32, "width": 32}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)) for _ in "abc"]


def make_siglip(seed=0):
    torch.manual_seed(seed)
    config = SiglipVisionConfig(**TOWER, **SEES)
    return SiglipVisionModel(config), SiglipImageProcessorPil(size=SQUARE)


def make_dinov2(seed=0):
    torch.manual_seed(seed)
    model = Dinov2Model(Dinov2Config(**TOWER, **SEES))
    return model, BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE)


def make_convnext(seed=0):
    torch.manual_seed(seed)
    model = ConvNextModel(ConvNextConfig(**STAGES))
    return model, ConvNextImageProcessorPil(size={"shortest_edge": 32})


def make_resnet(seed=0):
    torch.manual_seed(seed)
    model = ResNetModel(ResNetConfig(embedding_size=8, **STAGES))
    return model, ConvNextImageProcessorPil(size={"shortest_edge": 32})


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def features(encoder, images, **options):
    return map_images(images, encoder.image_function, **options)[0]


@pytest.mark.parametrize("make", [make_siglip, make_dinov2, make_convnext, make_resnet])
def test_the_pooled_output_is_that_of_transformers(make, photos, tmp_path):
    model, processor = make()
    encoder = VisionEncoder(save(tmp_path / "model", model, processor))
    pixels = processor(photos, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model.eval()(pixels).pooler_output.flatten(1)
    found = features(encoder, photos)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_without_a_trained_pooled_output_the_class_token_is_read(photos, tmp_path):
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**TOWER, **SEES), add_pooling_layer=False)
    processor = ViTImageProcessorPil(size=SQUARE)
    folder = save(tmp_path / "vit", model, processor)
    pixels = processor(photos, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model.eval()(pixels).last_hidden_state[:, 0]
    # Transformers makes weights of a pooled output up, other ones each time.
    for _ in range(2):
        found = features(VisionEncoder(folder), photos)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_without_a_class_token_either_the_patches_are_averaged(photos, tmp_path):
    config = SiglipVisionConfig(**TOWER, **SEES, vision_use_head=False)
    model, processor = SiglipVisionModel(config), SiglipImageProcessorPil(size=SQUARE)
    encoder = VisionEncoder(save(tmp_path / "headless", model, processor))
    pixels = processor(photos, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model.eval()(pixels).last_hidden_state.mean(dim=1)
    np.testing.assert_allclose(features(encoder, photos), expected, atol=1e-5)


def test_of_a_model_of_images_and_texts_the_vision_tower_is_used(photos, tmp_path):
    config = SiglipConfig(
        vision_config={**TOWER, **SEES}, text_config={**TOWER, "vocab_size": 50}
    )
    model, processor = SiglipModel(config), SiglipImageProcessorPil(size=SQUARE)
    encoder = VisionEncoder(save(tmp_path / "siglip", model, processor))
    pixels = processor(photos, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model.eval().vision_model(pixels).pooler_output
    np.testing.assert_allclose(features(encoder, photos), expected, atol=1e-5)


def test_the_towers_of_a_clip_agree_with_its_own_encoder(tiny, checkpoint, photos):
    found = features(VisionEncoder(checkpoint), photos)
    pooled = tiny.encode_images(photos, readout="pooled")
    np.testing.assert_allclose(found, pooled, atol=1e-5)


def test_a_fingerprint_depends_on_weights_and_preprocessing_alone(tmp_path):
    model, processor = make_dinov2()
    folder = save(tmp_path / "model", model, processor)
    fingerprint = VisionEncoder(folder).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert VisionEncoder(tmp_path / "copy").fingerprint == fingerprint
    changed = {
        "weights": (make_dinov2(seed=1)[0], processor),
        "mean": (model, BitImageProcessorPil(**(processor.to_dict() | GREY))),
        "epsilon": (Dinov2Model(Dinov2Config(**TOWER, **SEES, layer_norm_eps=1e-3)),),
    }
    changed["epsilon"][0].load_state_dict(model.state_dict())
    changed["epsilon"] += (processor,)
    others = {
        VisionEncoder(save(tmp_path / name, *parts)).fingerprint
        for name, parts in changed.items()
    }
    assert len(others | {fingerprint}) == 4


GREY = {"image_mean": [0.5, 0.5, 0.5]}


def test_running_statistics_are_part_of_the_fingerprint(tmp_path):
    model, processor = make_resnet()
    one = VisionEncoder(save(tmp_path / "one", model, processor)).fingerprint
    model.embedder.embedder.normalization.running_mean += 1
    two = VisionEncoder(save(tmp_path / "two", model, processor)).fingerprint
    assert one != two


def test_features_are_kept_and_do_not_depend_on_what_stands_beside(photos, tmp_path):
    encoder = VisionEncoder(save(tmp_path / "model", *make_siglip()))
    cache = ResultCache(tmp_path / "features")
    alone = features(encoder, photos[:1], cache=cache)
    assert (features(encoder, photos)[:1] == alone).all()
    encoder.encode_batch = None  # nothing is computed again
    assert (features(encoder, photos[:1], cache=cache) == alone).all()


def test_what_is_no_vision_model_is_refused(tmp_path):
    config = BertConfig(**TOWER, vocab_size=50)
    BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(OSError, match="bert.*image processor"):
        VisionEncoder(tmp_path / "bert")
    with pytest.raises(OSError, match="nowhere.*there is no such folder"):
        VisionEncoder("nowhere")


def test_a_model_without_its_preprocessing_or_with_holes_is_refused(tmp_path):
    model, processor = make_dinov2()
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(OSError, match="bare.*its preprocessing"):
        VisionEncoder(tmp_path / "bare")
    state = {k: v for k, v in model.state_dict().items() if "layernorm" not in k}
    model.save_pretrained(tmp_path / "holes", state_dict=state)
    processor.save_pretrained(tmp_path / "holes")
    with pytest.raises(OSError, match="lacks weights, such as layernorm"):
        VisionEncoder(tmp_path / "holes")


# --- One protocol: another model, a module, a function ----------------------------


def mean_colours(images: list[Image.Image]) -> np.ndarray:
    return np.array([np.asarray(image).mean(axis=(0, 1)) for image in images])


def as_pixels(image: Image.Image) -> torch.Tensor:
    square = np.asarray(image.resize((8, 8)), np.float32)
    return torch.as_tensor(square).permute(2, 0, 1) / 255


def make_module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(192, 5)
    )


@pytest.fixture
def encoders(tmp_path):
    other = VisionEncoder(save(tmp_path / "dino", *make_dinov2()), cache=None)
    module = FunctionEncoder(make_module(), "five", preprocess=as_pixels)
    return [other, module, FunctionEncoder(mean_colours, "colours")]


@pytest.fixture
def folder(tmp_path, photos):
    rng = np.random.default_rng(1)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (40, 60, 3), np.uint8)
            changed = Image.fromarray(pixels // (1 if name == "cat" else 2))
            if name == "cat" and number < 3:
                changed = photos[number]
            changed.save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def test_any_encoder_makes_a_table_that_a_probe_reads(encoders, folder, photos):
    for encoder in encoders:
        table = encode(folder, encoder)
        assert table.provenance["model_fingerprint"] == encoder.fingerprint
        (readout,) = encoder.readouts
        assert f"({readout})" in repr(table)
        expected = encoder.encode_images(photos, progress=False)
        np.testing.assert_allclose(table.features[:3], expected, atol=1e-5)
        with pytest.raises(ValueError, match=f"no readout 'deep'; it has {readout}"):
            encoder.encode_images(photos, readout="deep")
        with pytest.raises(TypeError, match="reads no texts: take a ClipEncoder"):
            search("a cat", table, encoder=encoder)
        with pytest.raises(TypeError, match="reads no texts: take a ClipEncoder"):
            zero_shot(encoder, table, {"cat": ["a cat"], "dog": ["a dog"]})


def test_an_encoder_stands_in_a_pipeline(encoders, photos):
    for encoder in encoders:
        transform = FunctionTransformer(encoder.encode_images)
        pipeline = make_pipeline(transform, LinearProbe())
        found = pipeline.fit(photos * 4, ["a", "b", "c"] * 4).predict(photos)
        assert [*found] == ["a", "b", "c"]


def test_a_module_is_frozen_and_told_by_name_and_weights(photos):
    module = make_module()
    encoder = FunctionEncoder(module, "five", preprocess=as_pixels)
    one, two = (encoder.encode_images(photos, progress=False) for _ in "ab")
    assert (one == two).all()  # without dropout
    same = FunctionEncoder(make_module(), "five").fingerprint
    assert same == encoder.fingerprint
    assert FunctionEncoder(make_module(), "six").fingerprint != same
    with torch.no_grad():
        module[2].bias += 1
    assert FunctionEncoder(module, "five").fingerprint != same


def test_a_module_may_compute_in_bfloat16(photos):
    module = make_module().bfloat16()
    encoder = FunctionEncoder(module, "half", preprocess=as_pixels)
    found = encoder.encode_images(photos, progress=False)
    whole = FunctionEncoder(make_module(), "whole", preprocess=as_pixels)
    expected = whole.encode_images(photos, progress=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert encoder.fingerprint != FunctionEncoder(make_module(), "half").fingerprint


def test_a_function_is_called_by_several_threads_at_once(photos):
    both_call = threading.Barrier(2, timeout=60)

    def wait_for_another(images):
        both_call.wait()
        return np.zeros((len(images), 2))

    encoder = FunctionEncoder(wait_for_another, "two at once")
    encoder.batch_size = 1
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert encoder.encode_images(photos[:2], progress=False).shape == (2, 2)
    finally:
        torch.set_num_threads(threads)


def test_a_function_that_makes_no_rows_is_named(photos):
    wrong = FunctionEncoder(lambda images: np.zeros(len(images)), "flat")
    with pytest.raises(ValueError, match=r"'flat' returned \(3,\) for 3 images"):
        wrong.encode_images(photos)


def test_the_kind_of_a_checkpoint_chooses_its_encoder(tmp_path):
    folder = save(tmp_path / "dino", *make_dinov2())
    assert isinstance(load_encoder(folder), VisionEncoder)
    assert isinstance(load_encoder("mini"), ClipEncoder)
    with pytest.raises(OSError, match="it is no CLIP but dinov2, which VisionEncoder"):
        ClipEncoder(folder)
    with pytest.raises(OSError, match="nowhere.*there is no such folder"):
        load_encoder("nowhere")


def test_a_decision_aid_works_with_any_encoder(encoders, folder, tmp_path):
    for encoder in encoders:
        table = encode(folder, encoder)
        aid = DecisionAid.fit(table, encoder, probe=LinearProbe(Cs=(1.0,)), risk=1)
        assert set(aid.classify(folder)["class"]) <= {"cat", "dog"}
        with pytest.raises(TypeError, match="no CLIP, cannot be saved"):
            aid.save(tmp_path / "aid")
