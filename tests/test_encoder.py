"""The encoder: equal to plain transformers code, and nothing computed twice, lost, or silently dropped."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, make_checkpoint, make_tokenizer
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from cliplib.data import dataset_fingerprint, load_dataset
from cliplib.encoder import ClipEncoder
from cliplib.encoder.checkpoint import load_checkpoint
from cliplib.errors import CliplibError, ImageError
from cliplib.store import FeatureStore

# openai/clip-vit-base-patch32, config.json and preprocessor_config.json as published
VIT_B32 = {
    "projection_dim": 512,
    "logit_scale_init_value": 2.6592,
    "vision_config": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 512,
    },
    "text_config": {
        "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "projection_dim": 512,
    },
}  # fmt: skip
VIT_B32_PROCESSOR = {
    "crop_size": 224, "size": 224, "resample": 3, "do_center_crop": True, "do_normalize": True, "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
TEXTS = ["a photo of a disc", "a drawing of blue stripes, very long: " + "red green " * 60, "", "Ünïcode 日本 12!"]


@pytest.fixture(scope="module")
def vit_b32(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint of the published ViT-B/32 configuration, with random weights, kept as float16."""
    folder = tmp_path_factory.mktemp("models") / "vit-b32"
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(**VIT_B32)).half().save_pretrained(folder)
    make_tokenizer(max_length=77).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(VIT_B32_PROCESSOR))
    yield folder
    shutil.rmtree(folder)  # 300 MB


@pytest.fixture(scope="module")
def reference(vit_b32: Path, image_files: list[Path]) -> dict[str, np.ndarray]:
    """The same by plain transformers code, without any of ours."""
    model = CLIPModel.from_pretrained(vit_b32, dtype=torch.float32).eval()
    processor, tokenizer = CLIPImageProcessorPil.from_pretrained(vit_b32), CLIPTokenizer.from_pretrained(vit_b32)
    images = [Image.open(path).convert("RGB") for path in image_files[::10]]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=pixels).pooler_output
        projected = model.get_image_features(pixel_values=pixels).pooler_output
        output = model(pixel_values=pixels, **tokens)
        texts = model.get_text_features(**tokens).pooler_output
    found = {"pooled": pooled, "projected": projected, "texts": texts, "logits": output.logits_per_image}
    return {name: value.numpy() for name, value in found.items()}


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, as a share of the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / scale)


def test_parity_with_transformers_at_vit_b32(
    vit_b32: Path, reference: dict[str, np.ndarray], image_files: list[Path]
) -> None:
    files = image_files[::10]
    encoder = ClipEncoder.from_pretrained(vit_b32, device="cpu", dtype="float32")
    assert (encoder.dim, encoder.projection_dim, encoder.image_size) == (768, 512, 224)
    pooled = encoder.images(files, progress=False)
    assert relative(pooled, reference["pooled"]) < 1e-5
    projected = encoder.images(files, kind="projected", progress=False)
    assert relative(projected, reference["projected"]) < 1e-5
    np.testing.assert_allclose(encoder.project(pooled), projected, rtol=0, atol=1e-6 * np.abs(projected).max())
    texts = encoder.texts(TEXTS)
    assert relative(texts, reference["texts"]) < 1e-5
    unit = encoder.project(pooled, normalize=True), encoder.texts(TEXTS, normalize=True)
    assert relative(encoder.logit_scale * unit[0] @ unit[1].T, reference["logits"]) < 1e-5

    fingerprint = encoder.model_fingerprint()
    del encoder
    half = ClipEncoder.from_pretrained(vit_b32, device="cpu", dtype="bfloat16")
    assert half.model_fingerprint() == fingerprint
    for kind in ("pooled", "projected"):
        rounded = half.images(files, kind=kind, progress=False)
        assert rounded.dtype == np.float32
        assert cosine(rounded, reference[kind]).min() > 0.999
        assert relative(rounded, reference[kind]) > 1e-5  # it was bfloat16 indeed
    np.testing.assert_array_equal(half.texts(TEXTS), texts)  # the text tower stays in float32


def test_every_source_gives_the_same(tiny_encoder: ClipEncoder, image_files: list[Path]) -> None:
    files = image_files[:5]
    expected = tiny_encoder.images(files, progress=False)
    sources: list[list[Any]] = [
        [str(path) for path in files],
        [path.read_bytes() for path in files],
        [Image.open(path) for path in files],
        [{"path": str(path), "bytes": None} for path in files],
        [{"path": None, "bytes": path.read_bytes()} for path in files],
    ]
    for images in sources:
        np.testing.assert_array_equal(tiny_encoder.images(images, progress=False), expected)


def test_order_batches_and_threads_change_nothing(tiny_encoder: ClipEncoder, image_files: list[Path]) -> None:
    expected = np.concatenate([tiny_encoder.images([path], progress=False) for path in image_files])
    assert len(np.unique(expected, axis=0)) == 48
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for batch_size in (None, 1, 7):
                ours = tiny_encoder.images(image_files, batch_size=batch_size, progress=False)
                np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_normalize_is_explicit(tiny_encoder: ClipEncoder, image_files: list[Path]) -> None:
    for plain, unit in (
        (tiny_encoder.images(image_files[:4], progress=False),
         tiny_encoder.images(image_files[:4], normalize=True, progress=False)),
        (tiny_encoder.texts(["a disc", "red"]), tiny_encoder.texts(["a disc", "red"], normalize=True)),
    ):  # fmt: skip
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5)
        assert np.abs(np.linalg.norm(plain, axis=1) - 1).min() > 1e-3


def test_nothing_in_nothing_out(tiny_encoder: ClipEncoder) -> None:
    assert tiny_encoder.images([]).shape == (0, 32)
    assert tiny_encoder.images([], kind="projected").shape == (0, 24)
    assert tiny_encoder.texts([]).shape == (0, 24)
    assert tiny_encoder.project(np.zeros((0, 32))).shape == (0, 24)


def test_texts_are_cut_to_the_models_positions(tiny_encoder: ClipEncoder) -> None:
    long = "red green " * 100
    batch = tiny_encoder.texts([long, "red"], batch_size=1)
    np.testing.assert_allclose(tiny_encoder.texts([long, "red"]), batch, rtol=0, atol=1e-6)
    with pytest.raises(CliplibError, match="texts must be a list of str"):
        tiny_encoder.texts("red")
    with pytest.raises(CliplibError, match="texts must be a list of str"):
        tiny_encoder.texts(["red", None])  # type: ignore[list-item]


def test_unreadable_images(
    tiny_encoder: ClipEncoder, image_files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes(image_files[0].read_bytes()[:300])
    images: list[Any] = [image_files[0], tmp_path / "text.jpg", image_files[1], cut, tmp_path / "gone.png"]
    with pytest.raises(ImageError, match=r"text\.jpg"):
        tiny_encoder.images(images, progress=False)
    with caplog.at_level(logging.WARNING):
        features = tiny_encoder.images(images, errors="report", progress=False)
    np.testing.assert_array_equal(features, tiny_encoder.images(image_files[:2], progress=False))
    features = tiny_encoder.images(images, errors="report", progress=False)
    failed = tiny_encoder.last_run.errors
    assert len(features) + len(failed) == len(images) == tiny_encoder.last_run.images
    assert sorted(failed) == [1, 3, 4]
    assert failed[4].path == str(tmp_path / "gone.png")
    assert sum("Cannot read the image" in record.getMessage() for record in caplog.records) >= 3
    assert tiny_encoder.images(images[1:2], errors="report", progress=False).shape == (0, 32)


def test_bad_arguments_are_one_sentence(tiny_encoder: ClipEncoder, image_files: list[Path]) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"images": str(image_files[0])}, "images must be a list of paths, bytes or PIL images, not one str"),
        ({"images": Image.new("RGB", (3, 3))}, "not one Image"),
        ({"images": iter(image_files)}, "images must be a list"),
        ({"kind": "pool"}, "kind must be 'pooled' or 'projected', not 'pool'"),
        ({"errors": "ignore"}, "errors must be 'raise' or 'report', not 'ignore'"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
    ]
    for changed, sentence in cases:
        with pytest.raises(CliplibError, match=sentence):
            tiny_encoder.images(**{"images": image_files[:1], **changed})
    for pooled in (np.zeros((2, 24)), [[1.0], [1.0, 2.0]], [["a"] * 32]):
        with pytest.raises(CliplibError, match=r"pooled must be numbers of shape \(n, 32\), not "):
            tiny_encoder.project(pooled)
    for dataset in ([1, 2], image_files):
        with pytest.raises(CliplibError, match="this list lacks the columns image, label, id, split"):
            tiny_encoder.table(dataset)  # type: ignore[arg-type]


def test_features_that_are_not_finite_are_refused(tiny_checkpoint: Path, image_files: list[Path]) -> None:
    encoder = ClipEncoder.from_pretrained(tiny_checkpoint, device="cpu", dtype="float16")
    encoder.model.vision_model.post_layernorm.weight.fill_(60000.0)
    with pytest.raises(CliplibError, match=r"'tiny-clip' gives infinite features in float16: use dtype='float32'"):
        encoder.images(image_files[:3], progress=False)
    encoder = ClipEncoder.from_pretrained(tiny_checkpoint, device="cpu", dtype="float32")
    encoder.model.vision_model.post_layernorm.weight.fill_(np.inf)
    with pytest.raises(CliplibError, match=r"infinite features in float32: get an intact copy"):
        encoder.images(image_files[:3], progress=False)


def test_settings_choose_the_model(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPLIB_MODEL", str(tiny_checkpoint))
    assert ClipEncoder.from_pretrained().name == "tiny-clip"
    assert ClipEncoder.from_pretrained("").name == "tiny-clip"
    monkeypatch.setenv("CLIPLIB_MODEL", "/nowhere/at/all")
    with pytest.raises(CliplibError, match="There is no model '/nowhere/at/all'"):
        ClipEncoder.from_pretrained()
    with pytest.raises(CliplibError, match="The device 'tpu9' is unknown"):
        ClipEncoder.from_pretrained(device="tpu9")  # before the model is looked for
    with pytest.raises(CliplibError, match="The dtype 'int8' is unknown"):
        ClipEncoder.from_pretrained(dtype="int8")


def test_a_processor_of_another_size_is_refused(tiny_checkpoint: Path) -> None:
    found = load_checkpoint(tiny_checkpoint)
    with pytest.raises(CliplibError, match="makes pictures of 224 x 224 pixels, but its vision tower takes 32 x 32"):
        ClipEncoder(found.model, CLIPImageProcessorPil(), found.tokenizer, name="x")
    right = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    for wrong in ({"image_mean": [0.1]}, {"resample": 99}, {"size": {"shortest_edge": -3}}, {"image_std": "x"}):
        with pytest.raises(CliplibError, match=r"image processor of 'x' cannot be used \(.*\): correct preproc"):
            ClipEncoder(found.model, CLIPImageProcessorPil(**(right | wrong)), found.tokenizer, name="x")


def test_no_other_progress_bar_and_none_on_request(
    tiny_encoder: ClipEncoder, image_files: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.images(image_files, progress=False)
    assert capfd.readouterr() == ("", "")
    tiny_encoder.images(image_files)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "tiny-clip: images: 100%" in shown.err
    assert "48/48" in shown.err


def test_where_time_goes_is_logged_on_request(
    tiny_encoder: ClipEncoder, image_files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "cliplib.encoder"), FeatureStore(tmp_path / "f.sqlite") as store:
        tiny_encoder.images(image_files, store=store, progress=False)
    message = caplog.records[-1].getMessage()
    assert message.startswith("48 images, 48 computed, 0 unreadable (")
    for phase in ("read", "lookup", "decode", "preprocess", "forward", "store"):
        assert f"{phase} " in message


# The store.


def test_a_second_run_reads_each_file_once(
    tiny_encoder: ClipEncoder, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(image_folder)
    assert dataset is not None
    expected = dataset_fingerprint(dataset)
    with FeatureStore(tmp_path / "f.sqlite") as store:
        tiny_encoder.table(dataset, store=store, progress=False)
        read: list[str] = []
        before = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(str(path)) or before(path))  # type: ignore[func-returns-value]
        table = tiny_encoder.table(dataset, store=store, progress=False)
    assert sorted(read) == sorted(image["path"] for image in dataset["image"])
    assert table.provenance["dataset_fingerprint"] == expected


def test_second_run_computes_only_what_is_new(
    tiny_encoder: ClipEncoder, image_files: list[Path], tmp_path: Path
) -> None:
    with FeatureStore(tmp_path / "f.sqlite") as store:
        first = tiny_encoder.images(image_files[:30], store=store, progress=False)
        assert tiny_encoder.last_run.computed == 30
        second = tiny_encoder.images([*image_files[::-1], image_files[0]], store=store, progress=False)
        assert tiny_encoder.last_run.computed == 18
        np.testing.assert_array_equal(second[::-1][1:31], first)
        np.testing.assert_array_equal(second[-1], first[0])
        unit = tiny_encoder.images(image_files, store=store, normalize=True, progress=False)
        assert tiny_encoder.last_run.computed == 0
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(second, tiny_encoder.images([*image_files[::-1], image_files[0]], progress=False))


def test_content_counts_not_the_name(tiny_encoder: ClipEncoder, image_files: list[Path], tmp_path: Path) -> None:
    with FeatureStore(tmp_path / "f.sqlite") as store:
        tiny_encoder.images(image_files[:1], store=store, progress=False)
        shutil.copy(image_files[0], tmp_path / "other name.png")
        tiny_encoder.images([tmp_path / "other name.png"], store=store, progress=False)
        assert tiny_encoder.last_run.computed == 0
        shutil.copy(image_files[1], tmp_path / "other name.png")
        tiny_encoder.images([tmp_path / "other name.png"], store=store, progress=False)
        assert tiny_encoder.last_run.computed == 1
        picture = Image.open(image_files[0])
        for _ in range(2):
            tiny_encoder.images([picture], store=store, progress=False)
        assert tiny_encoder.last_run.computed == 0


def test_another_dtype_kind_processor_or_model_is_no_hit(
    tiny_checkpoint: Path, image_files: list[Path], tmp_path: Path
) -> None:
    def encoder(dtype: str = "float32", **processor: Any) -> ClipEncoder:
        found = load_checkpoint(tiny_checkpoint)
        settings = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, **processor}
        pil = CLIPImageProcessorPil(**settings)
        return ClipEncoder(found.model, pil, found.tokenizer, name="x", device="cpu", dtype=dtype)

    other = ClipEncoder.from_pretrained(make_checkpoint(tmp_path / "other", seed=1), device="cpu", dtype="float32")
    variants: list[tuple[ClipEncoder, Any]] = [
        (encoder(), "pooled"), (encoder(), "projected"), (encoder("bfloat16"), "pooled"),
        (encoder(resample=2), "pooled"), (encoder(size={"shortest_edge": 36}), "pooled"), (other, "pooled"),
    ]  # fmt: skip
    assert len({e.fingerprint(kind) for e, kind in variants}) == len(variants)
    with FeatureStore(tmp_path / "f.sqlite") as store:
        for number, (one, kind) in enumerate(variants, start=1):
            one.images(image_files[:3], kind=kind, store=store, progress=False)
            assert one.last_run.computed == 3
            assert len(store) == 3 * number
        encoder().images(image_files[:3], store=store, progress=False)  # opened anew, the same encoder
        assert len(store) == 3 * len(variants)
    assert variants[0][0].model_fingerprint() == variants[2][0].model_fingerprint()


# The table.


def test_table_says_all_about_its_rows(
    tiny_encoder: ClipEncoder, image_folder: Path, image_files: list[Path], tmp_path: Path
) -> None:
    dataset = load_dataset(image_folder)
    assert dataset is not None
    with FeatureStore(tmp_path / "f.sqlite") as store:
        table = tiny_encoder.table(dataset, store=store, progress=False)
        assert len(store) == 48
    files = [image_folder / row for row in table.ids]
    np.testing.assert_array_equal(table.features, tiny_encoder.images(files, progress=False))
    assert table.classes == tuple(sorted(CLASSES))
    assert [table.classes[label] for label in table.labels] == [path.parent.name for path in files]
    assert sorted(files) == image_files
    about = table.provenance
    assert about["encoder"] == "tiny-clip"
    assert about["encoder_fingerprint"] == tiny_encoder.fingerprint("pooled")
    assert about["model_fingerprint"] == tiny_encoder.model_fingerprint()
    assert (about["kind"], about["dtype"], about["normalized"]) == ("pooled", "float32", "false")
    assert about["dataset_fingerprint"]
    assert {"torch", "transformers", "cliplib"} <= set(about)
    assert not any(str(image_folder.parent) in value for value in about.values())
    projected = tiny_encoder.table(dataset, kind="projected", progress=False)
    assert projected.features.shape == (48, 24)
    assert projected.provenance["kind"] == "projected"


def test_table_reports_unreadable_images(
    tiny_encoder: ClipEncoder, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(image_folder, tmp_path / "shapes"))
    bad = folder / "train" / "disc" / "disc00.png"
    bad.write_bytes(b"no longer a picture")
    dataset = load_dataset(folder)
    assert dataset is not None
    with pytest.raises(ImageError, match=r"disc00\.png"):
        tiny_encoder.table(dataset, progress=False)
    table = tiny_encoder.table(dataset, errors="report", progress=False)
    assert len(table) == 47
    assert list(json.loads(table.provenance["unreadable"])) == ["train/disc/disc00.png"]
    assert "train/disc/disc00.png" not in table.ids
    assert sum("disc00.png" in record.getMessage() for record in caplog.records) == 1
    position = list(table.ids).index("train/disc/disc02.png")
    alone = tiny_encoder.images([folder / "train" / "disc" / "disc02.png"], progress=False)
    np.testing.assert_allclose(table.features[[position]], alone, rtol=0, atol=1e-6)
