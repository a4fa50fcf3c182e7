"""Groups: whatever belongs together stays so; declarations cover every image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliplib.data.declared_groups import declared_groups
from cliplib.features.groups import (
    connected_groups,
    joined_files,
    joined_groups,
    merge_groups,
    number_groups,
    suggested_pattern,
)
from study.features import rows_of_images

IDS = ["metal/img_01_1.jpg", "metal/img_01_2.jpg", "paper/img_01_3.jpg", "paper/x.jpg"]


def test_what_is_connected_through_others_is_one_group() -> None:
    assert connected_groups(5, [4, 1], [1, 2]).tolist() == [0, 1, 1, 2, 1]


def test_merged_groups_join_whatever_shares_a_group_in_any() -> None:
    copies = [0, 0, 1, 2, 3]
    patients = ["a", "b", "b", "c", "d"]
    assert merge_groups(copies, patients).tolist() == [0, 0, 0, 1, 2]
    assert merge_groups(["b", "a", "b"]).tolist() == [0, 1, 0]


def test_merged_groups_are_named_with_the_images_that_join_them() -> None:
    ids = ["a1", "a2", "b1", "b2", "c1"]
    groups = ["a", "a", "b", "b", "c"]
    found = joined_groups(ids, groups, [7, 1, 7, 1, 7])
    assert found.columns.tolist() == ["group_a", "group_b", "image_a", "image_b"]
    assert found.to_numpy().tolist() == [["a", "b", "a1", "b1"], ["a", "c", "a1", "c1"]]
    assert len(joined_groups(["a", "b"], [1, "1"], [0, 0])) == 1
    apart = joined_groups(ids, groups, range(5))
    assert apart.empty and apart.columns.tolist() == [*found.columns]


groupings = st.integers(1, 12).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(0, 5), min_size=n, max_size=n), min_size=1, max_size=3
    )
)


@given(groupings)
def test_merging_is_the_finest_grouping_that_all_fit_into(given_groups) -> None:
    merged = merge_groups(*given_groups)
    for groups in given_groups:
        assert pd.Series(merged).groupby(groups).nunique().max() == 1
    # Grown image by image from the first: no group holds more than it must.
    for group in np.unique(merged):
        rows = np.flatnonzero(merged == group)
        reached = {int(rows[0])}
        for _ in rows:
            near = [{g[row] for row in reached} for g in given_groups]
            pairs = list(zip(given_groups, near, strict=True))
            reached |= {int(r) for r in rows if any(g[r] in s for g, s in pairs)}
        assert reached == set(rows.tolist())


def test_groupings_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="each of 2 images"):
        merge_groups([0, 1], [0, 1, 2])


@pytest.mark.parametrize(
    "groups",
    [
        [1.0, np.nan],
        ["a", None],
        ["a", " "],
        np.array(["a", np.nan]),
        pd.Series(["a", pd.NA]),
    ],
)
def test_unknown_groups_are_not_one_group(groups: Sequence[object]) -> None:
    with pytest.raises(ValueError, match="1 of 2 images have no group.*row 1"):
        number_groups(groups)


def test_a_pattern_declares_what_its_first_parentheses_hold() -> None:
    found = declared_groups(IDS[:3], r"(img_\d+)_(\d)")
    assert found == ["img_01"] * 3  # of two classes
    with pytest.raises(ValueError, match=r"not cover 1 of 4 images.*paper/x\.jpg"):
        declared_groups(IDS, r"(img_\d+)_\d")


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        (r"img_\d+", "parentheses"),
        ("(img", "neither a file nor a regular expression"),
    ],
)
def test_an_expression_that_cannot_be_used_is_named(pattern: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        declared_groups(IDS, pattern)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8-sig")
    return path


def test_a_table_declares_by_id_or_by_a_file_name_that_is_unique(tmp_path) -> None:
    ids = ["metal/1.jpg", "paper/1.jpg", "paper/#2.jpg"]
    table = write(
        tmp_path / "g.csv", "file,group", "metal/1.jpg,a", "paper/1.jpg,b", "#2.jpg,a"
    )
    for declaration in (table, str(table)):
        assert declared_groups(ids, declaration) == ["a", "b", "a"]


def test_two_rows_of_one_image_are_refused(tmp_path) -> None:
    both = write(tmp_path / "g.csv", "file,group", "metal/1.jpg,id", "1.jpg,name")
    with pytest.raises(ValueError, match=r"g\.csv' names 'metal/1\.jpg' twice"):
        declared_groups(["metal/1.jpg"], both)


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_columns_may_be_separated_as_spreadsheets_do(tmp_path, separator: str) -> None:
    lines = ["group,file", "anna,1.jpg", '"b, c",2.jpg', "anna,x 3.jpg"]
    if separator != ",":
        lines = [line.replace(",", separator) for line in lines]
    table = write(tmp_path / "g.csv", *lines)
    groups = declared_groups(["1.jpg", "2.jpg", "x 3.jpg"], table)
    assert number_groups(groups).tolist() == [0, 1, 0]


def test_rows_of_files_that_are_not_there_are_named(tmp_path, caplog) -> None:
    lines = ["file,group", "a/1.jpg,x", "2.jpg,x", "a/9.jpg,y", "8.jpg,y"]
    declared_groups(["a/1.jpg", "a/2.jpg"], write(tmp_path / "g.csv", *lines))
    assert "g.csv names 2 files not among the images" in caplog.text
    assert "such as 'a/9.jpg'" in caplog.text
    caplog.clear()
    declared_groups(["a/1.jpg", "a/2.jpg"], write(tmp_path / "h.csv", *lines[:3]))
    assert not caplog.text


def test_a_file_name_that_two_images_have_declares_neither(tmp_path) -> None:
    table = write(tmp_path / "g.csv", "file,group", "1.jpg,a")
    with pytest.raises(ValueError, match=r"not cover 2 of 2 images.*metal/1\.jpg"):
        declared_groups(["metal/1.jpg", "paper/1.jpg"], table)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["name,group", "a.jpg,1"], "lacks the column 'file'"),
        (["file,group", "a.jpg,1", "a.jpg,2"], "names 'a.jpg' more than once"),
        (["file,group", "a.jpg,1", " a.jpg,2"], "names 'a.jpg' more than once"),
        (["file,group", "a.jpg,1,"], "rows with more cells than its first line"),
        (["file,group", "a.jpg,"], "not cover 1 of 1"),
        ([""], "no CSV file"),
    ],
)
def test_a_faulty_table_is_named(tmp_path, lines: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        declared_groups(["a.jpg"], write(tmp_path / "g.csv", *lines))


def test_a_table_in_another_encoding_is_named(tmp_path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("file,group\nä.jpg,1\n", "latin-1")
    with pytest.raises(ValueError, match=r"g.csv' is no CSV file in UTF-8"):
        declared_groups(["ä.jpg"], str(path))


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        declared_groups(IDS, "nowhere.csv")


def test_rows_are_found_by_id_and_not_by_their_order() -> None:
    table = pd.DataFrame({"id": ["a", "b", "c"], "group": ["1", "2", "3"]})
    rows = rows_of_images(table, ["c", "a"], Path("x_groups.csv"))
    assert rows["group"].tolist() == ["3", "1"]
    with pytest.raises(ValueError, match=r"x_groups\.csv lacks 1 of 2 images.*'d'"):
        rows_of_images(table, ["a", "d"], Path("x_groups.csv"))


@pytest.mark.parametrize("name", ["img_{:03}_{}.jpg", "{:02}-{}.PNG", "a{} ({}).jpg"])
def test_series_of_files_suggest_their_pattern(name: str) -> None:
    ids = [f"class/{name.format(i, k)}" for i in range(6) for k in range(1, 4)]
    groups = declared_groups(ids, suggested_pattern(ids))
    assert number_groups(groups).tolist() == np.repeat(np.arange(6), 3).tolist()


@pytest.mark.parametrize(
    "name",
    [
        "vid{i:02}_{k:04}.jpg",  # frames of a video
        "S{i:03}_006_{k:05}.png",  # a subject, its session, its images
        "{i}-{k}.jpg",
        "p{i} s{k} v1.jpg",
        "e{i}.angle.{k}.png",
    ],
)
def test_the_shortest_prefix_that_forms_groups_is_suggested(name: str) -> None:
    ids = [
        f"{c}/{name.format(i=i, k=k)}"
        for c in "ab"
        for i in range(9)
        for k in (1, 2, 3)
    ]
    expected = np.repeat(np.arange(18), 3).tolist()
    groups = declared_groups(ids, suggested_pattern(ids))
    assert number_groups(groups).tolist() == expected


def test_of_patient_slice_and_view_the_patient_is_the_group() -> None:
    ids = [f"a/p{i}_s{k}_v{v}.jpg" for i in range(9) for k in range(20) for v in "12"]
    groups = declared_groups(ids, suggested_pattern(ids))
    assert number_groups(groups).tolist() == np.repeat(np.arange(9), 40).tolist()


def test_a_counter_may_come_first() -> None:
    ids = [f"class/{4 * i + k:04}_{i:06}_JPG.jpg" for i in range(6) for k in range(4)]
    groups = declared_groups(ids, suggested_pattern(ids))
    assert number_groups(groups).tolist() == np.repeat(np.arange(6), 4).tolist()


def test_a_name_without_a_counter_is_its_own_group() -> None:
    series = [f"disc/{i}_{k}.jpg" for i in range(4) for k in range(2)]
    ids = ["disc/odd.jpg", *series, "disc/copy of x.jpg"]
    groups = declared_groups(ids, suggested_pattern(ids))
    assert number_groups(groups).tolist() == [0, *np.repeat([1, 2, 3, 4], 2), 5]


def test_series_end_with_their_folder() -> None:
    ids = [
        f"{c}/img_{i}_{k}.jpg" for c in ("cat", "dog") for i in range(4) for k in "abc"
    ]
    groups = declared_groups(ids, suggested_pattern(ids))
    assert number_groups(groups).tolist() == np.repeat(np.arange(8), 3).tolist()


@pytest.mark.parametrize(
    ("name", "n_series", "n_files"),
    [
        ("exp{k}_num_{i}.jpg", 19, 6),  # six exposures of each tile
        ("{i:03}_{k:03}.png", 31, 10),
        ("{k}_photo_{i}.png", 31, 10),
    ],
)
def test_of_two_numbers_the_one_with_few_values_counts(
    name: str, n_series: int, n_files: int
) -> None:
    ids = [
        f"{folder}/{name.format(i=i, k=k)}"
        for folder in ("hole", "crack")
        for i in range(n_series)
        for k in range(n_files)
    ]
    groups = declared_groups(ids, suggested_pattern(ids))
    expected = np.repeat(np.arange(2 * n_series), n_files)
    assert number_groups(groups).tolist() == expected.tolist()


@pytest.mark.parametrize(
    "number", [lambda n: n, lambda n: 7919 * n % 80], ids=["in order", "as dealt"]
)
def test_folders_that_are_counted_each_for_itself_share_no_series(
    number: Callable[[int], int],
) -> None:
    # The second number is of the whole set, but cat/0 and dog/0 have nothing in common.
    ids = [
        f"{name}/{i // 4}_{number(40 * c + i)}.jpg"
        for c, name in enumerate(("cat", "dog"))
        for i in range(40)
    ]
    groups = declared_groups(ids, suggested_pattern(ids))
    assert number_groups(groups).tolist() == np.repeat(np.arange(20), 4).tolist()
    singles = ids[::4]
    assert suggested_pattern(singles) == ""


SERIES = [f"disc/{i}_photo_{k}.jpg" for i in "abcd" for k in range(2)]


@pytest.mark.parametrize(("n_singles", "suggested"), [(7, True), (8, False)])
def test_most_images_are_of_a_series(n_singles: int, suggested: bool) -> None:
    singles = [f"disc/{name}xample.jpg" for name in "efghijkl"[:n_singles]]
    assert (suggested_pattern(SERIES + singles) != "") == suggested


def test_a_pattern_that_leaves_a_file_out_is_not_suggested() -> None:
    assert suggested_pattern(SERIES)
    assert suggested_pattern([*SERIES, "disc/no suffix"]) == ""


@pytest.mark.parametrize(("n_series", "suggested"), [(2, True), (1, False)])
def test_a_name_of_more_than_half_a_folder_is_the_class(
    n_series: int, suggested: bool
) -> None:
    ids = [f"cat/{i}_photo_{k}.jpg" for i in "ab"[:n_series] for k in range(2)]
    assert (suggested_pattern([*SERIES, *ids]) != "") == suggested


def test_the_files_that_a_pattern_joins_can_be_shown() -> None:
    ids = ["a/odd.jpg", "a/x_1.jpg", "a/y_1.jpg", "a/x_2.jpg", "a/y_2.jpg"]
    assert joined_files(ids, suggested_pattern(ids)) == {
        "a/x_1.jpg": "a/x",
        "a/x_2.jpg": "a/x",
        "a/y_1.jpg": "a/y",
        "a/y_2.jpg": "a/y",
    }
    assert joined_files(ids, "(.+)") == {}


def test_five_files_show_what_a_pattern_joins_and_what_it_keeps_apart() -> None:
    ids = [f"a/{name}_{k}.jpg" for k in range(3) for name in "xyzw"]
    shown = joined_files(ids, suggested_pattern(ids))
    assert [*shown.values()] == ["a/w", "a/w", "a/x", "a/x", "a/y"]


def test_all_named_parentheses_hold_the_group() -> None:
    ids = ["a/1_x_3.jpg", "a/2_x_3.jpg", "b/1_x_3.jpg"]
    pattern = r"^(?P<folder>\w+)/\d+_(?P<name>.+)\.jpg"
    assert declared_groups(ids, pattern) == ["a/x_3", "a/x_3", "b/x_3"]


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [f"disc/disc_{k}.jpg" for k in range(20)],  # the class's name
        [f"disc/disc{k}.jpg" for k in range(20)],
        [f"disc/photo{k}_1.jpg" for k in range(20)],  # each one alone
        [
            f"{c}/{k:02}.png" for c in ("cat", "dog") for k in range(20)
        ],  # numbered alike
        [f"{c}/{k}_x.png" for c in ("cat", "dog") for k in range(20)],
    ],
)
def test_other_names_suggest_nothing(ids: list[str]) -> None:
    assert suggested_pattern(ids) == ""
