"""A table of texts, in a CSV file as spreadsheets save it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd


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
    try:
        # Excel's files start with a byte order mark, this library's with comments.
        text = re.sub(r"\A(#.*\n)*", "", path.read_text("utf-8-sig"))
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
    table = table.apply(lambda column: column.str.strip())
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


def id_by_name(ids: Sequence[str]) -> dict[str, str]:
    """Return which image a name in a table means, an id, by that name.

    A name is an id, or a file name that only one image has: "1.jpg" of "cat/1.jpg".
    """
    file_names = [PurePosixPath(image_id).name for image_id in ids]
    id_of = pd.Series(list(ids), file_names, dtype=str)
    is_shared = id_of.index.duplicated(keep=False)
    by_id = {image_id: image_id for image_id in ids}
    return dict(id_of[~is_shared]) | by_id
