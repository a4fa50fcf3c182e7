"""The evidence on a folder as a page, as a PDF, and as tables for spreadsheets."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from cliplib.data.image import load_image
from cliplib.data.wording import listing
from cliplib.reports.document import (
    Block,
    Code,
    Document,
    Pictures,
    Plot,
    Table,
    Text,
    document,
)
from cliplib.reports.evidence import Evidence
from cliplib.reports.sheet import TEMPLATES, write_csv

WRITTEN = ("report.html", "report.pdf", "answers.csv", "copies.csv")
"""The files that a report consists of."""
GENERATOR = '<meta name="generator" content="cliplib">'
"""Stands in each report's page."""
REPORT_PACKAGES = (
    "matplotlib",
    "seaborn",
    "typst",
    "skimage",
    "font_source_sans_pro",
    "font_source_serif_pro",
)
"""What the extra "report" installs, by the names that are imported."""
PICTURE_SIDE = 240
"""Pixels of the longer side of a picture."""
SMALL_TABLE = 12
"""Rows up to which a table stays on one page."""


def check_extra() -> None:
    """Raise ImportError where a package of the extra "report" is missing."""
    lacking = [
        name for name in REPORT_PACKAGES if importlib.util.find_spec(name) is None
    ]
    if lacking:
        raise ImportError(
            f"A report needs the package {lacking[0].replace('_', '-')}, which is not "
            "here: pip install 'cliplib[report]'."
        )


@dataclass(frozen=True)
class Layout:
    """A document as plain data, and its pictures as files.

    Attributes
    ----------
    content
        What the templates of page and PDF read; JSON can hold all of it.
    files
        The content of each picture file, SVG or JPEG, by its name.
    """

    content: dict[str, Any]
    files: dict[str, bytes]

    def data_uri(self, name: str) -> str:
        """Return a picture file as a data URI, so that a page need not load it."""
        kind = "svg+xml" if name.endswith(".svg") else "jpeg"
        encoded = base64.b64encode(self.files[name]).decode()
        return f"data:image/{kind};base64,{encoded}"


def write_report(
    evidence: Evidence, out: str | os.PathLike[str], title: str = ""
) -> list[Path]:
    """Write page, PDF and tables into a folder, made if missing; return their paths.

    `title` is by default the name of the folder of images, if that is not anonymous.

    Raises
    ------
    ImportError
        If a package of the extra "report" is missing.
    OSError
        If the folder cannot be written to.
    """
    check_extra()
    place = Path(out)
    layout = lay_out(document(evidence, title, in_report=True), evidence)
    place.mkdir(parents=True, exist_ok=True)
    # The page first: by it, what an interrupted report has left is known as a report's.
    (place / "report.html").write_text(as_html(layout), "utf-8", newline="\n")
    (place / "report.pdf").write_bytes(as_pdf(layout))
    write_csv(evidence.answers, place / "answers.csv")
    write_csv(evidence.copies, place / "copies.csv")
    return [place / name for name in WRITTEN]


def check_no_other_files(out: Path) -> None:
    """Raise FileExistsError where a report would replace files that none has written.

    A folder is taken for a report's if its page says who made it.
    """
    there = [name for name in WRITTEN if (out / name).exists()]
    page = out / "report.html"
    if there and not (
        page.exists() and GENERATOR in page.read_text("utf-8", "replace")
    ):
        raise FileExistsError(
            f"{out} holds {listing(there)}, not written by a report: name another "
            "folder, or move what is there."
        )


def lay_out(document: Document, evidence: Evidence) -> Layout:
    """Return a document as plain data, its plots drawn from the evidence."""
    files: dict[str, bytes] = {}  # each block adds those of its pictures
    content = {
        "title": document.title,
        "subtitle": document.subtitle,
        "answer": document.answer,
        "reasons": document.reasons,
        "steps": [step._asdict() for step in document.steps],
        "sections": [
            {
                "title": section.title,
                "blocks": [
                    _plain_block(block, evidence, files) for block in section.blocks
                ],
            }
            for section in document.sections
        ],
    }
    return Layout(content, files)


def _plain_block(
    block: Block, evidence: Evidence, files: dict[str, bytes]
) -> dict[str, Any]:
    """Return a block as plain data, for JSON.

    Plots are drawn from the `evidence`; they and images are added to `files`, by name.
    """
    match block:
        case Text():
            return {"kind": "text", "text": block.text}
        case Code():
            return {"kind": "code", "text": block.text}
        case Table():
            return _plain_table(block)
        case Plot():
            return _plain_plot(block, evidence, files)
        case Pictures():
            return _plain_pictures(block, files)


def _plain_table(table: Table) -> dict[str, Any]:
    """Return a table as plain data, and how it is to be aligned and broken."""
    return {
        "kind": "table",
        "caption": table.caption,
        "columns": table.columns,
        "rows": table.rows,
        # Of each column, whether to align it at the right.
        "numeric": [
            all(_may_be_number(cell) for cell in column)
            for column in zip(*table.rows, strict=True)
        ],
        "on_one_page": len(table.rows) <= SMALL_TABLE,
    }


def _may_be_number(cell: str) -> bool:
    """Say whether a cell begins as a number does, such as "−3 points", or is empty."""
    return cell == "" or cell.lstrip("−")[:1].isdigit()


def _plain_plot(
    plot: Plot, evidence: Evidence, files: dict[str, bytes]
) -> dict[str, Any]:
    """Draw a plot of the evidence, and add it to `files` as SVG.

    Returned are, for JSON, the name of its file, its width in inches, and its texts.
    """
    from cliplib.reports import figures, plots  # which need the extra "report"

    functions = {
        "accuracy_plot": plots.accuracy_plot,
        "confusion_plot": plots.confusion_plot,
        "curve_plot": plots.curve_plot,
        "trust_plot": plots.trust_plot,
    }
    with figures.style():
        figure = functions[plot.function](evidence)
        inches = float(figure.get_figwidth())
        svg = figures.svg(figure).encode()
    return {
        "kind": "plot",
        "file": _add_file(files, svg, ".svg"),
        "inches": inches,
        "caption": plot.caption,
        "alt": plot.alt,
    }


def _plain_pictures(block: Pictures, files: dict[str, bytes]) -> dict[str, Any]:
    """Add images to `files` as small JPEGs; return their names and texts."""
    pictures = [
        {
            "file": _add_file(files, _small_jpeg(picture.image), ".jpg"),
            "title": picture.title,
            "name": picture.name,
        }
        for picture in block.pictures
    ]
    return {"kind": "pictures", "caption": block.caption, "pictures": pictures}


def _add_file(files: dict[str, bytes], content: bytes, suffix: str) -> str:
    """Add a file to `files`, and return its name: "0.svg", "1.jpg", and so on."""
    name = f"{len(files)}{suffix}"
    files[name] = content
    return name


def _small_jpeg(source: Any) -> bytes:
    """Return an image as a JPEG file, its longer side `PICTURE_SIDE` pixels at most."""
    image = load_image(source)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return content.getvalue()


def as_html(layout: Layout) -> str:
    """Return a document as one HTML page that loads nothing: pictures are in it."""
    template = TEMPLATES.get_template("report.html")
    return template.render(layout.content, source=layout.data_uri)


def as_pdf(layout: Layout) -> bytes:
    """Return a document as PDF; letters that its fonts lack come from the system's."""
    import font_source_sans_pro
    import font_source_serif_pro
    import typst

    fonts = [
        Path(font.__file__).parent / "files"
        for font in (font_source_sans_pro, font_source_serif_pro)
    ]
    template = Path(__file__).with_name("report.typ").read_text("utf-8")
    with TemporaryDirectory() as folder:
        # The template reads report.json, and the pictures that it names, beside itself.
        for name, content in layout.files.items():
            Path(folder, name).write_bytes(content)
        Path(folder, "report.json").write_text(json.dumps(layout.content), "utf-8")
        Path(folder, "report.typ").write_text(template, "utf-8")
        compiler = typst.Compiler(
            str(Path(folder, "report.typ")),
            root=folder,
            font_paths=typst.Fonts(font_paths=[str(path) for path in fonts]),
        )
        pdf = compiler.compile(format="pdf")
        assert isinstance(pdf, bytes)  # and no list, as pictures of pages would be
        return pdf


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock a folder, made if missing, within a block: no other run writes to it.

    OSError at once if another run holds it. The operating system drops the lock of a
    process that is killed.
    """
    out.mkdir(parents=True, exist_ok=True)
    # The file stays when the lock is released: were it deleted, then a run that has the
    # deleted file open and one that makes a new file could both hold a lock.
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OSError(
            f"Another run is writing to {out}: wait for it, or choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
