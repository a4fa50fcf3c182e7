"""README: its blocks run, and what they print is what stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cliplib import cli

README = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")


def test_images_are_made_measured_and_classified_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "skimage" in block
    )
    exec(code, {})
    sessions = re.findall(r"```\n(\$ .*?)```", README, re.DOTALL)
    assert len(sessions) == 2
    for session in sessions:
        for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            program, *arguments = shlex.split(line)
            if program == "touch":
                Path(arguments[0]).touch()
            else:
                assert program == "cliplib"
                capsys.readouterr()
                assert cli.main(arguments) == 0
                assert capsys.readouterr().out == shown


def test_every_option_that_the_readme_shows_is_one() -> None:
    parser, commands = cli.build_parser()
    lines = re.findall(r"^(?:\$ )?cliplib (.*?)(?:    #.*)?$", README, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        parser.parse_args(cli.with_command(shlex.split(line), commands))
