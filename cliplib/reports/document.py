"""The findings on a folder as a document: sections of text, tables and pictures.

What they say stands in document.toml, which asks `tables`, `plots` and `pictures` for
what they show. The templates of page and PDF, report.html and report.typ, lay out the
same document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from cliplib.data.wording import number
from cliplib.evaluation.intervals import Estimate
from cliplib.reports import pictures, plots, tables
from cliplib.reports.findings import Findings
from cliplib.reports.pictures import Picture, small_jpeg
from cliplib.reports.report_data import provenance
from cliplib.reports.templates import FOLDER, TEMPLATES, filled, percent, read_texts
from cliplib.reports.verdict import Verdict

# Rows of a table that are shown.
MOST_ROWS = 12
# Pixels of the longer side of a picture.
PICTURE_SIDE = 240

# A paragraph, a table, a plot or pictures, as the templates read it; see its kind.
Block = dict[str, Any]


def document(findings: Findings, judged: Verdict) -> dict[str, Any]:
    """Return findings and verdict as a document, without empty sections."""
    today = date.today()
    values = {
        "f": findings,
        "provenance": provenance(findings),
        "pictures": pictures,
        "plots": plots,
        "tables": tables,
    }
    evidence = blocks_of_warnings(findings, judged)
    sections = [{"title": "What the warnings rest on", "blocks": evidence}]
    with plt.rc_context():
        plots.use_style()
        for section in read_texts("document.toml")["sections"]:
            blocks = [_block(entry, values) for entry in section["blocks"]]
            not_empty = [block for block in blocks if block]
            sections.append({"title": section["title"], "blocks": not_empty})
    headings = {"accuracy": "right", "balanced": "with all classes counting alike"}
    compared = judged.compared.rename(columns=headings).rename_axis("")
    return {
        "title": " ".join(findings.title.split()),
        "subtitle": f"Does a frozen CLIP sort these images? {today.day} {today:%B %Y}",
        "word": judged.word,
        "sentence": judged.sentence,
        "warnings": [
            {"severity": warning.severity, "message": warning.message}
            for warning in judged.warnings
        ],
        "table": table_of("Of all images, with 95% intervals.", compared),
        "steps": judged.steps,
        "sections": [section for section in sections if section["blocks"]],
    }


def blocks_of_warnings(findings: Findings, judged: Verdict) -> list[Block]:
    """Return pictures of what each warning but that on labels rests on."""
    return [
        pictures_of(warning.message, pictures.of_rows(findings, warning.rows))
        for warning in judged.warnings
        if warning.rows and warning.id not in ("labels-in-doubt", "label-conflicts")
    ]


def _block(entry: Mapping[str, Any], values: Mapping[str, Any]) -> Block:
    """Return a block of document.toml, {} where its text or its table is empty.

    Its templates, and its expression for what is shown, are of `values`.
    """
    kind = entry["kind"]
    if kind == "code":  # which keeps its lines
        template = TEMPLATES.from_string(entry["text"])
        return {"kind": kind, "text": template.render(values)}
    if kind == "text":
        text = filled(entry["text"], **values)
        return {"kind": kind, "text": text} if text else {}
    caption = filled(entry["caption"], **values)
    if not caption:
        return {}
    content: Any = TEMPLATES.compile_expression(entry["show"])(**values)
    if kind == "plot":
        return plot_of(caption, content, entry["alt"])
    if kind == "pictures":
        return pictures_of(caption, content)
    table = content.rename_axis(entry.get("index", content.index.name))
    return table_of(caption, table, entry.get("most", MOST_ROWS))


def plot_of(caption: str, figure: Figure, alt: str) -> Block:
    """Return a figure as an SVG file, and how many inches wide it is; close it."""
    inches = float(figure.get_figwidth())
    file = plots.svg(figure).encode()  # closes it
    return {
        "kind": "plot",
        "caption": caption,
        "alt": alt,
        "file": file,
        "inches": inches,
    }


def table_of(caption: str, frame: pd.DataFrame, most: int = MOST_ROWS) -> Block:
    """Return a data frame as a table of texts; its index is shown if it has a name.

    Of more than `most` rows the first are shown, and the caption says so; an empty
    frame yields {}. Columns of numbers, such as "−3 points" or "–", are called numeric.
    """
    if frame.empty:
        return {}
    if len(frame) > most:
        caption += f" The first {most} of {len(frame):,}."
    frame = frame.head(most)
    if frame.index.name is not None:
        frame = frame.reset_index()
    cells = frame.map(_text_of)
    numeric = r"[−-]?\d|–?$"  # a number, a dash or nothing
    return {
        "kind": "table",
        "caption": caption,
        "columns": [str(column) for column in cells],
        "rows": cells.to_numpy().tolist(),
        "numeric": [bool(cells[name].str.match(numeric).all()) for name in cells],
    }


def _text_of(cell: Any) -> str:
    """Write a cell on one line: `Estimate`s as "54% (46 to 62)"."""
    text = percent(cell) if isinstance(cell, Estimate) else number(cell)
    return " ".join(text.split())


def pictures_of(caption: str, images: Sequence[Picture]) -> Block:
    """Return images to be shown side by side, as JPEG files."""
    files = [
        {
            "title": picture.title,
            "name": picture.name,
            "file": small_jpeg(picture.image, PICTURE_SIDE, quality=80),
        }
        for picture in images
    ]
    return {"kind": "pictures", "caption": caption, "pictures": files}


def as_html(content: dict[str, Any]) -> str:
    """Return a document as one HTML page that loads nothing: pictures are in it."""
    return TEMPLATES.get_template("report.html").render(content)


def as_pdf(content: dict[str, Any]) -> bytes:
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
        sys_inputs={"report": json.dumps(content, default=list)},  # files as numbers
    )
