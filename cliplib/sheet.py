"""What a classifier says of files, to be handed on: a CSV, an HTML page, a box in JupyterLab."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files as resources
from pathlib import Path
from string import Template
from typing import Any

import anywidget
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from cliplib.classifier import Classifier, Files, list_files
from cliplib.images import load_image


def write_csv(rows: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write what :meth:`Classifier.classify` says, in UTF-8 with the mark that Excel looks for."""
    inert = rows.replace(r"^(?=[=+\-@])", "'", regex=True)  # no formulas: OWASP, "CSV injection"
    inert.to_csv(path, index=False, encoding="utf-8-sig")


def write_html(
    rows: pd.DataFrame, path: str | os.PathLike[str], classifier: Classifier, files: Files
) -> None:
    """Write what `classifier` said of `files`, or some rows of it, as a page that loads nothing."""
    counts = rows["reason"].replace("", "answered").value_counts()
    page = Template((resources("cliplib") / "sheet.html").read_text(encoding="utf-8")).substitute(
        counts=", ".join(f"{count} {reason}" for reason, count in counts.items()),
        table=_table(rows, classifier, files),
        about=pd.Series(dict(classifier.about)).to_frame().to_html(header=False),
    )
    Path(path).write_text(page, encoding="utf-8")


def _table(rows: pd.DataFrame, classifier: Classifier, files: Files) -> str:
    """Return rows as HTML with images and heat maps, every text escaped."""
    names, sources = list_files(files)
    if [names[row] for row in rows.index] != rows["file"].tolist():
        raise ValueError("The rows are not those of the files: classify them anew.")
    answer = rows["class"].where(~rows["abstained"], "none: " + rows["reason"])
    answer = answer.where(rows["error"] == "", rows["error"])
    shown = pd.DataFrame({"file": rows["file"], "image": "", "heat map": "", "answer": answer})
    shown = shown.join(rows[["class", "probability", "nearest", "similarity"]])
    readable = rows.index[rows["error"] == ""]
    for start in tqdm(range(0, len(readable), 16), "heat maps", disable=len(readable) <= 16):
        part = readable[start : start + 16]
        images = [load_image(sources[row]) for row in part]
        heat = classifier.heat_maps(images, rows.loc[part, "class"].tolist())
        shown.loc[part, "image"] = [_thumbnail(image) for image in images]
        shown.loc[part, "heat map"] = [_thumbnail(image) for image in heat]
    style = shown.style.hide(axis="index").format(escape="html", precision=3, na_rep="")
    for name in ("image", "heat map"):
        tag = f'<img src="{{}}" alt="{name}">'.format
        style = style.format(lambda uri, tag=tag: uri and tag(uri), subset=[name])
    return str(style.to_html())


def _thumbnail(image: Image.Image) -> str:
    """Return a small copy as a data: URI."""
    image.thumbnail((144, 144))
    image.save(content := io.BytesIO(), "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


class _DropBox(anywidget.AnyWidget):
    _esm = (resources("cliplib") / "drop_box.js").read_text(encoding="utf-8")


def drop_box(classifier: Classifier) -> anywidget.AnyWidget:
    """Return a box for JupyterLab that takes one image and shows what the classifier says of it."""
    box = _DropBox()

    def respond(_: Any, sent: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        image = {"path": sent["name"], "bytes": bytes(buffers[0])}
        try:
            answer = _table(classifier.classify([image]), classifier, [image])
        except Exception as error:  # else the box would wait for ever
            answer = escape(f"{type(error).__name__}: {error}")
        box.send({"number": sent["number"], "html": answer})

    box.on_msg(respond)
    return box
