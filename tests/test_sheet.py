"""What is handed on: a CSV that no spreadsheet runs, a page that needs nothing, the drop box."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from test_decision_aid import PROBE, clouds

from cliplib.aid.decision_aid import DecisionAid
from cliplib.aid.sheet import write_csv, write_html
from cliplib.aid.widget import drop_box
from cliplib.encoder import ClipEncoder

HOSTILE = (
    "</td><script>alert(1)</script>",
    '" onerror="alert(2)',
    "{{ 7 * 7 }}&amp;'$counts",
)


@pytest.fixture(scope="module")
def aid(tiny: ClipEncoder) -> DecisionAid:
    """Classes and training images have the names that an attacker would give them."""
    table = clouds(tiny)
    ids = table.ids.astype("U60")
    ids[:] = [f"{HOSTILE[row % 3]}{row}" for row in range(len(ids))]
    aid = DecisionAid.fit(replace(table, classes=HOSTILE, ids=ids), tiny, probe=PROBE)
    about = {**aid.about, "data set": "<b onclick=alert(3)>"}
    return replace(aid, min_probability=0.0, min_similarity=-1.0, about=about)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images")
    for number, name in enumerate(
        ("plain.png", "<img src=x onerror=alert(4)>.png", '" id="x.png')
    ):
        Image.new("RGB", (600, 40), (80 * number, 90, 100)).save(place / name)
    (place / "<script>.jpg").write_bytes(b"no image")
    return place


@pytest.fixture(scope="module")
def rows(aid: DecisionAid, folder: Path) -> pd.DataFrame:
    return aid.classify(folder)


def page_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_hostile_names_come_out_as_text(
    aid: DecisionAid, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    write_html(rows, tmp_path / "a.html", aid, folder)
    page = page_of(tmp_path / "a.html")
    assert not {tag.name for tag in page.find_all(True)} & {
        "script",
        "b",
        "svg",
        "iframe",
    }
    attributes = {name for tag in page.find_all(True) for name in tag.attrs}
    assert not [name for name in attributes if name.startswith("on")]
    cells = [
        [cell.text for cell in row.find_all("td")]
        for row in page.main.find_all("tr")[1:]
    ]
    assert [cell[0] for cell in cells] == rows["file"].tolist()
    assert [cell[3] for cell in cells] == [
        row.error or row["class"] for _, row in rows.iterrows()
    ]
    assert [cell[6] for cell in cells] == rows["nearest"].tolist()
    assert "<b onclick=alert(3)>" in page.text


def test_the_page_loads_nothing_and_counts(
    aid: DecisionAid, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    write_html(rows, tmp_path / "a.html", aid, folder)
    text, page = (
        (tmp_path / "a.html").read_text(encoding="utf-8"),
        page_of(tmp_path / "a.html"),
    )
    sources = [image["src"] for image in page.find_all("img")]
    assert len(sources) == 6 and all(
        s.startswith("data:image/jpeg;base64,") for s in sources
    )
    assert not re.search(r"https?://|url\(|@import|javascript:|<link", text)
    assert "3 answered, 1 unreadable" in page.text and "no medical device" in page.text
    silent = replace(aid, min_probability=1.1)
    write_html(silent.classify(folder), tmp_path / "b.html", silent, folder)
    assert "none: uncertain" in page_of(tmp_path / "b.html").text


def test_some_of_the_rows_in_another_order_keep_their_images(
    aid: DecisionAid, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    for name, chosen in {"all": rows, "some": rows.iloc[[3, 0]]}.items():
        write_html(chosen, tmp_path / name, aid, folder)
    whole, some = (
        [row.img for row in page_of(tmp_path / n).tbody("tr")] for n in ("all", "some")
    )
    assert some == [whole[3], whole[0]] and whole[3] != whole[0] is not None


def test_a_folder_that_has_changed_gets_no_wrong_images(
    aid: DecisionAid, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "own")
    rows = aid.classify(tmp_path / "own")
    shutil.copy(folder / "plain.png", tmp_path / "own" / "!first.png")
    with pytest.raises(ValueError, match="own have changed: classify them again"):
        write_html(rows, tmp_path / "a.html", aid, tmp_path / "own")


def test_a_page_without_an_image_that_can_be_read(
    aid: DecisionAid, tmp_path: Path
) -> None:
    bad = [b"", b"x"]
    write_html(aid.classify(bad), tmp_path / "a.html", aid, bad)
    assert "2 unreadable" in page_of(tmp_path / "a.html").text


def test_no_cell_becomes_a_formula_and_all_rows_are_there(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    cells = ["=1+1", "@SUM(A1)", "-1", "a=b.png"]
    write_csv(rows.assign(file=cells, similarity=-0.25), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    back = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert back["file"].tolist() == ["'=1+1", "'@SUM(A1)", "'-1", "a=b.png"]
    assert (
        set(back["similarity"]) == {-0.25}
        and back["error"].tolist() == rows["error"].tolist()
    )


def test_the_box_answers_images_and_says_what_it_cannot_read(
    aid: DecisionAid, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, sent = drop_box(aid), []
    monkeypatch.setattr(box, "send", sent.append)
    content = memoryview((folder / "plain.png").read_bytes())
    box._handle_custom_msg({"number": 1, "name": "<i>my.png"}, [content])
    box._handle_custom_msg({"number": 2, "name": "a.txt"}, [memoryview(b"no image")])
    monkeypatch.setattr(DecisionAid, "classify", lambda *_: 1 / 0)
    box._handle_custom_msg({"number": 3, "name": "a.png"}, [content])
    answer = BeautifulSoup(sent[0]["html"], "html.parser")
    assert "<i>my.png" in answer.text and len(answer("img")) == 2 and not answer("i")
    assert "Cannot read the image" in sent[1]["html"] and "<img" not in sent[1]["html"]
    assert [s["number"] for s in sent] == [1, 2, 3]
    assert sent[2]["html"] == "ZeroDivisionError: division by zero"
