"""What is handed on: a CSV that no spreadsheet runs, and a page that needs nothing."""

from __future__ import annotations

import base64
import csv
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from test_decision_aid import PROBE, clouds

from cliplib.aids.decision_aid import DecisionAid
from cliplib.data.folder import list_files
from cliplib.data.text_table import write_csv
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.encode import encode
from cliplib.reports.aid_answers import write_html

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


def listed(folder: Path) -> list[Any]:
    """Return the paths of a folder's files, as an aid classifies them."""
    return list_files(folder)[1]


def page_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def cells_of(page: BeautifulSoup) -> list[dict[str, str]]:
    """Return the texts of each row of answers by the name of their column."""
    return [
        {cell["data-label"]: cell.get_text(" ", strip=True) for cell in row("td")}
        for row in page.main.tbody("tr")
    ]


# --- the page


def test_hostile_names_come_out_as_text(
    aid: DecisionAid, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    write_html(rows, tmp_path / "a.html", aid, listed(folder), heat_maps=True)
    page = page_of(tmp_path / "a.html")
    used = {tag.name for tag in page.find_all(True)}
    assert not used & {"script", "b", "svg", "iframe"}
    attributes = {name for tag in page.find_all(True) for name in tag.attrs}
    assert not [name for name in attributes if name.startswith("on")]
    shown = cells_of(page)
    assert [row["File"] for row in shown] == rows["file"].tolist()
    expected = rows["error"].where(rows["error"] != "", rows["class"])
    assert [row["Answer"] for row in shown] == expected.tolist()
    for row, nearest in zip(shown, rows["nearest"], strict=True):
        assert row["Nearest training image"].startswith(nearest)
    assert "<b onclick=alert(3)>" in page.text


def test_the_page_loads_nothing_and_counts(
    aid: DecisionAid, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    write_html(rows, tmp_path / "a.html", aid, listed(folder))
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    page = page_of(tmp_path / "a.html")
    sources = [image["src"] for image in page.find_all("img")]
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"https?://|url\(|@import|javascript:|<link", text)
    assert "3 answered, 1 unreadable" in page.text and "no medical device" in page.text
    silent = replace(aid, min_probability=1.1)
    write_html(silent.classify(folder), tmp_path / "b.html", silent, listed(folder))
    assert "none: uncertain" in page_of(tmp_path / "b.html").text


def test_heat_maps_are_drawn_on_request_only(
    aid: DecisionAid,
    folder: Path,
    rows: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_html(rows, tmp_path / "a.html", aid, listed(folder), heat_maps=True)
    page = page_of(tmp_path / "a.html")
    assert len(page("img", alt="heat map")) == 3 and "The redder" in page.text
    monkeypatch.setattr(
        "cliplib.reports.aid_answers.draw_heat_maps", None
    )  # would raise
    write_html(rows, tmp_path / "a.html", aid, listed(folder))
    page = page_of(tmp_path / "a.html")
    assert "heat map" not in page.text and not page("img", alt="heat map")


def test_the_page_says_when_the_aid_answers_and_numbers_have_three_digits(
    aid: DecisionAid, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    strict = replace(aid, min_probability=0.87654321, min_similarity=0.51234567)
    write_html(rows, tmp_path / "a.html", strict, listed(folder))
    page = page_of(tmp_path / "a.html")
    assert "a probability of 0.877 or more" in page.text
    assert "a similarity of 0.512 or more" in page.text
    assert not re.search(r"\d\.\d{4}", page.text)
    for row, cells in zip(rows.iloc[1:].itertuples(), cells_of(page)[1:], strict=True):
        if not row.error:
            assert cells["Most probable class"].endswith(f"{row.probability:.3f}")
            assert f"similarity {row.similarity:.3f}" in cells["Nearest training image"]
    never = replace(aid, min_probability=np.inf)
    write_html(rows, tmp_path / "a.html", never, listed(folder))
    assert "It never answers" in page_of(tmp_path / "a.html").text


def test_a_training_image_is_called_one_and_the_nearest_is_shown(
    tiny: ClipEncoder, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    place = image_folder(n=6)
    table = encode(place, tiny).with_readout("pooled")
    aid = DecisionAid.fit(table, tiny, probe=PROBE)
    trained = str(aid.training.ids[0])
    Image.effect_noise((48, 48), 90).save(tmp_path / "new.png")
    files = [place / trained, tmp_path / "new.png"]
    rows = aid.classify(files)
    write_html(rows, tmp_path / "a.html", aid, files, training_folder=place)
    page = page_of(tmp_path / "a.html")
    known, new = (row["Nearest training image"] for row in cells_of(page))
    assert known == (
        f"{trained} similarity 1.000 This is a training image, or a copy of it."
    )
    assert "This is" not in new
    assert len(page("img", alt="nearest training image")) == 2
    write_html(rows, tmp_path / "b.html", aid, files)  # then there is the name alone
    page = page_of(tmp_path / "b.html")
    assert not page("img", alt="nearest training image")


@pytest.mark.parametrize(
    "name",
    [
        "{outside}/secret.png",
        "../outside/secret.png",
        "./../outside/secret.png",
        "cat/../../outside/secret.png",
        "link.png",
        r"\\host\share\a.png",
        "//host/share/a.png",
        r"C:\secret.png",
        "pipe.png",
        "/dev/zero",
    ],
)
def test_a_strangers_aid_shows_no_file_but_those_below_the_folder_that_is_named(
    aid: DecisionAid, folder: Path, rows: pd.DataFrame, name: str, tmp_path: Path
) -> None:
    own, outside = tmp_path / "own", tmp_path / "outside"
    own.mkdir()
    outside.mkdir()
    shutil.copy(folder / "plain.png", outside / "secret.png")
    shutil.copy(folder / "plain.png", own / "cat.png")
    if hasattr(os, "mkfifo"):
        (own / "link.png").symlink_to(outside / "secret.png")
        os.mkfifo(own / "pipe.png")
    for nearest, shown in {name.format(outside=outside): 0, "cat.png": 1}.items():
        said = rows[rows["error"] == ""].iloc[:1].assign(nearest=nearest)
        write_html(said, tmp_path / "a.html", aid, listed(folder), training_folder=own)
        page = page_of(tmp_path / "a.html")
        assert len(page("img", alt="nearest training image")) == shown


def test_a_comment_of_an_original_is_in_no_picture_that_is_made_of_it(
    aid: DecisionAid, tmp_path: Path
) -> None:
    noise = Image.effect_noise((300, 300), 90)
    kinds = ("JPEG", "GIF")
    for kind in kinds:
        noise.save(tmp_path / kind, kind, comment=b"Miller, Anna")
        assert b"Miller" in (tmp_path / kind).read_bytes()
    files = [tmp_path / kind for kind in kinds]
    write_html(
        aid.classify(files), tmp_path / "a.html", aid, files, training_folder=tmp_path
    )
    pictures = [image["src"] for image in page_of(tmp_path / "a.html")("img")]
    assert len(pictures) == 2
    contents = [base64.b64decode(str(uri).partition(",")[2]) for uri in pictures]
    assert all(c[:2] == b"\xff\xd8" and b"Miller" not in c for c in contents)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")
def test_nothing_runs_off_the_screen_of_a_phone(
    aid: DecisionAid, folder: Path, tmp_path: Path
) -> None:
    images = [folder / "plain.png"]
    rows = aid.classify(images).assign(nearest="a/very/long/name/" * 9)
    write_html(rows, tmp_path / "a.html", aid, images, heat_maps=True)
    # A window has 500 pixels at least, so the page gets its 390 in a frame.
    (tmp_path / "phone.html").write_text(
        "<iframe src=a.html width=390 height=900></iframe><p id=width></p><script>"
        "onload = () => { document.body.id = 'width-' + "
        "frames[0].document.documentElement.scrollWidth }</script>"
    )
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --dump-dom"
    command = [str(CHROMIUM), *flags.split(), "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}"]
    command += [(tmp_path / "phone.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    (width,) = re.findall(r"width-(\d+)", done.stdout)
    assert int(width) <= 390


# --- rows and files


def test_some_of_the_rows_in_another_order_keep_their_images(
    aid: DecisionAid, folder: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    for name, chosen in {"all": rows, "some": rows.iloc[[3, 0]]}.items():
        write_html(chosen, tmp_path / name, aid, listed(folder))
    whole = [row.img for row in page_of(tmp_path / "all").tbody("tr")]
    some = [row.img for row in page_of(tmp_path / "some").tbody("tr")]
    assert some == [whole[3], whole[0]] and whole[3] != whole[0] is not None


def test_images_without_names_keep_their_pictures_and_a_lost_one_is_named(
    aid: DecisionAid, folder: Path, tmp_path: Path
) -> None:
    paths = [path for path in listed(folder) if path.suffix == ".png"]
    contents = [path.read_bytes() for path in paths]
    for name, sources in {"named": paths, "nameless": contents}.items():
        write_html(aid.classify(sources), tmp_path / name, aid, sources)
    named, nameless = (
        [image["src"] for image in page_of(tmp_path / name)("img")]
        for name in ("named", "nameless")
    )
    assert nameless == named and len(set(named)) == 3
    lost = shutil.copy(paths[0], tmp_path / "lost.png")
    rows = aid.classify([lost])
    Path(lost).unlink()
    with pytest.raises(OSError, match="lost.png': No such file"):
        write_html(rows, tmp_path / "a.html", aid, [lost])


def test_no_answer_gets_the_image_of_another(
    aid: DecisionAid, folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    rows = aid.classify(own)
    listed_before = listed(own)
    shutil.copy(folder / "plain.png", own / "!first.png")
    turned = rows.iloc[::-1].reset_index(drop=True)
    for answers, sources in (
        (rows, listed(own)),
        (turned, listed_before),
        (rows, listed_before[:2]),
        (rows, [path.with_name(f"not_{path.name}") for path in listed_before]),
        (rows, str(own)),
    ):
        with pytest.raises(ValueError, match="the files have changed. Classify them"):
            write_html(answers, tmp_path / "a.html", aid, sources)
    write_html(rows, tmp_path / "a.html", aid, listed_before)


def test_a_path_may_be_written_in_two_ways(
    aid: DecisionAid, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    rows = aid.classify(["./plain.png"])
    write_html(rows, tmp_path / "a.html", aid, [folder / "plain.png"])
    assert page_of(tmp_path / "a.html").main.img


def test_a_page_without_an_image_that_can_be_read(
    aid: DecisionAid, tmp_path: Path
) -> None:
    bad = [b""]
    write_html(aid.classify(bad), tmp_path / "a.html", aid, bad, heat_maps=True)
    assert "1 unreadable" in page_of(tmp_path / "a.html").text


# --- the table


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＠"])
def test_no_cell_becomes_a_formula(
    rows: pd.DataFrame, tmp_path: Path, start: str
) -> None:
    given = rows.assign(file=[f"{start}1+1", "a=b.png", "", "x"], similarity=-0.25)
    write_csv(given, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    back = pd.read_csv(tmp_path / "a.csv", keep_default_na=False, lineterminator=None)
    assert back["file"].tolist() == [f"'{start}1+1", "a=b.png", "", "x"]
    assert set(back["similarity"]) == {-0.25}
    assert back["error"].tolist() == rows["error"].tolist()


def test_line_ends_in_names_make_no_rows(rows: pd.DataFrame, tmp_path: Path) -> None:
    names = ["cat\r=1+1.png", "a\nb.png", 'a\r\n"b",c;d.png', "plain.png"]
    write_csv(rows.assign(file=names), tmp_path / "a.csv")
    with open(tmp_path / "a.csv", encoding="utf-8-sig", newline="") as file:
        back = list(csv.DictReader(file))
    assert [row["file"] for row in back] == names
    assert pd.read_csv(tmp_path / "a.csv")["file"].tolist() == names


def test_numbers_of_the_table_have_three_digits(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    write_csv(rows.assign(similarity=0.123456789), tmp_path / "a.csv")
    write_csv(rows.assign(similarity=0.123456789).astype(object), tmp_path / "b.csv")
    for name in ("a.csv", "b.csv"):
        text = (tmp_path / name).read_text(encoding="utf-8-sig")
        assert "0.123" in text and not re.search(r"\.\d{4}", text)
