"""The recipe of the embedded CLIP: what it learns from, and how."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CLASSES, draw
from PIL import Image, ImageOps
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from cliplib import ClipEncoder, FeatureTable, load_image
from study.recipe import checks, corpus, pretrain

HELD_OUT = {"scenes": 4}


@pytest.fixture
def folder(tmp_path):
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
    images = corpus.read_corpus(folder / "corpus", HELD_OUT)
    assert {im.concept for im in images if not im.held_out} == {
        f"toy/{name}" for name in CLASSES
    }
    assert all(
        f"a photo of a {im.label}" in im.captions for im in images if not im.held_out
    )
    assert sorted(im.concept for im in images if im.held_out) == ["10", "11", "8", "9"]


def test_a_view_depends_on_its_seed_alone(folder):
    data = corpus.read_corpus(folder / "corpus", HELD_OUT)[0].data
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
    images = corpus.read_corpus(folder / "corpus", HELD_OUT)
    (image,) = (im for im in images if im.id == "5")
    ImageOps.mirror(load_image(image.data)).save(
        folder / "evaluation" / "copy.JPG", quality=95
    )
    assert corpus.near_duplicates(images, folder / "evaluation", folder) == {"5"}


def test_a_checkpoint_of_smaller_images_keeps_its_places(tmp_path):
    tokenizer = pretrain.load_tokenizer()
    small = {**pretrain.VISION, "image_size": 112}
    old = pretrain.new_clip(tokenizer, small, pretrain.TEXT)
    places = old.vision_model.embeddings.position_embedding.weight.detach()
    places[1:, 0] = torch.arange(7).repeat(7).float()  # its column
    old.save_pretrained(tmp_path)
    new = pretrain.new_clip(tokenizer, pretrain.VISION, pretrain.TEXT)
    pretrain.load_start(new, tmp_path)
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


class FakeTeachers(corpus.Teachers):
    """Teachers that say anything, at once."""

    def image_targets(self, images, view):
        rng = np.random.default_rng(view)
        return corpus.ImageTargets(
            maps=rng.integers(-99, 99, (len(images), 196, 32)),
            features=rng.normal(size=(len(images), 384)),
            logits=rng.normal(size=(len(images), 20)),
        )

    def text_embeddings(self, texts):
        return np.ones((len(texts), 384))

    def prompts_and_words(self):
        return [["a toy"]] * 20, ["a tool"]


@pytest.fixture
def options(folder):
    # Muon's bfloat16 is slow where it is emulated.
    small = {"num_hidden_layers": 1, "hidden_size": 40, "intermediate_size": 64}
    return pretrain.Options(
        corpus=folder / "corpus",
        evaluation=folder / "evaluation",
        out=folder / "out",
        work=folder,
        steps=4,
        batch=4,
        views=2,
        check_every=2,
        held_out=HELD_OUT,
        vision=pretrain.VISION | small,
        text=pretrain.TEXT | small,
    )


def test_an_interrupted_training_ends_like_one_that_was_not(
    folder, options, monkeypatch
):
    teachers = FakeTeachers(folder)
    whole = replace(options, name="whole", out=folder / "whole")
    pretrain.train(whole, teachers)
    parts = replace(options, name="parts", out=folder / "parts")
    losses, calls = pretrain.Student.losses, []

    def interrupt(*given):
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return losses(*given)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pretrain.Student, "losses", interrupt)
        pretrain.train(parts, teachers)
    pretrain.train(parts, teachers)
    one, other = (ClipEncoder(run.out, cache=None) for run in (whole, parts))
    assert one.fingerprint == other.fingerprint
    projected = one.encode_images(
        draw("disc", np.random.default_rng(0)), readout="projected"
    )
    assert projected.shape == one.encode_texts(["disc"]).shape
    log = json.loads((parts.out / "training.json").read_text())
    assert log["history"][-1]["step"] == 4
    assert log["facts"]["samples"] == 16


def test_the_next_batch_is_drawn_ahead_and_none_beyond_the_last():
    calls = []

    class Recorded:
        def prepare(self, step):
            calls.append(f"prepare {step}")

        def __call__(self, step):
            calls.append(f"draw {step}")
            return step

    n_threads = threading.active_count()
    batches = pretrain.prefetched(Recorded(), 3, 5)
    assert next(batches) == 3
    assert "prepare 4" in calls
    assert [*batches] == [4]
    assert calls == ["prepare 3", "draw 3", "prepare 4", "draw 4"]
    assert threading.active_count() == n_threads
    assert [*pretrain.prefetched(Recorded(), 5, 5)] == []


def test_seeds_and_losses_matter(folder, options):
    changed = {
        "same": {},
        "seed": {"seed": 1},
        "losses": {"losses": ("features", "sentences")},
    }
    fingerprints = []
    for name, change in changed.items():
        run = replace(options, name=name, out=folder / name, steps=1, **change)
        pretrain.train(run, FakeTeachers(folder))
        fingerprints.append(ClipEncoder(run.out, cache=None).fingerprint)
    assert len(set(fingerprints)) == 3


def test_the_contrastive_weight_halves_when_pairs_stop_improving():
    progress = pretrain.Progress()
    weights = []
    for loss in (3, 2, 2.5, 1, 1.5, 1.2, 1.1, 1.3):
        pretrain.note_held_out(progress, loss)
        weights.append(progress.weight)
    assert weights == [1, 1, 1, 1, 1, 0.5, 0.5, 0.25]


def test_the_rate_warms_up_stays_and_falls():
    rates = [pretrain.rate_at(step, 1000, 0.3) for step in (0, 24, 49, 699, 850, 999)]
    assert rates == pytest.approx([0.02, 0.5, 1, 1, 0.5, 1 / 300])
    assert pretrain.rate_at(500, 1000, 1) == pytest.approx(0.5)


def test_the_command_line_has_the_defaults_of_the_options():
    folders = ["--corpus", "a", "--evaluation", "b", "--out", "c"]
    options = pretrain.read_options([*folders, "--losses", "features"])
    assert options == pretrain.Options(
        Path("a"), Path("b"), Path("c"), losses=["features"]
    )


def test_principal_axes_are_those_of_scikit_learn():
    rows = np.random.default_rng(0).normal(size=(500, 6)) * [9, 5, 4, 3, 2, 1]
    centre, axes = corpus.principal_axes(rows, 3)
    ours = (rows - centre) @ axes
    theirs = PCA(3).fit(StandardScaler().fit_transform(rows))
    scores = theirs.transform(StandardScaler().fit_transform(rows))
    correlation = np.abs(np.corrcoef(ours.T, scores.T)[:3, 3:])
    assert np.diag(correlation) == pytest.approx(1, abs=1e-6)
    assert ours.std() == pytest.approx(1)


def test_the_card_shows_the_last_readout_between_its_marks():
    row = {"data": "d", "check": "c", "model": checks.OURS, "low": 0.1, "high": 0.9}
    rows = [row | {"value": 0.5}, row | {"value": 0.6}, row | {"check": "class k"}]
    lines = checks.markdown(pd.DataFrame(rows)).splitlines()
    assert lines[2:] == ["| d, c |  | 60.0% [10.0%, 90.0%] |  |"]
    package = Path(checks.__file__).parents[3] / "cliplib"
    card = (package / "mini" / "README.md").read_text("utf-8")
    assert card.index("<!-- results -->") < card.index("<!-- end -->")


def test_probes_are_checked_by_group_and_by_patient():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    patients = np.arange(120) // 4
    features = np.eye(2)[labels] @ rng.normal(size=(2, 6)) + rng.normal(size=(120, 6))
    splits = np.where(patients % 3 == 0, "test", "train")
    table = FeatureTable.from_arrays(features, labels, splits=splits)
    about = {"data": "d", "readout": "pooled"}

    def names(table, model):
        rows = checks.check_probes(table, model=model, **about)
        return [row["check"] for row in rows if not row["check"].startswith("class")]

    alone = ["linear probe, published split", "kernel probe, published split"]
    assert names(table, checks.RANDOM) == alone
    folds = [f"{name} probe, without copies" for name in ("linear", "kernel")]
    assert names(table, checks.OURS) == [*alone, "MLP probe, published split", *folds]
    known = names(table.with_groups(patients), checks.OURS)
    assert known[-3:] == [
        "linear probe, by patient",
        "kernel probe, without copies",
        "kernel probe, by patient",
    ]


def test_held_out_images_are_classified_and_found(tiny, tmp_path):
    rng, objects, scenes = np.random.default_rng(0), [], []
    for number in range(12):
        kind = CLASSES[number % 3]
        draw(kind, rng).save(file := io.BytesIO(), "PNG")
        row = {"id": str(number), "image": {"bytes": file.getvalue()}}
        objects.append(row | {"label": kind, "captions": []})
        captions = [f"red {number}", f"{kind} {number}"]
        scenes.append(row | {"label": "", "captions": captions})
    for name, rows in (("caltech101", objects), ("coco_mini", scenes)):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    found = pd.DataFrame(checks.check_held_out(tiny, tmp_path)).set_index("data")
    assert found.loc["Caltech-101, 3 names", "check"] == "zero-shot"
    assert found["n"].tolist() == [12] * 5
    assert found["value"].between(found["low"], found["high"]).all()


def test_the_same_row_is_what_retrieval_looks_for():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(30, 8))
    right = checks._retrieval_row(queries, queries, check="c")
    wrong = checks._retrieval_row(queries, -queries, check="c")
    assert (right["value"], wrong["value"]) == (1, 0)
