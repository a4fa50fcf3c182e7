"""The study's plots: grids of images, shares with their intervals, and their colours.

What the library draws as well, `confusion_heatmap` and the style, is offered from here,
so that a notebook imports one module.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from cliplib.data.image import load_image
from cliplib.reports.plots import (
    INK,
    PALE,
    confusion_heatmap,
    use_style,
)
from cliplib.reports.plots import svg as plain_svg

__all__ = [
    "INK",
    "PALE",
    "TEXT_WIDTH",
    "confusion_heatmap",
    "svg",
    "use_style",
]

TEXT_WIDTH = 6.22
"""Inches of the report's column: a figure this wide is printed at its own size."""
PERCENT = so.Continuous().label(like=lambda share, _: f"{100 * share:g}")
"""The scale of an axis of shares: 0.5 is written as 50."""
MIDDLE = "#6b7680"
CONDITION_COLOURS = {
    "published split": PALE,
    "at home": PALE,
    "by image": PALE,
    "before": PALE,
    "default": PALE,
    "shared copies kept in training": MIDDLE,
}
"""Shades of grey for how something is tested; ink for what is not named here."""
KIND_COLOURS = (
    "#4a235a",
    "#7b3f8c",
    "#a569bd",
    "#c39bd3",
    "#5b2c6f",
    "#2a7f62",
    "#8a6d1f",
    "#b03a2e",
    "#3b6ea8",
)
METHOD_COLOURS = {
    "kernel probe": "#0b3c5d",
    "linear probe": "#e0a12b",
    "nearest neighbour": "#c4512d",
    "MLP probe": "#3fa0a8",
    "zero-shot": "#8c7a5b",
}
METHODS = so.Nominal(METHOD_COLOURS)
"""The scale of a colour that tells methods apart: the same one in every figure."""
KINDS = so.Nominal([*KIND_COLOURS])
"""The scale of a colour that tells anything else apart, beside markers."""
SHORT_TITLES = {
    "Brain Tumor MRI Dataset": "brain MRI",
    "Brain MRI Images for Brain Tumor Detection": "Navoneel",
}
"""What panels call a data set whose own title is too long for them."""


@dataclass(frozen=True)
class Cell:
    """A place in a grid of images."""

    image: Any = None
    """What `load_image` takes; None for a place with a text, or an empty one."""
    title: str = ""
    text: str = ""
    """Below the image, or in its place."""
    right: bool | None = None
    """Whether to mark it as right or as wrong; None for no mark."""

    @property
    def heading(self) -> str:
        """What stands above the image: its mark and its title; "" without an image."""
        if self.image is None:
            return ""
        mark = {True: "✓ ", False: "× ", None: ""}[self.right]
        return f"{mark}{self.title}"


def image_grid(
    images: Sequence[Any],
    titles: Sequence[str] = (),
    right: Sequence[Any] = (),
    columns: int = 8,
) -> Figure:
    """Draw images in rows, each with its title above it.

    Parameters
    ----------
    images
        What `load_image` takes; or pairs (image or None, text below it).
    titles
        For the first images, or for all.
    right
        For each image True or False, to be marked as right or wrong, or None.
    columns
        Images in a row.
    """
    return _draw_cells(_image_cells(images, titles, right), columns)


def _image_cells(
    images: Sequence[Any], titles: Sequence[str], right: Sequence[Any]
) -> list[Cell]:
    """Return a cell for each image, or pair (image or None, text), in the same order.

    The last images may lack title and mark, as `titles` and `right` may be shorter.
    """
    cells = []
    for image, title, mark in zip_longest(images, titles, right):
        text = ""
        if isinstance(image, tuple):
            image, text = image
        is_right = None if mark is None else bool(mark)  # NumPy's bools become Python's
        cells.append(Cell(image, title or "", text or "", is_right))
    return cells


def result_grid(
    queries: Sequence[Any],
    images: Sequence[Sequence[Any]],
    titles: Sequence[Sequence[str]],
    right: Sequence[Sequence[Any]] = (),
) -> Figure:
    """Draw each query at the start of a row, and the images found for it beside it.

    Parameters
    ----------
    queries
        Each a sentence, an image, or a pair (image, sentence).
    images, titles, right
        For each query a sequence, one item for each image found: what `load_image`
        takes; its title; and True or False, to be marked as right or wrong, or None.
    """
    columns = 1 + max(map(len, images))
    cells = []
    rows = zip_longest(queries, images, titles, right, fillvalue=())
    for query, found, found_titles, found_right in rows:
        row = [_query_cell(query), *_image_cells(found, found_titles, found_right)]
        empty = [Cell()] * (columns - len(row))
        cells += row + empty
    return _draw_cells(cells, columns)


def _query_cell(query: Any) -> Cell:
    """Return the cell of a sentence, an image, or a pair of image and sentence."""
    if isinstance(query, str):
        return Cell(text=query)
    if isinstance(query, tuple):
        image, sentence = query
        return Cell(image, text=sentence)
    return Cell(query)


def _draw_cells(cells: Sequence[Cell], columns: int) -> Figure:
    """Draw cells row by row, `columns` a row, as wide as the report's text."""
    letters = 120 // columns  # that fit on a line above an image
    # One empty row, if there are no cells.
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)] or [()]
    lines = sum(_lines_beside_images(row, letters) for row in rows)
    # In inches: a square for each image, and the lines above and below it.
    height = len(rows) * TEXT_WIDTH / columns + 0.13 * lines
    figure, axes = plt.subplots(
        len(rows), columns, squeeze=False, figsize=(TEXT_WIDTH, height)
    )
    empty = [Cell()] * (axes.size - len(cells))
    for ax, cell in zip(axes.flat, [*cells, *empty], strict=True):
        _draw_cell(ax, cell, letters)
    figure.draw_without_rendering()  # lays out once more: the first may cut titles off
    return figure


def _lines_beside_images(row: Sequence[Cell], letters: int) -> int:
    """Return how many lines the images in a row of cells need above and below them.

    Each cell has a heading, of one line or more; only some have a text below an image.
    """
    above = [_wrap(cell.heading, letters).count("\n") + 1 for cell in row]
    below = [
        _wrap(cell.text, letters).count("\n") + 1
        for cell in row
        if cell.text and cell.image is not None
    ]
    return max(above, default=0) + max(below, default=0)


def _draw_cell(ax: Axes, cell: Cell, letters: int) -> None:
    """Draw a cell into `ax`, with lines of at most `letters` characters.

    The text lies below the image, or in its place if there is none. The frame of an
    image marked as wrong is dashed, and that of one without a mark is
    pale: marks can be seen without colour.
    """
    ax.set(xticks=[], yticks=[])
    colour = PALE if cell.right is None else INK
    line = "--" if cell.right is False else "-"
    ax.spines[:].set(edgecolor=colour, linestyle=line, visible=cell.image is not None)
    ax.set_title(_wrap(cell.heading, letters), fontsize=7.5, pad=2)
    text = _wrap(cell.text, letters)
    if cell.image is None:
        ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=7.5)
        return
    image = load_image(cell.image)
    image.thumbnail((160, 160))
    ax.imshow(np.asarray(image))
    ax.set_xlabel(text, fontsize=7.5)


def _wrap(text: str, letters: int) -> str:
    """Break lines of more than `letters` characters; a text's own line breaks stay."""
    return "\n".join(textwrap.fill(line, letters) for line in text.splitlines())


def interval_plot(table: pd.DataFrame, x: str, y: str, **columns: str) -> so.Plot:
    """Plot shares, from 0 to 1, in per cent as dots with their intervals, in rows.

    Parameters
    ----------
    table
        With columns, or levels of its index, of the names below.
    x
        The column of shares; the intervals are in ``x_low`` and ``x_high``.
    y
        The column each of whose values has a row in the plot, such as that of methods.
    **columns
        Columns that are mapped to other properties of seaborn, such as ``color``. By
        the column "method", each method has its `METHOD_COLOURS`; by any other, ways of
        testing have their `CONDITION_COLOURS`.
    """
    plot = so.Plot(table, x=x, y=y, **columns)
    apart = so.Dodge(gap=0.3, by=["color"])  # one below the other in a row
    plot = plot.add(so.Dot(), apart)  # also those without an interval
    ends = {"xmin": f"{x}_low", "xmax": f"{x}_high"}
    plot = plot.add(so.Range(), apart, legend=False, **ends)
    coloured_by = columns.get("color")
    if coloured_by == "method":
        plot = plot.scale(color=METHODS)
    elif coloured_by is not None:
        levels = table.reset_index()[coloured_by].unique()
        plot = plot.scale(color=conditions(levels))
    return plot.scale(x=PERCENT).label(x=f"{x.replace('_', ' ')} (%)", y="")


def conditions(levels: Sequence[str]) -> so.Nominal:
    """Return a colour scale of ways of testing: `CONDITION_COLOURS`, for others ink."""
    return so.Nominal({level: CONDITION_COLOURS.get(level, INK) for level in levels})


def draw_plot(plot: so.Plot, height: float) -> Figure:
    """Draw a plot `TEXT_WIDTH` by `height` inches, its legend on top.

    Titles of panels are shortened as `SHORT_TITLES` says.
    """
    figure = plt.figure(figsize=(TEXT_WIDTH, height))
    plot.theme(dict(plt.rcParams)).on(figure).plot()  # in the style that is set
    for ax in figure.axes:
        ax.set_title(SHORT_TITLES.get(ax.get_title(), ax.get_title()))
    if figure.legends:  # seaborn's stands to the right of the panels: replace it
        legend = figure.legends[0]
        labels = [text.get_text() for text in legend.texts]
        handles = [handle for handle in legend.legend_handles if handle is not None]
        figure.legends.clear()
        figure.legend(handles, labels, loc="outside upper center", ncols=5)
    return figure


def svg(figure: Figure) -> str:
    """Return a figure as SVG, photographs in it as JPEG to save bytes, and close it."""
    return re.sub(r"data:image/png;base64,\s*([^\"]+)", _as_jpeg, plain_svg(figure))


def _as_jpeg(embedded: re.Match[str]) -> str:
    """Return a PNG's data URI, matched as a whole, as that of a JPEG, if a photograph.

    Group 1 of the match is the PNG in base64. One with transparent pixels is a drawing,
    and stays as it is.
    """
    image = Image.open(io.BytesIO(base64.b64decode(embedded[1]))).convert("RGBA")
    is_opaque = image.getchannel("A").getextrema() == (255, 255)
    if not is_opaque:
        return embedded[0]
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=75, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def draw_rows(
    ax: Axes,
    results: Sequence[dict[str, float]],
    offset: float = 0.0,
    written: str = "{:.0%}",
    **look: Any,
) -> None:
    """Draw shares one below the other, each with interval and value, in per cent.

    `results` have value, low and high; they stand at the heights 0, 1, ... plus
    `offset`. Values stand to the left of the interval if the offset is negative; they
    are `written` as this format says, without its sign for per cent.
    """
    side = -1 if offset < 0 else 1
    for y, result in enumerate(results):
        value, low, high = (100 * result[end] for end in ("value", "low", "high"))
        error = [[value - low], [high - value]]
        ax.errorbar(value, y + offset, xerr=error, fmt="o", **look)
        ax.annotate(
            written.format(result["value"]).removesuffix("%"),
            (low if side < 0 else high, y + offset),
            (4 * side, -2.5),
            textcoords="offset points",
            ha="right" if side < 0 else "left",
            fontsize=7.5,
        )
        look["label"] = None  # one entry in the legend
