"""What a classifier said of a folder, to be handed on: a CSV for spreadsheets, and one HTML page that needs nothing."""

from __future__ import annotations

import base64
import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from cliplib.classifier import Classifier
from cliplib.classifier.files import Files, list_files, printable
from cliplib.data import decode
from cliplib.encoder.pipeline import upright_rgb
from cliplib.errors import CliplibError, ImageError, path_text
from cliplib.explain import overlay, probe_directions, relevance

logger = logging.getLogger(__name__)

Pictures: TypeAlias = tuple[str, str]
"""Thumbnail and heat map of a file as data: URIs; "" where there is none."""

SIDE = 144
"""Pixels of a thumbnail's longer side."""

_AT_A_TIME = 32  # pictures in memory, and explained together


def write_csv(rows: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write the rows of :meth:`Classifier.classify` for spreadsheets, in UTF-8 with the mark that Excel looks for.

    A text that a spreadsheet would run as a formula, because it begins with ``=``, ``+``, ``-`` or ``@`` (OWASP, "CSV
    injection"), gets an apostrophe in front.

    Raises
    ------
    CliplibError
        The file cannot be written.
    """
    safe = shown(rows).map(lambda cell: re.sub(r"^(?=\s*[=+\-@])", "'", cell) if isinstance(cell, str) else cell)
    return _write(path, safe.to_csv(index=False, lineterminator="\r\n", float_format="%.6g").encode("utf-8-sig"))


def write_html(
    rows: pd.DataFrame,
    path: str | os.PathLike[str],
    classifier: Classifier,
    *,
    files: Files | None = None,
    heat: bool = True,
    title: str = "What the classifier says",
) -> Path:
    """Write the rows of :meth:`Classifier.classify` as one page, without scripts and without anything to load.

    Parameters
    ----------
    rows : DataFrame
        Also a selection of the rows, or in another order: their index tells which files they are.
    path : path
        Of the page; a file that is there is replaced.
    classifier : Classifier
        Which said it; the page tells how it was made.
    files : as in `Classifier.classify`, optional
        The same again, for thumbnails.
    heat : bool
        Whether a heat map stands beside each thumbnail: :func:`cliplib.explain.relevance` for the class named.
    title : str

    Raises
    ------
    CliplibError
        The rows are not those of `classify`, or not of these files, or the page cannot be written.
    """
    if missing := [c for c in ("file", "class", "probability", "refused", "reason", "error") if c not in rows]:
        raise CliplibError(f"rows lack the column {missing[0]!r}: give what Classifier.classify returned.")
    unread, refused = int((rows["error"] != "").sum()), int((rows["refused"] & (rows["error"] == "")).sum())
    counts = f"{len(rows)} files: {len(rows) - unread - refused} answered, {refused} refused, {unread} unreadable."
    found = illustrations(rows, files, classifier, heat=heat)
    pictures = list(tqdm(found, total=len(rows), desc="sheet", disable=len(rows) <= _AT_A_TIME))
    about = {"encoder": classifier.encoder.name, **classifier.about, "classes": ", ".join(classifier.classes)}
    about |= {"temperature": classifier.temperature, "an answer needs a probability of": classifier.min_probability}
    about |= {"and a training picture of a similarity of": classifier.min_similarity}
    made = {printable(k): printable(f"{v:.4g}" if isinstance(v, float) else str(v)) for k, v in about.items()}
    return _write(path, rendered("page", title, shown(rows).to_dict("records"), pictures, counts, made).encode())


def heat_maps(classifier: Classifier, images: Sequence[Image.Image], classes: Sequence[str]) -> NDArray[np.float32]:
    """Where each of `classes` was read off each of `images`: (n, rows, columns), by `cliplib.explain.relevance`."""
    wanted = np.array([classifier.classes.index(name) for name in classes])
    features = classifier.encoder.images(images, progress=False)
    return relevance(classifier.encoder, images, probe_directions(classifier.probe, features, wanted))


def illustrations(
    rows: pd.DataFrame, files: Files | None, classifier: Classifier, *, heat: bool = True
) -> Iterator[Pictures]:
    """Thumbnail and heat map of the file of each row, a few pictures in memory at a time."""
    listed = dict(enumerate([] if files is None else list_files(files)))
    for start in range(0, len(rows), _AT_A_TIME):
        chunk = rows.iloc[start : start + _AT_A_TIME]
        images: dict[Any, Image.Image] = {}
        for i, row in chunk.iterrows():
            if files is None or row["error"]:
                continue
            if i not in listed or listed[i].name != row["file"]:
                raise CliplibError(f"The file {row['file']!r} of the rows is not in its place in files: classify anew.")
            try:
                source, name = listed[i].source, row["file"]
                images[i] = upright_rgb(source, name) if isinstance(source, Image.Image) else decode(source, name)
            except ImageError as error:  # such as one that has gone since
                logger.warning("%s", error)
        heats = dict.fromkeys(images, "")
        if heat and images:
            maps = heat_maps(classifier, list(images.values()), chunk.loc[list(images), "class"].tolist())
            over = (overlay(classifier.encoder, images[i], m, side=SIDE) for i, m in zip(images, maps, strict=True))
            heats = dict(zip(images, map(_uri, over), strict=True))
        yield from ((_uri(images[i]), heats[i]) if i in images else ("", "") for i in chunk.index)


def rendered(macro: str, *arguments: Any) -> str:
    """HTML of one of the macros of ``sheet.html.j2``, every argument escaped."""
    return str(getattr(_template(), macro)(*arguments))


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with each text on one line, whatever is in a class's or a file's name."""
    return rows.map(lambda cell: printable(cell) if isinstance(cell, str) else cell)


@cache
def _template() -> Any:
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined)
    environment.filters["percent"] = lambda p: "over 99.9 %" if p > 0.9995 else f"{100 * p:.1f} %"
    return environment.get_template("sheet.html.j2").module


def _uri(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    small.save(content := io.BytesIO(), "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _write(path: str | os.PathLike[str], content: bytes) -> Path:
    target = Path(path_text(path, "The place of a sheet"))
    try:
        target.write_bytes(content)
    except OSError as error:
        raise CliplibError(f"Cannot write {str(target)!r}: {error.strerror}.") from None
    return target
