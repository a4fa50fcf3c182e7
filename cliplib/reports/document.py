"""The findings on a folder as a document: sections of text, tables and pictures.

What they say stands in document.toml, what they show is made here. The templates of
page and PDF, report.html and report.typ, lay out the same document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from cliplib.data.image import load_image
from cliplib.data.wording import number, percent, points
from cliplib.evaluation.intervals import Share
from cliplib.features.audit import LEVELS
from cliplib.inspection.file_values import FIELDS
from cliplib.reports import figures, plots
from cliplib.reports.elsewhere import Elsewhere
from cliplib.reports.findings import Findings
from cliplib.reports.methods import POOLED, Methods
from cliplib.reports.record import made
from cliplib.reports.sheet import small_jpeg
from cliplib.reports.templates import TEMPLATES, filled, read_texts
from cliplib.reports.verdict import Verdict, verdict

MOST_ROWS = 12
"""Rows of a table that are shown."""
MOST_PICTURES = 12
"""Images that are shown side by side."""
PICTURE_SIDE = 240
"""Pixels of the longer side of a picture."""
COPIES = {
    "byte_copies": "files that repeat another byte for byte",
    "exact_copies": "pairs with the same pixels",
    "near_pairs": "pairs that look nearly the same",
    "mirrored_pairs": "pairs of which one is mirrored",
    "turned_pairs": "pairs of which one is turned",
    "label_conflicts": "pairs with two labels",
    "val_leaks": "validation images with a copy in training",
    f"test_leaks_{LEVELS[-1]}": "test images with a copy in training",
}
"""Rows of an audit's summary, and what they are called."""

Block = dict[str, Any]
"""A paragraph, a table, a plot or pictures, as the templates read it; see its kind."""


class Picture(NamedTuple):
    """An image, as `load_image` takes it, with a title above and a name below."""

    image: Any
    title: str
    name: str = ""


def document(findings: Findings, title: str = "") -> dict[str, Any]:
    """Return the findings as a document; sections that yield nothing are left out.

    `title` is by default the folder's name, or "A folder of images" if anonymous.
    """
    if not title and findings.request.anonymous:
        title = "A folder of images"
    elif not title:
        title = Path(findings.request.place).resolve().name
    today = date.today()
    judged = verdict(findings)
    shown = blocks_of_warnings(findings, judged)
    sections = [{"title": "What the warnings rest on", "blocks": shown}]
    for section in read_texts("document.toml")["sections"]:
        blocks = [_block(said, findings) for said in section["blocks"]]
        shown = [block for block in blocks if block]
        sections.append({"title": section["title"], "blocks": shown})
    compared = pd.DataFrame(
        [*judged.rows], columns=["", "right", "with all classes counting alike"]
    )
    return {
        "title": " ".join(title.split()),
        "subtitle": f"Does a frozen CLIP sort these images? {today.day} {today:%B %Y}",
        "word": judged.word,
        "sentence": judged.sentence,
        "cautions": [
            {"severity": caution.severity, "message": caution.message}
            for caution in judged.cautions
        ],
        "table": table_of("Of all images, with 95% intervals.", compared),
        "steps": [step._asdict() for step in judged.steps],
        "sections": [section for section in sections if section["blocks"]],
    }


def _block(said: Mapping[str, Any], findings: Findings) -> Block:
    """Return a block of document.toml, {} where its text or its table is empty."""
    kind, name = next(iter(said.items()))  # its first entry says what it is
    values = {
        "f": findings,
        "version": version("cliplib"),
    }
    if kind == "code":  # which keeps its lines
        return {"kind": kind, "text": TEMPLATES.from_string(name).render(values)}
    words = filled(said.get("caption", name), **values)
    if not words:
        return {}
    if kind == "table":
        frame = TABLES[name](findings)
        frame = frame.rename_axis(said.get("index", frame.index.name))
        return table_of(words, frame, said.get("most", MOST_ROWS))
    if kind == "plot":
        drawn = _drawn(PLOTS[name], findings)
        return {"kind": kind, "caption": words, "alt": said["alt"], **drawn}
    if kind == "pictures":
        return pictures_of(words, PICTURES[name](findings))
    return {"kind": kind, "text": words}


def table_of(caption: str, frame: pd.DataFrame, most: int = MOST_ROWS) -> Block:
    """Return a data frame as a table of texts; its index is shown if it has a name.

    Of more than `most` rows the first are shown, and the caption says so; an empty
    frame yields {}. Columns of numbers, such as "−3 points", are called numeric.
    """
    if frame.empty:
        return {}
    if len(frame) > most:
        caption += f" The first {most} of {len(frame):,}."
    frame = frame.head(most)
    if frame.index.name is not None:
        frame = frame.reset_index()
    cells = frame.map(_text_of)
    return {
        "kind": "table",
        "caption": caption,
        "columns": [str(column) for column in cells],
        "rows": cells.to_numpy().tolist(),
        "numeric": [bool(cells[name].str.match(r"−?\d|$").all()) for name in cells],
    }


def _text_of(cell: Any) -> str:
    """Write a cell on one line: `Share`s as "54% (46 to 62)"."""
    text = percent(cell) if isinstance(cell, Share) else number(cell)
    return " ".join(text.split())


def pictures_of(caption: str, pictures: Sequence[Picture]) -> Block:
    """Return images to be shown side by side, as JPEG files."""
    files = [
        {
            "title": picture.title,
            "name": picture.name,
            "file": small_jpeg(load_image(picture.image), PICTURE_SIDE, quality=80),
        }
        for picture in pictures
    ]
    return {"kind": "pictures", "caption": caption, "pictures": files}


# --- Plots and pictures


def _drawn(draw: Callable[[Findings], Figure], findings: Findings) -> dict[str, Any]:
    """Return a plot in the report's style: an SVG file, and how many inches wide."""
    with plt.rc_context():
        figures.use_style()
        figure = draw(findings)
        inches = float(figure.get_figwidth())
        return {"file": figures.svg(figure).encode(), "inches": inches}


def _picture(findings: Findings, row: int, title: str = "") -> Picture:
    """Return the image of a row, its name below; the title is by default its class."""
    images = findings.images
    return Picture(images.files[row], title or images.labels[row], images.names[row])


def blocks_of_warnings(findings: Findings, judged: Verdict) -> list[Block]:
    """Return pictures of what each caution but that on labels rests on."""
    return [
        pictures_of(
            caution.message,
            [_picture(findings, row) for row in caution.rows[:MOST_PICTURES]],
        )
        for caution in judged.cautions
        if caution.rows and caution.id not in ("labels-in-doubt", "label-conflicts")
    ]


def pictures_of_classes(findings: Findings) -> list[Picture]:
    """Return two images of each class, of different groups."""
    images = findings.images
    # The index is the row in the feature table, and stays so below.
    frame = pd.DataFrame({"class": images.labels, "group": images.table.groups})
    two_a_class = frame.drop_duplicates("group").groupby("class").head(2)
    rows = two_a_class.sort_values("class", kind="stable").index[:MOST_PICTURES]
    return [_picture(findings, row) for row in rows]


def pictures_of_copies(findings: Findings) -> list[Picture]:
    """Return at most `MOST_PICTURES` images of copies, those of a pair side by side."""
    pairs = findings.copies.head(MOST_PICTURES // 2)
    rows = pairs[["row_a", "row_b"]].to_numpy().ravel()  # a, b, a, b, …
    return [_picture(findings, row) for row in rows]


def pictures_of_errors(findings: Findings) -> list[Picture]:
    """Return the best probe's surest errors, each with a heat map of its answer."""
    methods = findings.methods
    pictures = []
    for row, heat_map in findings.errors:
        answer = methods.classes[methods.predicted[row]]
        title = f"{findings.images.labels[row]}, as {answer}"
        pictures.append(_picture(findings, row, title))
        pictures.append(Picture(heat_map, f"spoke for {answer}"))
    return pictures


def pictures_of_suspects(findings: Findings) -> list[Picture]:
    """Return the images whose labels are most in doubt."""
    classes = findings.methods.classes
    first = findings.suspects[["row", "given", "likely"]].head(MOST_PICTURES)
    return [
        _picture(findings, row, f"{classes[given]}, likely {classes[likely]}")
        for row, given, likely in first.itertuples(index=False)
    ]


def pictures_of_erased(findings: Findings) -> list[Picture]:
    """Return some images, each with and without its object."""
    pictures = []
    for row, after in findings.erased.examples if findings.erased else []:
        pictures.append(_picture(findings, row))
        pictures.append(Picture(after, "object erased"))
    return pictures


# --- Tables


def table_of_unreadable(findings: Findings) -> pd.DataFrame:
    """Return the reason of each file that cannot be read; if anonymous, only counts."""
    reasons = pd.Series(findings.images.unreadable, name="reason").rename_axis("file")
    if findings.request.anonymous:
        return reasons.groupby(reasons).size().rename("files").to_frame()
    return reasons.to_frame()


def table_of_merged(findings: Findings) -> pd.DataFrame:
    """Return the declared groups that copies join, with images that show it."""
    merged = findings.belonging.merged
    images = findings.images
    name_of = dict(zip(images.table.ids, images.names, strict=True))
    a, b = (merged[column].map(name_of) for column in ("image_a", "image_b"))
    groups = merged["group_a"] + " and " + merged["group_b"]
    return pd.DataFrame(
        {"groups": groups, "images that look the same": a + " and " + b}
    )


def table_of_shortcuts(findings: Findings) -> pd.DataFrame:
    """Return how far probes get that see no object."""
    rows = {
        shortcut.name: [shortcut.place, shortcut.accuracy, shortcut.share_of_gain]
        for shortcut in findings.shortcuts
    }
    columns = ["where", "right", "part of CLIP's gain over chance"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def table_of_file_fields(findings: Findings) -> pd.DataFrame:
    """Return the most frequent value of each field of the files that varies."""
    facts = findings.images.facts[[*FIELDS]].astype(str)
    by_class = facts.groupby(findings.images.labels)
    frequent = by_class.agg(lambda values: values.value_counts().index[0])
    return frequent.loc[:, facts.nunique() > 1]


def table_of_methods(findings: Findings) -> pd.DataFrame:
    """Return the metrics of every method, and by how much the best is better."""
    methods = findings.methods
    found = methods.evaluations
    columns: dict[str, dict[str, Any]] = {
        metric.replace("_", " "): {name: found[name].share(metric) for name in found}
        for metric in ("accuracy", "balanced_accuracy", "macro_f1", "auroc")
    }
    gains = {name: points(gain) for name, gain in methods.gains.items()}
    columns["the best is better by"] = {name: gains.get(name, "") for name in found}
    return pd.DataFrame(columns)


def table_of_encoders(findings: Findings) -> pd.DataFrame:
    """Return each encoder's accuracy, and CLIP's less that, by group."""
    own = findings.methods.share("accuracy", POOLED)
    rows: dict[str, list[Any]] = {findings.encoder_name: [own, ""]}
    for other in findings.other_encoders:
        rows[other.name] = [other.accuracy, points(other.gain)]
    columns = ["accuracy", "CLIP is better by"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def table_of_classes(findings: Findings) -> pd.DataFrame:
    """Return how much of each class the best probe finds."""
    found = findings.methods.evaluations[findings.methods.best]
    return pd.DataFrame(
        {
            "images": found.per_class["support"].astype(int),
            "found (sensitivity)": found.by_class("sensitivity"),
            "right (precision)": found.by_class("precision"),
        }
    )


def with_accuracy(measured: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the column images of a frame, and value, low and high as one column."""
    shares = [Share.of(row) for _, row in measured.iterrows()]
    return measured[["images"]].assign(**{name: pd.Series(shares, measured.index)})


def table_of_elsewhere(away: Elsewhere, methods: Methods) -> pd.DataFrame:
    """Return how much of each class is found here and in another folder."""
    found = away.evaluation
    return pd.DataFrame(
        {
            "images": found.per_class["support"].astype(int),
            "found here": methods.sensitivity,
            "found elsewhere": found.by_class("sensitivity"),
        }
    )


PICTURES: dict[str, Callable[[Findings], list[Picture]]] = {
    "examples": pictures_of_classes,
    "copies": pictures_of_copies,
    "errors": pictures_of_errors,
    "suspects": pictures_of_suspects,
    "erased": pictures_of_erased,
}
PLOTS = {
    "accuracy": plots.accuracy_plot,
    "confusion": plots.confusion_plot,
    "curve": plots.curve_plot,
    "trust": plots.trust_plot,
}
TABLES: dict[str, Callable[[Any], pd.DataFrame]] = {
    "counts": lambda f: f.images.counts,
    "unreadable": table_of_unreadable,
    "copies": lambda f: f.audit.summary.loc[[*COPIES]].rename(COPIES),
    "merged": table_of_merged,
    "own_split": lambda f: with_accuracy(f.own_split.ladder, "right"),
    "shared": lambda f: f.own_split.shared,
    "shortcuts": table_of_shortcuts,
    "file_fields": table_of_file_fields,
    "methods": table_of_methods,
    "encoders": table_of_encoders,
    "per_class": table_of_classes,
    "aid": lambda f: pd.DataFrame({"value": pd.Series(f.aid.about, dtype=object)}),
    "elsewhere": lambda f: table_of_elsewhere(f.elsewhere, f.methods),
    "erased": lambda f: with_accuracy(f.erased.accuracy, "accuracy"),
    "made": lambda f: pd.DataFrame({"value": pd.Series(made(f))}),
}
"""What document.toml calls tables, plots and pictures, and what makes them."""
