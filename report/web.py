"""The report and its executed notebooks as a folder of static web pages: no script, nothing loaded from the network.

Typst's HTML export makes the report, nbconvert the notebooks; ``theme/web/`` holds the frame around both.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pypandoc
import typst
from bs4 import BeautifulSoup
from markupsafe import Markup
from nbconvert.filters.highlight import Highlight2HTML
from nbtypst import TypstExporter
from nbtypst.tables import raise_index_names
from nbtypst.text import MATH_ENVIRONMENT, RAW_FILTER
from project import BuildError, Project
from typeset import fonts

EXPECTED = re.compile(r"was ignored during HTML export|html export is under active development")
ACTIVE = "script style iframe frame object embed applet link meta base form audio video source template".split()
NOT_A_WORD = re.compile(r"nan|none|inf|(?<=\d)e(?=[-+]?\d)", re.IGNORECASE)


@dataclass
class Page:
    """One page of the site, and the pictures that it shows by file name."""

    name: str
    label: str
    body: BeautifulSoup
    outputs: Mapping[str, bytes]

    def __post_init__(self) -> None:
        self.pictures: dict[str, bytes] = {}
        refine(self)
        self.title = self.body.h1.get_text(" ", strip=True) if self.body.h1 else self.label
        found = self.body.find_all(["h2", "h3"])
        self.sections = [(tag.name, tag["id"], " ".join(tag.get_text(" ").split())) for tag in found]
        self.html = Markup(self.body)


def build_site(project: Project, notebooks: Sequence[Path], pdf: Path) -> list[str]:
    """Write the site into ``build/web``, from executed notebooks and the PDF of the same build.

    Returns
    -------
    list of str
        Warnings, one line each.

    Raises
    ------
    BuildError
        When the report does not compile.
    """
    meta = tomllib.loads((project.root / "report" / "meta.toml").read_text(encoding="utf-8"))
    body, warnings = report_body(project, [path.stem for path in notebooks])
    pages = [Page("index", "Report", body, {}), *map(notebook_page, notebooks)]
    theme, out = project.root / "report" / "theme" / "web", project.build / "web"
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    shutil.copytree(fonts(project), out / "fonts")
    shutil.copy(pdf, out / "report.pdf")
    shutil.copy(theme / "web.css", out)
    frame = jinja2.Environment(loader=jinja2.FileSystemLoader(theme), autoescape=True).get_template("page.html.j2")
    for page in pages:
        (out / f"{page.name}.html").write_text(frame.render(page=page, pages=pages, meta=meta), encoding="utf-8")
        for name, data in page.pictures.items():
            (out / "images" / name).write_bytes(data)
    return warnings


def report_body(project: Project, notebooks: Sequence[str]) -> tuple[BeautifulSoup, list[str]]:
    """The body of the report, and Typst's warnings, but not those that page breaks and the like are left out."""
    source, inputs = str(project.root / "report" / "report.typ"), {"web": ",".join(notebooks)}
    try:
        html, warnings = typst.Compiler(source, root=str(project.root), ignore_system_fonts=True).compile_with_warnings(
            format="html", timestamp=project.epoch, sys_inputs=inputs
        )
    except typst.TypstError as error:
        raise BuildError(str(getattr(error, "diagnostic", None) or error).strip()) from None
    messages = [str(getattr(warning, "message", warning)) for warning in warnings]
    body = BeautifulSoup(html, "html.parser").body
    return BeautifulSoup(body.decode_contents() if body else "", "html.parser"), [
        message for message in messages if not EXPECTED.search(message)
    ]


class WebExporter(TypstExporter):
    """Executed notebook to the body of a web page, by ``nbtypst/templates/web``."""

    output_mimetype = "text/html"


def notebook_page(path: Path) -> Page:
    """The page of an executed notebook, with the same outputs that the PDF prints."""
    exporter = WebExporter(
        template_name="web", file_extension=".html", template_extension=".html.j2",
        filters={"highlight": Highlight2HTML(pygments_lexer="ipython3"), "markdown": markdown_to_html},
    )  # fmt: skip
    html, made = exporter.from_notebook_node(nbformat.read(path, as_version=4), {"unique_key": path.stem})
    return Page(path.stem, path.stem.replace("_", " "), BeautifulSoup(html, "html.parser"), made.get("outputs", {}))


@cache
def markdown_to_html(text: str) -> str:
    """Convert a Markdown cell, formulas to MathML; HTML in it is shown as text."""
    text = MATH_ENVIRONMENT.sub(r"$$\1$$", text)
    command = [pypandoc.get_pandoc_path(), "--from", "gfm+tex_math_dollars-gfm_auto_identifiers-raw_html"]
    command += ["--to", "html5", "--mathml", "--wrap", "none", "--syntax-highlighting", "none"]
    command += ["--lua-filter", str(RAW_FILTER)]
    return subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=True).stdout


def refine(page: Page) -> None:
    """Make a body fit for the screen, in place: anchors for headings, pictures as files, tables that scroll."""
    body = page.body
    for tag in body(ACTIVE):
        tag.decompose()
    for tag in body(True):  # an output may bring handlers, or look elsewhere for its pictures
        for name in [name for name in tag.attrs if name.startswith("on") or name in ("srcset", "poster", "background")]:
            del tag[name]
        if re.search(r"url\(|expression\(", tag.get("style", "")):
            del tag["style"]
    for i, heading in enumerate(body.find_all(re.compile(r"^h[2-5]$"))):
        words = re.sub(r"[^a-z0-9]+", "-", heading.get_text(" ").lower()).strip("-")
        heading["id"] = heading.get("id") or (f"{words}-{i}" if body.find(id=words) else words)
    known = {tag["id"] for tag in body.find_all(id=True)}
    for link in body.find_all("a", href=True):
        link["href"] = re.sub(r"^(\w+)\.ipynb$", r"\1.html", link["href"])
        if link["href"][1:] not in known and not re.match(r"https?://|\w+\.html$", link["href"]):
            link.unwrap()
    for image in body.find_all("img"):
        source = image["src"]
        if inside := re.match(r"data:image/(\w+)[^,]*;base64,", source):
            data, suffix = base64.b64decode(source[inside.end() :]), inside[1]
        elif source in page.outputs:
            data, suffix = page.outputs[source], source.rpartition(".")[2]
        else:  # from the web, or from a file that is not part of the site
            image.replace_with(image.get("alt", ""))
            continue
        name = f"{hashlib.sha256(data).hexdigest()[:12]}.{suffix}"
        page.pictures[name], image["src"] = data, f"images/{name}"
        image["alt"] = image.get("alt") or "Figure drawn by the cell above."
        del image["style"]
        image.wrap(body.new_tag("a", href=image["src"]))  # to be seen larger
    for table in body.find_all("table"):
        raise_index_names(table)
        for tag in (table, *table.find_all(["tr", "th", "td"])):  # the look is the style sheet's
            tag.attrs = {name: value for name, value in tag.attrs.items() if name in ("id", "colspan", "rowspan")}
        align_numbers(table)
        if table.find_parent("table") is None:
            table.wrap(body.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    for block in body.find_all("pre"):
        block["tabindex"] = "0"  # so that the keyboard can scroll it


def align_numbers(table: Any) -> None:
    """Mark the columns of numbers; counted from the right, since a cell over several rows stands on the left."""
    rows = [row.find_all(["th", "td"]) for row in table.find_all("tr")]
    rows = [row[::-1] for row in rows if not any(cell.has_attr("colspan") for cell in row)]
    for i in range(max(map(len, rows), default=0)):
        column = [row[i] for row in rows if i < len(row)]
        texts = [NOT_A_WORD.sub("", cell.get_text(" ")) for cell in column if cell.name == "td"]
        if any(re.search(r"\d", text) for text in texts) and not any(re.search(r"[^\W\d_]", text) for text in texts):
            for cell in column:
                cell["class"] = "numeric"
