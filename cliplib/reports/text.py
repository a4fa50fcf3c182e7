"""A document as plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill

import pandas as pd

from cliplib.reports.document import Code, Document, Table, Text

LINE_LENGTH = 88


def as_text(document: Document, verdict: str) -> str:
    """Return a document without plots and pictures, and then the text `verdict`."""
    return "\n".join([*_lines(document), "", verdict])


def _lines(document: Document) -> Iterator[str]:
    """Yield each heading, text, code and table, with line breaks before it."""
    for section in document.sections:
        yield f"\n{section.title}\n{'=' * len(section.title)}"
        for block in section.blocks:
            if isinstance(block, Text):
                yield f"\n{fill(block.text, LINE_LENGTH)}"
            elif isinstance(block, Code):
                yield f"\n{block.text}"
            elif isinstance(block, Table):
                table = pd.DataFrame(block.rows, columns=block.columns)
                yield f"\n{fill(block.caption, LINE_LENGTH)}\n"
                yield table.to_string(index=False, max_colwidth=60)
