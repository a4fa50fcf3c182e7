"""A document as one page that loads nothing, and as a PDF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cliplib.reports.templates import FOLDER, TEMPLATES


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
    return typst.compile(
        FOLDER / "report.typ",
        font_paths=typst.Fonts(font_paths=fonts),
        sys_inputs={"report": json.dumps(document, default=list)},  # files as numbers
    )
