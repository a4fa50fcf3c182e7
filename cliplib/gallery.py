"""What a search found, to look at: galleries and captioned pictures for print, and a box that answers as one types."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from cliplib.data import decode
from cliplib.errors import CliplibError, ImageError
from cliplib.figures import TEXT_WIDTH, palette
from cliplib.retrieval import search_distinct
from cliplib.zeroshot import TextEncoder

if TYPE_CHECKING:
    import datasets

__all__ = ["caption_panel", "result_gallery", "search_box", "thumbnails"]

Query = str | Image.Image | tuple[Image.Image, str]  # a sentence, a picture, or both
SIDE = 96  # pixels of a thumbnail's longer side: 0.6 inches at 160 dots per inch
# Sign, colour and line say the same, so that print without colour loses nothing.
_MARKS = {
    None: ("", "#8a8f98", "solid", 0.6),
    True: ("✓ ", palette[0], "solid", 1.2),
    False: ("✗ ", palette[2], (0, (2.5, 1.5)), 1.6),
}


def thumbnails(dataset: datasets.Dataset, ids: Sequence[str]) -> list[Image.Image]:
    """Rows of a data set (:func:`cliplib.data.load_dataset`) by their ids, as pictures of at most `SIDE` pixels.

    Raises
    ------
    CliplibError
        An id that is not there; an `ImageError` where a picture cannot be read.
    """
    where = {name: row for row, name in enumerate(dataset["id"])}
    if missing := [name for name in ids if name not in where]:
        raise CliplibError(f"The data set has no picture {str(missing[0])!r}: search the features of these images.")
    return [_small(dataset[where[name]]["image"]) for name in ids]


def result_gallery(
    queries: Sequence[Query], pictures: Sequence[Sequence[Image.Image]], scores: ArrayLike, titles: ArrayLike,
    right: ArrayLike | None = None,
) -> Figure:  # fmt: skip
    """Draw one row for each query: the query, then what it found, best first.

    Parameters
    ----------
    queries : sequence of q queries
        A sentence, a picture, or a picture and a sentence.
    pictures : q sequences of k images
    scores, titles : array-like of shape (q, k)
        Of the finds; both are written above them.
    right : array-like of bool, shape (q, k), optional
        Whether a find is right: marked by a sign, by the line around it and by its colour.
    """
    score, title = np.asarray(scores), np.asarray(titles)
    marks = np.full(score.shape, None) if right is None else np.asarray(right, bool).astype(object)
    drawn = {(len(pictures), len(row)) for row in pictures}
    if drawn != {score.shape} or {title.shape, marks.shape} != drawn or len(queries) != len(pictures):
        raise CliplibError("A gallery needs one score, title and picture for each find, and equally many per query.")
    columns, first = score.shape[1], 1.45  # the query takes the place of that many finds
    height = len(queries) * (TEXT_WIDTH / (columns + first) + 0.2)
    fig, axes = plt.subplots(
        len(queries), columns + 1, squeeze=False, width_ratios=[first] + [1] * columns, figsize=(TEXT_WIDTH, height)
    )
    for row, query in zip(axes, queries, strict=True):
        _draw_query(row[0], query)
    for (i, j), mark in np.ndenumerate(marks):
        _draw(axes[i, j + 1], pictures[i][j], mark)
        axes[i, j + 1].set_title(f"{_MARKS[mark][0]}{title[i, j]} {score[i, j]:.2f}", fontsize=6.5, pad=3)
    return fig


def caption_panel(
    pictures: Sequence[Image.Image], captions: pd.DataFrame, titles: Sequence[str], right: ArrayLike | None = None
) -> Figure:
    """Draw pictures, two in a row, with the sentences chosen for them.

    Parameters
    ----------
    pictures : sequence of n images
    captions : DataFrame of n rows
        As from :func:`cliplib.zeroshot.caption`.
    titles : sequence of n str
        What is known of each picture, such as its class.
    right : array-like of bool, shape (n,), optional
        Whether the caption is right.
    """
    marks = [None] * len(pictures) if right is None else np.asarray(right, bool).tolist()
    if not len(pictures) == len(captions) == len(titles) == len(marks):
        raise CliplibError(f"{len(pictures)} pictures, {len(captions)} captions and {len(titles)} titles do not match.")
    rows = -(-len(pictures) // 2)
    fig, axes = plt.subplots(rows, 4, squeeze=False, width_ratios=[1, 2.1] * 2, figsize=(TEXT_WIDTH, rows * 1.06))
    for ax in axes.flat:
        ax.set_axis_off()
    for i, ((_, found), mark) in enumerate(zip(captions.iterrows(), marks, strict=True)):
        beside, text = axes[i // 2, 2 * (i % 2) :][:2]
        _draw(beside, pictures[i], mark)
        says = [f"{_MARKS[mark][0]}{titles[i]}"]
        says += [f"{found[n]} ({found[s]:.2f})" for n, s in (("caption", "score"), ("runner_up", "runner_up_score"))]
        for words, top, looks in zip(
            says, (0.98, 0.76, 0.33), ({"weight": "bold"}, {}, {"color": "#59636e"}), strict=True
        ):
            text.text(0, top, textwrap.fill(words, 38), fontsize=7.5, va="top", transform=text.transAxes, **looks)
    return fig


def search_box(
    encoder: TextEncoder, gallery: ArrayLike, titles: Sequence[str], *, groups: ArrayLike | None = None,
    pictures: Sequence[Any] | None = None, k: int = 8, start: str = "",
) -> ipywidgets.VBox:  # fmt: skip
    """A box for JupyterLab that searches at every keystroke.

    Parameters
    ----------
    encoder : ClipEncoder
        Or anything with its ``texts``.
    gallery : array-like of shape (n, d)
        Projected image features.
    titles, pictures : sequences of n str and of n image sources
        Pictures, such as ``dataset["image"]``, are read when first shown; without them the answer is titles and scores.
    groups : array-like of int, shape (n,), optional
        Near-duplicates, of which one is shown.
    k : int
        Number of finds.
    start : str
        The first query.

    Returns
    -------
    ipywidgets.VBox
        Its children: the query (``Text``) and the answer (``HTML``).
    """
    features = np.asarray(gallery)
    if len(titles) != len(features) or (pictures is not None and len(pictures) != len(features)):
        raise CliplibError(f"The gallery has {len(features)} rows: give a title, and a picture if any, for each.")
    codes = np.arange(len(features)) if groups is None else groups
    query, answer = ipywidgets.Text(value=start, description="Search", layout={"width": "36em"}), ipywidgets.HTML()

    @lru_cache(maxsize=256)
    def shown(row: int) -> str:
        return "" if pictures is None else _embedded(pictures[row], titles[row])

    def respond(_: object = None) -> None:
        if not query.value.strip():
            answer.value = "<p>Say what to look for.</p>"
            return
        (found,), (scores,) = search_distinct(encoder.texts([query.value]), features, k, groups=codes)
        cells = [
            f'<figure style="margin:4px;width:{SIDE + 24}px">{shown(int(row))}'
            f"<figcaption>{score:.3f} {escape(titles[row])}</figcaption></figure>"
            for row, score in zip(found, scores, strict=True)
        ]
        answer.value = f'<div style="display:flex;flex-wrap:wrap">{"".join(cells)}</div>'

    query.observe(respond, names="value")
    respond()
    return ipywidgets.VBox([query, answer])


def _small(source: Any) -> Image.Image:
    image = decode(source)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def _embedded(source: Any, title: str) -> str:
    """An image as an HTML element that holds its own bytes; what cannot be read says so in its place."""
    try:
        _small(source).save(buffer := io.BytesIO(), "JPEG", quality=85)
    except ImageError as error:
        return f"<em>{escape(error.reason)}</em>"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(title)}" src="data:image/jpeg;base64,{data}">'


def _draw(ax: Axes, image: Image.Image, mark: bool | None) -> None:
    ax.imshow(np.asarray(image), cmap="gray")
    ax.set(xticks=[], yticks=[])
    ax.set_axis_on()
    _, colour, line, weight = _MARKS[mark]
    for spine in ax.spines.values():
        spine.set(edgecolor=colour, linestyle=line, linewidth=weight)


def _draw_query(ax: Axes, query: Query) -> None:
    picture, text = query if isinstance(query, tuple) else (None, query) if isinstance(query, str) else (query, "")
    ax.set_axis_off()
    if picture is not None:
        _draw(ax.inset_axes((0.12, 0.38, 0.76, 0.62) if text else (0, 0, 1, 1)), picture, None)
    if text:
        height, anchor = (0.5, "center") if picture is None else (0.3, "top")
        words = textwrap.fill(f"“{text}”", 17)
        ax.text(0.5, height, words, ha="center", va=anchor, fontsize=7.5, style="italic", transform=ax.transAxes)
