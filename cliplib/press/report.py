"""The evidence on a folder as a page, as a PDF, and as tables for spreadsheets."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from cliplib.app.evidence import Evidence
from cliplib.images.image import load_image
from cliplib.press.document import (
    Block,
    Code,
    Document,
    Plot,
    Table,
    Text,
    document,
)
from cliplib.press.sheet import TEMPLATES, write_csv

EXTRA = (
    "matplotlib",
    "seaborn",
    "typst",
    "skimage",
    "font_source_sans_pro",
    "font_source_serif_pro",
)
PICTURE_SIDE = 240
"""Pixels of the longer side of a picture."""
SMALL_TABLE = 12
"""Rows up to which a table stays on one page."""


def check_extra() -> None:
    """Raise ImportError where a package of the extra "report" is missing."""
    lacking = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if lacking:
        raise ImportError(
            f"A report needs the package {lacking[0].replace('_', '-')}, which is not "
            "here: pip install 'cliplib[report]'."
        )


@dataclass
class Laid:
    """A document as plain data, and the files of its pictures by name."""

    content: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)

    def keep(self, content: bytes, suffix: str) -> str:
        """Keep a picture; return its name."""
        name = f"{len(self.files)}{suffix}"
        self.files[name] = content
        return name

    def data_uri(self, name: str) -> str:
        """Return a picture as it stands within a page."""
        kind = "svg+xml" if name.endswith(".svg") else "jpeg"
        encoded = base64.b64encode(self.files[name]).decode()
        return f"data:image/{kind};base64,{encoded}"


def write_report(evidence: Evidence, out: Path, title: str = "") -> list[Path]:
    """Write page, PDF and tables into a folder; return their paths.

    Raises
    ------
    ImportError
        If a package of the extra "report" is missing.
    OSError
        If the folder cannot be written to.
    """
    check_extra()
    laid = lay_out(document(evidence, title), evidence)
    out.mkdir(parents=True, exist_ok=True)
    tables = {"answers.csv": evidence.answers, "copies.csv": evidence.copies}
    for name, table in tables.items():
        write_csv(table, out / name)
    (out / "report.html").write_text(as_html(laid), "utf-8", newline="\n")
    (out / "report.pdf").write_bytes(as_pdf(laid))
    return [out / name for name in ("report.html", "report.pdf", *tables)]


def lay_out(document: Document, evidence: Evidence) -> Laid:
    """Draw a document's pictures, and return it as JSON has it."""
    laid = Laid({})
    laid.content = {
        "title": document.title,
        "subtitle": document.subtitle,
        "answer": document.answer,
        "reasons": document.reasons,
        "steps": [step._asdict() for step in document.steps],
        "sections": [
            {
                "title": section.title,
                "blocks": [_block(block, evidence, laid) for block in section.blocks],
            }
            for section in document.sections
        ],
    }
    return laid


def _block(block: Block, evidence: Evidence, laid: Laid) -> dict[str, Any]:
    """Return a block as plain data."""
    if isinstance(block, Text | Code):
        return {"kind": type(block).__name__.lower(), "text": block.text}
    if isinstance(block, Table):
        columns = zip(*block.rows, strict=True)
        numeric = [all(map(_is_number, column)) for column in columns]
        keep = len(block.rows) <= SMALL_TABLE
        return {"kind": "table", **asdict(block), "numeric": numeric, "whole": keep}
    if isinstance(block, Plot):
        return _plot(block, evidence, laid)
    pictures = [
        {
            "file": laid.keep(_jpeg(picture.image), ".jpg"),
            "title": picture.title,
            "name": picture.name,
        }
        for picture in block.pictures
    ]
    return {"kind": "pictures", "caption": block.caption, "pictures": pictures}


def _is_number(cell: str) -> bool:
    return cell == "" or cell.lstrip("−")[:1].isdigit()


def _plot(block: Plot, evidence: Evidence, laid: Laid) -> dict[str, Any]:
    from cliplib.press import figures, plots

    draw = {
        "accuracy_plot": plots.accuracy_plot,
        "confusion_plot": plots.confusion_plot,
        "curve_plot": plots.curve_plot,
        "trust_plot": plots.trust_plot,
    }
    with figures.style():
        figure = draw[block.name](evidence)
        inches = float(figure.get_figwidth())
        drawn = figures.svg(figure).encode()
    return {
        "kind": "plot",
        "file": laid.keep(drawn, ".svg"),
        "inches": inches,
        "caption": block.caption,
        "alt": block.alt,
    }


def _jpeg(source: Any) -> bytes:
    """Return a small copy of an image."""
    image = load_image(source)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return content.getvalue()


def as_html(laid: Laid) -> str:
    """Return a page that loads nothing."""
    template = TEMPLATES.get_template("report.html")
    return template.render(laid.content, source=laid.data_uri)


def as_pdf(laid: Laid) -> bytes:
    """Return the PDF; letters that the report's fonts lack come from the system."""
    import font_source_sans_pro
    import font_source_serif_pro
    import typst

    fonts = [
        Path(font.__file__).parent / "files"
        for font in (font_source_sans_pro, font_source_serif_pro)
    ]
    layout = Path(__file__).with_name("report.typ").read_text("utf-8")
    with TemporaryDirectory() as folder:
        for name, content in laid.files.items():
            Path(folder, name).write_bytes(content)
        Path(folder, "report.json").write_text(json.dumps(laid.content), "utf-8")
        Path(folder, "report.typ").write_text(layout, "utf-8")
        compiler = typst.Compiler(
            str(Path(folder, "report.typ")),
            root=folder,
            font_paths=typst.Fonts(font_paths=[str(path) for path in fonts]),
        )
        pdf = compiler.compile(format="pdf")
        assert isinstance(pdf, bytes)  # in one file
        return pdf


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second run away from a folder; OSError where one is under way.

    The lock is the system's, and goes with a process that is killed.
    """
    out.mkdir(parents=True, exist_ok=True)
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
        (out / ".lock").unlink(missing_ok=True)
        lock.release()
