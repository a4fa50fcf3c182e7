"""What a report is made of: texts, tables, plots and pictures.

The templates of page and PDF read them as they are, and tell them apart by `kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from cliplib.data.image import load_image
from cliplib.data.wording import number, percent
from cliplib.evaluation.intervals import Share
from cliplib.reports import figures
from cliplib.reports.findings import Findings
from cliplib.reports.sheet import small_jpeg

MOST_ROWS = 12
"""Rows of a table that are shown."""
PICTURE_SIDE = 240
"""Pixels of the longer side of a picture."""


@dataclass(frozen=True)
class Text:
    """A paragraph; of kind "code" lines to be copied, which keep their line breaks."""

    text: str
    kind: str = "text"


@dataclass(frozen=True, eq=False)
class Table:
    """A table of texts, its columns named; numeric ones are aligned at the right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    kind: str = "table"


@dataclass(frozen=True, eq=False)
class Plot:
    """A plot as SVG, and how many inches wide it is."""

    caption: str
    alt: str
    file: bytes
    inches: float
    kind: str = "plot"


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, as `load_image` takes it, with a title above and a name below."""

    image: Any
    title: str = ""
    name: str = ""

    @cached_property
    def file(self) -> bytes:
        """The image as JPEG, its longer side `PICTURE_SIDE` pixels at most."""
        return small_jpeg(load_image(self.image), PICTURE_SIDE, quality=80)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images side by side."""

    caption: str
    pictures: Sequence[Picture]
    kind: str = "pictures"


Block = Text | Table | Plot | Pictures


def table_of(caption: str, frame: pd.DataFrame, most: int = MOST_ROWS) -> Table:
    """Return a data frame as a table of texts; its index is shown if it has a name.

    Of more than `most` rows the first are shown, and the caption says so.
    """
    if len(frame) > most:
        caption += f" The first {most} of {len(frame):,}."
    frame = frame.head(most)
    if frame.index.name is not None:
        frame = frame.reset_index()
    cells = frame.map(_text_of)
    return Table(
        caption,
        [str(column) for column in cells],
        cells.to_numpy().tolist(),
        [bool(cells[column].map(_may_be_number).all()) for column in cells],
    )


def _text_of(cell: Any) -> str:
    """Write a cell on one line: `Share`s as "54% (46 to 62)"."""
    if isinstance(cell, Share):
        return percent(cell)
    return " ".join(number(cell).split())


def _may_be_number(cell: str) -> bool:
    """Say whether a cell begins as a number does, such as "−3 points", or is empty."""
    return cell == "" or cell.lstrip("−")[:1].isdigit()


def plot_of(
    caption: str, alt: str, draw: Callable[[Findings], Figure], findings: Findings
) -> Plot:
    """Draw a plot of the findings in the report's style."""
    with plt.rc_context():
        figures.use_style()
        figure = draw(findings)
        inches = float(figure.get_figwidth())
        return Plot(caption, alt, figures.svg(figure).encode(), inches)
