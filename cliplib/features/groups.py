"""Groups of images that must never be on both sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cliplib.data.arrays import Ints
from cliplib.data.declared_groups import groups_from_pattern

# Two patterns, `PREFIX` and `COUNTER_FIRST`, capture an image's series: its path but
# for counter and extension. The folder belongs to it, for cat/0.jpg and dog/0.jpg have
# nothing in common.
# The first parts of a name, at most so many: of cat/img_012_3.jpg two are cat/img_012.
PREFIX = r"^((?:.*/)?[-_. ]*[^-_. /]+(?:[-_. ]+[^-_. /]+){{0,{}}})(?:[-_. ].*)?"
MOST_PARTS = 5
# All but a counter that comes first: img_012 of 3_img_012.jpg and of exp3_img_012.jpg.
COUNTER_FIRST = r"^(?:(?P<folder>.+)/)?(?:[A-Za-z]*\d+[-_. ])?(?P<series>[^/]+)"
EXTENSION = r"\.\w+"
# Files that show what a pattern joins.
MOST_EXAMPLES = 5


def connected_groups(n: int, index_a: ArrayLike, index_b: ArrayLike) -> Ints:
    """Return the group numbers of n images, of which pairs are connected.

    Two images of a pair are in one group, and so are all that pairs connect through
    other images: the connected components of a graph.

    Parameters
    ----------
    n
        Number of images.
    index_a, index_b
        Row numbers of the first and of the second image of each pair, (m,) both.

    Returns
    -------
    Ints
        Each image's group number, (n,), from 0 by first appearance.
    """
    rows_a = np.asarray(index_a)
    rows_b = np.asarray(index_b)
    graph = coo_array((np.ones(len(rows_a)), (rows_a, rows_b)), shape=(n, n))
    components = connected_components(graph, directed=False)[1]
    return np.asarray(pd.factorize(components)[0], np.int64)


def number_groups(groups: ArrayLike, *, by_name: bool = False) -> Ints:
    """Return each image's group number, (n,), from 0 without a gap.

    `groups` (n,) are names or numbers. They are numbered by first appearance, or with
    `by_name` in sorted order, which does not depend on the order of rows.

    Raises
    ------
    ValueError
        If the group of an image is unknown (NaN, None or empty): taken literally, all
        such images would be one group.
    """
    given = _as_array(groups)
    if given.ndim != 1:
        raise ValueError(f"groups must be (n,), and not {given.shape}.")
    names = pd.Series(given)
    # "nan" is what NumPy makes of a missing value among texts.
    is_unknown = names.isna() | names.astype(str).str.strip().isin(["", "nan"])
    if is_unknown.any():
        raise ValueError(
            f"{is_unknown.sum()} of {len(given)} images have no group, the first in row"
            f" {is_unknown.argmax()}: give each of them a group of its own, or leave "
            "them out."
        )
    return np.asarray(pd.factorize(given, sort=by_name)[0], np.int64)


def _as_array(groups: ArrayLike) -> NDArray[Any]:
    """Return groups as an array, a list as objects: else 1 is "1" beside "a"."""
    dtype = None if isinstance(groups, np.ndarray) else object
    return np.asarray(groups, dtype)


def merge_groups(*groupings: ArrayLike) -> Ints:
    """Merge several groupings of n images, such as near-duplicates and patients.

    Images that share a group in any of them are in one group, and so are all that these
    connect through other images.

    Parameters
    ----------
    *groupings
        The group of each image, (n,), a number or a name, in each grouping.

    Returns
    -------
    Ints
        Each image's group number, (n,), from 0 by first appearance.

    Raises
    ------
    ValueError
        If the groupings differ in length, or a group is unknown.
    """
    numbered = [number_groups(grouping) for grouping in groupings]
    n = len(numbered[0])
    lengths = [len(grouping) for grouping in numbered]
    if set(lengths) != {n}:
        raise ValueError(
            f"Groups must hold one entry for each of {n} images, and not {lengths}."
        )
    # In each grouping, every image is paired with the first one of its group.
    first_rows = [first_row_of_group(grouping) for grouping in numbered]
    rows = np.tile(np.arange(n), len(groupings))
    return connected_groups(n, np.concatenate(first_rows), rows)


def first_row_of_group(groups: ArrayLike) -> Ints:
    """Return for each row, (n,), the number of the first row of its group.

    It is [0, 0, 2, 0] for the groups ["b", "b", "a", "b"].
    """
    # unique() sorts the groups; of each it gives the first row, of each row the group.
    _, first_row, group_of_row = np.unique(
        groups, return_index=True, return_inverse=True
    )
    return first_row[group_of_row].astype(np.int64)


def one_of_each_group(rows: Ints, groups: Ints) -> Ints:
    """Return the first of some rows of each group, in their order; groups are (n,)."""
    is_first = ~pd.Series(groups[rows]).duplicated()
    return np.asarray(rows[is_first])


def joined_groups(
    ids: Sequence[str], groups: ArrayLike, near_duplicates: ArrayLike
) -> pd.DataFrame:
    """List which declared groups near-duplicates join, and through which images.

    Two joined groups are often a fault of the data: one photograph is filed under two
    patients.

    Parameters
    ----------
    ids
        The images' paths, (n,).
    groups
        Declared groups, (n,), names or numbers.
    near_duplicates
        Their groups, (n,).

    Returns
    -------
    pd.DataFrame
        group_a, group_b, image_a, image_b: a row for each two groups that an image and
        the first of its near-duplicates join, with the first such pair of images.
    """
    images = pd.DataFrame({"group": _as_array(groups), "image": np.asarray(ids)})
    firsts = images.iloc[first_row_of_group(near_duplicates)].reset_index(drop=True)
    pairs = firsts.add_suffix("_a").join(images.add_suffix("_b"))
    joining = pairs[pairs["group_a"] != pairs["group_b"]]
    # As a set, groups b and a equal groups a and b.
    both_groups = joining[["group_a", "group_b"]].apply(frozenset, axis=1)
    joining = joining[~both_groups.duplicated()].reset_index(drop=True)
    return joining[["group_a", "group_b", "image_a", "image_b"]]


def suggested_pattern(ids: Sequence[str]) -> str:
    """Return a regular expression that groups what looks like series of files, or "".

    A series is files of one folder whose names begin with the same parts, divided by
    "-", "_", "." or a space: ``tile/a_1.jpg`` and ``tile/a_2.jpg`` are the series
    ``tile/a``. The shortest such prefix counts: of ``scan/p3_s7_v2.jpg`` it is
    ``scan/p3``. Where the first part looks like a counter, as in
    ``tile/exp1_num_108719.jpg``, because the rest of the name forms twice as many
    series or more, and these none again, the rest is the series.

    Parameters
    ----------
    ids
        The images' ids: their paths below the data set's folder.

    Returns
    -------
    str
        An expression for `declared_groups`, where most images share their series with
        others, and no series is more than half of a folder; else "".
    """
    end = f"{EXTENSION}$"
    prefix = _shortest_prefix(ids, end)
    without_counter = COUNTER_FIRST + end
    series = _series(ids, without_counter)
    if not prefix:
        return without_counter if series else ""
    are_twice_as_many = len(series) >= 2 * len(_series(ids, prefix))
    form_series_again = _shortest_prefix(series, "$") != ""  # they have no extension
    return without_counter if are_twice_as_many and not form_series_again else prefix


def _shortest_prefix(names: Sequence[str], end: str) -> str:
    """Return the pattern of the fewest first parts that form series of names, or "".

    `end` is the pattern of what follows them.
    """
    for n_more_parts in range(MOST_PARTS):
        pattern = PREFIX.format(n_more_parts) + end
        if _series(names, pattern):
            return pattern
    return ""


def joined_files(ids: Sequence[str], pattern: str) -> dict[str, str]:
    """Return some images that a pattern joins with others, each with its group.

    They are examples, to judge a `suggested_pattern` by: five ids at most, two of a
    group.
    """
    group_of = pd.Series(groups_from_pattern(ids, pattern), ids, dtype=object)
    is_shared = group_of.duplicated(keep=False) & (group_of != "")
    shared = group_of[is_shared].sort_values(kind="stable")
    two_a_group = shared.groupby(shared).head(2)
    return dict(two_a_group[:MOST_EXAMPLES].items())


def _series(ids: Sequence[str], pattern: str) -> list[str]:
    """Return the names of the series of several files that a pattern captures.

    There are none, [], unless each file has a name, most share theirs with others, and
    none is that of more than half of a folder, which is the name of its class.
    """
    names = pd.Series(groups_from_pattern(ids, pattern), dtype=object)
    if names.empty or (names == "").any():
        return []
    is_shared = names.duplicated(keep=False)
    folders = pd.Series([str(PurePosixPath(image).parent) for image in ids])
    largest_share = names.groupby(folders).value_counts(normalize=True).max()
    if is_shared.mean() <= 0.5 or largest_share > 0.5:
        return []
    return list(names[names.duplicated()].unique())
