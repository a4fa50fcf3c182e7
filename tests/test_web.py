"""A tiny report and two notebooks become a site: whole, quiet, readable, and sufficient to itself."""

from __future__ import annotations

import base64
import importlib.util
import io
import itertools
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "report"), str(ROOT / "tests")]

import build  # noqa: E402  # isort: skip  (there may be a folder of this name)
from web import Page, markdown_to_html  # noqa: E402

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="40"><rect width="90" height="40" fill="#0b3c5d"/></svg>'
)
REPORT = """#import "theme/report.typ": *
#show: report.with(toml("meta.toml") + (title: "A tiny report", subtitle: "On the screen", short_title: "Tiny"))
#let r = numbers("tiny_numbers")
#heading(numbering: none)[Executive summary]
It reaches #ci(r.accuracy), of nothing #ci(r.nothing),
see @fig:tiny_figure, @tab:tiny_table and CLIP @radford2021clip.#footnote[A note.]
= Results
== Tables and figures
#fig("tiny_figure")
#tab("tiny_table", names: (n: [images]))
=== A formula
#math.equation(block: true, alt: "the loss", $ cal(L) = -1/N sum_i log p_i $)
== Summary
#references
#show: appendix
= Python code
#notebook-links
#for name in notebook-names { notebooks(include "/build/appendix/" + name + ".typ") }
"""
FIRST = r"""# The first notebook

The second is [next](02_second.ipynb), CLIP is [published](https://arxiv.org/abs/2103.00020), and [this](#nowhere) and
[that](javascript:alert(1)) lead nowhere. ![remote](https://example.org/a.png) Each $x_i$ has

$$\operatorname{sim}(z, t) = \frac{z^\top t}{\lVert z \rVert}$$

<b onclick="alert(1)">Markup</b> is shown: <script>alert(1)</script>
"""
SECOND = """# The second notebook

Back to [the first](01_first.ipynb).

## Part

## Part

| a | b |
|---|--:|
| x | 1 |
"""
ACTIVE = """<div onclick="steal()" style="background: url(https://example.org/b.png)">A rich output
<script src="https://example.org/a.js">alert(1)</script><iframe src="https://example.org"></iframe>
<link rel="stylesheet" href="https://example.org/a.css">
<img src="https://example.org/c.png" alt="from afar" onerror="x()"><img src="data:image/png;base64,%s" onload="x()">
<video poster="https://example.org/d.png"></video></div>"""


def png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (20, 90, 160)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def notebooks() -> dict[str, nbformat.NotebookNode]:
    """Two notebooks as they are after an execution."""
    v4, frame = nbformat.v4, pd.DataFrame({"name": ["a", "b"], "accuracy": ["0.5", "1e-3"], "n": [10, 2]})
    words = {"alt": "A blue rectangle.", "caption": "A picture. Drawn by hand."}
    outputs = [
        v4.new_output("stream", name="stdout", text="printed <i>text</i> & more\n"),
        v4.new_output("display_data", {"image/png": png(), "text/plain": "a"}, metadata=words),
        v4.new_output("display_data", {"image/svg+xml": SVG, "text/plain": "b"}),
        v4.new_output("display_data", {"text/html": frame.to_html(), "text/plain": "c"}, metadata={"caption": "Rows."}),
        v4.new_output(
            "display_data", {"text/html": ACTIVE % png(), "text/plain": "<IPython.core.display.HTML object>"}
        ),
        v4.new_output("stream", name="stderr", text="a warning of the library\n"),
    ]
    parameters = v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]}, execution_count=1)
    work = v4.new_code_cell("show('<script>')  # everything", outputs=outputs, execution_count=2)
    first = v4.new_notebook(cells=[v4.new_markdown_cell(FIRST), parameters, v4.new_markdown_cell("## Part"), work])
    return {"01_first": first, "02_second": v4.new_notebook(cells=[v4.new_markdown_cell(SECOND)])}


def make_project(root: Path) -> Path:
    """A report with the theme of the real one, its results, and two executed notebooks."""
    shutil.copytree(ROOT / "report", root / "report", ignore=shutil.ignore_patterns("*.pdf", "*.py", "__pycache__"))
    (root / "report" / "report.typ").write_text(REPORT)
    figures, executed, stored = root / "figures", root / "build" / "executed", root / "notebooks"
    for folder in (figures, executed, stored):
        folder.mkdir(parents=True)
    (figures / "tiny_figure.svg").write_text(SVG)
    (figures / "tiny_table.csv").write_text("method,accuracy,accuracy_low,accuracy_high,n\nprobe,0.9,0.8,0.95,1200\n")
    numbers = {"accuracy": {"value": 0.9123, "low": 0.9, "high": 0.92}, "nothing": {"value": None}}
    (figures / "tiny_numbers.json").write_text(json.dumps(numbers))
    entries = {
        "tiny_figure": {"kind": "figure", "caption": "A figure. Of nothing.", "alt": "A dark rectangle.", "width": 90},
        "tiny_table": {"kind": "table", "caption": "A table. Of one row."},
        "tiny_numbers": {"kind": "numbers", "caption": "Numbers."},
    }
    (figures / "manifest.json").write_text(json.dumps(entries))
    for name, notebook in notebooks().items():
        nbformat.write(notebook, executed / f"{name}.ipynb")
        nbformat.write(notebook, stored / f"{name}.ipynb")
    return root


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = make_project(tmp_path_factory.mktemp("tiny"))
    build.main(["--no-exec", "--web"], root)
    yield root / "build" / "web"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    return {path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.glob("*.html")}


def test_there_is_a_page_for_the_report_and_one_for_each_notebook(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    assert set(pages) == {"index.html", "01_first.html", "02_second.html"}
    assert (site / "report.pdf").read_bytes().startswith(b"%PDF")
    text = " ".join(pages["index.html"].main.get_text(" ").split())
    for words in (
        "91.2 % [90.0, 92.0]",
        "of nothing undefined",
        "Figure 1. A figure.",
        "Table 1. A table.",
        "1,200",
        "Learning Transferable",
        "(1)",
    ):
        assert words in text.replace("\u00a0", " "), words
    numbered = [h.get_text(" ").split() for h in pages["index.html"].main.find_all("h2")]
    assert ["1", "Results"] in numbered and ["Executive", "summary"] in numbered


def test_every_picture_is_a_file_of_the_site_and_has_words(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    used = set()
    for name, page in pages.items():
        for image in page.find_all("img"):
            assert (site / image["src"]).is_file(), (name, image)
            assert image["alt"].strip(), (name, image)
            used.add(image["src"])
    assert used == {f"images/{path.name}" for path in (site / "images").iterdir()}  # and none is there in vain
    alts = [image["alt"] for image in pages["01_first.html"].find_all("img")]
    assert alts == ["A blue rectangle.", *["Figure drawn by the cell above."] * 2]
    assert [image["alt"] for image in pages["index.html"].find_all("img")] == ["A dark rectangle."]
    assert "A picture. Drawn by hand." in pages["01_first.html"].figcaption.get_text()


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        for tag in page.find_all(True):
            for attribute, value in tag.attrs.items():
                value = " ".join(value) if isinstance(value, list) else value
                assert not attribute.startswith("on"), (name, tag)
                if (tag.name, attribute) != ("a", "href") and not attribute.startswith("xmlns"):
                    assert not re.search(r"https?:|//\w|javascript:", value), (name, tag)
            assert tag.name not in ("script", "iframe", "object", "embed", "video", "audio", "style", "form"), (
                name,
                tag,
            )
        assert {link["href"] for link in page.find_all("link")} == {"data:,", "web.css"}
        assert not page.find("a", href=re.compile("javascript"))
    style = (site / "web.css").read_text(encoding="utf-8")
    assert "http" not in style and "@import" not in style
    for address in re.findall(r'url\("([^"]+)"\)', style):
        assert (site / address).is_file(), address
    assert "from afar" in pages["01_first.html"].main.get_text()  # what a picture from the web says stays


def test_every_page_has_a_title_and_its_headings_in_order(pages: dict[str, BeautifulSoup]) -> None:
    titles = [page.title.get_text() for page in pages.values()]
    assert len(set(titles)) == len(titles) and all(titles)
    for name, page in pages.items():
        assert page.html["lang"].startswith("en"), name
        levels = [int(tag.name[1]) for tag in page.find_all(re.compile(r"^h[1-6]$"))]
        assert levels[0] == 1 and levels.count(1) == 1, (name, levels)
        assert all(below <= above + 1 for above, below in itertools.pairwise(levels)), (name, levels)
        assert page.main and page.nav


def test_every_link_leads_somewhere(pages: dict[str, BeautifulSoup], site: Path) -> None:
    ids = {name: [tag["id"] for tag in page.find_all(id=True)] for name, page in pages.items()}
    for name, page in pages.items():
        assert len(set(ids[name])) == len(ids[name]), name
        for link in page.find_all("a"):
            if re.match("https?://", link.get("href", "")):
                continue
            assert link.get("href"), (name, link)
            address, _, anchor = link["href"].partition("#")
            assert (site / (address or name)).is_file(), (name, link)
            assert not anchor or anchor in ids[address or name], (name, link)
    links = [link["href"] for link in pages["01_first.html"].main.find_all("a", href=True)]
    assert "02_second.html" in links and "https://arxiv.org/abs/2103.00020" in links
    assert "01_first.html" in [link["href"] for link in pages["index.html"].main.find_all("a", href=True)]


def test_markup_in_words_and_in_printed_text_is_shown_as_text(pages: dict[str, BeautifulSoup]) -> None:
    text = " ".join(pages["01_first.html"].main.get_text().split())
    for words in ('<b onclick="alert(1)">Markup</b>', "<script>alert(1)</script>", "printed <i>text</i> & more"):
        assert words in text, words
    assert "show('<script>')" in text and "default parameters" in text
    assert "a warning of the library" not in text  # as in the PDF
    assert "A rich output" in text
    formulas = pages["01_first.html"].find_all("math")
    assert [formula["display"] for formula in formulas] == ["inline", "block"]


def test_columns_of_numbers_are_marked_and_wide_tables_scroll(pages: dict[str, BeautifulSoup]) -> None:
    table = pages["01_first.html"].find("table")
    marked = [
        ["numeric" in cell.get("class", []) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")
    ]
    assert {tuple(row[1:]) for row in marked} == {(False, True, True)}
    for page in pages.values():
        assert all("scroll" in found.parent["class"] for found in page.find_all("table"))
        assert all(block["tabindex"] == "0" for block in page.find_all("pre"))


def test_two_builds_give_the_same_site(site: Path, tmp_path: Path) -> None:
    build.main(["--no-exec", "--web"], make_project(tmp_path / "else where"))
    again = tmp_path / "else where" / "build" / "web"
    names = sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file())
    assert [name for name in names if (site / name).read_bytes() != (again / name).read_bytes()] == []


def test_a_heading_and_an_anchor_of_the_same_name_stay_apart() -> None:
    page = Page("x", "x", BeautifulSoup("<h1>T</h1><p id='part'>p</p><h2>Part</h2><h2>Part</h2>", "html.parser"), {})
    ids = [id for _, id, _ in page.sections]
    assert len({*ids, "part"}) == 3


def test_a_numbered_equation_of_several_lines_becomes_mathml() -> None:
    html = markdown_to_html("\\begin{align}a &= 1 \\\\ b &= 2\\end{align}")
    assert (
        html.count("<math") == 1
        and "<mtable" in html
        and "begin" not in BeautifulSoup(html, "html.parser").mtable.get_text()
    )


# ------------------------------------------------------------------------------------------------ in a browser
def test_a_browser_shows_every_page_without_an_error(site: Path) -> None:
    if importlib.util.find_spec("websocket") is None:
        pytest.skip("websocket-client is not installed")
    import browser

    if not browser.PROGRAM:
        pytest.skip("there is no chromium on this machine")
    assert browser.check(site) == []


def test_a_browser_notices_what_is_wrong(tmp_path: Path) -> None:
    if importlib.util.find_spec("websocket") is None:
        pytest.skip("websocket-client is not installed")
    import browser

    if not browser.PROGRAM:
        pytest.skip("there is no chromium on this machine")
    (tmp_path / "index.html").write_text(
        '<main><img src="none.png"><p style="width: 2000px">wide</p><a href="#no">x</a>'
        '<script>throw Error("loud")</script><img alt="x" src="https://example.org/y.png"></main>'
    )
    wrong = "\n".join(browser.check(tmp_path))
    for words in (
        "no picture",
        "no alternative text",
        "wider than",
        "no title",
        "loud",
        "leaves the site",
        "dead link",
    ):
        assert words in wrong, words
