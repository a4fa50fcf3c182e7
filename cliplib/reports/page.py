"""A document as one page that loads nothing, and as a PDF."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cliplib.reports.blocks import Picture
from cliplib.reports.templates import JPEG_START, TEMPLATES


def as_html(document: dict[str, Any]) -> str:
    """Return a document as one HTML page that loads nothing: pictures are in it."""
    return TEMPLATES.get_template("report.html").render(document)


def as_pdf(document: dict[str, Any]) -> bytes:
    """Return a document as PDF; letters that its fonts lack come from the system's."""
    import font_source_sans_pro
    import font_source_serif_pro
    import typst

    fonts = [
        str(Path(font.__file__).parent / "files")
        for font in (font_source_sans_pro, font_source_serif_pro)
    ]
    with TemporaryDirectory() as folder:
        place = Path(folder)

        def plain(value: Any) -> Any:
            """Return a block as JSON can hold it: a file's content becomes its name."""
            if isinstance(value, Picture):
                said = {"title": value.title, "name": value.name}
                return {**said, "file": value.file}
            if not isinstance(value, bytes):
                return vars(value)
            suffix = ".jpg" if value.startswith(JPEG_START) else ".svg"
            name = f"{len(list(place.iterdir()))}{suffix}"
            (place / name).write_bytes(value)
            return name

        # The template reads report.json, and the pictures that it names, beside itself.
        content = json.dumps(document, default=plain)
        (place / "report.json").write_text(content, "utf-8")
        shutil.copy(Path(__file__).with_name("report.typ"), place)
        compiler = typst.Compiler(
            str(place / "report.typ"),
            root=folder,
            font_paths=typst.Fonts(font_paths=fonts),
        )
        pdf = compiler.compile(format="pdf")
        assert isinstance(pdf, bytes)  # and no list, as pictures of pages would be
        return pdf
