"""Tables in CSV files, as spreadsheets save and open them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

# First characters that let a spreadsheet take a text for a formula (OWASP, "CSV
# injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def read_text_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file as texts, stripped of spaces around them.

    Columns may be separated by commas, semicolons or tabs. If `columns` are given, only
    these are returned; the first of them names the image of each row.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a CSV file, lacks a column, or names an image twice.
    """
    table = _read_csv(path).apply(lambda column: column.str.strip())
    if not columns:
        return table
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(
            f"{str(path)!r} lacks the column {missing[0]!r}: its first line must name "
            f"the columns {', '.join(columns)}."
        )
    names = table[columns[0]]
    repeated = names[names.duplicated()]
    if len(repeated):
        raise ValueError(f"{str(path)!r} names {repeated.iloc[0]!r} more than once.")
    return table[list(columns)]


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file as texts; ValueError if it is not one.

    The separator is the most frequent one in the first line: comma, semicolon or tab.
    """
    try:
        text = path.read_text("utf-8-sig")  # skips the mark that Excel writes
        first_line = text.split("\n", 1)[0]
        table = pd.read_csv(
            io.StringIO(text),
            sep=max(",;\t", key=first_line.count),
            dtype=str,
            keep_default_na=False,  # "NA" stays a text
        ).rename(columns=str.strip)
    except ValueError as error:  # such as UnicodeDecodeError
        raise ValueError(f"{str(path)!r} is no CSV file in UTF-8 ({error}).") from error
    # pandas takes the first cells of longer rows for an index, which shifts columns.
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(
            f"{str(path)!r} has rows with more cells than its first line, which names "
            "the columns: quote what holds a comma, and leave none at the end."
        )
    return table


def named_images(names: pd.Series, ids: Sequence[str], path: Path) -> pd.Series:
    """Return the id of the image that each name stands for, NaN if there is none.

    The names come from the table at `path`. A name is an id, such as "cat/1.jpg", or a
    file name that only one image has, such as "1.jpg". ValueError if two names stand
    for the same image.
    """
    id_by_file_name = pd.Series([*ids], [PurePosixPath(name).name for name in ids])
    is_unique = ~id_by_file_name.index.duplicated(keep=False)
    id_by_id = {image_id: image_id for image_id in ids}
    images = names.map(id_by_file_name[is_unique].to_dict() | id_by_id)
    repeated = images[images.duplicated()].dropna()
    if len(repeated):
        raise ValueError(
            f"{str(path)!r} names {repeated.iloc[0]!r} twice: leave one out."
        )
    return images


def write_csv(rows: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table as a CSV file for spreadsheets, without its index.

    The file is in UTF-8, with the mark that Excel needs. Numbers have three decimals.
    Texts are quoted, so that they may hold line breaks, and those that a spreadsheet
    would take for a formula begin with an apostrophe.
    """
    rows.map(_cell).to_csv(
        path,
        index=False,
        quoting=csv.QUOTE_NONNUMERIC,
        lineterminator="\r\n",
        encoding="utf-8-sig",
        errors="backslashreplace",  # for file names that are not in UTF-8
    )


def _cell(cell: Any) -> Any:
    """Round a number, and put an apostrophe before a text that looks like a formula."""
    if isinstance(cell, float):
        return round(cell, 3)
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        return f"'{cell}"
    return cell
