"""What a report is made of: texts, tables, plots and pictures, in sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from cliplib.data.wording import (
    number,
    percent,
)
from cliplib.evaluation.intervals import Share
from cliplib.reports.findings import Findings
from cliplib.reports.verdict import Verdict

MOST_ROWS = 12
"""Rows of a table that are shown."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to be copied, such as a command, that keep their line breaks."""

    text: str


@dataclass(frozen=True, eq=False)
class Table:
    """A table of texts, its columns named."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot:
    """A plot of the findings, which `draw` draws."""

    caption: str
    alt: str
    draw: Callable[[Findings], Figure]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, as `load_image` takes it, with a title above and a name below."""

    image: Any
    title: str = ""
    name: str = ""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images side by side."""

    caption: str
    pictures: Sequence[Picture]


Block = Text | Code | Table | Plot | Pictures


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, eq=False)
class Document:
    """Title, verdict, and the sections of evidence."""

    title: str
    subtitle: str
    verdict: Verdict
    table: Table
    """The verdict's five rows."""
    sections: Sequence[Section]


def table_of(caption: str, frame: pd.DataFrame) -> Table:
    """Return a data frame as a table of texts; its index is shown if it has a name.

    Of more than `MOST_ROWS` rows the first are shown, and the caption says so.
    """
    if len(frame) > MOST_ROWS:
        caption += f" The first {MOST_ROWS} of {len(frame):,}."
    frame = frame.head(MOST_ROWS)
    if frame.index.name is not None:
        frame = frame.reset_index()
    rows = [[text_of(cell) for cell in row] for row in frame.itertuples(index=False)]
    return Table(caption, [str(column) for column in frame.columns], rows)


def text_of(cell: Any) -> str:
    """Write a cell on one line: `Share`s as "54% (46 to 62)"."""
    if isinstance(cell, Share):
        return percent(cell)
    return " ".join(number(cell).split())


def shares_of(frame: pd.DataFrame) -> pd.Series:
    """Return the columns value, low and high as one column of `Share`s, row by row."""
    shares = [Share.of(row) for _, row in frame.iterrows()]
    return pd.Series(shares, frame.index, dtype=object)
