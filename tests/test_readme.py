"""README: its blocks run, and what they print is what stands there."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from readme_session import code_that_makes_images, commands

from cliplib import __main__ as cli
from cliplib.aids.decision_aid import DecisionAid

README = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")


class Session(NamedTuple):
    """What the README's commands printed, where they ran, and what stands there."""

    folder: Path
    programs: list[str]
    printed: list[str]
    shown: list[str]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Run all that the README shows, in a folder that stays the current one."""
    ran = Session(tmp_path_factory.mktemp("readme"), [], [], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ran.folder)
        patch.setenv("CLIPLIB_CACHE", str(ran.folder / "cache"))
        exec(code_that_makes_images(README), {})
        for (program, *arguments), shown in commands(README):
            ran.programs.append(program)
            if program == "touch":
                Path(arguments[0]).touch()
                continue
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                assert cli.main(arguments) == 0
            ran.printed.append(printed.getvalue())
            ran.shown.append(shown)
        yield ran


def test_what_the_commands_print_is_what_stands_there(session: Session) -> None:
    assert session.programs == ["cliplib", "touch", "cliplib"]
    assert session.printed == session.shown


def test_one_command_makes_everything_in_one_folder(session: Session) -> None:
    made = {path.name for path in session.folder.iterdir()}
    of_classify = {"answers.csv", "answers.html"}
    assert made == {"photos", "new", "mine", "cache"} | of_classify
    report = session.folder / "mine"
    assert {path.name for path in report.glob("[!.]*")} == {
        "report.html",
        "report.pdf",
        "report.json",
        "answers.csv",
        "copies.csv",
        "aid",
    }
    assert len(pd.read_csv(report / "answers.csv")) == 120
    classes = DecisionAid.load(report / "aid").training.classes
    assert classes == ("brick", "grass", "gravel")
    page = (report / "report.html").read_text("utf-8")
    assert "cliplib report photos --out mine" in page
    assert str(Path(cli.__file__).parents[1]) not in page


def test_answers_are_kept(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["classify", "mine/aid", "new/grass.png"]
    assert cli.main(arguments) == 1
    assert "answers.csv or answers.html is there already" in capsys.readouterr().err
    assert len(pd.read_csv("answers.csv")) == 3
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert len(pd.read_csv("answers.csv")) == 1


def test_every_option_that_the_readme_shows_is_one() -> None:
    parser = cli.build_parser()
    lines = re.findall(r"^(?:\$ )?cliplib (.*?)(?:    #.*)?$", README, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        parser.parse_args(cli.with_command(shlex.split(line)))


def verdicts(part: str) -> pd.DataFrame:
    """Return the table that a part of the verdict's test wrote."""
    return pd.read_csv(Path(__file__).parents[1] / f"figures/verdict_{part}.csv")


def right_of_all(table: pd.DataFrame) -> list[str]:
    """Return how many folders of each kind are reported as they should be."""
    right = table.groupby("kind", sort=False)["right"]
    return [f"{n} of {size}" for n, size in zip(right.sum(), right.size(), strict=True)]


def test_the_table_of_verdicts_is_that_of_its_test() -> None:
    rows = re.search(r"\| folders \|.*\n\|[-|]+\n((?:\|.*\n)+)", README)
    assert rows
    shown = [row.strip("| ").split(" | ") for row in rows[1].splitlines()]
    _, right, stated, true, earlier = map(list, zip(*shown, strict=True))
    unseen = verdicts("unseen")
    assert right == right_of_all(unseen)
    assert earlier == right_of_all(verdicts("confirmation"))
    means = unseen.groupby("kind", sort=False)[["stated", "true"]].mean()
    assert [*map(float, stated)] == pytest.approx(100 * means["stated"], abs=0.51)
    assert [*map(float, true)] == pytest.approx(100 * means["true"], abs=0.51)


def test_what_is_said_of_the_verdicts_is_in_its_table() -> None:
    table = verdicts("unseen")
    good = table[table["word"].isin(["Yes", "Probably"])]
    perhaps = table[table["word"] == "Perhaps"]
    honest = table[table["kind"].isin(["clean", "declared"])]
    full = table[table["kind"].str.startswith("trap in the")]
    partial = table[table["kind"] == "partial trap"]
    text = " ".join(README.split())
    for sentence in (
        f"said {len(good)} times: {good['stated'].mean():.0%} was stated, and "
        f"{good['true'].mean():.0%} is right",
        f"{good['true'].min():.0%} in the worst folder",
        f"said {len(perhaps)} times: {perhaps['stated'].mean():.0%} was stated, and "
        f"{perhaps['true'].mean():.0%} is right",
        f"hold for {honest['interval_holds'].sum()} of the {len(honest)} clean",
        f"in {full['datalab'].sum()} of the {len(full)} full traps, "
        f"{partial['datalab'].sum()} of the {len(partial)} partial ones and "
        f"{honest['datalab'].sum()} of the {len(honest)}",
    ):
        assert sentence.replace("%", " %") in text


def test_what_is_said_of_traps_and_false_alarms_is_in_its_tables() -> None:
    table, pairs = verdicts("unseen"), verdicts("pairs")
    lost = table["stated"] - table["true"]
    honest = table["kind"].isin(["clean", "declared"])
    trap = table["kind"].str.contains("trap")
    missed = table[trap & table["word"].isin(["Yes", "Probably"])]
    swapped = (honest | trap) & table["cost"].notna()
    by_cost, by_share = (
        lost[swapped].corr(table.loc[swapped, column], method="spearman")
        for column in ("cost", "shortcut_share")
    )
    medical = table["classes"].str.contains("x-ray|benign|malignant")
    good = table[medical & table["word"].isin(["Yes", "Probably"])]
    views = table[table["detail"] == "views 5"].iloc[0]
    shuffled = table[table["detail"] == "shuffled; views 6"].iloc[0]
    alarmed = pairs[pairs["word"] == "Perhaps"]
    of_draw = alarmed.groupby("draw").size()
    drawn = pairs.groupby("draw").size()
    assert not (lost[missed.index] > 0.03).any()
    assert len(missed) == 6 and lost[missed.index].max() < 0.0255
    assert (~table[honest]["right"]).sum() == 3
    assert table[honest]["range_holds"].all()
    text = " ".join(README.split())
    stated, true = 100 * good["stated"].mean(), 100 * good["true"].mean()
    for sentence in (
        f"of X-rays and ultrasound {stated:.0f} and {true:.0f} %)",
        "come out more than 3 points worse than stated stopped the word; the six that",
        "stated ranges for all. *False alarms*: three of the 12;",
        f"(Spearman {by_cost:.2f} on the {swapped.sum()} clean, declared and trap",
        f"a shortcut does alone ({by_share:.2f})",
        f"Of {drawn[1]} random pairs of classes, {of_draw[1]} are alarmed, of "
        f"{drawn[2]} more {of_draw[2]}, and of {drawn[3]} that were drawn after all "
        f"rules were fixed, {of_draw[3]};",
        f'as "{views["word"]}", {views["stated"]:.0%} stated and {views["true"]:.0%}',
        f'"{shuffled["word"]}", {100 * shuffled["stated"]:.0f} and '
        f"{100 * shuffled['true']:.0f} %.",
    ):
        assert re.sub(r"(?<=\d)%", " %", sentence) in text, sentence
