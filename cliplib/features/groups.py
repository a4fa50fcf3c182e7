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

# Two patterns capture the series of an image from its path: what is left without the
# counter and the extension. The folder is part of a series, since cat/0.jpg and
# dog/0.jpg have nothing in common.
#
# PREFIX captures the first part of the name, and as many more as are filled in: with
# one more, cat/img_012 of cat/img_012_3.jpg.
PREFIX = r"^((?:.*/)?[-_. ]*[^-_. /]+(?:[-_. ]+[^-_. /]+){{0,{}}})(?:[-_. ].*)?"
MOST_PARTS = 5
# COUNTER_FIRST captures all but a leading counter: img_012 of 3_img_012.jpg and of
# exp3_img_012.jpg.
COUNTER_FIRST = r"^(?:(?P<folder>.+)/)?(?:[A-Za-z]*\d+[-_. ])?(?P<series>[^/]+)"
EXTENSION = r"\.\w+"
# Number of files that are shown as examples of a pattern.
MOST_EXAMPLES = 5


def connected_groups(n: int, index_a: ArrayLike, index_b: ArrayLike) -> Ints:
    """Return the groups that pairs of images make: connected components of a graph.

    The two images of a pair are in one group, and so are all images that a chain of
    pairs connects.

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
    `by_name` in sorted order, which does not depend on the order of the rows.

    Raises
    ------
    ValueError
        If the group of an image is missing (NaN, None or empty): otherwise all such
        images would form one group.
    """
    group_of_image = _as_array(groups)
    if group_of_image.ndim != 1:
        raise ValueError(f"groups must be (n,), and not {group_of_image.shape}.")
    names = pd.Series(group_of_image)
    # NumPy turns a missing value among texts into "nan".
    is_missing = names.isna() | names.astype(str).str.strip().isin(["", "nan"])
    if is_missing.any():
        raise ValueError(
            f"{is_missing.sum()} of {len(names)} images have no group, the first in row"
            f" {is_missing.argmax()}: give each of them a group of its own, or leave "
            "them out."
        )
    return np.asarray(pd.factorize(group_of_image, sort=by_name)[0], np.int64)


def _as_array(groups: ArrayLike) -> NDArray[Any]:
    """Return groups as an array; of a list, which may mix types, as one of objects.

    Otherwise NumPy would turn the number 1 beside the name "a" into "1".
    """
    dtype = None if isinstance(groups, np.ndarray) else object
    return np.asarray(groups, dtype)


def merge_groups(*groupings: ArrayLike) -> Ints:
    """Merge several groupings of n images, such as near-duplicates and patients.

    Images that share a group in any of the groupings are in one group, and so are all
    images that a chain of shared groups connects.

    Parameters
    ----------
    *groupings
        Each grouping holds the group of each image, (n,), a number or a name.

    Returns
    -------
    Ints
        Each image's group number, (n,), from 0 by first appearance.

    Raises
    ------
    ValueError
        If the groupings differ in length, or the group of an image is missing.
    """
    numbered = [number_groups(grouping) for grouping in groupings]
    n = len(numbered[0])
    lengths = [len(grouping) for grouping in numbered]
    if set(lengths) != {n}:
        raise ValueError(
            f"Groups must hold one entry for each of {n} images, and not {lengths}."
        )
    # In each grouping, every image is paired with the first image of its group.
    first_rows = [first_row_of_group(grouping) for grouping in numbered]
    rows = np.tile(np.arange(n), len(groupings))
    return connected_groups(n, np.concatenate(first_rows), rows)


def first_row_of_group(groups: ArrayLike) -> Ints:
    """Return for each row, (n,), the number of the first row of its group.

    ``["b", "b", "a", "b"]`` gives ``[0, 0, 2, 0]``.
    """
    _, first_row_by_group, group_of_row = np.unique(
        groups, return_index=True, return_inverse=True
    )
    return first_row_by_group[group_of_row].astype(np.int64)


def one_of_each_group(rows: Ints, groups: Ints) -> Ints:
    """Return the first row of each group among some rows, (m,), in their order.

    `groups` (n,) holds the group of each row of the whole table.
    """
    is_first = ~pd.Series(groups[rows]).duplicated()
    return np.asarray(rows[is_first])


def joined_groups(
    ids: Sequence[str], groups: ArrayLike, near_duplicates: ArrayLike
) -> pd.DataFrame:
    """List which declared groups near-duplicates join, and through which images.

    Two joined groups often show a fault of the data, such as one photograph that is
    filed under two patients.

    Parameters
    ----------
    ids
        The images' paths, (n,).
    groups
        Declared groups, (n,), names or numbers.
    near_duplicates
        The images' groups of near-duplicates, (n,).

    Returns
    -------
    pd.DataFrame
        group_a, group_b, image_a, image_b: a row for each two declared groups that an
        image and the first of its near-duplicates join, with the first such images.
    """
    images = pd.DataFrame({"group": _as_array(groups), "image": np.asarray(ids)})
    firsts = images.iloc[first_row_of_group(near_duplicates)].reset_index(drop=True)
    pairs = firsts.add_suffix("_a").join(images.add_suffix("_b"))
    joining = pairs[pairs["group_a"] != pairs["group_b"]]
    # As sets, the groups (b, a) equal the groups (a, b).
    both_groups = joining[["group_a", "group_b"]].apply(frozenset, axis=1)
    joining = joining[~both_groups.duplicated()].reset_index(drop=True)
    return joining[["group_a", "group_b", "image_a", "image_b"]]


def suggested_pattern(ids: Sequence[str]) -> str:
    """Return a regular expression that groups files which look like series, or "".

    A series consists of files of one folder whose names begin with the same parts,
    separated by "-", "_", "." or a space: ``tile/a_1.jpg`` and ``tile/a_2.jpg`` are the
    series ``tile/a``. The shortest such prefix counts: that of ``scan/p3_s7_v2.jpg`` is
    ``scan/p3``. Where the first part looks like a counter, as in
    ``tile/exp1_num_108719.jpg``, the rest of the name is the series. It looks like one
    if the rests form at least twice as many series as the prefixes, and the names of
    these series do not form series in turn.

    Parameters
    ----------
    ids
        The images' ids: their paths below the data set's folder.

    Returns
    -------
    str
        An expression for `declared_groups`; "" unless most images share their series
        with others, and no series holds more than half of a folder.
    """
    end = f"{EXTENSION}$"
    prefix = _shortest_prefix(ids, end)
    without_counter = COUNTER_FIRST + end
    series = _series(ids, without_counter)
    if not prefix:
        return without_counter if series else ""
    are_twice_as_many = len(series) >= 2 * len(_series(ids, prefix))
    form_series_in_turn = _shortest_prefix(series, "$") != ""  # without an extension
    return without_counter if are_twice_as_many and not form_series_in_turn else prefix


def _shortest_prefix(names: Sequence[str], end: str) -> str:
    """Return the pattern of the fewest first parts by which names form series, or "".

    `end` is the pattern of the end of a name, such as its extension.
    """
    for n_more_parts in range(MOST_PARTS):
        pattern = PREFIX.format(n_more_parts) + end
        if _series(names, pattern):
            return pattern
    return ""


def joined_files(ids: Sequence[str], pattern: str) -> dict[str, str]:
    """Return the groups of some images, by id, as examples of what a pattern joins.

    They help to judge a `suggested_pattern`: at most five images, two of each group.
    """
    group_by_id = pd.Series(groups_from_pattern(ids, pattern), ids, dtype=object)
    is_shared = group_by_id.duplicated(keep=False) & (group_by_id != "")
    shared = group_by_id[is_shared].sort_values(kind="stable")
    two_a_group = shared.groupby(shared).head(2)
    return dict(two_a_group[:MOST_EXAMPLES].items())


def _series(ids: Sequence[str], pattern: str) -> list[str]:
    """Return the names of the series that a pattern captures, or [].

    It must capture a name of every file, which most files share with others. A name
    that more than half of a folder shares is taken for that of a class, not a series.
    """
    names = pd.Series(groups_from_pattern(ids, pattern), dtype=object)
    if names.empty or (names == "").any():
        return []
    is_shared = names.duplicated(keep=False)
    folders = pd.Series([str(PurePosixPath(name).parent) for name in ids])
    largest_share = names.groupby(folders).value_counts(normalize=True).max()
    if is_shared.mean() <= 0.5 or largest_share > 0.5:
        return []
    return list(names[is_shared].unique())
