"""The command line: what it reports, and how plainly it says what is wrong."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from test_decision_aid import PROBE, clouds

from cliplib.aid.decision_aid import DecisionAid
from cliplib.cli import main
from cliplib.encoder import ClipEncoder

Capture = pytest.CaptureFixture[str]
INTERVAL = r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]"


@pytest.fixture
def folder(image_folder: Callable[..., Path]) -> Path:
    return image_folder(n=12)


@pytest.fixture
def aid(tiny: ClipEncoder, tmp_path: Path) -> Path:
    DecisionAid.fit(clouds(tiny), tiny, probe=PROBE).save(tmp_path / "aid")
    return tmp_path / "aid"


def test_a_folder_is_audited_measured_and_learned(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    (folder / "disc" / "broken.png").write_bytes(b"no image")
    shutil.copy(folder / "disc" / "disc0.png", folder / "square" / "copy.png")
    out = tmp_path / "new" / "aid"
    assert main([str(folder), "--out", str(out), "--model", str(checkpoint)]) == 0
    told = capsys.readouterr().out
    for line in ("disc +13", "images +38", "exact_copies +1", "label_conflicts +1"):
        assert re.search(rf"^{line}$", told, re.MULTILINE)
    assert re.search(r"Unreadable, left out: 1\n .*disc/broken\.png", told)
    assert "two classes: 1\n    disc/disc0.png and square/copy.png" in told
    for name in ("always 'square'", "zero-shot", "linear probe, deep"):
        assert re.search(rf"    {name} +{INTERVAL}\n", told)
    for name in ("disc", "square", "stripes"):
        assert re.search(rf"    {name} +{INTERVAL}\n", told)
    assert f"python -m cliplib classify {out} FOLDER_OR_FILES" in told
    assert DecisionAid.load(out).training.classes == ("disc", "square", "stripes")


def test_a_decision_aid_is_used_on_a_folder_and_on_files(
    aid: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    discs = folder / "disc"
    (discs / "broken.png").write_bytes(b"no image")
    assert (
        main(["classify", str(aid), str(discs), "--out-prefix", str(tmp_path / "all")])
        == 0
    )
    assert "Files: 13\n    broken.png: no answer, unreadable" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "all.csv")) == 13
    assert (tmp_path / "all.html").read_text(encoding="utf-8").count("<img") == 2 * 12
    for _ in range(2):  # beside the images, and once more
        assert (
            main(["classify", str(aid), str(discs), "--out-prefix", f"{discs}/a/b"])
            == 0
        )
    assert pd.read_csv(discs / "a" / "b.csv")["file"].tolist()[:2] == [
        "a/b.csv",
        "a/b.html",
    ]
    shutil.rmtree(discs / "a")
    files = [str(discs / f"disc{number}.png") for number in range(2)]
    assert (
        main(["classify", str(aid), *files, "--out-prefix", str(tmp_path / "two")]) == 0
    )
    assert pd.read_csv(tmp_path / "two.csv")["file"].tolist() == files


def test_an_aid_that_never_answers_says_so(
    aid: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    replace(DecisionAid.load(aid), min_probability=math.inf).save(aid)
    prefix = str(tmp_path / "answers")
    main(["classify", str(aid), str(folder / "disc"), "--out-prefix", prefix])
    assert "This decision aid abstains on everything" in capsys.readouterr().out


def one_class(folder: Path) -> None:
    shutil.rmtree(folder / "disc")
    shutil.rmtree(folder / "square")


def one_image(folder: Path) -> None:
    one_class(folder)
    for number in range(1, 12):
        (folder / "stripes" / f"stripes{number}.png").unlink()


def three_images(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        if not file.stem.endswith("s0") and file.stem not in ("disc0", "square0"):
            file.unlink()


def unreadable_class(folder: Path) -> None:
    (folder / "dots").mkdir()
    (folder / "dots" / "broken.png").write_bytes(b"no image")


def copies(folder: Path) -> None:
    for number in range(1, 12):
        shutil.copy(
            folder / "disc" / "disc0.png", folder / "disc" / f"disc{number}.png"
        )


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (one_class, "needs images that can be read in each of two classes or more"),
        (one_image, "needs images that can be read in each of two classes or more"),
        (
            unreadable_class,
            "needs images that can be read in each of two classes or more",
        ),
        (
            three_images,
            "Class disc has too few images for 5 folds, near-duplicates counted once: add",
        ),
        (copies, "Class disc has too few images for 5 folds"),
        (shutil.rmtree, "images' is neither a folder nor one of"),
    ],
)
def test_what_cannot_be_learned_is_told_in_a_sentence(
    folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: Capture,
    harm: Callable[[Path], None],
    message: str,
) -> None:
    harm(folder)
    out = tmp_path / "aid"
    assert main([str(folder), "--out", str(out), "--model", str(checkpoint)]) == 1
    told = capsys.readouterr().err.splitlines()  # progress bars before it
    assert re.search(message, told[-1]) and not out.exists()


def test_wrong_names_are_told_in_a_sentence(
    aid: Path, tmp_path: Path, capsys: Capture
) -> None:
    missing, bare = str(tmp_path / "missing"), tmp_path / "bare"
    bare.mkdir()
    for arguments, message in (
        (["classify", missing, str(tmp_path)], "There is no whole classifier in"),
        (
            ["classify", str(aid), missing],
            "missing' is no file: name one folder, or files that",
        ),
        (["classify", str(aid), str(bare), str(bare)], "bare' is no file"),
        ([str(bare), "--out", missing], "holds no image"),
        (
            [str(bare), "--out", missing, "--model", "nowhere"],
            "there is no such folder",
        ),
    ):
        assert main(arguments) == 1
        assert re.search(message, capsys.readouterr().err)


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is there")
def test_without_ray_the_remedy_is_told(tmp_path: Path, capsys: Capture) -> None:
    assert main(["encode", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "needs Ray: pip install -e '.[scale]'" in capsys.readouterr().err


def test_a_folder_of_other_things_is_refused_before_the_work(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.txt").touch()
    arguments = [str(folder), "--out", str(tmp_path / "thesis"), "--model", "nowhere"]
    assert main(arguments) == 1
    assert "thesis holds something else: choose another" in capsys.readouterr().err
    arguments[2] = str(tmp_path / "thesis" / "text.txt")
    assert main(arguments) == 1
    assert "text.txt" in capsys.readouterr().err


def test_a_folder_wins_over_a_known_name(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rename(tmp_path / "trashnet")
    monkeypatch.chdir(tmp_path)
    assert main(["trashnet", "--out", "aid", "--model", str(checkpoint)]) == 0
    assert DecisionAid.load("aid").training.classes == ("disc", "square", "stripes")
