"""The CSV that no spreadsheet runs, and the page that needs nothing and escapes everything."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from test_classifier import make_table, two_parts

from cliplib.classifier import Classifier
from cliplib.classifier.sheet import heat_maps, write_csv, write_html
from cliplib.classifier.widget import drop_box
from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError
from cliplib.probes import LinearProbe

HOSTILE = ("</td><script>alert(1)</script>", '" onerror="alert(2)', "{{ 7 * 7 }}&amp;'")


@pytest.fixture(scope="module")
def classifier(tiny_encoder: ClipEncoder) -> Classifier:
    """Its classes and training pictures have the names that an attacker would give them."""
    table = replace(make_table(tiny_encoder), classes=HOSTILE)
    ids = np.array([f"{HOSTILE[i % 3]}{i}" for i in range(len(table))])
    parts = two_parts(replace(table, ids=ids))
    made = Classifier.fit(tiny_encoder, *parts, probe=LinearProbe(l2=1.0), unfamiliar=0)
    return replace(made, min_probability=0.0, about={**made.about, "data set": "<b onclick=alert(3)>"})


@pytest.fixture(scope="module")
def folder(image_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("plain.png", "<img src=x onerror=alert(4)>.png", '" autofocus="x.png')):
        (place / name).write_bytes(image_files[number].read_bytes())
    (place / "<script>.jpg").write_bytes(b"no picture")
    return place


@pytest.fixture(scope="module")
def rows(classifier: Classifier, folder: Path) -> pd.DataFrame:
    return classifier.classify(folder, progress=False)


def page_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_hostile_names_come_out_as_text(
    classifier: Classifier, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    title = "<svg/onload=alert(5)>"
    page = page_of(write_html(rows, tmp_path / "a.html", classifier, files=folder, title=title))
    tags = {tag.name for tag in page.find_all(True)}
    assert tags <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "div", "table", "caption", "thead",
        "tbody", "tr", "th", "td", "bdi", "img", "strong", "br", "small", "ol", "ul", "li", "footer",
    }  # fmt: skip
    attributes = {name for tag in page.find_all(True) for name in tag.attrs}
    assert attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "scope", "src", "alt"}
    assert page.h1 and page.h1.text == title
    cells = [[cell.text for cell in row.find_all(["th", "td"])] for row in page.find_all("tr")[1:]]
    assert [cell[0] for cell in cells] == rows["file"].tolist()
    for cell, row in zip(cells, rows.to_dict("records"), strict=True):
        said = row["error"] or row["class"]
        assert said in cell[2] and (row["error"] or all(row[f"neighbour_{j}"] in cell[3] for j in (1, 2, 3)))
    alts = [image["alt"] for image in page.find_all("img")]
    assert len(alts) == 6 and 'The picture " autofocus="x.png' in alts
    assert "data set: <b onclick=alert(3)>" in page.footer.text


def test_the_page_needs_nothing_and_can_be_read_aloud(
    classifier: Classifier, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    path = write_html(rows, tmp_path / "a.html", classifier, files=folder)
    text, page = path.read_text(encoding="utf-8"), page_of(path)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.find_all("img"))
    assert not re.search(r"https?://|url\(|@import|javascript:", text)
    policy = page.find("meta", {"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert page.html["lang"] == "en" and page.caption.text and page.title.text
    assert [th["scope"] for th in page.thead.find_all("th")] == ["col"] * 4
    assert all(row.th["scope"] == "row" for row in page.tbody.find_all("tr"))
    assert all(image["alt"] for image in page.find_all("img"))
    assert "prefers-color-scheme: dark" in text and "@media print" in text and path.stat().st_size < 60_000
    first = page.find("img")["src"].split(",")[1]
    assert max(Image.open(io.BytesIO(base64.b64decode(first))).size) <= 144


def test_what_was_answered_refused_and_unread_is_said_in_words(
    classifier: Classifier, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    unsure = replace(classifier, min_probability=1.01)
    page = page_of(write_html(unsure.classify(folder, progress=False), tmp_path / "a.html", unsure))
    assert "4 files: 0 answered, 3 refused, 1 unreadable." in page.text
    assert page.text.count("No answer: uncertain") == 3 and page.text.count("nearest class: ") == 3
    assert not page.find_all("img") and "no medical device" in page.text and "Heat map" not in page.text
    sure = page_of(write_html(rows, tmp_path / "b.html", classifier))
    assert "3 answered, 0 refused, 1 unreadable." in sure.text and "No answer" not in sure.text


def test_rows_may_be_chosen_and_reordered(
    classifier: Classifier, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    chosen = rows.iloc[[3, 2, 0]]
    page = page_of(write_html(chosen, tmp_path / "a.html", classifier, files=folder, heat=False))
    pictures = [[image["alt"] for image in row.find_all("img")] for row in page.tbody.find_all("tr")]
    expected = [[] if bad else [f"The picture {name}"] for name, bad in chosen[["file", "error"]].to_numpy()]
    assert pictures == expected and list(map(len, expected)) == [1, 0, 1]


def test_pictures_of_equal_names_are_not_mixed_up(
    classifier: Classifier, image_files: list[Path], tmp_path: Path
) -> None:
    files = [{"path": "same.png", "bytes": image_files[i].read_bytes()} for i in (0, 20)]
    said = classifier.classify(files, progress=False)
    page = page_of(write_html(said, tmp_path / "a.html", classifier, files=files, heat=False))
    first, second = (image["src"] for image in page.find_all("img"))
    assert first != second
    with pytest.raises(CliplibError, match="is not in its place in files: classify anew"):
        write_html(said, tmp_path / "a.html", classifier, files=[image_files[0], image_files[20]])


def test_a_picture_that_has_gone_is_left_out(classifier: Classifier, image_files: list[Path], tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    gone.write_bytes(image_files[0].read_bytes())
    files = [gone, Image.open(image_files[1])]
    said = classifier.classify(files, progress=False)
    gone.unlink()
    page = page_of(write_html(said, tmp_path / "a.html", classifier, files=files))
    assert [bool(row.img) for row in page.tbody.find_all("tr")] == [False, True]


def test_heat_maps_are_of_the_class_that_is_named(classifier: Classifier, image_files: list[Path]) -> None:
    images = [Image.open(image_files[0]).convert("RGB")] * 2
    one, other = heat_maps(classifier, images, HOSTILE[:2])
    assert one.shape == (4, 4) and not np.allclose(one, other)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), (" =1", "' =1"),
        ("a-b = c+d@e.png", "a-b = c+d@e.png"), ("a\n=1", "a\\n=1"), ("\t=1", "\\t=1"), ("写真", "写真"),
        ('say "hi", twice', 'say "hi", twice'),
    ],
)  # fmt: skip
def test_no_cell_becomes_a_formula(tmp_path: Path, cell: str, written: str) -> None:
    path = write_csv(pd.DataFrame({"file": [cell], "similarity": [-0.25]}), tmp_path / "a.csv")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    back = pd.read_csv(path)
    assert back["file"].tolist() == [written] and back["similarity"].tolist() == [-0.25]


def test_the_csv_holds_all_rows(rows: pd.DataFrame, tmp_path: Path) -> None:
    back = pd.read_csv(write_csv(rows, tmp_path / "a.csv"), keep_default_na=False)
    assert list(back.columns) == list(rows.columns) and len(back) == 4
    assert back["refused"].tolist() == rows["refused"].tolist() and back["error"].tolist() == rows["error"].tolist()


def test_bad_input_is_told_in_a_sentence(classifier: Classifier, rows: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(CliplibError, match="lack the column 'error': give what Classifier"):
        write_html(rows.drop(columns="error"), tmp_path / "a.html", classifier)
    with pytest.raises(CliplibError, match=r"Cannot write .*missing"):
        write_html(rows, tmp_path / "missing" / "a", classifier)
    with pytest.raises(CliplibError, match=r"Cannot write .*missing"):
        write_csv(rows, tmp_path / "missing" / "a")


# --- the drop box


def drop(box: ipywidgets.VBox, *files: tuple[str, bytes]) -> str:
    """What the box answers when files arrive as the browser sends them."""
    sent = [{"name": n, "content": memoryview(c), "type": "", "size": len(c), "last_modified": 0} for n, c in files]
    box.children[1].set_state({"value": sent})
    return str(box.children[2].value)


def test_a_dropped_picture_is_answered_with_its_heat_map(classifier: Classifier, image_files: list[Path]) -> None:
    said = drop(drop_box(classifier), ("<i>my.png", image_files[0].read_bytes()))
    row = classifier.classify([image_files[0]], progress=False).iloc[0]
    card = BeautifulSoup(said, "html.parser")
    assert row["class"] in card.text and row["neighbour_1"] in card.text and "<i>my.png" in card.text
    assert len(card.find_all("img")) == 2 and not card.find_all("i") and "no medical device" in card.text


def test_the_box_loads_nothing_and_waits(classifier: Classifier) -> None:
    zone, button, answer = drop_box(classifier).children
    place = BeautifulSoup(zone.value, "html.parser").div
    assert {"ondrop", "ondragover"} <= set(place.attrs) and "or choose one" in place.text and button.value == ()
    assert not re.search(r"https?:|src=|href=", zone.value) and answer.value == ""


def test_what_is_no_picture_is_told_in_the_box(classifier: Classifier, image_files: list[Path]) -> None:
    box = drop_box(classifier)
    unread = drop(box, ("notes.txt", b"no picture"))
    assert "Unreadable" in unread and "notes.txt" in unread and "<img" not in unread
    assert "2 files came: drop one picture." in drop(box, ("a.png", b"a"), ("b.png", b"b"))
    assert "Unreadable" not in drop(box, ("a.png", image_files[0].read_bytes()))
