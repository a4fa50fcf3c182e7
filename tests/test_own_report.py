"""The report on somebody's own images: what is measured, written, and refused."""

from __future__ import annotations

import csv
import errno
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import jsonschema
import numpy as np
import pandas as pd
import pypdf
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import draw
from PIL import Image
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from cliplib import __main__ as cli
from cliplib.aids.external import evaluate_external
from cliplib.data.datasets import load_dataset
from cliplib.data.image import load_image
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.encoder import FunctionEncoder
from cliplib.evaluation.intervals import Estimate
from cliplib.features.encode import encode, encode_dataset
from cliplib.features.table import FeatureTable
from cliplib.inspection.erase import (
    AS_IS,
    CONTROL,
    WITHOUT,
    Box,
    evaluate_erased,
    read_boxes,
)
from cliplib.inspection.published_split import PublishedSplit
from cliplib.probes.linear import LinearProbe
from cliplib.probes.out_of_fold import Fit, fit_folds, table_folds
from cliplib.reports import measure as module
from cliplib.reports import report as report_module
from cliplib.reports.anonymous import (
    anonymised,
    anonymised_grouping,
    anonymised_options,
    model_name,
)
from cliplib.reports.data_warnings import KINDS, SEVERITIES, warning_of
from cliplib.reports.document import as_html, as_pdf, document, table_of
from cliplib.reports.findings import Findings, command_of
from cliplib.reports.measure import grouping_of, measure
from cliplib.reports.pictures import of_copies, of_erased
from cliplib.reports.report import (
    SPLITS,
    WRITTEN,
    check_extra,
    check_no_other_files,
    write_report,
)
from cliplib.reports.report_data import answers_table, provenance, report_json
from cliplib.reports.verdict import WORDS, verdict

HOSTILE = "Litter & <b>more</b> 猫 #emph[x] *y* $z$"


def save_other_model(folder: Path) -> Path:
    """Save another vision model, with random weights."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Dinov2Config(**size, image_size=32, patch_size=8)
    square = {"height": 32, "width": 32}
    processor = BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=square)
    Dinov2Model(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_folder(
    draw: Callable[..., Image.Image], place: Path, n: int, seed: int
) -> Path:
    rng = np.random.default_rng(seed)
    for kind in ("disc", "square", "stripes"):
        (place / kind).mkdir(parents=True)
        for number in range(n):
            draw(kind, rng).save(place / kind / f"{kind}{number}.png")
    return place


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with whatever can be wrong, and what is told beside it."""
    place = tmp_path_factory.mktemp("home")
    folder = make_folder(draw, place / "ward7", 12, 0)
    (folder / "disc" / "broken.png").write_bytes(b"no image")
    shutil.copy(folder / "disc" / "disc0.png", folder / "square" / "copy.png")
    Image.new("RGB", (9, 9)).save(folder / "square" / "tiny.png")
    make_folder(draw, place / "ward9", 4, 1)
    shutil.copy(folder / "disc" / "disc1.png", place / "ward9" / "disc" / "known.png")
    (place / "ward9" / "hexagon").mkdir()
    draw("disc", np.random.default_rng(5)).save(place / "ward9" / "hexagon" / "h.png")
    rows = [["file", "x_center", "y_center", "width", "height"]]
    for number in range(12):
        rows.append([f"disc/disc{number}.png", "0.3", "0.5", "0.3", "0.5"])
        rows.append([f"square{number}.png", "0.5", "0.5", "0.6", "0.6"])
    with open(place / "boxes.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    save_other_model(place / "tiny-dino")
    return place


@pytest.fixture(scope="module")
def findings(home: Path, checkpoint: Path) -> Findings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPLIB_CACHE", str(home / "cache"))
        return measure(
            home / "ward7",
            model=str(checkpoint),
            groups=r"([a-z]+\d+|copy|tiny|broken)\.[a-z]+",
            others=[str(home / "tiny-dino")],
            elsewhere=str(home / "ward9"),
            boxes=str(home / "boxes.csv"),
        )


@pytest.fixture(scope="module")
def content(findings: Findings) -> dict[str, Any]:
    """What page and PDF show."""
    return document(findings, verdict(findings))


@pytest.fixture(scope="module")
def written(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole report."""
    place = tmp_path_factory.mktemp("report")
    write_report(replace(findings, title=HOSTILE), verdict(findings), place)
    return place


def no_shortcuts(*_: Any, **__: Any) -> list[Any]:
    """Stand in for what takes a measurement longest, where nothing is about it."""
    return []


# --- What is measured


def test_each_image_has_its_answer_by_a_probe_that_its_group_was_kept_from(
    findings: Findings,
) -> None:
    answers = answers_table(findings)
    assert len(answers) == 39
    bad = answers[answers["file"] == "disc/broken.png"].iloc[0]
    assert bad["error"] == "empty, or in no known format." and bad["answer"] == ""
    by_file = answers.set_index("file")
    copy = by_file.loc["square/copy.png"]
    assert copy["copy_of"] == "disc/disc0.png" and copy["label"] == "square"
    assert copy["group"] == by_file.loc["disc/disc0.png", "group"]
    read = answers[answers["error"] == ""]
    right = (read["answer"] == read["label"]).mean()
    assert right == findings.results.evaluation.estimate("accuracy").value
    assert (read["suspect"] != "").sum() == len(findings.suspects)
    assert read["format"].unique().tolist() == ["PNG"]


def test_each_part_of_a_measurement_gets_the_seed_and_the_share_that_it_needs(
    home: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPLIB_CACHE", str(home / "cache"))
    shortcuts = Mock(return_value=[])
    swaps = Mock(return_value=[])
    erased = Mock(return_value=None)
    monkeypatch.setattr(module, "probe_shortcuts", shortcuts)
    monkeypatch.setattr(module, "measure_swaps", swaps)
    monkeypatch.setattr(module, "evaluate_erased", erased)
    files = sorted((home / "ward7").glob("*/*[0-9].png"))[:-3]  # classes of two sizes
    table = pd.DataFrame({"file": [str(file) for file in files]})
    table["kind"] = [file.parent.name for file in files]
    table.loc[::4, "kind"] = "disc"  # so that some answers are wrong
    table["split"] = ["train", "train", "test"] * 11
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,x_center,y_center,width,height\ndisc0.png,.5,.5,.1,.1\n")
    found = measure(
        table,
        model=str(checkpoint),
        groups=r"([a-z]+\d)\d?\.png",
        boxes=boxes,
        seed=3,
        label_column="kind",
    )
    asked = shlex.split(found.command)
    assert asked[asked.index("--seed") + 1] == "3"
    assert asked[asked.index("--label-column") + 1] == "kind"
    results = found.results
    assert results.by_image is not None and found.published_split is not None
    right = found.published_split.accuracy_by_protocol["right"]
    assert right["by group"] == results.evaluation.estimate("accuracy")
    assert right["by image"] == results.by_image.estimate("accuracy")
    assert right["by image"] != right["by group"]
    balanced = results.evaluation.estimate("balanced_accuracy")
    assert balanced != results.evaluation.estimate("accuracy")
    assert shortcuts.call_args.args[3] == balanced
    for part in (shortcuts, swaps, erased):
        assert part.call_args.kwargs["seed"] == 3


def test_the_best_probe_is_the_most_accurate(findings: Findings) -> None:
    results = findings.results
    shares = {
        name: results.evaluations[name].estimate("accuracy").value
        for name in results.probe_names
    }
    assert shares[results.best] == max(shares.values())
    assert results.proba.argmax(axis=1).tolist() == results.predicted.tolist()
    assert type(findings.aid.probe) is type(results.probe)
    assert findings.aid.training.readout == results.probe_table.readout


def test_copies_that_join_declared_groups_are_named(findings: Findings) -> None:
    (row,) = findings.grouping.merged.to_dict("records")
    assert {row["group_a"], row["group_b"]} == {"copy", "disc0"}
    assert {row["image_a"], row["image_b"]} == {"disc/disc0.png", "square/copy.png"}
    found = {warning.id for warning in verdict(findings).warnings}
    assert {"groups-merged", "label-conflicts", "unreadable-files"} <= found


def test_files_that_cannot_be_read_are_counted(findings: Findings) -> None:
    assert len(findings.audit.images) == len(findings.images.table) == 38
    assert provenance(findings)["images"] == "38 of 39 files"


def test_a_trap_is_named_with_images_that_show_it(
    tmp_path: Path, checkpoint: Path
) -> None:
    rng = np.random.default_rng(0)
    for kind, mode in (("a", "RGB"), ("b", "L")):
        (tmp_path / "f" / kind).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
            image = Image.fromarray(pixels).convert(mode)
            image.save(tmp_path / "f" / kind / f"{kind}{number}.bmp")
    found = measure(tmp_path / "f", model=str(checkpoint))
    judged = verdict(found)
    ids = {warning.id: warning for warning in judged.warnings}
    assert judged.word == "Perhaps"
    assert ids["one-class-value"].evidence["field"] == "mode"
    labels = {found.images.table.label_names[row] for row in ids["shortcut"].rows}
    assert labels == {"a", "b"}


def test_elsewhere_leaves_out_copies_and_unknown_classes(findings: Findings) -> None:
    external = findings.external
    assert external is not None
    assert external.evaluation.n == 12
    assert tuple(external.evaluation.support.index) == findings.results.table.classes
    assert sorted(external.left_out.to_dict().values()) == [1, 1]
    elsewhere = verdict(findings).compared.loc["elsewhere: ward9"]
    assert elsewhere["accuracy"] == external.evaluation.estimate("accuracy")


def test_elsewhere_is_judged_by_group_and_errors_by_answer(
    tiny: ClipEncoder, image_folder: Callable[..., Path]
) -> None:
    here = image_folder(n=8, name="here")
    away = image_folder(n=6, name="away", seed=1)
    (away / "hexagon").mkdir()
    shutil.copy(here / "disc" / "disc0.png", away / "hexagon" / "known.png")
    shutil.copy(away / "disc" / "disc0.png", away / "disc" / "again.png")
    internal = encode_dataset(load_dataset(here), tiny)
    external = encode_dataset(load_dataset(away), tiny)
    home = internal.table
    probe = LinearProbe(Cs=(0.1,)).fit(home.features, home.labels)
    said = pd.DataFrame({"class": "disc", "abstained": np.arange(19) >= 10})
    aid = Mock(training=home, encoder=tiny, **{"decide.return_value": said})
    found = evaluate_external(internal, external, probe, aid)
    # A copy of a class that is not here is counted once, for its class.
    assert found.left_out.to_dict() == {"are of a class that is not here": 1}
    assert (found.evaluation.n, found.evaluation.n_groups) == (19, 18)
    assert found.answered.value == pytest.approx(10 / 19)
    assert found.wrong.value == pytest.approx(3 / 10)  # the first seven are discs
    shutil.copy(here / "disc" / "disc0.png", away / "disc" / "known.png")
    external = encode_dataset(load_dataset(away), tiny, copies="off")
    said = pd.DataFrame({"class": "disc", "abstained": np.zeros(20, bool)})
    aid = Mock(training=home, encoder=tiny, **{"decide.return_value": said})
    found = evaluate_external(internal, external, probe, aid, copies="off")
    assert (found.evaluation.n, found.evaluation.n_groups) == (20, 20)


def test_a_folder_without_shared_classes_is_refused_first(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o" / "cat").mkdir(parents=True)
    shutil.copy(home / "ward7" / "disc" / "disc0.png", tmp_path / "o" / "cat")
    monkeypatch.setattr(module, "ClipEncoder", None)  # would raise
    with pytest.raises(ValueError, match="has the classes cat, and none of disc"):
        measure(home / "ward7", elsewhere=str(tmp_path / "o"))


def test_columns_elsewhere_are_called_as_here(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pd.DataFrame({"file": ["a.png", "b.png"], "kind": ["disc", "square"]})
    rows.to_csv(tmp_path / "other.csv", index=False)
    table = rows.assign(split="train")
    monkeypatch.setattr(
        module, "ClipEncoder", Mock(side_effect=OSError("past the door"))
    )
    for elsewhere in (tmp_path / "other.csv", str(home / "ward9")):
        with pytest.raises(OSError, match="past the door"):
            measure(table, label_column="kind", split="train", elsewhere=elsewhere)


def test_another_folder_that_is_not_there_is_refused_first(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ClipEncoder", None)  # would raise
    with pytest.raises(FileNotFoundError, match="gone' is no folder"):
        measure(home / "ward7", elsewhere=str(tmp_path / "gone"))


def test_erasing_is_measured_on_the_same_images(findings: Findings, home: Path) -> None:
    erased = findings.erased
    assert erased is not None
    counts = erased.accuracy["images"].to_dict()
    # The boxes of squares lie in the middle: there is no other side.
    assert counts == {AS_IS: 24, WITHOUT: 24, CONTROL: 12}
    ids = findings.images.table.ids.tolist()
    boxes = read_boxes(str(home / "boxes.csv"), ids)
    rows = [name in boxes for name in ids]
    right = findings.results.predicted == findings.results.table.labels
    whole = erased.accuracy.at[AS_IS, "accuracy"].value
    assert whole == pytest.approx(right[rows].mean())
    for row, after in zip(
        erased.examples, of_erased(findings, erased)[1::2], strict=True
    ):
        before = load_image(findings.images.files[row])
        assert np.asarray(before).shape == np.asarray(after.image).shape
        assert (np.asarray(before) != np.asarray(after.image)).any()


def test_an_erased_image_is_drawn_with_the_seed_of_the_report(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = set()

    def noting(image: Image.Image, box: Box, *, seed: int) -> Image.Image:
        seeds.add(seed)
        return image

    monkeypatch.setattr("cliplib.reports.pictures.erase", noting)
    results = replace(findings.results, seed=7)
    assert findings.erased is not None
    of_erased(replace(findings, results=results), findings.erased)
    assert seeds == {7}


def fitted_by_fold(table: FeatureTable) -> list[Fit]:
    """Return a probe, fitted in each of two folds."""
    folds = table_folds(table, n_splits=2)
    return list(fit_folds(LinearProbe(Cs=(1.0,)), table, folds))


def test_what_cannot_be_erased_is_named_and_a_filling_has_the_seed(
    image_folder: Callable[..., Path],
    tiny: ClipEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = image_folder(n=4)
    table = encode(folder, tiny)
    files = [folder / name for name in table.ids]
    given = (fitted_by_fold(table), table, tiny, files)
    boxes = {table.ids[0]: Box(0.5, 0.5, 1, 1)}
    with pytest.raises(ValueError, match=r"0\.png: Next to nothing"):
        evaluate_erased(*given, boxes)
    seeds = []

    def noting(image: Image.Image, box: Box, *, seed: int) -> Image.Image:
        seeds.append(seed)
        return Image.new("RGB", image.size)

    monkeypatch.setattr("cliplib.inspection.erase.erase", noting)
    before = table.features.copy()
    evaluate_erased(*given, boxes, seed=7)
    assert seeds == [7]
    np.testing.assert_array_equal(table.features, before)


def test_erased_images_are_encoded_in_batches_each_in_its_row(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def thumbnails(images: list[Image.Image]) -> np.ndarray:
        sizes.append(len(images))
        small = [image.convert("L").resize((8, 8)) for image in images]
        return np.stack([np.asarray(image, np.float32).ravel() for image in small])

    encoder = FunctionEncoder(thumbnails, "thumbnails")
    folder = image_folder(n=4)
    table = encode(folder, encoder)
    boxes = dict.fromkeys(table.ids, Box(0.5, 0.5, 0.2, 0.2))
    # Where nothing is erased, answers are the same only if each row is in its place.
    monkeypatch.setattr("cliplib.inspection.erase.erase", lambda image, *_, **__: image)
    monkeypatch.setattr("cliplib.inspection.erase.BATCH_SIZE", 5)
    sizes.clear()
    files = [folder / name for name in table.ids]
    fits = fitted_by_fold(table)
    accuracy = evaluate_erased(fits, table, encoder, files, boxes).accuracy
    assert sizes == [5, 5, 2]
    assert accuracy.loc[WITHOUT].equals(accuracy.loc[AS_IS])
    # All objects lie in the middle: there is no other side.
    assert accuracy.index.tolist() == [AS_IS, WITHOUT]


def test_a_file_name_that_two_images_have_is_no_name_for_a_box(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("file,x_center,y_center,width,height\na.png,.5,.5,.1,.1\n")
    assert [*read_boxes(str(path), ["d/a.png", "e/b.png"])] == ["d/a.png"]
    with pytest.raises(ValueError, match=r"names 'a\.png', which is no image here"):
        read_boxes(str(path), ["d/a.png", "e/a.png"])


def test_a_file_without_a_box_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("file,x_center,y_center,width,height\n")
    with pytest.raises(ValueError, match=r"boxes\.csv' has no box"):
        read_boxes(str(path), ["d/a.png"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("d/nowhere.png,.5,.5,.1,.1", "nowhere.png', which is no image here"),
        ("d/a.png,5,.5,.1,.1", "a.png': .*shares of the image's sides"),
        ("d/a.png,.5,.5,.1,.1\na.png,.5,.5,.2,.2", "names 'd/a.png' twice"),
        ("d/a.png,x,.5,.1,.1", "a.png': could not convert"),
    ],
)
def test_a_bad_box_is_named(row: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(f"file,x_center,y_center,width,height\n{row}\n")
    with pytest.raises(ValueError, match=said):
        read_boxes(str(path), ["d/a.png"])


def test_other_encoders_are_read_by_the_same_probe(
    findings: Findings, home: Path
) -> None:
    (name,) = findings.results.other_encoders
    assert name == str(home / "tiny-dino")
    results = findings.results
    other = results.evaluations[name].estimate("accuracy")
    gain = results.evaluation.estimate("accuracy").value - other.value
    assert results.gain_over(name).value == pytest.approx(gain)
    assert name not in results.probe_names  # of which the best is chosen


def test_a_class_that_cannot_be_read_is_named_with_a_reason(
    image_folder: Callable[..., Path], checkpoint: Path
) -> None:
    folder = image_folder(n=6)
    (folder / "phone").mkdir()
    for name in "abcd":
        photo = folder / "phone" / f"{name}.heic"
        photo.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(ValueError, match=r"'phone' can be read\. .*phone/a\.heic"):
        measure(folder, model=str(checkpoint))


def test_too_few_images_are_refused_by_the_name_of_what_was_given(
    home: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPLIB_CACHE", str(home / "cache"))
    monkeypatch.setattr(module, "probe_shortcuts", no_shortcuts)
    ward = home / "ward7"
    model = str(checkpoint)
    one = tmp_path / "away" / "disc"
    one.mkdir(parents=True)
    shutil.copy(home / "ward9" / "disc" / "disc0.png", one)
    with pytest.raises(ValueError, match=r"away, 1 image can be judged: two at least"):
        measure(ward, model=model, elsewhere=str(one.parent))
    few = tmp_path / "few"
    shutil.copytree(ward, few)
    for path in sorted((few / "disc").glob("disc*"))[3:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"Class 'disc' has images of 3 groups"):
        measure(few, model=model)


def test_anonymous_findings_name_no_file(
    home: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPLIB_CACHE", str(home / "cache"))
    model = tmp_path / "Miller" / "Anna-clip"
    shutil.copytree(checkpoint, model)
    files = pd.DataFrame({"file": load_dataset(home / "ward7")["id"][:]})
    files["group"] = files["file"].str.extract(r"([a-z]+\d+|copy|tiny|broken)\.")
    files.to_csv(tmp_path / "patients.csv", index=False)
    found = measure(
        home / "ward7",
        model=model,
        groups=tmp_path / "patients.csv",
        others=[str(home / "tiny-dino")],
        elsewhere=str(home / "ward9"),
        anonymous=True,
    )
    assert found.command == (
        "cliplib report FOLDER --out OUT --anonymous "
        "--model MODEL --groups GROUPS --others OTHERS --elsewhere ELSEWHERE"
    )
    (other,) = found.results.other_encoders
    assert re.fullmatch("model [0-9a-f]{8}", other)
    write_report(found, verdict(found), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    about = (tmp_path / "out" / "report.json").read_text("utf-8")
    assert "image 1" in page
    shown = re.sub(r"data:[^\"]+", "", page) + about
    secrets = (
        r"patients|disc/disc|disc0|\.png|ward7|ward9|hexagon|tiny-dino|Miller|Anna|/tmp"
    )
    assert not re.search(secrets, shown)
    for path in (tmp_path / "out" / "aid").rglob("*"):
        if path.is_file():
            assert not re.search(rb"disc0|Miller|Anna", path.read_bytes())
            assert str(home).encode() not in path.read_bytes()
    assert provenance(found)["groups"] == "declared"
    answers = answers_table(found)
    assert answers["file"].iloc[0] == "disc/disc0.png" and answers["image"].iloc[0] == 1


def test_what_declares_groups_is_told_or_not_if_anonymous(findings: Findings) -> None:
    assert provenance(findings)["groups"].startswith("([a-z]+")
    assert provenance(anonymised(findings, []))["groups"] == "declared"
    of_source = replace(findings, groups="")  # in a column of it
    assert provenance(of_source)["groups"] == "declared"
    alone = replace(findings.grouping, declared=0)
    copies = replace(of_source, grouping=alone)
    assert provenance(anonymised(copies, []))["groups"] == "near-duplicates only"


def test_groups_that_names_suggest_are_numbered_if_anonymous() -> None:
    ids = [f"ward/{name}_{k}.png" for name in ("Adams", "Miller") for k in (1, 2)]
    ids += [f"lab/{name}_{k}.png" for name in ("Jones", "Smith") for k in (1, 2)]
    dataset: Any = {"id": ids, "group": [""] * len(ids)}
    table = SimpleNamespace(ids=np.array(ids))
    images: Any = SimpleNamespace(table=table, dataset=dataset)
    found = grouping_of(images)
    assert found.series["ward/Adams_1.png"] == "ward/Adams"
    name_of = {image_id: f"image {i}" for i, image_id in enumerate(ids, start=1)}
    hidden = anonymised_grouping(found, name_of)
    assert [*hidden.series] == ["image 5", "image 6", "image 7", "image 8", "image 1"]
    assert [*hidden.series.values()] == ["1", "1", "2", "2", "3"]


def test_an_anonymous_model_is_called_by_its_fingerprint_but_the_embedded_one() -> None:
    names = []
    for name in ("/home/Anna", "Miller/clip", "mini"):
        encoder = Mock(fingerprint="0123456789")
        encoder.name = name
        names.append(model_name(encoder))
    assert names == ["model 01234567", "model 01234567", "mini"]


def test_anonymous_models_of_equal_weights_keep_a_row_each(findings: Findings) -> None:
    names = ("Anna/dino", "Miller/dino")
    encoders = [Mock(fingerprint="0123456789") for _ in names]
    for encoder, name in zip(encoders, names, strict=True):
        encoder.name = name
    results = findings.results
    both = replace(
        results,
        proba_by_method={**results.proba_by_method, **dict.fromkeys(names, 0)},
        evaluations={**results.evaluations, **dict.fromkeys(names, 0)},
    )
    named_twice = [*encoders, encoders[0]]
    hidden = anonymised(replace(findings, results=both), named_twice).results
    assert hidden.other_encoders[-2:] == ["model 01234567", "model 01234567 (2)"]
    assert [*hidden.evaluations] == [*hidden.proba_by_method]


def test_anonymous_findings_name_no_repository_of_a_hub(
    findings: Findings, tmp_path: Path
) -> None:
    training = findings.aid.training
    provenance_of_hub = {**training.provenance, "encoder": "Anna-Mia/own"}
    of_hub = replace(training, provenance=provenance_of_hub)
    options = {
        **findings.options,
        "folder": "hf://datasets/Anna-Mia/own",
        "model": "Anna-Mia/own",
    }
    assert findings.external is not None
    named = replace(
        findings,
        options=options,
        title="Anna-Mia/own",
        encoder=copy(findings.encoder),
        aid=replace(findings.aid, training=of_hub),
        external=replace(findings.external, name="Anna-Mia/elsewhere"),
    )
    named.encoder.name = "Anna-Mia/own"
    config = named.aid.encoder.model.config
    for part in (config, config.text_config, config.vision_config):
        part.name_or_path = "Anna-Mia/own"
    hidden = anonymised(named, [])
    write_report(hidden, verdict(hidden), tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".csv":
            assert b"Anna-Mia" not in path.read_bytes(), path


# --- What is written


def test_the_page_loads_nothing_and_tells_the_verdict_first(written: Path) -> None:
    page = (written / "report.html").read_text("utf-8")
    soup = BeautifulSoup(page, "html.parser")
    assert soup.h1 is not None and soup.main is not None
    assert soup.h1.text == HOSTILE and not soup(["b", "script", "iframe"])
    sources = [str(image["src"]) for image in soup("img")]
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import", page)
    assert all(image["alt"] for image in soup("img"))
    text = soup.main.get_text(" ")
    about = json.loads((written / "report.json").read_text("utf-8"))
    first = about["warnings"][0]["message"]
    told = (HOSTILE, f"{about['verdict']['word']}.", first)
    told += (about["verdict"]["sentence"], "Two images of each")
    places = [text.index(words) for words in told]
    assert places == sorted(places)  # warnings before praise
    targets = {tag["id"] for tag in soup.find_all(id=True)}
    assert {str(link["href"])[1:] for link in soup("a")} <= targets
    assert "disc/disc0.png" in text  # under its picture


def test_what_is_asked_for_has_its_section(
    findings: Findings, content: dict[str, Any]
) -> None:
    titles = {section["title"] for section in content["sections"]}
    assert {"Elsewhere", "Without the object", "How it was made"} <= titles
    without = replace(findings, external=None, erased=None)
    plain = document(without, verdict(without))
    shown = {section["title"] for section in plain["sections"]}
    assert not {"Elsewhere", "Without the object"} & shown
    assert plain["title"] == "ward7" and len(plain["table"]["rows"]) == 4


def test_a_split_of_the_folders_own_has_its_section(findings: Findings) -> None:
    right = {"own split": Estimate(0.9, 0.8, 1.0), "by group": Estimate(0.7, 0.6, 0.8)}
    images = {"own split": 9, "by group": 38}
    by_protocol = pd.DataFrame({"images": images, "right": right})
    shared = pd.DataFrame({"file": ["disc/disc0.png"]})
    leaky = replace(findings, published_split=PublishedSplit(by_protocol, shared))
    told = document(leaky, verdict(leaky))
    (section,) = (s for s in told["sections"] if s["title"] == "The folder's own split")
    shown, files = section["blocks"]
    assert shown["columns"] == ["protocol", "images", "right"]
    assert shown["rows"][0] == ["own split", "9", "90% (80 to 100)"]
    assert files["rows"] == [["disc/disc0.png"]]


def test_the_pdf_says_the_same(written: Path) -> None:
    pages = pypdf.PdfReader(written / "report.pdf").pages
    text = " ".join(" ".join(page.extract_text() for page in pages).split())
    assert "Litter & <b>more</b>" in text and "#emph[x] *y* $z$" in text
    assert text.index("with all classes counting") < text.index("Two images of each")
    assert "@software{cliplib" in text
    assert 3 <= len(pages) <= 9


def test_programs_read_the_verdict_as_the_schema_says(
    written: Path, findings: Findings
) -> None:
    about = json.loads((written / "report.json").read_text("utf-8"))
    assert about == json.loads(json.dumps(report_json(findings, verdict(findings))))
    assert about["verdict"]["n"] == 38 and about["verdict"]["groups"] == 37
    conflict = next(w for w in about["warnings"] if w["id"] == "label-conflicts")
    assert set(conflict["files"]) == {"disc/disc0.png", "square/copy.png"}
    schema = Path(module.__file__).parents[1] / "reports" / "report.schema.json"
    described = json.loads(schema.read_text("utf-8"))
    jsonschema.validate(about, described)
    warning = described["properties"]["warnings"]["items"]["properties"]
    assert warning["id"]["enum"] == [*KINDS]
    assert warning["severity"]["enum"] == [*SEVERITIES]
    assert described["properties"]["verdict"]["properties"]["word"]["enum"] == [*WORDS]


def test_copies_of_two_labels_are_shown_first(findings: Findings) -> None:
    pairs = pd.DataFrame(
        {"index_a": [0, 2], "index_b": [1, 3], "same_label": [True, False]}
    )
    found = replace(findings, audit=replace(findings.audit, pairs=pairs))
    names = findings.names
    shown = [picture.name for picture in of_copies(found)]
    assert shown == [names[row] for row in (2, 3, 0, 1)]


def test_versions_are_told_without_what_a_build_adds(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliplib.reports.report_data.version", lambda _: "2.9.0+cpu")
    assert provenance(findings)["torch"] == "2.9.0"


def test_texts_of_cells() -> None:
    frame = pd.DataFrame({"a": [1234, 5], "b": [0.12345, np.nan], "c": ["x\ny", ""]})
    shown = table_of("", frame)
    assert shown["rows"] == [["1,234", "0.123", "x y"], ["5", "", ""]]
    assert shown["numeric"] == [True, True, False]


def test_numbers_below_0_and_dashes_are_numeric() -> None:
    unknown = Estimate(*[float("nan")] * 3)
    cells = {
        "a": [Estimate(-0.1, -0.2, 0), unknown],
        "b": [-0.5, 1.0],
        "c": ["–", "– none"],
    }
    assert table_of("", pd.DataFrame(cells))["numeric"] == [True, True, False]


def test_a_number_below_a_millionth_keeps_its_digits(findings: Findings) -> None:
    small = {"p": 1.234567891e-12, "zero": 0.0, "third": 1 / 3, "minus": -2e-7}
    warning = warning_of("unreadable-files", {"files": 1, **small})
    judged = replace(verdict(findings), warnings=[warning])
    evidence = report_json(findings, judged)["warnings"][0]["evidence"]
    told = {"p": 1.23457e-12, "zero": 0.0, "third": 0.333333, "minus": -2e-7}
    assert evidence == {"files": 1, **told}


@pytest.mark.parametrize("rows", [2, 60])
def test_a_long_table_goes_over_the_page_and_a_short_one_stays(
    rows: int, content: dict[str, Any], tmp_path: Path
) -> None:
    names = ["a/very/long_file_name_" * 3 + str(row) for row in range(rows)]
    table = table_of("Files.", pd.DataFrame({"file": names, "n": 1}), most=rows)
    told = content | {"sections": [{"title": "Files", "blocks": [table]}]}
    (tmp_path / "a.pdf").write_bytes(as_pdf(told))
    assert len(pypdf.PdfReader(tmp_path / "a.pdf").pages) == (1 if rows == 2 else 2)
    assert "a/very/long_file_name_" in as_html(told)


# --- The command


def test_files_that_no_report_wrote_are_not_replaced(
    written: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    check_no_other_files(out)
    out.mkdir()
    for name in ("answers.csv", SPLITS):
        (out / name).write_text("mine")
        with pytest.raises(FileExistsError, match=f"{name}, but no whole report"):
            check_no_other_files(out)
        (out / name).rename(out.with_name(name))
    out.with_name(SPLITS).rename(out / SPLITS)
    arguments = ["report", str(image_folder(n=2)), "--out", str(out)]
    assert cli.main(arguments) == 1  # before any work
    assert {path.name for path in written.iterdir()} == {*WRITTEN, "aid"}
    check_no_other_files(written)  # which is a report
    shutil.copytree(written, tmp_path / "whole")
    (tmp_path / "whole" / SPLITS).write_text("file,fold\n")
    with pytest.raises(FileExistsError, match="is of no report"):
        check_no_other_files(tmp_path / "whole")


@pytest.mark.parametrize("fails", ["write_csv", "aid"])
def test_a_full_disk_leaves_the_old_report(
    findings: Findings,
    content: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    monkeypatch.setattr("cliplib.reports.document.as_pdf", lambda _: b"%PDF")
    monkeypatch.setattr(
        "cliplib.reports.document.document",
        lambda found, _: content | {"title": found.title},
    )
    old = replace(findings, title="The old one")
    write_report(old, verdict(old), tmp_path / "old")

    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    if fails == "aid":
        monkeypatch.setattr("cliplib.aids.decision_aid.save_probe", full)
    else:
        monkeypatch.setattr(report_module, "write_csv", full)
    for out in (tmp_path / "old", tmp_path / "new"):
        before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        with pytest.raises(OSError, match="Nothing was written to .*No space.*unchan"):
            write_report(findings, verdict(findings), out)
        after = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        assert after == before
        check_no_other_files(out)


def test_a_split_of_an_older_report_is_replaced_or_goes(
    findings: Findings,
    content: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("cliplib.reports.document.as_pdf", lambda _: b"%PDF")
    monkeypatch.setattr("cliplib.reports.document.document", lambda *_: content)
    judged = verdict(findings)
    with_split = replace(
        findings, published_split=PublishedSplit(pd.DataFrame(), pd.DataFrame())
    )
    for found in (findings, with_split, with_split, findings):
        write_report(found, judged, tmp_path)
        monkeypatch.setattr("cliplib.report", lambda *_, **__: judged)
        assert cli.main(["report", "photos", "--out", str(tmp_path)]) == 0
        has_split = found is with_split
        assert (tmp_path / SPLITS).exists() == has_split
        assert (f"copies.csv, {tmp_path / SPLITS}," in capsys.readouterr().out) == (
            has_split
        )


def test_a_name_of_250_letters_stays_on_the_paper(
    content: dict[str, Any], tmp_path: Path
) -> None:
    reason = "empty, or in no known format"
    frame = pd.DataFrame({"file": [f"disc/{'d' * 250}.png"], "reason": reason})
    sections = [{"title": "Images", "blocks": [table_of("", frame)]}]
    told = content | {"sections": sections}
    (tmp_path / "a.pdf").write_bytes(as_pdf(told))
    pages = pypdf.PdfReader(tmp_path / "a.pdf").pages
    lines = [line for page in pages for line in page.extract_text().splitlines()]
    of_name = [line for line in lines if "dddd" in line]
    assert sum(line.count("d") for line in of_name) >= 250
    assert max(map(len, of_name)) < 100


def test_without_the_extra_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: (name != "typst" and there(name)) or None,
    )
    with pytest.raises(ImportError, match=r"needs typst: pip install 'cliplib\[rep"):
        check_extra()


@pytest.mark.parametrize("command", ["train", "report"])
def test_what_cannot_work_is_refused_before_any_work(
    command: str,
    image_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "measure", None)  # would raise
    folder = image_folder(n=2)
    (tmp_path / "file").write_text("")
    other = tmp_path / "other"
    (other / "aid").mkdir(parents=True)
    (other / "aid" / "thesis.txt").write_text("mine")
    busy = other / "aid" if command == "train" else other
    for out, said in (
        (folder / "out", "whose folders are classes"),
        (tmp_path / "file", "file"),
        (busy, "something else"),
    ):
        assert cli.main([command, str(folder), "--out", str(out)]) == 1
        assert said in capsys.readouterr().err


def test_boxes_without_what_erases_are_refused_before_any_work(
    image_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cliplib.inspection.erase.find_spec", lambda _: None)
    monkeypatch.setattr(module, "encode_dataset", None)  # would raise
    folder = str(image_folder(n=4))
    command = ["train", folder, "--out", str(tmp_path / "aid"), "--boxes", "boxes.csv"]
    assert cli.main(command) == 1
    assert "Erasing needs scikit-image: pip install" in capsys.readouterr().err


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none_is_refused_before_any_work(
    seed: int, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_dataset", None)  # would raise
    with pytest.raises(ValueError, match=f"seed={seed} must be from 0"):
        measure(image_folder(n=2), seed=seed)


def test_the_reasons_why_files_are_unreadable_name_no_path(
    image_folder: Callable[..., Path], checkpoint: Path
) -> None:
    folder = image_folder(n=4)
    for name in ("gone.png", "O'Brien.png"):
        (folder / "disc" / name).symlink_to(folder / "nowhere.png")
    encoder = ClipEncoder(checkpoint, cache=None)
    images = encode_dataset(load_dataset(folder), encoder, errors={})
    reasons = images.unreadable.values()  # which page and PDF count
    assert [*reasons] == ["No such file or directory."] * 2


def test_the_command_is_made_of_the_options(findings: Findings, home: Path) -> None:
    parsed = vars(cli.build_parser().parse_args(shlex.split(findings.command)[1:]))
    assert parsed.pop("run") is cli.report
    assert parsed.pop("source") == str(home / "ward7") and parsed.pop("out") == "OUT"
    asked = {name: value for name, value in findings.options.items() if value}
    assert parsed == {
        name: asked[name] for name in asked if name not in ("folder", "out")
    }
    options = {"folder": "my scans", "out": "o", "others": ["a/b", "c"], "copies": 0.9}
    assert command_of(options) == (
        "cliplib report 'my scans' --out o --others a/b c --copies 0.9"
    )
    options = {"folder": "-a", "title": "-x", "groups": r"-?(\w+)_"}
    options["others"] = ["b", "-c/d"]
    words = shlex.split(command_of(options))[1:]
    parsed = vars(cli.build_parser().parse_args([*words, "--out", "o"]))
    assert (parsed["source"], parsed["others"]) == ("./-a", ["b", "./-c/d"])
    assert (parsed["title"], parsed["groups"]) == ("-x", r"-?(\w+)_")


def test_an_anonymous_command_has_words_in_place_of_names() -> None:
    options = {
        "folder": "hf://datasets/Miller/own",
        "out": "/home/Miller",
        "title": "Ours",
        "anonymous": True,
        "model": "Miller/clip",
        "groups": r"(\d+)_",
        "copies": 0.9,
        "others": ["Anna", "Miller/dino"],
        "elsewhere": "hf://datasets/Miller/scans",
        "boxes": "",
        "seed": 3,
        "label_column": "Miller",
        "split": "Miller",
        "revision": "Miller",
    }
    assert command_of(anonymised_options(options)) == (
        "cliplib report FOLDER --out OUT --title Ours --anonymous --model MODEL "
        "--groups GROUPS --copies 0.9 --others OTHERS --elsewhere ELSEWHERE --seed 3 "
        "--label-column LABEL_COLUMN --split SPLIT --revision REVISION"
    )
