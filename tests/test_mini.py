"""The embedded CLIP as a checkpoint, and the parts of its pretraining on a corpus made here."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from cliplib.mini import corpus, pretrain
from cliplib.mini.card import card

MINI = Path(corpus.__file__).parent


def test_the_checkpoint_needs_nothing_of_ours() -> None:
    model, processor = CLIPModel.from_pretrained(MINI), CLIPProcessor.from_pretrained(MINI)
    red = Image.new("RGB", (90, 70), "red")
    inputs = processor(text=["a dog", "a car"], images=red, return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = model(**inputs)
    assert out.logits_per_image.shape == (1, 2) and torch.isfinite(out.logits_per_image).all()


def test_the_checkpoint_keeps_its_promises() -> None:
    model = CLIPModel.from_pretrained(MINI)
    vision = model.config.vision_config
    assert 96 <= vision.image_size <= 128
    assert 6e6 <= sum(p.numel() for p in model.vision_model.parameters()) <= 10e6
    assert model.config.text_config.vocab_size <= 8192
    assert sum(f.stat().st_size for f in MINI.iterdir() if f.is_file()) <= 24e6


def test_the_card_says_what_was_measured() -> None:
    found = json.loads((MINI / "checks.json").read_text())
    assert (MINI / "README.md").read_text() == card(MINI)
    assert f"{found['probes']['trashnet']['value']:.1%}" in card(MINI)


def picture(seed: int, size: tuple[int, int] = (60, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sources: 30 pictures with a label, 30 with two captions each."""
    rows = [{"id": f"caltech101/{i}", "image": {"bytes": picture(i), "path": ""}, "label": f"thing_{i % 3}",
             "captions": []} for i in range(30)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "caltech101.parquet")
    rows = [{"id": f"new/{i}", "image": {"bytes": picture(99 + i), "path": ""}, "label": "",
             "captions": [f"a red thing {i}", f"a blue thing {i}"]} for i in range(30)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "new.parquet")
    return tmp_path


def test_a_tenth_of_caltech_is_held_out_whatever_else_is_there(folder: Path) -> None:
    held = {p.id for p in corpus.read_corpus(folder) if p.held_out}
    (folder / "new.parquet").unlink()
    assert held == {p.id for p in corpus.read_corpus(folder) if p.held_out}
    assert len(held) == 3 and all(i.startswith("caltech101/") for i in held)


def test_labels_become_captions_and_concepts(folder: Path) -> None:
    by_id = {p.id: p for p in corpus.read_corpus(folder)}
    assert "a photo of a thing 1" in by_id["caltech101/1"].captions
    assert by_id["caltech101/1"].concept == by_id["caltech101/4"].concept != by_id["caltech101/2"].concept
    assert by_id["new/1"].concept != by_id["new/2"].concept


def test_views_are_reproducible_and_differ() -> None:
    data = picture(0)
    assert np.array_equal(corpus.view(data, (0, 1)), corpus.view(data, (0, 1)))
    assert not np.array_equal(corpus.view(data, (0, 1)), corpus.view(data, (1, 1)))
    assert corpus.view(data, (0, 1)).shape == (corpus.SIZE, corpus.SIZE, 3)


def test_the_tokenizer_knows_every_byte() -> None:
    tokenizer = corpus.train_tokenizer(["a photo of a dog", "two cats"] * 20, 600)
    ids = tokenizer("żółć 漢字 ﷺ 🦊 !?").input_ids
    assert ids.count(tokenizer.eos_token_id) == 1  # an unknown token would end the text early
    assert tokenizer.decode(tokenizer("A DOG").input_ids, skip_special_tokens=True).strip() == "a dog"


def test_the_contrastive_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    expected = float(np.log(1 + np.exp(-2)))
    assert float(pretrain.clip_loss(logits, torch.eye(2, dtype=torch.bool))) == pytest.approx(expected, rel=1e-5)
    shared = pretrain.clip_loss(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    assert float(shared) == pytest.approx(np.log(2))


def test_dropping_no_patch_is_the_tower_as_it_ships() -> None:
    model = CLIPModel.from_pretrained(MINI)
    pixels = torch.randn(2, 3, model.config.vision_config.image_size, model.config.vision_config.image_size)
    with torch.inference_mode():
        whole, half = pretrain.see(model, pixels, 1.0), pretrain.see(model, pixels, 0.5)
        assert torch.allclose(whole, model.vision_model(pixel_values=pixels).pooler_output, atol=1e-5)
    assert half.shape == whole.shape and not torch.allclose(half, whole, atol=1e-2)


def test_the_learning_rate_warms_up_stays_and_falls_to_nothing() -> None:
    assert pretrain.rate(0, 1000) == pytest.approx(0.01)
    assert pretrain.rate(500, 1000) == 1
    assert 0 < pretrain.rate(999, 1000) < 0.01


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="the extra `pretrain` needs torch 2.9")
def test_an_interrupted_training_ends_where_an_undisturbed_one_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(corpus, "teach_vision", lambda views, *_: tuple(
        np.random.default_rng(1).normal(size=(len(views), d)).astype(np.float16) for d in (1280, 1000)))  # fmt: skip
    monkeypatch.setattr(corpus, "teach_text", lambda texts, *_: rng.normal(size=(len(texts), 384)).astype(np.float16))
    monkeypatch.setattr(corpus, "text_only", lambda: ["a word", "another word"])
    monkeypatch.setattr(corpus, "class_names", lambda: [f"class {i}" for i in range(1000)])

    def run(name: str, steps: int, out: str, start: Path | None = None) -> dict[str, torch.Tensor]:
        rng.bit_generator.state = np.random.default_rng(0).bit_generator.state
        pretrain.train(argparse.Namespace(
            corpus=folder, evaluation=None, out=tmp_path / out, work=tmp_path / "work", name=name, steps=steps,
            batch=8, views=1, teachers=["vision", "text"], full_patches_from=1.0, check_every=2, seed=0, device="cpu",
            start=start,
        ))  # fmt: skip
        return CLIPModel.from_pretrained(tmp_path / out).state_dict()

    whole = run("whole", 4, "a")
    # As if cut at step 2.
    monkeypatch.setattr(pretrain, "rate", lambda step, steps, _, rate=pretrain.rate: rate(step, 4))
    run("cut", 2, "b")
    resumed = run("cut", 4, "c")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    facts = json.loads((tmp_path / "c" / "training.json").read_text())["facts"]
    assert facts["steps"] == 4 and facts["held_out"] == 3 and facts["legs"] == [2, 4]
    further = run("further", 6, "d", start=tmp_path / "a")  # a finished checkpoint taken further, its state long gone
    known = json.loads((tmp_path / "d" / "training.json").read_text())["facts"]
    assert known["legs"] == [4, 6] and known["samples"] == 48
    assert all(v.shape == whole[k].shape for k, v in further.items())
    assert 0 < (further["visual_projection.weight"] - whole["visual_projection.weight"]).abs().max() < 0.05
