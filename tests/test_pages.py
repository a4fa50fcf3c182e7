"""The report's pages are set well: it is compiled once, and its pages are measured."""

from __future__ import annotations

import io
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pypdf
import pypdfium2
import pytest
from bs4 import BeautifulSoup
from layout import (
    POINTS_PER_CM,
    Marks,
    colours,
    cut_tables,
    ends_of_parts,
    holes,
    inked_rows,
    labels,
    lines_on_lines,
    overprinted,
    stranded,
    width_of,
)
from numpy.typing import NDArray

from study import figures

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import typeset  # noqa: E402
from places import Places  # noqa: E402

BODY = 22
ALL = 64
"""A page less than the report may have: here, notebooks are set without outputs."""
HOLE = 4.0
"""Centimetres of blank page that are too many."""


class Report(NamedTuple):
    """The report, compiled from committed results, and the ink on its pages."""

    document: typeset.Document
    web: str
    inked: list[NDArray[np.bool_]]

    def page_of(self, title: str) -> int:
        found = [
            m["page"] for m in self.document.layout["headings"] if m["title"] == title
        ]
        assert found, f"no heading {title!r}"
        return int(found[0])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A copy of the project; its notebooks are exported as stored, without outputs."""
    root = tmp_path_factory.mktemp("report")
    unread = shutil.ignore_patterns("*.pdf", "*.safetensors")
    for name in ("report", "figures", "cliplib", "notebooks"):
        shutil.copytree(ROOT / name, root / name, ignore=unread)
    places = Places(root)
    places.stage()
    typeset.export(places, places.notebooks())
    return places


@pytest.fixture(scope="module")
def report(places: Places) -> Report:
    document = typeset.compile_document(places)
    web = typeset.compile_document(places, kind="html").data.decode()
    inked = [inked_rows(page) for page in pypdfium2.PdfDocument(document.data)]
    return Report(document, web, inked)


def squeeze(text: str) -> str:
    return re.sub(r"[\s\u00ad\u200b-]", "", text)


def test_all_claims_hold_for_the_committed_results(report: Report) -> None:
    claims = report.document.claims
    assert [claim["id"] for claim in claims if not claim["held"]] == []
    ids = [claim["id"] for claim in claims]
    conditions = tomllib.loads((ROOT / "report" / "claims.toml").read_text("utf-8"))
    assert len(ids) == len(set(ids)) and set(ids) == set(conditions) - {"names"}


def test_the_report_compiles_where_nothing_could_be_measured(places: Places) -> None:
    changes = ("clip-vit-base-patch32", "images of the hub")
    own = Places(places.root, "own", *changes)
    own.stage()
    shutil.copytree(places.work / "appendix", own.work / "appendix")
    own.keep_notes([f"Notebook {number} is left out." for number in range(5)])
    document = typeset.compile_document(own)
    (first, *_) = pypdf.PdfReader(io.BytesIO(document.data)).pages
    cover = " ".join(first.extract_text().split())
    assert "(model clip-vit-base-patch32), images of the hub." in cover
    assert "Notebook 2 is left out. The page behind the summary names 2 parts" in cover
    rest = [claim["id"] for claim in document.claims if claim["held"]]
    assert not rest


MEASURED = re.compile(r"#(?:pct|gap|fixed|ci|count|points)\(")
"""What prints a measured number in the text."""


def test_no_paragraph_has_more_than_five_measured_numbers() -> None:
    crowded = []
    for path in sorted((ROOT / "report" / "sections").glob("*.typ")):
        paragraphs = re.split(r"\n\s*\n|\n(?=[-+] )", path.read_text("utf-8"))
        prose = [part for part in paragraphs if not part.lstrip().startswith("#let")]
        crowded += [
            f"{path.name}: {part.strip()[:60]}"
            for part in prose
            if len(MEASURED.findall(part)) > 5 and "table(" not in part
        ]
    assert crowded == []


def test_settings_that_the_text_reads_from_the_code_are_found() -> None:
    text = (ROOT / "report" / "sections" / "2_background.typ").read_text("utf-8")
    settings = re.findall(r'#setting\("([\w.]+)", "(.+?)"\)', text)
    assert settings
    for file, pattern in settings:
        code = (ROOT / "cliplib" / "probes" / file).read_text("utf-8")
        assert re.search(pattern.replace("\\\\", "\\"), code), (file, pattern)


def test_the_web_page_has_all_chapters_and_figures(report: Report) -> None:
    text = squeeze(BeautifulSoup(report.web, "html.parser").get_text())
    text = text.replace("’", "'")
    sections = "".join(
        path.read_text() for path in (ROOT / "report" / "sections").glob("*.typ")
    )
    headings = re.findall(r"^=+ ([^<#\[\n]+)", sections, re.MULTILINE)
    assert headings and not [
        heading for heading in headings if squeeze(heading) not in text
    ]
    captions = tomllib.loads((ROOT / "figures" / "captions.toml").read_text("utf-8"))
    printed = set(re.findall(r'#fig\(\s*"(\w+)"', sections))
    starts = {
        id: squeeze(re.split(r"[{\"']", captions[id]["caption"])[0]) for id in printed
    }
    assert printed and not [id for id in printed if starts[id] not in text]


def test_the_web_page_begins_with_its_answer_and_figure_1(report: Report) -> None:
    page = BeautifulSoup(report.web, "html.parser").body
    assert page
    names = [
        "figure" if tag.name == "figure" else " ".join(tag.get("class") or [tag.name])
        for tag in page(["h1", "div", "figure", "details", "h2"])
    ]
    assert names[:4] == ["h1", "answer", "figure", "contents"]


def test_the_report_is_no_longer_than_it_may_be(report: Report) -> None:
    assert len(report.inked) <= ALL
    headings = report.document.layout["headings"]
    references = next(mark for mark in headings if mark["title"] == "References")
    is_alone = references["y"] < 4 * POINTS_PER_CM  # they begin on a page of their own
    body = references["page"] - report.page_of("Summary") + (not is_alone)
    assert body <= BODY


def test_no_page_has_a_hole(report: Report) -> None:
    headings = report.document.layout["headings"]
    spared = ends_of_parts(headings, len(report.inked))
    found = [
        f"page {page}: {size / POINTS_PER_CM:.1f} cm at {at / POINTS_PER_CM:.1f} cm"
        for page, inked in enumerate(report.inked, 1)
        if page not in spared
        for at, size in holes(inked)
        if size > HOLE * POINTS_PER_CM
    ]
    assert not found


def test_no_heading_is_stranded_at_the_foot_of_a_page(report: Report) -> None:
    assert stranded(report.document.layout["headings"], report.inked) == []


def test_no_figure_stands_between_the_parts_of_a_table(report: Report) -> None:
    layout = report.document.layout
    assert cut_tables(layout["tables"], layout["ends"], layout["figures"]) == []


def printed_figures(report: Report) -> Marks:
    found = report.document.layout["figures"]
    assert len(found) > 10
    return found


def drawing(id: str) -> str:
    return (ROOT / "figures" / f"{id}.svg").read_text("utf-8")


def test_no_label_of_a_figure_is_smaller_than_six_points(report: Report) -> None:
    smallest = {}
    for mark in printed_figures(report):
        svg = drawing(mark["id"])
        sizes = [label.size for label in labels(svg)]
        scale = mark["width"] / width_of(svg)
        smallest[mark["id"]] = scale * min(sizes, default=np.inf)
    assert {id: size for id, size in smallest.items() if size < 5.95} == {}


def test_no_label_of_a_figure_lies_on_another(report: Report) -> None:
    found = {
        mark["id"]: overprinted(drawing(mark["id"])) for mark in printed_figures(report)
    }
    assert {id: pairs for id, pairs in found.items() if pairs} == {}


def test_one_colour_has_one_meaning_in_all_figures(report: Report) -> None:
    meanings = [
        *figures.METHOD_COLOURS.values(),
        *figures.KIND_COLOURS,
    ]
    assert len(meanings) == len(set(meanings))
    methods = set(figures.METHOD_COLOURS.values())
    captions = tomllib.loads((ROOT / "figures" / "captions.toml").read_text("utf-8"))
    for mark in printed_figures(report):
        svg = drawing(mark["id"])
        if "data:image/" not in svg and "confusion" not in mark["id"]:
            assert colours(svg) <= set(meanings), mark["id"]
        # Of legend, labels and caption; a label may break between its words.
        words = {*re.findall(r"[\w-]+", svg + captions[mark["id"]]["caption"])}
        named = {name for name in figures.METHOD_COLOURS if {*name.split()} <= words}
        allowed = {figures.METHOD_COLOURS[name] for name in named}
        drawn = colours(svg) & methods
        assert drawn <= allowed, f"{mark['id']}: a method's colour without its name"


def test_notebooks_take_colours_from_one_place() -> None:
    own = re.compile(r"#[0-9a-f]{6}\b|[\"']C\d[\"']|[\"']tab:\w+[\"']")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text("utf-8").replace('\\"', '"')
        assert own.findall(text) == [], path.stem


def test_a_hole_a_stranded_heading_and_a_cut_table_are_found() -> None:
    inked = np.zeros(842, bool)
    inked[80:300] = inked[500:780] = True
    inked[120:300:12] = False  # between lines
    assert [(at, size) for at, size in holes(inked) if size > 100] == [
        (pytest.approx(300, abs=1), 200)
    ]
    heading = {"page": 1, "y": 770.0, "level": 2, "title": "Low"}
    assert stranded([heading], [inked]) == ["Low on page 1"]
    assert stranded([heading | {"y": 100.0}], [inked]) == []
    table, end = {"page": 1, "y": 600.0}, {"page": 2, "y": 300.0}
    between = {"page": 2, "y": 60.0, "id": "plot"}
    assert cut_tables([table], [end], [between]) == ["plot on page 2"]
    assert cut_tables([table], [end], [between | {"y": 400.0}]) == []


def test_labels_are_found_with_size_and_place() -> None:
    figures.use_style()
    figure, ax = figures.plt.subplots()
    ax.set(title="a title", xticks=[], yticks=[])
    ax.text(0.5, 0.5, "one label", fontsize=8)
    ax.text(0.51, 0.5, "another", fontsize=8)
    svg = figures.svg(figure)
    assert {label.text: round(label.size, 1) for label in labels(svg)} == {
        "a title": 9.0,
        "one label": 8.0,
        "another": 8.0,
    }
    assert overprinted(svg) == [("another", "one label")]


def test_no_line_of_page_1_lies_on_another(report: Report) -> None:
    page = pypdfium2.PdfDocument(report.document.data)[report.page_of("Summary") - 1]
    assert lines_on_lines(page) == []


def test_page_1_has_180_words_and_ten_numbers_at_most(report: Report) -> None:
    page = BeautifulSoup(report.web, "html.parser")
    heading = next(tag for tag in page("h2") if tag.get_text() == "Summary")
    following = heading.find_all_next(["p", "h2"])
    end = next(i for i, tag in enumerate(following) if tag.name == "h2")
    text = " ".join(tag.get_text(" ") for tag in following[:end])
    assert len(re.findall(r"[A-Za-z][\w-]*", text)) <= 180
    values = re.sub(r"\b[1-5]\. ", "", text)  # without the numbers of the steps
    assert len(re.findall(r"\d[\d,.]*", values)) <= 10


@pytest.mark.parametrize("number", ["0-patients", "cover"])
def test_numbers_of_the_first_page_are_those_of_the_text(
    report: Report, number: str
) -> None:
    said = {claim["id"]: claim["sentence"] for claim in report.document.claims}
    first = [text for id, text in said.items() if id.startswith(number)]
    rest = " ".join(text for id, text in said.items() if not id.startswith(number))
    shown = re.findall(r"\d+\.\d%", " ".join(first))
    assert shown and not [value for value in shown if value not in rest]
