"""Measure how pages and figures are set: holes, headings, tables, letters, colours."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pypdfium2
from numpy.typing import NDArray

POINTS_PER_CM = 72 / 2.54
HEADER = 2.2 * POINTS_PER_CM
"""Running heads and the first chapter heads stand above this line."""
FOOTER = 1.9 * POINTS_PER_CM
"""Page numbers stand below this line, counted from the bottom."""

Marks = list[dict[str, Any]]


def inked_rows(page: pypdfium2.PdfPage) -> NDArray[np.bool_]:
    """Return for each point of a page's height whether anything is printed there."""
    grey = page.render(scale=1, grayscale=True).to_numpy()
    return (grey.reshape(grey.shape[0], -1) < 250).any(axis=1)


def holes(inked: NDArray[np.bool_]) -> Iterator[tuple[float, float]]:
    """Yield where blank rows begin between header and footer, and how many they are."""
    body = inked[int(HEADER) : int(len(inked) - FOOTER)]
    edges = np.flatnonzero(np.concatenate([[True], body, [True]]))
    for above, below in itertools.pairwise(edges):
        if below - above > 1:
            yield above + HEADER, float(below - above - 1)


def ends_of_parts(headings: Marks, n_pages: int) -> set[int]:
    """Return the pages after which a part begins on a new page, and the last one."""
    new_part = re.compile(r"Introduction$|Python code$|Supplemental material$")
    starts = [mark["page"] for mark in headings if mark["level"] == 1]
    parts = [mark["page"] for mark in headings if new_part.search(mark["title"])]
    before_first = set(range(1, min(starts)))  # cover and contents
    return before_first | {page - 1 for page in parts} | {n_pages}


def stranded(headings: Marks, inked: list[NDArray[np.bool_]]) -> list[str]:
    """Return the headings below which their page has less than two lines.

    For those of the lowest level one line is enough, such as the first of a list.
    """
    found = []
    for mark in headings:
        rows = inked[mark["page"] - 1]
        below = rows[int(mark["y"]) - 2 : int(len(rows) - FOOTER)]
        begins = below[1:] & ~below[:-1]  # of the heading, and of each line
        if begins.sum() < (3 if mark["level"] < 3 else 2):
            found.append(f"{mark['title']} on page {mark['page']}")
    return found


def cut_tables(tables: Marks, ends: Marks, figures: Marks) -> list[str]:
    """Return the figures that stand between two parts of a table."""
    found = []
    for begin, end in zip(tables, ends, strict=True):
        first, last = (begin["page"], begin["y"]), (end["page"], end["y"])
        for figure in figures:
            place = (figure["page"], figure["y"])
            if begin["page"] < end["page"] and first < place < last:
                found.append(f"{figure['id']} on page {figure['page']}")
    return found


@dataclass(frozen=True)
class Label:
    """A line of letters of an SVG: its text, the size of its letters, and its box."""

    text: str
    size: float
    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""

    def covers(self, other: Label) -> float:
        """Return the shared area, as a share of the smaller box."""
        left, top, right, bottom = self.box
        other_left, other_top, other_right, other_bottom = other.box
        width = min(right, other_right) - max(left, other_left)
        height = min(bottom, other_bottom) - max(top, other_top)
        if width <= 0 or height <= 0:
            return 0.0
        areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (self.box, other.box)]
        return width * height / min(areas)


LINE = re.compile(
    r"<!-- (?P<text>[^>]*?) -->\s*<g [^>]*transform=\"translate\((?P<x>[-\d.]+) "
    r"(?P<y>[-\d.]+)\)(?P<turn> rotate\([-\d.]+\))? scale\((?P<scale>[\d.]+)"
    r" [-\d.]+\)\">(?P<glyphs>.*?)</g>\s*(?=</g>|<!--|<g )",
    re.DOTALL,
)
USE = re.compile(r"<use [^>]*?(?:transform=\"translate\(([-\d.]+) [-\d.]+\)\")?/>")


def labels(svg: str) -> list[Label]:
    """Return the lines of letters of a figure of matplotlib."""
    found = []
    for line in LINE.finditer(svg):
        scale = float(line["scale"])
        size = 100 * scale
        advances = [float(at or 0) for at in USE.findall(line["glyphs"])]
        length = (max(advances, default=0) + 50) * scale
        x, y = float(line["x"]), float(line["y"])
        box = (x, y - 0.7 * size, x + length, y + 0.1 * size)
        if line["turn"]:  # by a quarter, to the left
            box = (x - 0.7 * size, y - length, x + 0.1 * size, y)
        found.append(Label(line["text"].strip(), size, box))
    return found


def overprinted(svg: str) -> list[tuple[str, str]]:
    """Return pairs of labels that lie on each other."""
    every = labels(svg)
    return [
        (one.text, other.text)
        for i, one in enumerate(every)
        for other in every[:i]
        if one.covers(other) > 0.2
    ]


def lines_on_lines(page: Any) -> list[tuple[str, str]]:
    """Return pairs of lines of a PDF's page, of pypdfium2, that lie on each other."""
    text = page.get_textpage()
    boxes = [text.get_rect(i) for i in range(text.count_rects())]
    found = []
    for i, (left, bottom, right, top) in enumerate(boxes):
        for other in boxes[:i]:
            width = min(right, other[2]) - max(left, other[0])
            height = min(top, other[3]) - max(bottom, other[1])
            if width > 2 and height > 0.5:
                pair = (other, (left, bottom, right, top))
                found.append(tuple(text.get_text_bounded(*box) for box in pair))
    return found


def width_of(svg: str) -> float:
    """Return the width at which a figure was drawn, in points."""
    found = re.search(r'width="([\d.]+)pt"', svg)
    assert found, "a figure without a width"
    return float(found[1])


def colours(svg: str) -> set[str]:
    """Return the colours of lines and areas, but for greys."""
    found = set(re.findall(r"(?:stroke|fill): (#[0-9a-f]{6})", svg))
    return {colour for colour in found if not is_grey(colour)}


def is_grey(colour: str) -> bool:
    """Return whether a colour such as "#59636e" is nearly grey."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return max(parts) - min(parts) <= 24
