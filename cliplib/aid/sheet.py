"""What a decision aid said, as a table for spreadsheets and as a page."""

from __future__ import annotations

import base64
import io
import os
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from PIL import Image

from cliplib.aid.decision_aid import DecisionAid
from cliplib.data import list_files
from cliplib.explain import heat_maps
from cliplib.images import load_image


def write_csv(rows: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write what :meth:`DecisionAid.classify` says, in UTF-8 with the mark that Excel looks for."""
    inert = rows.replace(
        r"^(?=[=+\-@])", "'", regex=True
    )  # no formulas: OWASP, "CSV injection"
    inert.to_csv(path, index=False, encoding="utf-8-sig", errors="backslashreplace")


def write_html(
    rows: pd.DataFrame,
    path: str | os.PathLike[str],
    classifier: DecisionAid,
    files: Any,
) -> None:
    """Write what `classifier` said of `files`, or some rows of it, as a page that loads nothing."""
    counts = rows["reason"].replace("", "answered").value_counts()
    page = Template(
        Path(__file__).with_name("sheet.html").read_text(encoding="utf-8")
    ).substitute(
        counts=", ".join(f"{count} {reason}" for reason, count in counts.items()),
        table=answers_table(rows, classifier, files),
        about=pd.Series(dict(classifier.about)).to_frame().to_html(header=False),
    )
    Path(path).write_text(page, encoding="utf-8", errors="backslashreplace")


def answers_table(rows: pd.DataFrame, classifier: DecisionAid, files: Any) -> str:
    """Return rows as HTML with images and heat maps, every text escaped."""
    (names, sources), known = list_files(files), classifier.training
    if not pd.Series(names).reindex(rows.index).equals(rows["file"]):
        raise ValueError(f"The files in {files} have changed: classify them again.")
    answer = rows["class"].where(~rows["abstained"], "none: " + rows["reason"])
    answer = answer.where(rows["error"] == "", rows["error"])
    shown = pd.DataFrame(
        {"file": rows["file"], "image": "", "heat map": "", "answer": answer}
    )
    shown = shown.join(rows[["class", "probability", "nearest", "similarity"]])
    shown = shown.map(lambda cell: escape(cell) if isinstance(cell, str) else cell)
    good = rows.index[rows["error"] == ""]
    images = [sources[row] for row in good]
    labels = [known.classes.index(name) for name in rows.loc[good, "class"]]
    heat = heat_maps(
        classifier.encoder, classifier.probe, images, labels, known.readout
    )
    shown.loc[good, "image"] = [_small(load_image(image), "image") for image in images]
    shown.loc[good, "heat map"] = [_small(image, "heat map") for image in heat]
    with pd.option_context("display.max_colwidth", None):
        return shown.to_html(
            escape=False, index=False, na_rep="", float_format="{:.3f}".format
        )


def _small(image: Image.Image, name: str) -> str:
    """Return a small copy within an HTML tag."""
    image.thumbnail((144, 144))
    image.save(content := io.BytesIO(), "JPEG")
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{name}">'
