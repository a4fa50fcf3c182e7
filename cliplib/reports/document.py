"""The findings on a folder as a document: sections of text, tables and pictures.

document.toml holds the texts of the sections, and expressions that call `tables`,
`plots` and `pictures`. Page and PDF are two layouts of one document, by the templates
report.html and report.typ.
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

# Most rows of a table that are shown.
MOST_ROWS = 12
# Longer side of a picture, in pixels.
PICTURE_SIDE = 240

# A paragraph, table, plot or row of pictures for the templates; "kind" says which.
Block = dict[str, Any]


def document(findings: Findings, judged: Verdict) -> dict[str, Any]:
    """Return findings and verdict as a document, without empty sections."""
    variables = {  # of the templates and expressions in document.toml
        "f": findings,
        "provenance": provenance(findings),
        "pictures": pictures,
        "plots": plots,
        "tables": tables,
    }
    evidence = blocks_of_warnings(findings, judged)
    sections = [{"title": "What the warnings rest on", "blocks": evidence}]
    with plt.rc_context():  # the style of plots ends with it
        plots.use_style()
        for section in read_texts("document.toml")["sections"]:
            blocks = [_block(entry, variables) for entry in section["blocks"]]
            not_empty = [block for block in blocks if block]
            sections.append({"title": section["title"], "blocks": not_empty})
    headings = {"accuracy": "right", "balanced": "with all classes counting alike"}
    compared = judged.compared.rename(columns=headings).rename_axis("")
    today = date.today()
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
    """Return pictures of the images behind each warning, except those on labels.

    Images with doubtful labels, and copies with two labels, have their own sections.
    """
    return [
        pictures_of(warning.message, pictures.of_rows(findings, warning.rows))
        for warning in judged.warnings
        if warning.rows and warning.id not in ("labels-in-doubt", "label-conflicts")
    ]


def _block(entry: Mapping[str, Any], variables: Mapping[str, Any]) -> Block:
    """Return the block that an entry of document.toml describes; {} if it is empty.

    An entry with a text is a paragraph, or code, whose lines are kept. Any other entry
    has a caption, and an expression, "show", for the plot, pictures or table below it.
    """
    kind = entry["kind"]
    if kind == "code":
        text = TEMPLATES.from_string(entry["text"]).render(variables)
        return {"kind": kind, "text": text}
    if kind == "text":
        text = filled(entry["text"], **variables)
        return {"kind": kind, "text": text} if text else {}
    caption = filled(entry["caption"], **variables)
    if not caption:  # there is nothing to show: the expression might fail
        return {}
    shown: Any = TEMPLATES.compile_expression(entry["show"])(**variables)
    if kind == "plot":
        return plot_of(caption, shown, entry["alt"])
    if kind == "pictures":
        return pictures_of(caption, shown)
    table = shown.rename_axis(entry["index"]) if "index" in entry else shown
    return table_of(caption, table, entry.get("most", MOST_ROWS))


def plot_of(caption: str, figure: Figure, alt: str) -> Block:
    """Return a figure as an SVG file, with its width in inches; close the figure."""
    return {
        "kind": "plot",
        "caption": caption,
        "alt": alt,
        "file": plots.svg(figure).encode(),
        "inches": float(figure.get_figwidth()),
    }


def table_of(caption: str, frame: pd.DataFrame, most: int = MOST_ROWS) -> Block:
    """Return a data frame as a table of texts; {} if it is empty.

    The index becomes a column if it has a name. At most `most` rows are shown, and the
    caption says so. "numeric" tells which columns hold only numbers and dashes, such as
    "−3 points" or "–".
    """
    if frame.empty:
        return {}
    if len(frame) > most:
        caption += f" The first {most} of {len(frame):,}."
    frame = frame.head(most)
    if frame.index.name is not None:
        frame = frame.reset_index()
    cells = frame.map(_text_of)
    numeric = r"[−-]?\d|–?$"  # begins with a number, or is a dash or empty
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
    """Return images as JPEG files, to be shown side by side."""
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
    """Return a document as one HTML page, which contains its pictures."""
    return TEMPLATES.get_template("report.html").render(content)


def as_pdf(content: dict[str, Any]) -> bytes:
    """Return a document as PDF; system fonts supply the letters that its own lack."""
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
