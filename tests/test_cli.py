"""The command line: what it reports, and how plainly it says what is wrong."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from test_decision_aid import PROBE, clouds

from cliplib import __version__
from cliplib.__main__ import COMMANDS, build_parser, main, with_command
from cliplib.aids.decision_aid import DecisionAid
from cliplib.encoders.clip import ClipEncoder
from cliplib.reports.verdict import WORDS

Capture = pytest.CaptureFixture[str]
INTERVAL = r"\d+% \(\d+ to \d+\)"


@pytest.fixture
def folder(image_folder: Callable[..., Path]) -> Path:
    return image_folder(n=12)


@pytest.fixture
def aid(tiny: ClipEncoder, tmp_path: Path) -> Path:
    DecisionAid.fit(clouds(tiny), tiny, probe=PROBE).save(tmp_path / "aid")
    return tmp_path / "aid"


def train(folder: Path, out: Path, checkpoint: Path, *options: str) -> int:
    return main(
        ["train", str(folder), f"--out={out}", f"--model={checkpoint}", *options]
    )


# --- train


WARNINGS = r"""
import logging, warnings
import cliplib.__main__ as command_line

def warn(arguments):
    warnings.warn("lbfgs failed.")
    logging.getLogger("cliplib.data.folder").warning("Left out %s", "a\x1b")

command_line.main = warn
command_line.run()
"""


def test_warnings_are_written_without_their_place_and_without_escapes() -> None:
    command = [sys.executable, "-c", WARNINGS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "lbfgs failed.\nLeft out a\\x1b\n"


def series(folder: Path) -> None:
    """Name four images of each class as if they were three frames of each of them."""
    for kind in ("disc", "square", "stripes"):
        for number in range(12):
            name = folder / kind / f"{kind}{number}.png"
            name.rename(folder / kind / f"{kind}_{number // 2}_{number % 2}.png")


def test_a_folder_is_measured_and_learned_and_groups_are_suggested_and_declared(
    folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What takes longest, and what nothing is said of here.
    monkeypatch.setattr(
        "cliplib.reports.measure.probe_shortcuts", lambda *_, **__: list[object]()
    )
    series(folder)
    out = tmp_path / "new" / "aid"
    assert train(folder, out, checkpoint) == 0
    told = capsys.readouterr()
    assert told.out.partition(".")[0] in WORDS
    assert re.search(rf"this classifier \([a-z ]+\) +{INTERVAL}", told.out)
    assert not re.search(r"\d\.\d{4}|nothing to calibrate|nan", told.out + told.err)
    assert f"cliplib classify {out} FOLDER_OR_FILES" in told.out
    aid = DecisionAid.load(out)
    assert aid.training.classes == ("disc", "square", "stripes")
    # Images that it was trained on are called so.
    image = str(folder / aid.training.ids[0])
    assert main(["classify", str(out), image, f"--out-prefix={tmp_path / 'a'}"]) == 0
    assert re.search(rf"{image}: .*\(a training image\)", capsys.readouterr().out)

    (line,) = (line for line in told.out.splitlines() if "--groups '^" in line)
    command = shlex.split(line)
    assert command[:5] == ["cliplib", "report", str(folder), "--out", "OUT"]
    assert "disc_0_1.png" in told.out  # of a series that the pattern would join
    again = ["train", str(folder), "--out", str(tmp_path / "b")]
    assert main([*again, *command[5:]]) == 0
    assert "groups-in-names" not in capsys.readouterr().out
    aid = DecisionAid.load(tmp_path / "b")
    inside = {name.rpartition("_")[0] for name in aid.training.ids}
    assert len(aid.training) == 2 * len(inside)  # both frames, or neither
    assert train(folder, tmp_path / "c", checkpoint, "--groups=nowhere(.csv") == 1
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "c").exists()


# --- classify


def test_a_decision_aid_is_used_on_a_folder_and_on_files(
    aid: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    discs = folder / "disc"
    (discs / "broken.png").write_bytes(b"no image")
    everything = f"--out-prefix={tmp_path / 'all'}"
    assert main(["classify", str(aid), str(discs), everything]) == 0
    told = capsys.readouterr().out
    assert "Files: 13\n    broken.png: no answer, unreadable" in told
    assert re.search(r"Files: 13\n(    .+\n){10}    and 3 more\nUnreadable: 1\n", told)
    assert len(pd.read_csv(tmp_path / "all.csv")) == 13
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert page.count("<img") == 12
    again = [everything, "--overwrite", "--heat-maps"]
    assert main(["classify", str(aid), str(discs), *again]) == 0
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2 * 12
    for _ in range(2):  # beside the images, and once more
        beside = [f"--out-prefix={discs}/a/b", "--overwrite"]
        assert main(["classify", str(aid), str(discs), *beside]) == 0
    names = pd.read_csv(discs / "a" / "b.csv")["file"].tolist()
    assert names[:2] == ["a/b.csv", "a/b.html"]
    shutil.rmtree(discs / "a")
    files = [str(discs / f"disc{number}.png") for number in range(2)]
    two = f"--out-prefix={tmp_path / 'two'}"
    assert main(["classify", str(aid), *files, two]) == 0
    assert pd.read_csv(tmp_path / "two.csv")["file"].tolist() == files
    for _ in range(2):  # a folder that is not there yet, and one that is
        new = f"--out-prefix={tmp_path / 'new'}/"
        assert main(["classify", str(aid), *files, new, "--overwrite"]) == 0
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        "answers.csv",
        "answers.html",
    }


# --- commands, folders, and what is wrong with them


HELP = """
import sys
from cliplib.__main__ import main

try:
    main(sys.argv[1:])
finally:
    print("IMPORTED", *sys.modules)
"""


def test_help_imports_nothing_slow() -> None:
    for options in ([], ["classify"]):
        command = [sys.executable, "-c", HELP, *options, "--help"]
        done = subprocess.run(command, capture_output=True, text=True)
        told, imported = done.stdout.split("IMPORTED")
        assert told.startswith("usage: cliplib") and not done.returncode
        slow = {"torch", "numpy", "pandas", "datasets", "sklearn", "transformers"}
        assert "argparse" in imported.split() and not slow & set(imported.split())


NOT_INSTALLED = """
import importlib.metadata as metadata

def version(name):
    raise metadata.PackageNotFoundError(name)

metadata.version = version
from cliplib.__main__ import main
main(["--version"])
"""


def test_a_checkout_that_is_not_installed_has_a_version() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"cliplib {__version__}, Python 3.")


def test_a_log_without_a_code_for_a_letter_costs_no_run(tmp_path: Path) -> None:
    script = (
        "import cliplib.__main__ as m; m.main = lambda a: print('−3') or 0; m.run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout.split()) == (0, [rb"\u22123"])


def test_escapes_in_names_reach_no_terminal(
    aid: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    odd = tmp_path / "odd\x1b[2J\u202e"
    shutil.copytree(folder / "disc", odd / "disc")
    (odd / "disc" / "a\x1b]0;.png").write_bytes(b"no image")
    prefix = f"--out-prefix={tmp_path / 'a'}"
    assert main(["classify", str(aid), str(odd), prefix]) == 0
    assert main(["train", str(odd), f"--out={tmp_path / 'aid'}"]) == 1
    assert main(["train", str(odd / "nowhere"), f"--out={tmp_path / 'aid'}"]) == 1
    told = capsys.readouterr()
    assert r"a\x1b]0;.png" in told.out and r"odd\x1b[2J\u202e" in told.err
    assert not re.search("[\x1b\u202e]", told.out + told.err)


def test_the_aid_is_saved_before_anything_is_printed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[object] = []
    found = SimpleNamespace(aid=SimpleNamespace(save=saved.append))
    monkeypatch.setattr("cliplib.reports.measure.measure", lambda *_, **__: found)

    def fail(*_: object, **__: object) -> None:
        raise UnicodeEncodeError("cp1252", "−", 0, 1, "no such letter")

    monkeypatch.setattr("cliplib.verdict", fail)
    out = str(tmp_path / "aid")
    assert main(["train", str(folder), "--out", out]) == 1
    assert saved == [out]


def test_every_argument_is_explained(capsys: Capture) -> None:
    parser = build_parser()
    assert [*COMMANDS] == ["train", "report", "demo", "classify", "encode"]
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            parser.parse_args([command, "--help"])
        told = capsys.readouterr().out
        assert told.startswith(f"usage: cliplib {command} ")
    (subparsers,) = (
        action
        for action in parser._actions
        if action.dest == argparse.SUPPRESS and action.choices
    )
    for sub in subparsers.choices.values():
        assert all(action.help for action in sub._actions)


def test_what_is_not_given_is_left_to_the_default_of_the_function() -> None:
    given = vars(build_parser().parse_args(["report", "photos", "--out", "a"]))
    assert given == {"source": "photos", "out": "a", "run": COMMANDS["report"]}
    given = vars(build_parser().parse_args(["encode", "photos", "a", "--actors", "3"]))
    assert given["actors"] == 3 and "model" not in given


@pytest.mark.parametrize(
    "arguments",
    [["clasify", "aid", "photos"], ["fotos", "--out", "aid"], ["--out", "a", "photos"]],
)
def test_a_mistyped_command_or_folder_is_told_in_one_sentence(
    arguments: list[str], capsys: Capture
) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err == (
        f"There is no folder or command {arguments[0]!r}: begin with a folder that "
        "exists or one of train, report, demo, classify, encode, and put options after "
        "it.\n"
    )


def test_a_source_alone_is_trained_on_and_folders_may_bear_names_of_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classify").mkdir()
    assert with_command(["classify", "aid", "x"]) == ["classify", "aid", "x"]
    assert with_command(["./classify", "--out", "a"])[0] == "train"
    assert with_command(["hf://datasets/o/n"]) == ["train", "hf://datasets/o/n"]
    assert with_command([]) == ["--help"]
    parsed = build_parser().parse_args(["train", "classify", "--out=aid"])
    assert parsed.source == "classify"


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
    for number in range(4):
        (folder / "dots" / f"broken{number}.png").write_bytes(b"no image")


def copies(folder: Path) -> None:
    for number in range(1, 12):
        shutil.copy(
            folder / "disc" / "disc0.png", folder / "disc" / f"disc{number}.png"
        )


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (one_class, "two classes or more, each in a folder of its own; there is only"),
        (one_image, "two classes or more, each in a folder of its own; there is only"),
        (unreadable_class, "No image of class 'dots' can be read. .*broken0.png"),
        (three_images, "Class 'disc' has images of 1 group, copies counted once: it"),
        (copies, "Class 'disc' has images of 1 group, copies counted once: it"),
        (shutil.rmtree, "images' is no folder: name one with a folder for each class"),
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
    assert (
        main(["train", str(folder), "--out", str(out), "--model", str(checkpoint)]) == 1
    )
    told = capsys.readouterr().err.splitlines()  # progress bars before it
    assert re.search(message, told[-1]) and not out.exists()


def test_one_class_is_refused_before_the_model_is_loaded(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    one_class(folder)
    assert (
        main(["train", str(folder), f"--out={tmp_path / 'aid'}", "--model=nowhere"])
        == 1
    )
    told = capsys.readouterr().err
    assert "each in a folder of its own; there is only 'stripes'." in told


def test_wrong_names_are_told_in_a_sentence(
    aid: Path, tmp_path: Path, capsys: Capture
) -> None:
    missing, bare = str(tmp_path / "missing"), tmp_path / "bare"
    bare.mkdir()
    file = tmp_path / "text.txt"
    file.touch()
    for arguments, message in (
        (["classify", missing, str(bare)], "There is no whole decision aid in"),
        (
            ["classify", str(aid), missing],
            "There is no .*missing': name one folder, or files that",
        ),
        (
            ["classify", str(aid), str(file), f"--out-prefix={file}/a"],
            "Nothing can be written to .*text.txt: choose another",
        ),
        (["train", str(bare), "--out", missing], "holds no image"),
    ):
        assert main(arguments) == 1
        assert re.search(message, capsys.readouterr().err)


def test_a_model_that_is_not_there_is_told(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert (
        main(["train", str(folder), f"--out={tmp_path / 'a'}", "--model=nowhere"]) == 1
    )
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is there")
def test_without_ray_the_remedy_is_told(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["encode", str(folder), str(tmp_path / "out")]) == 1
    assert "needs Ray: pip install 'cliplib[scale]'" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["{images}s", "{images}/disc/disc0.png"])
def test_what_cannot_be_encoded_is_told_before_ray_and_a_model_are_asked_for(
    folder: Path, tmp_path: Path, capsys: Capture, source: str
) -> None:
    given = [source.format(images=folder), str(tmp_path / "out")]
    assert main(["encode", *given, "--model", "nowhere"]) == 1
    assert "is no folder: name one with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_things_is_refused_before_the_work(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.txt").touch()
    out = str(tmp_path / "thesis")
    arguments = ["train", str(folder), "--model", "nowhere", "--out", out]
    assert main(arguments) == 1
    assert "thesis holds something else: choose another" in capsys.readouterr().err
    arguments[-1] = str(tmp_path / "thesis" / "text.txt")
    assert main(arguments) == 1
    assert "text.txt" in capsys.readouterr().err
