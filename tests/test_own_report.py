"""Evidence on somebody's own images, and the page, PDF and tables made of it."""

from __future__ import annotations

import csv
import errno
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from cliplib.app import measure as module
from cliplib.app.erasing import CONTROL, WHOLE, WITHOUT, read_boxes
from cliplib.app.evidence import POOLED, Evidence, Request
from cliplib.app.measure import PER_IMAGE_STEPS, STEPS, encode_folder, measure
from cliplib.app.verdict import BRIGHTNESS, LARGEST, TRACES, Step
from cliplib.press.document import (
    Document,
    Pictures,
    Section,
    Table,
    document,
    method_paragraph,
    table_of,
)
from cliplib.press.report import (
    Layout,
    as_html,
    as_pdf,
    check_no_other_files,
    lay_out,
    locked,
    write_report,
)
from cliplib.press.text import as_text

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


def test_elsewhere_leaves_out_copies_and_unknown_classes(evidence: Evidence) -> None:
    away = evidence.elsewhere
    assert away is not None
    assert len(away.table) == 12 and away.table.classes == evidence.table.classes
    assert away.left_out.to_dict() == {
        "are of a class that is not here": 1,
        "are copies of images here": 1,
    }
    said = evidence.fitted.predict(away.table.features)
    assert away.evaluation.accuracy == (said == away.table.labels).mean()
    assert "Of 12 images from elsewhere, ward9" in str(evidence.verdict).replace(
        "\n", " "
    )


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
    (folder / "phone" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(ValueError, match=r"class 'phone' can be read; phone/a\.heic: "):
        measure(folder, model=str(checkpoint))


def test_anonymous_evidence_names_no_file(
    evidence: Evidence, home: Path, tmp_path: Path
) -> None:
    command = "cliplib report FOLDER --out OUT --anonymous"
    request = replace(evidence.request, anonymous=True, command=command)
    hidden = replace(evidence, request=request)
    parts = ("predicted", "probabilities", "fitted", "curve", "traces", "audit")
    for name in (*parts, "erased", "file_traces", "elsewhere_table"):
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
    write_report(evidence, out)
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
