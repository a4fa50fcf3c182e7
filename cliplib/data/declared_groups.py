"""Groups of images, declared by a CSV file or by a pattern of the images' names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cliplib.data.text_table import named_images, read_text_table
from cliplib.data.warn import warn_once
from cliplib.data.wording import counted


def declared_groups(
    ids: Sequence[str], declaration: str | os.PathLike[str]
) -> list[str]:
    r"""Return the declared name of each image's group.

    A group may hold images of several classes, since one photograph, patient or object
    may show several classes.

    Parameters
    ----------
    ids
        The images' ids: their paths below the data set's folder.
    declaration
        A CSV file with the columns ``file`` (an id, or a file name that only one image
        has) and ``group``; or a regular expression that is searched in the ids and
        whose first parentheses capture the group, such as ``(img_\d+)_\d+\.jpg``. If
        it has named parentheses, such as ``(?P<patient>\d+)``, all of these together
        capture the group.

    Returns
    -------
    list of str
        Names of groups, in the order of `ids`.

    Raises
    ------
    FileNotFoundError
        If the declaration names a CSV file that does not exist.
    ValueError
        If an image gets no group, if two rows name the same image, or if the
        declaration is neither such a file nor such an expression.
    """
    name = os.fspath(declaration)
    is_table = os.path.isfile(name) or isinstance(declaration, os.PathLike)
    if is_table or name.lower().endswith(".csv"):
        groups = _groups_from_table(ids, Path(name))
    else:
        groups = groups_from_pattern(ids, name)
    uncovered = [image for image, group in zip(ids, groups, strict=True) if not group]
    if uncovered:
        raise ValueError(
            f"The groups {name!r} do not cover {len(uncovered)} of {len(ids)} images, "
            f"such as {str(uncovered[0])!r}: give each image a group."
        )
    return groups


def _groups_from_table(ids: Sequence[str], path: Path) -> list[str]:
    """Return each image's group by a CSV file (file, group), "" if it names none.

    `named_images` says which image a row names. A warning counts the rows that name no
    image.
    """
    table = read_text_table(path, ("file", "group"))
    image_of_row = named_images(table["file"], ids, path)
    unknown_files = table["file"][image_of_row.isna()]
    if len(unknown_files):
        warn_once(
            f"{path} names {counted(len(unknown_files), 'file')} not among the images, "
            f"such as {unknown_files.iloc[0]!r}."
        )
    group_by_image = dict(zip(image_of_row, table["group"], strict=True))
    return [group_by_image.get(image, "") for image in ids]


def groups_from_pattern(ids: Sequence[str], pattern: str) -> list[str]:
    r"""Return what a regular expression captures in each id, "" if it does not match.

    In ``cat/img_7_2.jpg``, the first parentheses of ``(img_\d+)_`` capture "img_7". If
    there are named parentheses, as in ``(?P<folder>\w+)/(?P<series>img_\d+)``, what all
    of these capture is joined by "/": "cat/img_7". ValueError if the pattern is not a
    regular expression or has no parentheses.
    """
    try:
        expression = re.compile(pattern)
        if expression.groups == 0:
            raise re.error("it has no parentheses around the group")
    except re.error as error:
        raise ValueError(
            f"The groups {pattern!r} are neither a file nor a regular expression "
            f"that captures a group ({error})."
        ) from error
    # One row for each id, one column for each pair of parentheses.
    captured = pd.Series(ids, dtype=object).str.extract(expression).fillna("")
    named_columns = [number - 1 for number in expression.groupindex.values()]
    rows = captured.iloc[:, named_columns or [0]].itertuples(index=False)
    return ["/".join(filter(None, parts)) for parts in rows]
