"""The command line: ``cliplib``, or ``python -m cliplib``.

Nothing slow is imported before it is needed, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import io
import logging
import os
import platform
import shlex
import sys
import tomllib
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliplib.data.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

FAILED = 3  # exit status after a warning that --fail-on names
SHOWN = 10  # lines of a list, before "and 11 more"

# Loggers whose warnings are dropped: the commands say the same themselves.
SILENT_LOGGERS = (
    "cliplib.data.cache",
    "cliplib.evaluation.calibration",
)


def main(arguments: Sequence[str]) -> int:
    """Run the command line with these arguments; return its exit status.

    It is 1 after an error and 130 after an interrupt, of which a line is written to
    stderr, and `FAILED` after a warning that --fail-on names. Where options are wrong,
    or ask for help, argparse itself exits.
    """
    parser, commands = build_parser()
    try:
        options = vars(parser.parse_args(with_command(arguments, commands)))
        # The function of the command, such as `train`, which its parser has put there.
        run_command = options.pop("run")
        with _warnings_once():
            status = run_command(**options)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; what is finished is kept.\n")
        return 130  # as shells have it
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"{printable(str(error))}\n")
        return 1
    return status or 0


def run() -> None:
    """Run the command line with the process's arguments, and exit with its status."""
    # A log on Windows may have no code for a letter, such as a true minus.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))


def build_parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser of the command line, and the names of its commands.

    A command is a function: its docstring is the help, and its parameters are called
    as the arguments are, which stand in commands.toml.
    """
    parser = argparse.ArgumentParser(
        "cliplib",
        allow_abbrev=False,
        description="Does a frozen CLIP sort my images?",
        # The parser knows no short form: `with_command` puts "train" before the rest.
        epilog="'cliplib FOLDER --out AID' is short for 'train'. A folder that bears a "
        "command's name goes by './classify', or after 'train'. 'cliplib COMMAND "
        "--help' explains a command.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"cliplib {version('cliplib')}, Python {platform.python_version()}",
        help="print the versions of cliplib and Python",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    arguments = tomllib.loads(
        Path(__file__).with_name("commands.toml").read_text("utf-8")
    )
    for run_command in COMMANDS:
        name = run_command.__name__
        told = inspect.getdoc(run_command) or ""
        command = subparsers.add_parser(
            name, allow_abbrev=False, help=told.partition("\n")[0], description=told
        )
        takes = arguments["measuring"] if name in ("train", "report") else {}
        for argument, settings in (takes | arguments.get(name, {})).items():
            if isinstance(settings.get("default"), int):
                settings["type"] = int
            command.add_argument(argument, **settings)
        command.set_defaults(run=run_command)
    return parser, list(subparsers.choices)


def with_command(arguments: Sequence[str], commands: Sequence[str]) -> list[str]:
    """Return the arguments, with the command "train" before them if they have none.

    ["photos", "--out", "aid"] becomes ["train", "photos", "--out", "aid"]; no arguments
    become ["--help"]. ValueError if the first one is neither a command, nor an option,
    nor a folder.
    """
    if not arguments:
        return ["--help"]
    first = arguments[0]
    if first in ("-h", "--help", "--version") or first in commands:
        return [*arguments]
    is_source = os.path.exists(first) or first.startswith("hf://datasets/")
    if not first.startswith("-") and not is_source:
        alike = difflib.get_close_matches(first, commands, 1)
        hint = f"did you mean {alike[0]!r}?" if alike else "name one that exists."
        raise ValueError(
            f"{first!r} is neither a folder nor one of the commands "
            f"{', '.join(commands)}: {hint}"
        )
    return ["train", *arguments]


# --- The commands


def train(folder: str, out: str, **options: Any) -> None:
    """Measure a folder of class folders, print what was found, save a decision aid.

    The decision aid is the best of the light probes on a frozen CLIP.
    """
    from cliplib.reports.aid_folder import check_aid_can_be_saved
    from cliplib.reports.measure import measure
    from cliplib.reports.report import check_places
    from cliplib.reports.verdict import verdict

    check_places(folder, out, **options)
    check_aid_can_be_saved(out)
    command = command_line("train", folder, out, **options)
    findings = measure(folder, command=command, **options)
    findings.aid.save(out)  # first: what is printed may meet a pipe that is closed
    print(verdict(findings))
    print(f"Decision aid saved: cliplib classify {out} FOLDER_OR_FILES")


def report(
    folder: str, out: str, title: str, fail_on: str = "never", **options: Any
) -> int:
    """Make a page and a PDF on a folder of class folders, verdict first.

    They say whether a frozen CLIP sorts the images: the verdict, the evidence, the
    errors and the limits. Beside them are tables of all answers and copies, and a
    decision aid.
    """
    from cliplib.reports.caution import check_threshold
    from cliplib.reports.report import WRITTEN
    from cliplib.reports.report import report as write
    from cliplib.reports.verdict import verdict

    check_threshold(fail_on)
    command = command_line("report", folder, out, title=title, **options)
    findings = write(folder, out, title=title, command=command, **options)
    judged = verdict(findings)
    print(judged)
    names = ", ".join(str(Path(out, name)) for name in WRITTEN)
    print(f"\nWritten: {names}, and the decision aid {Path(out, 'aid')}")
    return FAILED if judged.fails(fail_on) else 0


PLACEHOLDERS = {
    "groups": "GROUPS.csv",
    "boxes": "BOXES.csv",
    "elsewhere": "ELSEWHERE",
    "model": "MODEL",
    "others": "MODEL",
}
"""What stands for an option's path in an anonymous command."""


def command_line(name: str, folder: str, out: str, **options: Any) -> str:
    """Return the shell command that does the same again, for verdict and report.

    `name` is that of the command, "train" or "report": ("train", "ward 7", "aid",
    seed=3) becomes "cliplib train 'ward 7' --out aid --seed 3". Options at their
    defaults, which are empty, 0, False or "near", are left out. If the option
    `anonymous` is set, paths are replaced by `PLACEHOLDERS`.
    """
    anonymous = bool(options.get("anonymous"))
    places = ["FOLDER", "--out", "OUT"] if anonymous else [folder, "--out", out]
    words = ["cliplib", name, *places]
    for option, value in options.items():
        if not value or (option, value) == ("copies", "near"):
            continue
        words.append(f"--{option.replace('_', '-')}")
        if value is True:  # a flag has no value
            continue
        texts = value if isinstance(value, list) else [str(value)]
        for text in texts:
            # A pattern or a hub id is no path, and stays.
            is_path = option in PLACEHOLDERS and os.path.exists(text)
            words.append(PLACEHOLDERS[option] if anonymous and is_path else text)
    return shlex.join(words)


def demo(out: str) -> None:
    """Make three folders with planted faults, and report on them.

    Their images are cut from photographs that scikit-image brings along.
    """
    from cliplib.reports.demo import make_demo
    from cliplib.reports.report import check_extra

    check_extra()
    for folder, fault in make_demo(out).items():
        print(f"\n{folder}: {fault}\n")
        report(str(folder), str(Path(out, "reports", folder.name)), "")


def classify(
    aid: str,
    files: Sequence[str],
    out_prefix: str,
    heat_maps: bool,
    images: str,
    overwrite: bool,
) -> None:
    """Let a decision aid classify a folder or files.

    The answers are a table for spreadsheets (CSV) and a page to look at (HTML).
    """
    sources = _folder_or_files(files)
    if images and not os.path.isdir(images):
        raise NotADirectoryError(f"--images {images} is no folder.")
    # "new/" is a folder, which need not be there yet.
    is_folder = os.path.isdir(out_prefix) or not os.path.basename(out_prefix)
    out = os.path.join(out_prefix, "answers") if is_folder else out_prefix
    table = f"{out}.csv"
    page = f"{out}.html"
    if not overwrite:
        _check_new(table, page)
    from cliplib.data.files import check_writable, replacing
    from cliplib.reports.decision_aid import DecisionAid
    from cliplib.reports.sheet import write_csv, write_html

    folder, name = os.path.split(os.path.abspath(out))
    check_writable(folder)
    decision_aid = DecisionAid.load(aid_folder(aid))
    rows = decision_aid.classify(sources)
    if decision_aid.never_answers:
        print(
            "This decision aid abstains on everything: no probability made its answers "
            "reliable."
        )
    show("Files", _answer_lines(rows))
    show("Unreadable", rows["error"][rows["error"] != ""])
    with replacing(folder) as new:
        write_csv(rows, new / f"{name}.csv")
    print(f"Written: {table}", flush=True)
    with replacing(folder) as new:
        write_html(
            rows,
            new / f"{name}.html",
            decision_aid,
            sources,
            heat_maps=heat_maps,
            images=images,
        )
    print(f"Written: {page}")


def aid_folder(folder: str) -> str:
    """Return the folder of a decision aid: `folder`, or "aid" in a report's folder."""
    within = os.path.join(folder, "aid")
    has_report = os.path.isfile(os.path.join(folder, "report.html"))
    return within if has_report and os.path.isdir(within) else folder


def _check_new(*paths: str) -> None:
    """Raise FileExistsError if one of the files is there already."""
    for path in paths:
        if os.path.exists(path):
            raise FileExistsError(
                f"{path} is there already: choose another --out-prefix, or add "
                "--overwrite."
            )


def _folder_or_files(names: Sequence[str]) -> str | Sequence[str]:
    """Return the one folder that is named, or the files; else raise ValueError."""
    if len(names) == 1 and os.path.isdir(names[0]):
        return names[0]
    for name in names:
        if not os.path.isfile(name):
            raise ValueError(
                f"{name!r} is no file: name one folder, or files that exist."
            )
    return names


def _answer_lines(rows: pd.DataFrame) -> pd.Series:
    """Return a line for each row of `DecisionAid.classify`: the file and its answer.

    Such as "a.jpg: cat (a training image)", or "b.jpg: no answer, uncertain".
    """
    from cliplib.reports.sheet import is_training_image

    # `where` keeps the class where the condition holds.
    answers = rows["class"].where(~rows["abstained"], "no answer, " + rows["reason"])
    note = is_training_image(rows).map({True: " (a training image)", False: ""})
    return rows["file"] + ": " + answers + note


def encode(source: str, output: str, model: str, readout: str, actors: int) -> None:
    """Compute features on several machines; the same call again does the rest.

    They are computed with Ray (pip install 'cliplib[scale]'), and hashes with them, by
    which copies are found.
    """
    from cliplib.features.cluster import encode_with_ray

    encode_with_ray(source, output, model=model, readout=readout, actors=actors)
    print(f"FeatureTable.from_parquet({output!r}) reads the features, with copies.")


COMMANDS = (train, report, demo, classify, encode)


def show(title: str, lines: pd.Series) -> None:
    """Print a title, how many lines there are, and the first `SHOWN` of them."""
    print(f"{title}: {len(lines)}")
    for line in lines.head(SHOWN):
        print(f"    {line}")
    if len(lines) > SHOWN:
        print(f"    and {len(lines) - SHOWN} more")


class _Once(logging.Filter):
    """Let each message pass once, and none of `SILENT_LOGGERS`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.name in SILENT_LOGGERS or message in self.seen:
            return False
        self.seen.add(message)
        record.msg, record.args = printable(message), ()  # it may name a file
        return True


@contextmanager
def _warnings_once() -> Iterator[None]:
    """Write warnings in the block to stderr, each of them once.

    Those of Python's own kind come without file, line and code, too.
    """
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(_Once())
    library = logging.getLogger("cliplib")
    library.addHandler(handler)

    def show(message: Warning | str, *_place: Any, **_more: Any) -> None:
        library.warning("%s", message)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        library.removeHandler(handler)


if __name__ == "__main__":
    run()
