"""A document as one page that loads nothing, and as a PDF."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cliplib.data.image import load_image
from cliplib.reports import figures
from cliplib.reports.blocks import (
    Block,
    Document,
    Pictures,
    Plot,
    Table,
)
from cliplib.reports.findings import Findings
from cliplib.reports.sheet import TEMPLATES

PICTURE_SIDE = 240
"""Pixels of the longer side of a picture."""
SMALL_TABLE = 12
"""Rows up to which a table stays on one page."""


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


def lay_out(document: Document, findings: Findings) -> Layout:
    """Return a document as plain data, its plots drawn from the findings."""
    files: dict[str, bytes] = {}  # each block adds those of its pictures
    judged = document.verdict
    content = {
        "title": document.title,
        "subtitle": document.subtitle,
        "word": judged.word,
        "sentence": judged.sentence,
        "cautions": [
            {"severity": caution.severity, "message": caution.message}
            for caution in judged.cautions
        ],
        "table": _plain_table(document.table),
        "steps": [step._asdict() for step in judged.steps],
        "sections": [
            {
                "title": section.title,
                "blocks": [
                    _plain_block(block, findings, files) for block in section.blocks
                ],
            }
            for section in document.sections
        ],
    }
    return Layout(content, files)


def _plain_block(
    block: Block, findings: Findings, files: dict[str, bytes]
) -> dict[str, Any]:
    """Return a block as plain data, for JSON.

    Plots are drawn from the `findings`; they and images are added to `files`, by name.
    """
    match block:
        case Table():
            return _plain_table(block)
        case Plot():
            return _plain_plot(block, findings, files)
        case Pictures():
            return _plain_pictures(block, files)
        case _:  # a text, or code
            return {"kind": type(block).__name__.lower(), "text": block.text}


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
    plot: Plot, findings: Findings, files: dict[str, bytes]
) -> dict[str, Any]:
    """Draw a plot of the findings, and add it to `files` as SVG.

    Returned are, for JSON, the name of its file, its width in inches, and its texts.
    """
    with figures.style():
        figure = plot.draw(findings)
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
