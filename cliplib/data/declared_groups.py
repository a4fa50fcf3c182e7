"""Which images belong together, as a CSV file or a pattern of their names declares."""

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
    r"""Return the name of each image's group, as a CSV file or a pattern declares it.

    Groups may hold images of several classes: one photograph, patient or object may
    show more than one of them.

    Parameters
    ----------
    ids
        The images' ids: their paths below the data set's folder.
    declaration
        A CSV file with the columns ``file`` (an id, or a file name that only one image
        has) and ``group``; or a regular expression that is searched in the ids and
        whose first parentheses hold the group, such as ``(img_\d+)_\d+\.jpg``. Where
        parentheses are named, ``(?P<patient>\d+)``, all named ones together hold it.

    Returns
    -------
    list of str
        Names of groups, in the order of `ids`.

    Raises
    ------
    FileNotFoundError
        If the declaration is the name of a CSV file that is not there.
    ValueError
        If it does not cover every image, or two rows name the same image; or it is
        neither such a file nor such an expression.
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
    """Return the group that a CSV file (file, group) gives each image, "" for none.

    Its column `file` holds ids, or file names: ``1.jpg`` of ``cat/1.jpg``. A file name
    that several images have declares none of them. A warning counts the entries that
    declare no image.
    """
    table = read_text_table(path, ("file", "group"))
    image_of_row = named_images(table["file"], ids, path)
    absent = table["file"][image_of_row.isna()]
    if len(absent):
        warn_once(
            f"{path} names {counted(len(absent), 'file')} not among the images, such "
            f"as {absent.iloc[0]!r}."
        )
    group_of = dict(zip(image_of_row, table["group"], strict=True))
    return [group_of.get(image, "") for image in ids]


def groups_from_pattern(ids: Sequence[str], pattern: str) -> list[str]:
    r"""Return what a regular expression captures of each id, "" where nothing.

    Of ``cat/img_7_2.jpg``, ``(img_\d+)_`` captures "img_7": what its first parentheses
    hold. Where parentheses are named, as in ``(?P<folder>\w+)/(?P<series>img_\d+)``,
    all named ones count, joined by "/": "cat/img_7". ValueError for what is no regular
    expression, or has no parentheses.
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
    # A column for each pair of parentheses.
    found = pd.Series(ids, dtype=object).str.extract(expression).fillna("")
    named = [number - 1 for number in expression.groupindex.values()]
    parts = found.iloc[:, named or [0]].itertuples(index=False)
    return ["/".join(filter(None, of_image)) for of_image in parts]
