"""Evidence on somebody's own images, and the page, PDF and tables made of it."""

from __future__ import annotations

import csv
import errno
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pypdf
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import draw, read_by_few_trees
from PIL import Image
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from cliplib import __main__ as cli
from cliplib.data.datasets import load_dataset
from cliplib.data.wording import percent
from cliplib.encoders.clip import ClipEncoder
from cliplib.evaluation.metrics import evaluate
from cliplib.features.extract import load_features
from cliplib.probes.linear import LinearProbe
from cliplib.reports import measure as module
from cliplib.reports.document import (
    Document,
    Picture,
    Pictures,
    Section,
    Table,
    document,
    method_paragraph,
    privacy,
    table_of,
)
from cliplib.reports.elsewhere import images_elsewhere, judge_elsewhere
from cliplib.reports.erasing import CONTROL, WHOLE, WITHOUT, read_boxes
from cliplib.reports.evidence import POOLED, Evidence, Request
from cliplib.reports.measure import PER_IMAGE_STEPS, STEPS, encode_folder, measure
from cliplib.reports.report import (
    Layout,
    as_html,
    as_pdf,
    check_no_other_files,
    lay_out,
    locked,
    write_report,
)
from cliplib.reports.text import as_text
from cliplib.reports.verdict import BRIGHTNESS, LARGEST, TRACES, Step

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
def evidence(home: Path, checkpoint: Path) -> Evidence:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPLIB_CACHE", str(home / "cache"))
        read_by_few_trees(patch)
        return measure(
            home / "ward7",
            model=str(checkpoint),
            groups=r"([a-z]+\d+|copy|tiny|broken)\.[a-z]+",
            others=[str(home / "tiny-dino")],
            elsewhere=str(home / "ward9"),
            boxes=str(home / "boxes.csv"),
            command="cliplib report ward7 --out mine",
        )


# --- What is measured


def test_every_step_of_the_bar_is_a_part_of_the_evidence(evidence: Evidence) -> None:
    computed_and_kept = set(vars(evidence))
    assert set(PER_IMAGE_STEPS + STEPS) <= computed_and_kept


def test_each_image_has_its_answer_by_a_probe_that_its_group_was_kept_from(
    evidence: Evidence,
) -> None:
    answers = evidence.answers
    assert len(answers) == 39
    bad = answers[answers["file"] == "disc/broken.png"].iloc[0]
    assert bad["error"] == "empty, or in no known format." and bad["answer"] == ""
    copy = answers.set_index("file").loc["square/copy.png"]
    assert copy["copy_of"] == "disc/disc0.png" and copy["label"] == "square"
    assert copy["group"] == answers.set_index("file").loc["disc/disc0.png", "group"]
    read = answers[answers["error"] == ""]
    assert set(read["answer"]) <= {"disc", "square", "stripes"}
    right = (read["answer"] == read["label"]).mean()
    assert right == evidence.evaluations[evidence.best].accuracy
    assert (read["suspect"] != "").sum() == len(evidence.suspects)
    assert read["format"].unique().tolist() == ["PNG"]


def test_the_best_probe_is_compared_with_the_linear_one_on_the_same_readout(
    evidence: Evidence,
) -> None:
    shares = {name: evidence.evaluations[name].accuracy for name in evidence.probes}
    assert shares[evidence.best] == max(shares.values())
    for best in evidence.probes:
        told = {"predicted": evidence.predicted, "best": best}
        other = replace(evidence)
        vars(other).update(vars(evidence) | told)
        for name in ("gains", "verdict", "predicted_by_image"):
            vars(other).pop(name, None)
        vars(other)["predicted_by_image"] = None
        text = " ".join(step.text for step in other.verdict.steps)
        if best == POOLED:
            assert f"Use the {POOLED}: no other" in text
        else:
            assert POOLED not in text.split("Consider")[0].split("Stay")[0]


def test_copies_that_join_declared_groups_are_named(evidence: Evidence) -> None:
    (row,) = evidence.merged.to_dict("records")
    assert {row["group_a"], row["group_b"]} == {"copy", "disc0"}
    assert {row["image_a"], row["image_b"]} == {"disc/disc0.png", "square/copy.png"}
    steps = " ".join(step.text for step in evidence.verdict.steps)
    assert "1 pair of groups that you declared apart holds copies" in steps
    shown = as_text(document(evidence), "")
    assert re.search(r"(copy and disc0|disc0 and copy) .*disc/disc0\.png", shown)


def test_traces_of_the_file_stand_apart_from_brightness(evidence: Evidence) -> None:
    alone = evidence.traces.alone
    assert alone.loc["brightness", "of"] == "picture"
    assert alone.loc["texture", "of"] == "file"
    assert evidence.traces.strongest in alone.index[alone["of"] == "file"]
    assert {TRACES, BRIGHTNESS, LARGEST} <= set(evidence.gains)
    kinds = evidence.traces.kinds
    assert kinds["images"].sum() == 38
    assert kinds.iloc[0]["size"] == "48 × 48"
    assert kinds.iloc[1]["example"] == "square/tiny.png"
    assert evidence.tiny == ["square/tiny.png"]


def test_the_strongest_trace_is_the_one_that_gives_the_class_away(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_by_few_trees(monkeypatch)
    rng = np.random.default_rng(0)
    for kind, mode in (("a", "RGB"), ("b", "L")):
        (tmp_path / "f" / kind).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
            image = Image.fromarray(pixels).convert(mode)
            image.save(tmp_path / "f" / kind / f"{kind}{number}.bmp")
    found = encode_folder(Request(str(tmp_path / "f"), model=str(checkpoint)))
    assert found.traces.alone.loc["colour mode", "value"] == 1
    assert found.traces.by_class["format and mode"].to_dict() == {
        "a": "BMP RGB",
        "b": "BMP L",
    }


def test_the_curve_ends_at_the_accuracy_that_stands_elsewhere(
    evidence: Evidence,
) -> None:
    last = evidence.curve.points.iloc[-1]
    assert last["share"] == 1
    assert last["value"] == evidence.accuracies[evidence.best].value


def test_elsewhere_leaves_out_copies_and_unknown_classes(evidence: Evidence) -> None:
    away = evidence.elsewhere
    assert away is not None
    assert len(away.table) == 12 and away.table.classes == evidence.table.classes
    assert away.left_out.to_dict() == {
        "are of classes that are not here (1)": 1,
        "are copies of images here": 1,
    }
    said = evidence.fitted.predict(away.table.features)
    assert away.evaluation.accuracy == (said == away.table.labels).mean()
    assert "Of 12 images from elsewhere, ward9" in str(evidence.verdict).replace(
        "\n", " "
    )


def test_elsewhere_is_judged_by_group_and_errors_by_answer(
    tiny: ClipEncoder, image_folder: Callable[..., Path]
) -> None:
    here = image_folder(n=8, name="here")
    away = image_folder(n=6, name="away", seed=1)
    (away / "hexagon").mkdir()
    shutil.copy(here / "disc" / "disc0.png", away / "hexagon" / "known.png")
    shutil.copy(away / "disc" / "disc0.png", away / "disc" / "again.png")
    home = load_features(here, tiny)
    dataset = load_dataset(str(here))
    assert dataset is not None
    there = images_elsewhere(str(away), home, list(dataset["image"]), tiny)
    # A copy of a class that is not here is counted once, for its class.
    assert there.left_out.to_dict() == {"are of classes that are not here (1)": 1}
    probe = LinearProbe(Cs=(0.1,)).fit(home.features, home.labels)
    said = pd.DataFrame({"class": "disc", "abstained": np.arange(19) >= 10})
    aid = Mock(training=home, **{"decide.return_value": said})
    found = judge_elsewhere(there, probe, aid)
    assert (found.evaluation.n, found.evaluation.n_groups) == (19, 18)
    assert found.answered.value == pytest.approx(10 / 19)
    assert found.wrong.value == pytest.approx(3 / 10)  # the first seven are discs


def test_a_folder_without_shared_classes_is_refused_first(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o" / "cat").mkdir(parents=True)
    shutil.copy(home / "ward7" / "disc" / "disc0.png", tmp_path / "o" / "cat")
    monkeypatch.setattr(module, "ClipEncoder", None)  # would raise
    with pytest.raises(ValueError, match="holds the classes cat, and none of disc"):
        measure(home / "ward7", elsewhere=str(tmp_path / "o"))


def test_erasing_is_measured_on_the_same_images(evidence: Evidence) -> None:
    erased = evidence.erased
    assert erased is not None
    counts = erased.accuracy["images"].to_dict()
    # The boxes of squares lie in the middle: there is no other side.
    assert counts == {WHOLE: 24, WITHOUT: 24, CONTROL: 12}
    whole, without = erased.accuracy.loc[[WHOLE, WITHOUT], "value"]
    assert erased.loss.value == pytest.approx(whole - without)
    rows = [name in evidence.boxes for name in evidence.table.ids]
    right = evidence.predicted[evidence.best] == evidence.table.labels
    assert whole == pytest.approx(right[rows].mean())
    for _, before, after in erased.examples:
        assert np.asarray(before).shape == np.asarray(after).shape
        assert (np.asarray(before) != np.asarray(after)).any()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("d/nowhere.png,.5,.5,.1,.1", "nowhere.png', which is no image here"),
        ("d/a.png,5,.5,.1,.1", "a.png': .*shares of the image's sides"),
        ("d/a.png,x,.5,.1,.1", "a.png': could not convert"),
    ],
)
def test_a_bad_box_is_named(row: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(f"file,x_center,y_center,width,height\n{row}\n")
    with pytest.raises(ValueError, match=said):
        read_boxes(str(path), ["d/a.png"])


def test_other_encoders_are_read_by_the_same_probe(evidence: Evidence) -> None:
    assert [*evidence.other_predictions] == ["tiny-dino"]
    text = " ".join(step.text for step in evidence.verdict.steps)
    assert "by the same probe, a linear one on pooled features" in text


def test_groups_that_cannot_be_kept_apart_are_counted_as_they_were_declared(
    evidence: Evidence,
) -> None:
    table = evidence.table
    by_image = replace(
        table, copies=np.arange(len(table)), groups=np.arange(len(table))
    )
    torn = replace(evidence, evaluation_table=by_image, groups_kept_apart=False)
    vars(torn).update({**vars(evidence), **vars(torn)})  # nothing is measured again
    assert torn.measured.n_groups == len(set(table.groups)) < len(table)


def test_other_encoders_that_end_alike_are_refused(home: Path, tmp_path: Path) -> None:
    again = tmp_path / "tiny-dino"
    shutil.copytree(home / "tiny-dino", again)
    names = [str(home / "tiny-dino"), str(again)]
    with pytest.raises(ValueError, match="names that end differently"):
        module.load_other_encoders(names)


def test_a_class_that_cannot_be_read_is_named_with_the_reason(
    image_folder: Callable[..., Path], checkpoint: Path
) -> None:
    folder = image_folder(n=6)
    (folder / "phone").mkdir()
    for name in "abcd":
        photo = folder / "phone" / f"{name}.heic"
        photo.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(ValueError, match=r"class 'phone' can be read; phone/a\.heic: "):
        measure(folder, model=str(checkpoint))


def test_too_few_images_or_groups_are_refused_by_the_name_of_what_was_given(
    home: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward = home / "ward7"
    ids = [f"{path.parent.name}/{path.name}" for path in ward.glob("*/*.png")]
    rows = ["file,group", *(f"{image_id},all" for image_id in ids)]
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    box = f"file,x_center,y_center,width,height\n{ids[0]},.5,.5,.1,.1\n"
    (tmp_path / "boxes.csv").write_text(box)
    model = str(checkpoint)
    with pytest.raises(ValueError, match=r"groups.csv' puts all images into one group"):
        measure(ward, model=model, groups=str(tmp_path / "groups.csv"))
    with pytest.raises(ValueError, match=r"boxes.csv' has boxes of 1 image of one gr"):
        measure(ward, model=model, boxes=str(tmp_path / "boxes.csv"))
    one = tmp_path / "away" / "disc"
    one.mkdir(parents=True)
    shutil.copy(home / "ward9" / "disc" / "disc0.png", one)
    with pytest.raises(ValueError, match=r"away, 1 image can be judged: two at least"):
        measure(ward, model=model, elsewhere=str(one.parent))
    few = tmp_path / "few"
    shutil.copytree(ward, few)
    for path in sorted((few / "disc").iterdir())[3:]:
        path.unlink()
    monkeypatch.setattr(module, "ClipEncoder", None)  # would raise
    with pytest.raises(ValueError, match=r"Class 'disc' of .*few has 3 images: it"):
        measure(few)


def test_anonymous_evidence_names_no_file(
    evidence: Evidence, home: Path, tmp_path: Path
) -> None:
    command = "cliplib report FOLDER --out OUT --anonymous"
    request = replace(evidence.request, anonymous=True, command=command)
    hidden = replace(evidence, request=request)
    parts = ("predicted", "probabilities", "fitted", "curve", "traces", "audit")
    for name in (*parts, "erased", "file_traces", "images_elsewhere"):
        vars(hidden)[name] = getattr(evidence, name)
    vars(hidden)["predicted_by_image"], vars(hidden)["other_predictions"] = None, {}
    laid = lay_out(document(hidden, "Untitled"), hidden)
    page = as_html(laid)
    assert "image 1" in page and "disc/disc" not in page
    assert not re.search(r"\.png|ward7|ward9|/tmp", re.sub(r"data:[^\"]+", "", page))
    hidden.aid.save(tmp_path / "aid")
    for path in (tmp_path / "aid").rglob("*"):
        if path.is_file():
            assert b"disc0" not in path.read_bytes()
            assert str(home).encode() not in path.read_bytes()
    assert hidden.answers["file"].iloc[0] == "disc/disc0.png"
    assert hidden.answers["image"].iloc[0] == 1


def test_anonymous_evidence_names_no_place_of_a_model_and_no_class_from_elsewhere(
    home: Path, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "Miller" / "Anna-clip"
    shutil.copytree(checkpoint, model)
    other = tmp_path / "Miller" / "Anna-dino"
    shutil.copytree(home / "tiny-dino", other)
    found = encode_folder(
        Request(
            str(home / "ward7"),
            model=str(model),
            others=[str(other)],
            elsewhere=str(home / "ward9"),
            anonymous=True,
        )
    )
    away = found.images_elsewhere
    assert away is not None
    told = [found.encoder_name, *found.other_encoders, *found.made["value"]]
    told += [str(found.aid.training.provenance), *away.left_out.index]
    assert not re.search(r"Miller|Anna|hexagon|ward", " ".join(told))
    assert found.encoder_name == f"model {found.encoder.fingerprint[:8]}"
    assert "no such class here: hexagon." in caplog.text  # for the user's eyes alone
    found.aid.save(tmp_path / "aid")
    for path in (tmp_path / "aid").rglob("*"):
        if path.is_file():
            assert not re.search(rb"Miller|Anna|disc0", path.read_bytes())


# --- What is printed


@pytest.fixture(scope="module")
def laid(evidence: Evidence) -> Layout:
    return lay_out(document(evidence, HOSTILE), evidence)


def test_the_page_loads_nothing_and_tells_the_verdict_first(laid: Layout) -> None:
    page = as_html(laid)
    soup = BeautifulSoup(page, "html.parser")
    assert soup.h1.text == HOSTILE and not soup(["b", "script", "iframe"])
    sources = [image["src"] for image in soup("img")]
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import", page)
    assert all(image["alt"] for image in soup("img"))
    text = soup.main.get_text(" ")
    places = [
        text.index(words)
        for words in (HOSTILE, "What to do next", "Contents", "Two images of each")
    ]
    assert places == sorted(places)
    targets = {tag["id"] for tag in soup.find_all(id=True)}
    assert {link["href"][1:] for link in soup("a")} <= targets
    assert "disc/disc0.png" in text  # under its picture


def test_a_command_is_not_broken(evidence: Evidence, laid: Layout) -> None:
    command = f"{evidence.command} {'--long ' * 40}".strip()
    steps = [Step("Do this:", command)._asdict()]
    content = {**laid.content, "steps": steps}
    page = BeautifulSoup(as_html(replace(laid, content=content)), "html.parser")
    assert command in [code.text for code in page("pre")]


def test_the_pdf_says_the_same(laid: Layout, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(as_pdf(laid))
    pages = pypdf.PdfReader(tmp_path / "a.pdf").pages
    text = " ".join(" ".join(page.extract_text() for page in pages).split())
    assert "Litter & <b>more</b>" in text and "#emph[x] *y* $z$" in text
    places = [text.index(section["title"]) for section in laid.content["sections"][:3]]
    assert places == sorted(places)
    assert text.index("What to do next") < places[0]
    assert 3 <= len(pages) <= 9


def test_the_whole_report_is_one_json(laid: Layout) -> None:
    again = json.loads(json.dumps(laid.content))
    assert again == laid.content
    kinds = {b["kind"] for part in again["sections"] for b in part["blocks"]}
    assert kinds == {"text", "code", "table", "plot", "pictures"}
    for part in again["sections"]:
        for block in part["blocks"]:
            if block["kind"] == "table":
                widths = {len(row) for row in block["rows"]}
                assert widths <= {len(block["columns"])}, block["caption"]
                assert "nan" not in str(block["rows"])


def test_what_is_asked_for_has_its_section(evidence: Evidence, laid: Layout) -> None:
    titles = [section["title"] for section in laid.content["sections"]]
    assert {"Elsewhere", "Without the object", "How it was made"} <= set(titles)
    plain = replace(evidence)
    vars(plain).update(vars(evidence) | {"elsewhere": None, "erased": None})
    shown = {section.title for section in document(plain).sections}
    assert not {"Elsewhere", "Without the object"} & shown
    assert document(plain).title == "ward7"


def test_the_method_can_be_cited(evidence: Evidence, laid: Layout) -> None:
    text = json.dumps(laid.content)
    for words in (
        "stratified 5-fold cross-validation over groups",
        "@software{cliplib",
        evidence.encoder.fingerprint,
        "Python",
        "What is private",
    ):
        assert words in text


def test_the_method_says_why_there_is_no_kernel_probe(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "left out" not in method_paragraph(evidence)
    monkeypatch.delitem(evidence.probes, "kernel probe")
    assert "The kernel probe was left out: from 10,000" in method_paragraph(evidence)


def test_a_terminal_shows_tables_and_the_verdict_last(evidence: Evidence) -> None:
    text = as_text(document(evidence), str(evidence.verdict))
    assert "always the largest class" in text and "disc/broken.png" in text
    assert text.endswith(str(evidence.verdict))


def test_texts_of_cells() -> None:
    frame = pd.DataFrame({"a": [1234, 5], "b": [0.12345, np.nan], "c": ["x\ny", ""]})
    assert table_of("", frame).rows == [["1,234", "0.123", "x y"], ["5", "", ""]]


@pytest.mark.parametrize("rows", [2, 60])
def test_a_long_table_goes_over_the_page_and_a_short_one_stays(
    rows: int, evidence: Evidence, tmp_path: Path
) -> None:
    cells = [["a/very/long_file_name_" * 3 + str(row), "1"] for row in range(rows)]
    part = Section("Files", [Table("Files.", ["file", "n"], cells), Pictures("", [])])
    laid = lay_out(Document("T", "", "", "", [], [part]), evidence)
    assert laid.content["sections"][0]["blocks"][0]["on_one_page"] == (rows == 2)
    (tmp_path / "a.pdf").write_bytes(as_pdf(laid))
    assert len(pypdf.PdfReader(tmp_path / "a.pdf").pages) == (1 if rows == 2 else 2)


def with_parts(evidence: Evidence, **parts: object) -> Evidence:
    """Return the same evidence with other parts; nothing is measured again."""
    other = replace(evidence)
    vars(other).update(vars(evidence) | parts)
    return other


def texts_of(document: Document, title: str) -> str:
    """Return all of one section as a text."""
    parts = [part for part in document.sections if part.title == title]
    return " ".join(as_text(replace(document, sections=parts), "").split())


def test_only_a_report_speaks_of_the_files_that_it_writes(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliplib.reports.document.MOST_ROWS", 0)  # every table is cut
    doubted = pd.DataFrame({"row": [0], "given": [0], "likely": [1]})
    full = with_parts(evidence, suspects=doubted)
    files = re.compile(r"answers\.csv|copies\.csv|\bPDF\b|\bPage\b")
    printed = as_text(document(full), "")
    assert not files.search(printed) and "the first 0 of" in printed
    assert "Labels in doubt: 1." in printed
    told = as_text(document(full, in_report=True), "")
    assert len(files.findall(told)) >= 8
    assert "Labels in doubt: 1; answers.csv marks each." in told
    captions = [
        block.caption
        for in_report in (False, True)
        for section in document(full, in_report=in_report).sections
        for block in section.blocks
        if isinstance(block, Pictures) and "Pairs of copies" in block.caption
    ]
    assert [bool(files.search(caption)) for caption in captions] == [False, True]


def test_numbers_of_images_are_explained_where_a_table_has_them(
    evidence: Evidence,
) -> None:
    hidden = replace(evidence, request=replace(evidence.request, anonymous=True))
    assert privacy(hidden, in_report=True).endswith(
        "number that answers.csv gives them."
    )
    assert privacy(hidden).endswith("numbers, and no file says which is which.")
    for text in (privacy(hidden), privacy(evidence)):
        assert not re.search(r"csv|PDF|[Pp]age", text)


def test_elsewhere_and_here_all_counts_the_same_classes(evidence: Evidence) -> None:
    away = evidence.elsewhere
    assert away is not None
    rows = np.flatnonzero(away.table.labels != 1)  # no squares there
    labels = away.table.labels[rows]
    fewer = replace(
        away,
        table=away.table.select(rows),
        evaluation=evaluate(labels, labels, away.table.classes),
    )
    told = document(with_parts(evidence, elsewhere=fewer))
    (section,) = [part for part in told.sections if part.title == "Elsewhere"]
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    here = evidence.table.labels != 1
    right = evidence.predicted[evidence.best] == evidence.table.labels
    assert right[here].mean() != right.mean()
    assert table.rows[-1][:2] == ["all", "8"] and table.rows[1][3] == "–"
    assert table.rows[-1][2].startswith(f"{100 * right[here].mean():.0f}% (")
    accuracy = evidence.accuracy(evidence.predicted[evidence.best])
    whole = texts_of(document(evidence), "Elsewhere")
    assert f"all 12 {percent(accuracy)}" in whole


def test_one_image_and_many_are_told_grammatically(evidence: Evidence) -> None:
    for tiny in (["a.png"], ["a.png", "b.png"]):
        told = document(with_parts(evidence, tiny=tiny))
        assert f"can be seen: {len(tiny)}." in texts_of(told, "The images")
    away = evidence.elsewhere
    assert away is not None
    one = replace(away, table=away.table.select(np.array([0])))
    told = document(with_parts(evidence, elsewhere=one))
    words = texts_of(told, "Elsewhere")
    assert "judges 1 image of another one. Left out are those that are of a" in words
    assert "(hexagon): 1; that are copies of images here: 1." in words


def test_the_aid_says_on_what_its_numbers_were_counted(evidence: Evidence) -> None:
    words = texts_of(document(evidence), "When to trust it")
    n_held_out = len(evidence.table) - len(evidence.aid.training)
    assert f"rule was chosen on {n_held_out} images held out" in words
    assert "counted on these same images, and are therefore optimistic" in words


def test_the_help_names_the_tables_that_keep_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "a report's answers.csv and copies.csv keep them" in words


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")
@pytest.mark.parametrize("width", [390, 700, 1280])
def test_pairs_stay_in_a_row_and_the_widest_table_on_the_page(
    width: int, evidence: Evidence, tmp_path: Path
) -> None:
    cells = ["cardboard", "2,527", "JPEG RGB (84%, 2 kinds)"]
    cells += [
        "1024 × 768 (72%, 3 kinds)",
        "11.5 (72%, 5 kinds)",
        "0.132 (0.119 to 0.2)",
    ]
    columns = ["class", "images", "format and mode", "size", "JPEG's quantisation"]
    table = Table("Files.", [*columns, "bytes a pixel"], [cells] * 3)
    pictures = Pictures("Pairs.", [Picture(Image.new("RGB", (9, 9)))] * 12)
    part = Section("Files", [table, pictures])
    page = as_html(lay_out(Document("T", "", "", "", [], [part]), evidence))
    # The page loads and runs nothing, so that another one has to look into it.
    (tmp_path / "page.html").write_text(page, "utf-8")
    (tmp_path / "frame.html").write_text(
        f"<iframe src=page.html width={width} height=900></iframe><script>"
        "onload = () => { const page = frames[0].document;"
        "const box = page.querySelector('.scroll');"
        "const tops = [...page.querySelectorAll('.picture')].map(p => p.offsetTop);"
        "document.body.id = `too-wide-${box.scrollWidth - box.clientWidth}"
        "-tops-${tops.join('-')}-end` }</script>"
    )
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --dump-dom"
    command = [str(CHROMIUM), *flags.split(), "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}"]
    command += [(tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    ((too_wide, found),) = re.findall(r"too-wide-(\d+)-tops-([\d-]+)-end", done.stdout)
    tops = found.split("-")
    assert tops[::2] == tops[1::2] and len(set(tops)) > 1
    if width == 1280:  # in narrower windows the table may move in its box
        assert int(too_wide) == 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")
def test_a_table_of_many_columns_is_printed_whole(
    evidence: Evidence, tmp_path: Path
) -> None:
    words = ["first", *["1024 × 768 (72%, 3 kinds)"] * 5, "last"]
    part = Section("Files", [Table("Files.", words, [words])])
    page = as_html(lay_out(Document("T", "", "", "", [], [part]), evidence))
    (tmp_path / "page.html").write_text(page, "utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--print-to-pdf={tmp_path / 'page.pdf'}"]
    command += [(tmp_path / "page.html").as_uri()]
    subprocess.run(command, capture_output=True, timeout=90, check=True)
    (printed,) = pypdf.PdfReader(tmp_path / "page.pdf").pages
    assert printed.extract_text().count("last") == 2


# --- The command


def test_two_runs_to_one_folder_are_told_apart(tmp_path: Path) -> None:
    busy = pytest.raises(OSError, match="Another run is writing to")
    with locked(tmp_path / "out"), busy, locked(tmp_path / "out"):
        pass
    with locked(tmp_path / "out"):
        pass


def test_files_that_no_report_wrote_are_not_replaced(
    evidence: Evidence, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    check_no_other_files(out)
    out.mkdir()
    (out / "answers.csv").write_text("mine")
    with pytest.raises(
        FileExistsError, match="out holds answers.csv, not written by a"
    ):
        check_no_other_files(out)
    arguments = ["report", str(image_folder(n=2)), "--out", str(out)]
    assert cli.main(arguments) == 1  # before any work
    written = write_report(evidence, str(out))
    assert all(path.is_file() for path in written) and written[2] == out / "answers.csv"
    assert "answers.csv and copies.csv hold" in written[0].read_text("utf-8")
    check_no_other_files(out)  # now it is a report


def test_a_run_that_opened_the_lock_before_its_release_excludes_others(
    tmp_path: Path,
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows deletes no open file")
    with locked(tmp_path):
        late = (tmp_path / ".lock").open()  # by a run that has yet to take the lock
    with late:
        fcntl.flock(late, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(OSError, match="Another run"), locked(tmp_path):
            pass


def test_a_lock_is_released_where_an_open_file_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:  # as Windows does
        raise PermissionError(errno.EACCES, "Another process uses it", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(2):
        with locked(tmp_path):
            pass


def test_without_the_extra_one_sentence_says_so(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: (name != "typst" and there(name)) or None,
    )
    with pytest.raises(ImportError, match=r"package typst.*pip install 'cliplib\[rep"):
        write_report(evidence, tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
        (tmp_path / "file", "is a file"),
        (busy, "something else"),
    ):
        assert cli.main([command, str(folder), "--out", str(out)]) == 1
        assert said in capsys.readouterr().err
    for name in ("disc", "square"):
        shutil.rmtree(folder / name)
    assert cli.main([command, str(folder), "--out", str(tmp_path / "new")]) == 1
    assert "there is only 'stripes'" in capsys.readouterr().err


def test_an_anonymous_command_names_no_place(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.touch()
    options = {"groups": str(table), "anonymous": True, "seed": 0}
    models = {"model": str(tmp_path), "others": ["a b", str(tmp_path)]}
    command = cli.command_line("report", "ward 7", "mine", **options, **models)
    assert command == (
        "cliplib report FOLDER --out OUT --groups GROUPS.csv --anonymous "
        "--model MODEL --others 'a b' MODEL"
    )
    told = cli.command_line("report", "ward 7", "mine", groups=r"(a+)_\d", seed=3)
    assert shlex.split(told)[2:] == [
        *("ward 7", "--out", "mine", "--groups", r"(a+)_\d", "--seed", "3")
    ]


def test_the_reasons_why_files_are_unreadable_name_no_path(
    image_folder: Callable[..., Path], checkpoint: Path
) -> None:
    folder = image_folder(n=4)
    for name in ("gone.png", "O'Brien.png"):
        (folder / "disc" / name).symlink_to(folder / "nowhere.png")
    request = Request(str(folder), model=str(checkpoint), anonymous=True)
    reasons = encode_folder(request).unreadable.values()  # which page and PDF count
    assert [*reasons] == ["No such file or directory."] * 2
