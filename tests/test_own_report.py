"""A report on somebody's own images: what is refused, kept, printed, and made again."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pypdf
import pytest
import torch
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from cliplib import cli
from cliplib.press import report as own
from cliplib.press.report import (
    Exporter,
    Request,
    check_aid,
    check_names,
    checkout,
    fingerprint,
    literal,
    printable,
    with_slices,
    write_report,
)

ROOT = Path(__file__).resolve().parent.parent
SAID = {
    "answer": "Mostly.",
    "reasons": ["A reason."],
    "steps": [["Look at a_b_1.jpg", ""]],
}


def notebook() -> dict[str, Any]:
    """Return an executed notebook with one cell of each kind."""
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    figure = {
        "output_type": "display_data",
        "data": {
            "text/plain": "Dots.",
            "image/svg+xml": picture,
            "text/html": f"<figure><img alt='dots' src='data:image/svg+xml,{picture}'>"
            "<figcaption>Dots.</figcaption></figure>",
        },
        "metadata": {"caption": "Dots.", "alt": "dots"},
    }
    markdown = {"cell_type": "markdown", "metadata": {}, "id": "a"}
    code = {"cell_type": "code", "execution_count": 1, "metadata": {}, "id": "b"}
    hidden = {"tags": ["plumbing"]}
    given = {"tags": ["injected-parameters"]}
    return {
        "cells": [
            {**code, "metadata": given, "source": 'data = "a"', "outputs": []},
            {**markdown, "metadata": hidden, "source": "Which encoder?"},
            {**code, "metadata": hidden, "source": "secret = 1", "outputs": []},
            {**markdown, "source": "## Accuracy\n\nHow good is it?"},
            {**code, "source": "draw(dots)", "outputs": [figure]},
            {**markdown, "source": "Which files are these?"},
            {**code, "source": "nothing_to_show()", "outputs": []},
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


@pytest.fixture
def request_of(
    image_folder: Callable[..., Path], tmp_path: Path
) -> Iterator[Callable[..., Request]]:
    """Make requests for a report, and tidy up in the checkout's build folder."""
    made = []

    def make(**settings: Any) -> Request:
        folder = tmp_path / "images"
        folder = folder if folder.exists() else image_folder(n=12)
        made.append(Request(folder, tmp_path / "report", **settings))
        return made[-1]

    yield make
    for request in made:
        shutil.rmtree(Exporter(ROOT, request).places.project, ignore_errors=True)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Save another vision model, with random weights."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Dinov2Config(**size, image_size=32, patch_size=8)
    square = {"height": 32, "width": 32}
    processor = BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=square)
    folder = tmp_path / "tiny-dino"
    Dinov2Model(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_the_verdict_stands_first_and_no_code_is_printed() -> None:
    before = json.dumps(notebook())
    executed = notebook()
    cells = printable(executed, SAID, "python -m cliplib report a --out b")["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert sources[0].startswith("**Mostly\\.** A reason\\.")
    assert sources[1] == "## Accuracy\n\nHow good is it?"
    assert not any("secret" in text or "draw" in text for text in sources)
    assert "Which encoder?" not in sources
    assert "python -m cliplib report a --out b" in sources[-1]
    assert json.dumps(executed) == before


def test_no_question_is_left_without_its_answer() -> None:
    cells = printable(notebook(), SAID, "")["cells"]
    assert "Which files are these?" not in [cell["source"] for cell in cells]


def test_a_file_name_is_never_markup() -> None:
    assert literal("a_b*<i>\n$x$.jpg") == r"a\_b\*\<i\> \$x\$\.jpg"


def test_an_option_can_be_copied_from_the_page() -> None:
    command = r"cliplib report a --out b --groups '(\w+)_1'"
    text = own.verdict_as_markdown({**SAID, "steps": [["Do this:", command]]})
    assert f"- Do this\\:\n\n  ```bash\n  {command}\n  ```\n" in text


def test_a_page_loads_nothing_and_the_pdf_says_the_same(
    request_of: Callable[..., Request],
) -> None:
    request = request_of(title="Litter & <b>more</b> 猫")
    exporter = Exporter(checkout(), request)
    exporter.places.stage()
    path = exporter.places.work / "report.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(printable(notebook(), SAID, request.command)))
    page = exporter.as_html(path)
    assert "<h1>Litter &amp; &lt;b&gt;more&lt;/b&gt; 猫</h1>" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import", page)
    assert 'name="viewport"' in page
    assert page.index("Mostly.") < page.index("How good is it?")
    pdf = request.folder.parent / "report.pdf"
    pdf.write_bytes(exporter.as_pdf(path))
    text = " ".join(sheet.extract_text() for sheet in pypdf.PdfReader(pdf).pages)
    assert text.index("Mostly.") < text.index("How good is it?")


@pytest.mark.parametrize(("pictures", "slices"), [(0, 0), (1, 1), (3, 2), (12, 3)])
def test_a_grid_of_pictures_falls_into_slices(pictures: int, slices: int) -> None:
    drawn = f'<svg viewBox="0 0 447 300">{"<image/>" * pictures}</svg>'
    source = f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}"
    page = with_slices(f'<figure><img alt="A &amp; b" src="{source}"></figure>')
    assert page.count("<span>") == slices
    assert page.count(source) == 1
    assert ("<img" in page) == (slices == 0)
    assert ("--shape: 149 / 300" in page) == (slices > 0)
    assert "A &amp; b" in page


def test_other_encoders_that_end_alike_are_refused(
    request_of: Callable[..., Request], other: Path
) -> None:
    again = other.parent / "again" / other.name
    shutil.copytree(other, again)
    request = replace(request_of(), others=(str(other), str(again)))
    with pytest.raises(ValueError, match="names that end differently"):
        own.encode_first(request)


def test_what_cannot_work_is_refused_before_any_work(
    request_of: Callable[..., Request], tmp_path: Path
) -> None:
    request = request_of()
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        check_names(Request(tmp_path / "nowhere", tmp_path / "out"))
    with pytest.raises(ValueError, match="whose folders are classes"):
        check_names(Request(request.folder, request.folder / "report"))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        check_names(Request(request.folder, tmp_path / "file"))
    (tmp_path / "other" / "aid").mkdir(parents=True)
    (tmp_path / "other" / "aid" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="something else"):
        check_aid(Request(request.folder, tmp_path / "other"))


def test_one_class_is_refused_before_a_model_is_loaded(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of()
    for name in ("disc", "square"):
        shutil.rmtree(request.folder / name)
    monkeypatch.setattr("cliplib.encode.clip.ClipEncoder", None)
    with pytest.raises(ValueError, match="there is only 'stripes'"):
        own.encode_first(request)


def test_without_the_extras_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: (name != "typst" and there(name)) or None,
    )
    with pytest.raises(ImportError, match="extras notebooks and report.*typst"):
        checkout()


def test_the_same_images_and_settings_are_not_measured_again(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of()
    calls = []
    monkeypatch.setattr(own, "check_aid", lambda request: calls.append("check"))
    monkeypatch.setattr(own, "encode_first", lambda request: calls.append("encode"))
    monkeypatch.setattr(Exporter, "execute", lambda self: calls.append("execute"))

    def write(self: Exporter) -> dict[str, Any]:
        request.out.mkdir(exist_ok=True)
        self.places.work.mkdir(parents=True, exist_ok=True)
        for page in request.pages:
            page.write_text("")
        return SAID

    monkeypatch.setattr(Exporter, "write", write)
    assert write_report(request) == SAID
    assert write_report(request) is None
    assert calls == ["check", "encode", "execute"]
    image = next(request.folder.rglob("*.png"))
    os.utime(image, (0, 0))
    assert write_report(request) == SAID
    request.pages[1].unlink()
    assert write_report(request) == SAID


def test_each_setting_asks_for_a_new_report(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = request_of().folder.parent / "groups.csv"
    groups.write_text("file,group\n")
    states = {
        fingerprint(request_of(**settings), ROOT)
        for settings in (
            {},
            {"title": "a"},
            {"groups": "(a)"},
            {"groups": str(groups)},
            {"model": "b"},
            {"others": ("b",)},
        )
    }
    groups.write_text("file,group\na,b\n")
    states.add(fingerprint(request_of(groups=str(groups)), ROOT))
    monkeypatch.setenv("CLIPLIB_MODEL", "c")
    states.add(fingerprint(request_of(), ROOT))
    assert len(states) == 8


def test_one_command_makes_page_pdf_and_decision_aid(
    request_of: Callable[..., Request],
    checkpoint: Path,
    other: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = request_of(model=str(checkpoint), groups=r"([a-z]+\d+)\.png")
    where = [str(request.folder), "--out", str(request.out)]
    settings = ["--model", request.model, "--groups", request.groups]
    settings += ["--others", str(other)]
    status = cli.main(["report", *where, *settings])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "What to do next:" in printed.out
    assert (request.aid / "decision_aid.json").is_file()
    page = request.pages[0].read_text("utf-8")
    for words in (
        "What to do next",
        "Labels that look wrong",
        "Would more labels pay",
        "Copies",
        "tiny-dino",
    ):
        assert words in page
    assert "tiny-dino" in printed.out
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert str(ROOT) not in page
    assert len(pypdf.PdfReader(request.pages[1]).pages) >= 2
    assert os.environ.get("CLIPLIB_FIGURES", "").endswith("figures")
    assert cli.main(["report", *where, *settings]) == 0
    assert "Nothing has changed" in capsys.readouterr().out
