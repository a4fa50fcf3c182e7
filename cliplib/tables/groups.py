"""Groups of images that must never be on both sides of a split."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cliplib.images.arrays import Bools, Ints
from cliplib.images.image import warn_once

logger = logging.getLogger(__name__)

# What is left of an image's path without a counter is its series, a name without a
# counter its own. The folder belongs to it: cat/0.jpg and dog/0.jpg are no series.
COUNTER_LAST = r"^(.+?)(?:[-_. ]\(?(?:\d+|[A-Za-z])\)?)?\.\w+$"  # img_012_3.jpg
COUNTER_FIRST = (  # 3_img_012.jpg, exp3_img_012.jpg
    r"^(?:(?P<folder>.+)/)?(?:[A-Za-z]*\d+[-_. ])?(?P<series>[^/]+)\.\w+$"
)
# The same where one count runs through all folders: then only the file's name tells.
ACROSS_FOLDERS = (
    r"(?:^|/)([^/]+?)(?:[-_. ]\(?\d+\)?)?\.\w+$",
    r"(?:^|/)(?:[A-Za-z]*\d+[-_. ])?([^/]+)\.\w+$",
)


def connected_groups(n: int, index_a: ArrayLike, index_b: ArrayLike) -> Ints:
    """Return the groups of n images of which some pairs belong together.

    Whatever is connected through other images belongs together as well.

    Parameters
    ----------
    n
        How many images there are.
    index_a, index_b
        The two rows of each pair, (m,) both.

    Returns
    -------
    Ints
        Each image's group, (n,), numbered from 0 by first appearance.
    """
    rows_a = np.asarray(index_a)
    edges = (np.ones(len(rows_a)), (rows_a, np.asarray(index_b)))
    graph = coo_array(edges, shape=(n, n))
    components = connected_components(graph, directed=False)[1]
    return _numbers(components)


def number_groups(groups: ArrayLike, *, by_name: bool = False) -> Ints:
    """Return groups of any type, (n,), as numbers from 0.

    They are numbered by first appearance, or in the order of their sorted names, which
    does not depend on the order of rows.

    Raises
    ------
    ValueError
        If the group of an image is unknown (NaN, None or empty): taken literally, all
        such images would be one group.
    """
    # As objects, or else a number would become a name beside one.
    dtype = None if isinstance(groups, np.ndarray) else object
    given = np.asarray(groups, dtype)
    if given.ndim != 1:
        raise ValueError(f"groups must be (n,), and not {given.shape}.")
    unknown = _are_unknown(given)
    if unknown.any():
        raise ValueError(
            f"{unknown.sum()} of {len(given)} images have no group, the first in row "
            f"{unknown.argmax()}: give each of them a group of its own, or leave them "
            "out."
        )
    return _numbers(given, by_name=by_name)


def _are_unknown(names: NDArray[Any]) -> Bools:
    """Say which names (n,) are missing; NumPy writes NaN among texts as "nan"."""
    if names.dtype.kind in "iub":
        return np.zeros(len(names), bool)
    column = pd.Series(names)
    is_blank = column.map(lambda name: str(name).strip() in ("", "nan"))
    return np.asarray(column.isna() | is_blank, bool)


def _numbers(values: ArrayLike, *, by_name: bool = False) -> Ints:
    numbers, _ = pd.factorize(np.asarray(values), sort=by_name)
    return np.asarray(numbers, np.int64)


def merge_groups(*groups: ArrayLike) -> Ints:
    """Merge several groupings of the same n images into one.

    Images that share a group in any of them, directly or through others, belong
    together: the finest grouping that each of the given ones fits into.

    Parameters
    ----------
    *groups
        Groupings, (n,) each, of numbers or names.

    Returns
    -------
    Ints
        Each image's group, (n,), numbered from 0 by first appearance.

    Raises
    ------
    ValueError
        If the groupings differ in length, or a group is unknown.
    """
    numbered = [number_groups(grouping) for grouping in groups]
    n = len(numbered[0])
    if any(len(grouping) != n for grouping in numbered):
        raise ValueError(
            f"Groups must hold one entry for each of {n} images, and not "
            f"{[len(grouping) for grouping in numbered]}."
        )
    first_rows = [rows_of_firsts(grouping) for grouping in numbered]
    rows = np.tile(np.arange(n), len(groups))
    return connected_groups(n, np.concatenate(first_rows), rows)


def rows_of_firsts(groups: ArrayLike) -> Ints:
    """Return for each row, (n,), the first row of its group."""
    _, first, code = np.unique(groups, return_index=True, return_inverse=True)
    return first[code].astype(np.int64)


def merged_groups(
    ids: Sequence[str], groups: ArrayLike, index_a: ArrayLike, index_b: ArrayLike
) -> pd.DataFrame:
    """Say which groups near-duplicates merge, and through which images.

    That is often a fault of the data: one photograph filed under two patients.

    Parameters
    ----------
    ids
        The images' paths, (n,).
    groups
        Declared groups, (n,), names or numbers.
    index_a, index_b
        The two rows of each pair of near-duplicates, (m,) both, such as those of
        `cliplib.find_near_duplicates`.

    Returns
    -------
    pd.DataFrame
        group_a, group_b, image_a, image_b: a row for each two groups, with the first
        pair that joins them.
    """
    names = pd.Series(np.asarray(groups))
    images = pd.Series(np.asarray(ids))
    rows_a = np.asarray(index_a, np.int64)
    rows_b = np.asarray(index_b, np.int64)
    pairs = pd.DataFrame(
        {
            "group_a": names[rows_a].to_numpy(),
            "group_b": names[rows_b].to_numpy(),
            "image_a": images[rows_a].to_numpy(),
            "image_b": images[rows_b].to_numpy(),
        }
    )
    pairs = pairs[pairs["group_a"] != pairs["group_b"]]
    of_two = pairs[["group_a", "group_b"]].apply(frozenset, axis=1)
    return pairs[~of_two.duplicated()].reset_index(drop=True)


def declared_groups(
    ids: Sequence[str], declaration: str | os.PathLike[str]
) -> list[str]:
    r"""Return the group that somebody declares for each image.

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
        The group of each image, in the order of `ids`.

    Raises
    ------
    FileNotFoundError
        If the declaration is the name of a CSV file that is not there.
    ValueError
        If it does not cover every image; or is neither such a file nor such an
        expression.
    """
    name = os.fspath(declaration)
    is_table = os.path.isfile(name) or isinstance(declaration, os.PathLike)
    if is_table or name.lower().endswith(".csv"):
        groups = _groups_from_table(ids, Path(name).expanduser())
    else:
        groups = _groups_from_pattern(ids, name)
    if uncovered := [
        image for image, group in zip(ids, groups, strict=True) if not group
    ]:
        raise ValueError(
            f"The groups {name!r} do not cover {len(uncovered)} of {len(ids)} images, "
            f"such as {str(uncovered[0])!r}: give each image a group."
        )
    return groups


def _groups_from_table(ids: Sequence[str], path: Path) -> list[str]:
    """Return what a CSV file declares, "" for images that it lacks."""
    table = read_text_table(path, ("file", "group"))
    declared: dict[str, str] = dict(zip(table["file"], table["group"], strict=True))
    file_names = pd.Series([PurePosixPath(name).name for name in ids])
    absent = table["file"][~table["file"].isin([*ids, *file_names])]
    if len(absent):
        warn_once(
            logger,
            f"{path} names {len(absent)} files that are not among the images, such as "
            f"{absent.iloc[0]!r}.",
        )
    repeated = file_names.duplicated(keep=False)
    groups: list[str] = []
    for image, file_name, is_repeated in zip(ids, file_names, repeated, strict=True):
        by_name = "" if is_repeated else declared.get(file_name, "")
        groups.append(declared.get(image, by_name))
    return groups


def _groups_from_pattern(ids: Sequence[str], pattern: str) -> list[str]:
    """Return what a regular expression captures, "" where it matches nothing."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"The groups {pattern!r} are neither a file nor a regular expression "
            f"({error})."
        ) from error
    if expression.groups == 0:
        raise ValueError(
            f"The groups {pattern!r} are no file, and as a regular expression they "
            "capture nothing: put the part that names the group in parentheses."
        )
    parentheses = sorted(expression.groupindex.values()) or [1]
    groups = []
    for image in ids:
        match = expression.search(image)
        parts = [match[number] for number in parentheses] if match else []
        groups.append("/".join(part for part in parts if part))
    return groups


def read_text_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read columns of a CSV file as text; the first column names each row once.

    Commas, semicolons or tabs may lie between columns.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no CSV file, lacks a column, or names an image twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        # What Excel saves starts with a byte order mark, ours with comments.
        text = re.sub(r"\A(#.*\n)*", "", path.read_text("utf-8-sig"))
        table = pd.read_csv(
            io.StringIO(text),
            sep=_separator(text, columns),
            dtype=str,
            keep_default_na=False,
        ).rename(columns=str.strip)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no CSV file ({error}).") from error
    if lacking := [name for name in columns if name not in table]:
        raise ValueError(
            f"{str(path)!r} lacks the column {lacking[0]!r}: its first line must name "
            f"the columns {', '.join(columns)}."
        )
    key = columns[0]
    repeated = table[key][table[key].duplicated()]
    if len(repeated):
        raise ValueError(f"{str(path)!r} names {repeated.iloc[0]!r} more than once.")
    return table[list(columns)].apply(lambda column: column.str.strip())


def _separator(text: str, columns: Sequence[str]) -> str:
    """Return what lies between columns of a CSV file's text, by its first line."""
    first_line = text.split("\n", 1)[0]
    for separator in (";", "\t"):
        names = [name.strip().strip('"') for name in first_line.split(separator)]
        if set(columns) <= set(names):
            return separator
    return ","


def rows_of_images(table: pd.DataFrame, ids: Sequence[str], path: Path) -> pd.DataFrame:
    """Return the rows of a table with a column ``id`` in the order of `ids`.

    Raises
    ------
    ValueError
        If the table, read from `path`, lacks one of them.
    """
    by_id = table.set_index("id")
    if lacking := [image for image in ids if image not in by_id.index]:
        raise ValueError(
            f"{path.name} lacks {len(lacking)} of {len(ids)} images, such as "
            f"{str(lacking[0])!r}: the images are not those that it was written for."
        )
    return by_id.loc[list(ids)].reset_index()


def suggested_pattern(ids: Sequence[str]) -> str:
    """Return the expression that makes groups of what looks like series of files.

    A series is what files of one folder have in common but for a counter, the last part
    of their names or the first one. Where both could be the counter, as in
    ``exp1_num_108719.jpg``, the reading is taken that makes at least twice as many
    series; where neither does, or the series have counters themselves, none is.

    Series reach across folders, as the objects of one photograph do, only where one
    count runs through all of these and most such series are counted without a gap for
    another: ``metal/0115_23.jpg``, ``paper/0116_23.jpg``. Where folders are counted
    each for itself, equal names in two of them mean nothing.

    Parameters
    ----------
    ids
        The images' ids: their paths below the data set's folder.

    Returns
    -------
    str
        An expression for `declared_groups`, where most images are of a series with
        others, and none is half of a folder; else "".
    """
    for pattern in ACROSS_FOLDERS:
        groups = pd.Series(_groups_from_pattern(ids, pattern), dtype=object)
        if _look_like_series(ids, groups) and _are_counted_through(ids, groups):
            return pattern
    series_of = {}
    for pattern in (COUNTER_LAST, COUNTER_FIRST):
        groups = pd.Series(_groups_from_pattern(ids, pattern), dtype=object)
        if _look_like_series(ids, groups):
            series_of[pattern] = groups[groups.duplicated()].unique()
    if not series_of:
        return ""
    best, *others = sorted(series_of, key=lambda pattern: -len(series_of[pattern]))
    if any(len(series_of[best]) < 2 * len(series_of[other]) for other in others):
        return ""
    as_files = [f"{series}.jpg" for series in series_of[best]]
    return "" if suggested_pattern(as_files) else best


def joined_files(ids: Sequence[str], pattern: str) -> list[str]:
    """Return the ids of the first group of several that an expression makes.

    An example to show before anybody follows `suggested_pattern`; [] if it joins none.
    """
    groups = pd.Series(_groups_from_pattern(ids, pattern), dtype=object)
    several = groups[groups.duplicated(keep=False) & (groups != "")]
    if several.empty:
        return []
    return [str(ids[row]) for row in several.index[several == several.iloc[0]]]


def _look_like_series(ids: Sequence[str], groups: pd.Series) -> bool:
    """Say whether most images share their group, and none is half of a folder."""
    if not len(ids) or (groups == "").any():
        return False
    images = pd.DataFrame({"group": groups})
    images["folder"] = [str(PurePosixPath(image).parent) for image in ids]
    size_of_group = images.groupby("group")["group"].transform("size")
    # A name that a whole folder shares is the class's, and no series.
    shares = images.groupby("folder")["group"].value_counts(normalize=True)
    return bool((size_of_group > 1).mean() > 0.5 and shares.max() <= 0.5)


def _are_counted_through(ids: Sequence[str], series: Sequence[str]) -> bool:
    """Say whether one count runs through all folders, and most series in one piece.

    Only series that lie in several folders are asked.
    """
    paths = [PurePosixPath(image) for image in ids]
    files = pd.DataFrame({"series": series, "folder": [str(p.parent) for p in paths]})
    rests = [p.stem.replace(name, "", 1) for p, name in zip(paths, series, strict=True)]
    digits = pd.Series([re.sub(r"\D", "", rest) for rest in rests])
    files["counter"] = pd.to_numeric(digits)
    files = files.dropna().sort_values("counter")
    if not files["counter"].is_unique:
        return False
    starts = files["series"] != files["series"].shift()
    found = files.assign(piece=starts.cumsum()).groupby("series").nunique()
    across = found[found["folder"] > 1]
    return bool((across["piece"] == 1).mean() > 0.5)
