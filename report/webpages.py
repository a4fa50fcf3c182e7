"""The report, the notebooks and the library's API as pages that load nothing else."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

import nbtypst
import typeset
from housemap import modules_in_order
from places import Places


@dataclass(frozen=True)
class Page:
    """One page: its title, its name in the links, and its HTML."""

    title: str
    name: str
    body: str


def write(places: Places, pdf: Path) -> Path:
    """Write all pages, the fonts and the PDF; return the file of the first page."""
    folder = places.web
    theme = places.root / "report" / "theme"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(typeset.fonts(places), folder / "fonts")
    shutil.copy(theme / "web.css", folder)
    shutil.copy(pdf, folder / "report.pdf")
    pages = {"index": report_page(places)}
    pages |= claims_page(places) | notebook_pages(places)
    has_api = write_api(places, folder / "api")
    links = [(f"{key}.html", page.name) for key, page in pages.items()]
    links += [("api/cliplib.html", "API")] if has_api else []
    frame = Template((theme / "web.html").read_text("utf-8"))
    for key, page in pages.items():
        body, contents = with_contents(page.body)
        text = frame.substitute(
            title=escape(page.title),
            style='<link rel="stylesheet" href="web.css">',
            links=navigation(links, f"{key}.html"),
            contents=contents,
            body=body,
        )
        (folder / f"{key}.html").write_text(text, "utf-8", newline="\n")
    return folder / "index.html"


def navigation(links: list[tuple[str, str]], current: str) -> str:
    """Return links to pages (address, name), the current one marked, and to the PDF."""
    marks = {current: ' aria-current="page"'}
    items = "".join(
        f'<a href="{address}"{marks.get(address, "")}>{escape(name)}</a>'
        for address, name in [*links, ("report.pdf", "PDF")]
    )
    return f'<nav class="pages" aria-label="Pages">{items}</nav>'


def report_page(places: Places) -> Page:
    """Return the report, compiled to HTML, as a page with the title of its cover."""
    html = typeset.compile_document(places, "report", "html").data.decode()
    body = re.split("</?body>", html)[1]
    title = BeautifulSoup(body, "html.parser").h1
    return Page(title.get_text() if title else "Report", "Report", body)


def claims_page(places: Places) -> dict[str, Page]:
    """Return the page "claims" with their conditions and values, if there are any."""
    path = places.figures / "claims.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        claims = list(csv.DictReader(file))
    items = []
    for claim in claims:
        holds = "holds" if claim["held"] == "true" else "does not hold"
        items.append(
            f"<h2>{escape(claim['id'])}</h2><blockquote>{escape(claim['sentence'])}"
            f"</blockquote><p>In this build the claim {holds}. Its condition is</p>"
            f"<pre>{escape(claim['condition'])}</pre><p>{escape(claim['values'])}</p>"
        )
    title = "Claims of the report, and what they rest on"
    body = f"<h1>{title}</h1>{''.join(items)}"
    return {"claims": Page(title, "Claims", body)}


def notebook_pages(places: Places) -> dict[str, Page]:
    """Return a page for each executed notebook, titled by its first heading."""
    exporter = notebook_exporter()
    pages = {}
    for path in places.executed():
        body, _ = exporter.from_filename(str(path))
        title = re.findall("<h1[^>]*>([^<]+)", body)[0].strip()
        number, *_ = path.stem.split("_")
        body = body.replace('.ipynb"', '.html"')
        pages[path.stem] = Page(title, f"{number} {title}", body)
    return pages


def notebook_exporter() -> HTMLExporter:
    """Return an exporter of executed notebooks to HTML without head and frame."""
    exporter = HTMLExporter(
        template_name="basic", preprocessors=[nbtypst.PrintableOutputs]
    )
    exporter.register_filter("markdown2html", nbtypst.markdown)
    return exporter


def with_contents(body: str) -> tuple[str, str]:
    """Return a page's HTML with ids for its headings, and HTML of links to these.

    The links are "" where the page has its own, as the report does, or no headings.
    """
    soup = BeautifulSoup(body, "html.parser")
    if soup.find(class_="contents"):
        return body, ""
    items = []
    for number, heading in enumerate(soup(["h2", "h3"]), 1):
        heading["id"] = heading.get("id") or f"section-{number}"
        text = escape(heading.get_text(" ", strip=True).removesuffix("¶"))
        items.append(
            f'<li class="{heading.name}"><a href="#{heading["id"]}">{text}</a></li>'
        )
    if not items:
        return body, ""
    listed = f"<details open><summary>Contents</summary><ul>{''.join(items)}</ul>"
    return str(soup), f'<nav class="contents">{listed}</details></nav>'


def write_api(places: Places, folder: Path) -> bool:
    """Write the library's API by pdoc; return whether there is a library."""
    package = places.root / "cliplib"
    if not package.is_dir():
        return False
    # Named one by one, since the package lists its names and not its modules.
    modules = [f"cliplib.{name}" for name in modules_in_order(package)]
    command: list[Any] = [sys.executable, "-m", "pdoc", "cliplib", *modules]
    command += ["--docformat", "numpy", "--output-directory", folder]
    # What it says on the way is about links; without a page it fails.
    subprocess.run(command, check=True, cwd=places.root, stderr=subprocess.DEVNULL)
    return True
