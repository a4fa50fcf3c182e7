"""The recipe of the embedded CLIP: what it learns from, and that an interrupted run goes on."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CLASSES, draw
from PIL import Image, ImageOps
from transformers import CLIPTokenizer

from cliplib import ClipEncoder, load_image
from cliplib.mini import checks, corpus, pretrain


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "HELD_OUT", {"scenes": 4})
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        draw(CLASSES[i % 3], rng).save(file := io.BytesIO(), "PNG")
        row = {"id": str(i), "image": {"bytes": file.getvalue()}}
        own = {"label": "", "captions": [f"scene {i}", "something"]}
        rows.append(
            row
            | (own if i >= 8 else {"label": f"toy/{CLASSES[i % 3]}", "captions": []})
        )
    (tmp_path / "corpus").mkdir()
    pq.write_table(
        pa.Table.from_pylist(rows[:8]), tmp_path / "corpus" / "objects.parquet"
    )
    pq.write_table(
        pa.Table.from_pylist(rows[8:]), tmp_path / "corpus" / "scenes.parquet"
    )
    (tmp_path / "evaluation").mkdir()
    draw("disc", np.random.default_rng(9)).save(tmp_path / "evaluation" / "other.png")
    return tmp_path


def test_labels_become_captions_and_own_captions_a_concept(folder):
    images = corpus.read_corpus(folder / "corpus")
    assert {im.concept for im in images if not im.held_out} == {
        f"toy/{name}" for name in CLASSES
    }
    assert all(
        f"a photo of a {im.label}" in im.captions for im in images if not im.held_out
    )
    assert sorted(im.concept for im in images if im.held_out) == ["10", "11", "8", "9"]


def test_a_view_depends_on_its_seed_alone(folder):
    data = corpus.read_corpus(folder / "corpus")[0].data
    first, again, other = (
        corpus.random_view(data, seed) for seed in ((0, 1), (0, 1), (1, 1))
    )
    assert (first == again).all() and (first != other).any()


def test_some_views_show_the_image_on_a_plain_ground():
    noise = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    )
    noise.save(file := io.BytesIO(), "PNG")
    views = [corpus.random_view(file.getvalue(), (0, i)) for i in range(100)]
    plain = [any(np.ptp(v[i], axis=0).max() == 0 for i in (0, -1)) for v in views]
    assert 0.1 < np.mean(plain) < 0.4


def test_a_mirrored_copy_of_an_evaluation_image_is_found(folder):
    images = corpus.read_corpus(folder / "corpus")
    (image,) = (im for im in images if im.id == "5")
    ImageOps.mirror(load_image(image.data)).save(
        folder / "evaluation" / "copy.JPG", quality=95
    )
    assert corpus.near_duplicates(images, folder / "evaluation", folder) == {"5"}


def test_a_checkpoint_of_smaller_images_keeps_its_places(tmp_path, monkeypatch):
    tokenizer = CLIPTokenizer.from_pretrained(Path(pretrain.__file__).parent)
    with monkeypatch.context() as small:
        small.setitem(pretrain.VISION, "image_size", 112)
        old = pretrain.Student(tokenizer).clip
    places = old.vision_model.embeddings.position_embedding.weight.detach()
    places[1:, 0] = torch.arange(7).repeat(7).float()  # its column
    old.save_pretrained(tmp_path)
    new = pretrain.Student(tokenizer, tmp_path).clip
    fitted = new.vision_model.embeddings.position_embedding.weight
    assert fitted.shape == (197, 320) and (fitted[0] == places[0]).all()
    columns = fitted[1:, 0].view(14, 14)
    torch.testing.assert_close(columns[:, 2:-2], columns[:1, 2:-2].expand(14, 10))
    assert (columns[:, 1:-1].diff() >= 0).all()
    assert torch.equal(new.visual_projection.weight, old.visual_projection.weight)


def test_the_contrastive_loss_is_least_where_positives_share_the_target():
    same = torch.tensor([0, 0, 1, 2])[:, None] == torch.tensor([0, 0, 1, 2])
    least = pretrain.clip_loss(50 * same.float(), same)
    assert least == pytest.approx(np.log(2) / 2)
    assert pretrain.clip_loss(50 * torch.eye(4), same) > least


def test_an_interrupted_training_ends_like_one_that_was_not(folder, monkeypatch):
    rng, losses = np.random.default_rng(0), pretrain.Student.losses
    taught = {
        "maps": rng.integers(-99, 99, (8, 196, 32)),
        "features": rng.normal(size=(8, 384)),
    }
    taught["logits"] = rng.normal(size=(8, 20))
    small = {"num_hidden_layers": 1, "hidden_size": 40, "intermediate_size": 64}
    for tower in ("VISION", "TEXT"):  # Muon's bfloat16 is slow where it is emulated
        monkeypatch.setattr(pretrain, tower, getattr(pretrain, tower) | small)
    monkeypatch.setattr(
        corpus, "imagenet_words", lambda: ([["a toy"]] * 20, ["a tool"])
    )
    monkeypatch.setattr(corpus, "teach_vision", lambda images, number, work: taught)
    monkeypatch.setattr(
        corpus, "teach_text", lambda texts, work: np.ones((len(texts), 384))
    )
    args = argparse.Namespace(
        corpus=folder / "corpus", evaluation=folder / "evaluation"
    )
    vars(args).update(
        steps=4, batch=4, views=2, check_every=2, seed=0, work=folder, start=None
    )
    args.losses, args.decay, calls = list(pretrain.LOSSES), 0.3, []

    def interrupt(*given):
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return losses(*given)

    args.name, args.out = "whole", folder / "whole"
    pretrain.train(args)
    args.name, args.out = "parts", folder / "parts"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pretrain.Student, "losses", interrupt)
        pretrain.train(args)
    pretrain.train(args)
    whole, parts = (
        ClipEncoder(folder / name, cache=False) for name in ("whole", "parts")
    )
    assert whole.fingerprint == parts.fingerprint
    assert (
        parts.project(parts.images(draw("disc", rng))).shape
        == parts.texts(["disc"]).shape
    )
    assert '"step": 4' in (folder / "parts" / "training.json").read_text()


def test_the_card_shows_the_last_readout_between_its_marks():
    row = {
        "data": "d",
        "check": "c",
        "model": checks.MODELS[1],
        "low": 0.1,
        "high": 0.9,
    }
    table = checks.markdown(pd.DataFrame([row | {"value": 0.5}, row | {"value": 0.6}]))
    assert "| d, c |  | 60.0% [10.0%, 90.0%] |  |" in table
    card = (Path(checks.__file__).parent / "README.md").read_text()
    assert card.index("<!-- results -->") < card.index("<!-- end -->")
