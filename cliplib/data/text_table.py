"""Tables in CSV files, as spreadsheets save and open them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

# What a spreadsheet may take for a formula: OWASP, "CSV injection".
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def read_text_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file as texts, without spaces around them.

    Commas, semicolons or tabs may lie between columns. If `columns` are named, only
    these are returned; the first of them names the image of each row.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no CSV file, lacks a column, or names an image twice.
    """
    table = _read_csv(path).apply(lambda column: column.str.strip())
    if not columns:
        return table
    if lacking := [name for name in columns if name not in table]:
        raise ValueError(
            f"{str(path)!r} lacks the column {lacking[0]!r}: its first line must name "
            f"the columns {', '.join(columns)}."
        )
    names = table[columns[0]]
    repeated = names[names.duplicated()]
    if len(repeated):
        raise ValueError(f"{str(path)!r} names {repeated.iloc[0]!r} more than once.")
    return table[list(columns)]


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file as texts, with any separator; ValueError if it is none.

    It is what the first line has most of: commas, semicolons or tabs.
    """
    try:
        text = path.read_text("utf-8-sig")  # Excel's files begin with its mark
        first_line = text.split("\n", 1)[0]
        table = pd.read_csv(
            io.StringIO(text),
            sep=max(",;\t", key=first_line.count),
            dtype=str,
            keep_default_na=False,  # "NA" stays a text
        ).rename(columns=str.strip)
    except ValueError as error:  # such as UnicodeDecodeError
        raise ValueError(f"{str(path)!r} is no CSV file in UTF-8 ({error}).") from error
    if not isinstance(table.index, pd.RangeIndex):  # else columns would be shifted
        raise ValueError(
            f"{str(path)!r} has rows with more cells than its first line, which names "
            "the columns: quote what holds a comma, and leave none at the end."
        )
    return table


def named_images(names: pd.Series, ids: Sequence[str], path: Path) -> pd.Series:
    """Return the id of the image that each name in the table at `path` means, or NaN.

    A name is an id, or a file name that only one image has: "1.jpg" of "cat/1.jpg".
    ValueError if two names mean the same image.
    """
    file_names = pd.Series([PurePosixPath(image_id).name for image_id in ids], ids)
    unique = file_names[~file_names.duplicated(keep=False)]
    id_of = {name: image_id for image_id, name in unique.items()}
    images = names.map(id_of | dict(zip(ids, ids, strict=True)))
    repeated = images[images.duplicated()].dropna()
    if len(repeated):
        raise ValueError(
            f"{str(path)!r} names {repeated.iloc[0]!r} twice: leave one out."
        )
    return images


def write_csv(rows: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table for spreadsheets.

    In UTF-8 with the mark that Excel looks for; numbers have three decimals; texts are
    quoted, so that line ends in them stay in their cell, and an apostrophe goes before
    what would be a formula. The index is left out.
    """
    rows.map(_cell).to_csv(
        path,
        index=False,
        quoting=csv.QUOTE_NONNUMERIC,
        lineterminator="\r\n",
        encoding="utf-8-sig",
        errors="backslashreplace",  # for file names that are no UTF-8
    )


def _cell(cell: Any) -> Any:
    """Return a number rounded; an apostrophe before a text that would be a formula."""
    if isinstance(cell, float):
        return round(cell, 3)
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        return f"'{cell}"
    return cell
