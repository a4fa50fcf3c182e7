"""The report, the notebooks and the library's API as pages that load nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path
from string import Template

from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

import nbtypst
import typeset
from places import Places


def write(places: Places, pdf: Path) -> Path:
    """Write all pages, fonts, claims and the PDF anew; return the first page's file."""
    folder = places.web
    theme = places.root / "report" / "theme"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(typeset.fonts(places), folder / "fonts")
    shutil.copy(theme / "web.css", folder)
    shutil.copy(pdf, folder / "report.pdf")
    html = typeset.compile_document(places, "report", "html").data.decode()
    pages = {"index": re.split("</?body>", html)[1]} | notebook_pages(places)
    links = {f"{name}.html": name.replace("_", " ") for name in pages}
    links |= {"index.html": "Report", "report.pdf": "PDF"}
    if (places.figures / "claims.csv").is_file():
        shutil.copy(places.figures / "claims.csv", folder)
        links["claims.csv"] = "Claims"
    if (places.root / "cliplib").is_dir():
        write_api(places.root, folder / "api")
        links["api/cliplib.html"] = "API"
    frame = Template((theme / "web.html").read_text("utf-8"))
    for name, body in pages.items():
        title = BeautifulSoup(body, "html.parser").h1
        navigation = "".join(
            f'<a href="{address}">{escape(words)}</a>'
            for address, words in links.items()
        )
        text = frame.substitute(
            title=title.get_text().strip("¶ ") if title else "Report",
            links=navigation,
            body=body,
        )
        (folder / f"{name}.html").write_text(text, "utf-8", newline="\n")
    return folder / "index.html"


def notebook_pages(places: Places) -> dict[str, str]:
    """Return the executed notebooks as HTML, without head and frame, by name."""
    exporter = HTMLExporter(
        template_name="basic", preprocessors=[nbtypst.PrintableOutputs]
    )
    exporter.register_filter("markdown2html", nbtypst.markdown)
    bodies = {
        path.stem: exporter.from_filename(str(path))[0] for path in places.executed()
    }
    return {name: body.replace('.ipynb"', '.html"') for name, body in bodies.items()}


def write_api(root: Path, folder: Path) -> None:
    """Write the library's API by pdoc."""
    # Named one by one, since the package lists its names and not its modules.
    modules = [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in sorted((root / "cliplib").rglob("*.py"))
        if not path.stem.startswith("__")
    ]
    command = [sys.executable, "-m", "pdoc", "cliplib", *modules]
    command += ["--docformat", "numpy", "--output-directory", str(folder)]
    # What it says on the way is about links; without a page it fails.
    subprocess.run(command, check=True, cwd=root, stderr=subprocess.DEVNULL)
