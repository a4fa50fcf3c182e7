"""README: its blocks run, and what they print is what stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from readme_session import code_that_makes_images, commands

from cliplib import cli

README = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")


def test_images_are_made_measured_and_classified_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(code_that_makes_images(README), {})
    programs = []
    for (program, *arguments), shown in commands(README):
        programs.append(program)
        if program == "touch":
            Path(arguments[0]).touch()
            continue
        capsys.readouterr()
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out == shown
    assert programs == ["cliplib", "touch", "cliplib"]


def test_every_option_that_the_readme_shows_is_one() -> None:
    parser, names = cli.build_parser()
    lines = re.findall(r"^(?:\$ )?cliplib (.*?)(?:    #.*)?$", README, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        parser.parse_args(cli.with_command(shlex.split(line), names))
