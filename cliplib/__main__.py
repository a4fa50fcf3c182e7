"""The command line: ``cliplib``, or ``python -m cliplib``.

Commands import what they need, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import inspect
import io
import logging
import os
import platform
import sys
import tomllib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cliplib
from cliplib.data.wording import printable

if TYPE_CHECKING:
    import pandas as pd

# Exit status of `report` if there is a warning that --fail-on names.
FAILED = 3
# Largest number of lines that are printed of a list.
MOST_LINES = 10


def main(arguments: Sequence[str]) -> int:
    """Run the command line with the given arguments, and return its exit status.

    The status is 1 after an error and 130 after an interrupt, each with a message on
    stderr, and `FAILED` after a warning that --fail-on names. If options are wrong or
    ask for help, argparse exits the process.
    """
    try:
        options = vars(build_parser().parse_args(with_command(arguments)))
        # The function of the command, such as `train`, set by `build_parser`.
        run_command = options.pop("run")
        status = run_command(**options)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; what is finished is kept.\n")
        return 130  # the status that shells use
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"{printable(str(error))}\n")
        return 1
    return status or 0


def run() -> None:
    """Run the command line with the process's arguments, and exit with its status."""
    # On Windows, the encoding of a log may lack a character, such as the true minus.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter())
    logging.getLogger("cliplib").addHandler(handler)
    warnings.showwarning = _log_warning
    sys.exit(main(sys.argv[1:]))


class _PlainFormatter(logging.Formatter):
    """Writes a log message alone, with unprintable characters of file names escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


def _log_warning(message: Warning | str, *_place: Any, **_more: Any) -> None:
    """Log a warning of another package, without its file, line and source code."""
    logging.getLogger("cliplib").warning("%s", message)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Each command is a function, whose docstring is the command's help. The arguments are
    described in commands.toml, and have the names of the function's parameters.
    Arguments that are not given get the function's defaults.
    """
    parser = argparse.ArgumentParser(
        "cliplib",
        allow_abbrev=False,
        description="Does a frozen CLIP sort my images?",
        epilog="'cliplib FOLDER --out AID' is short for 'train'. 'cliplib COMMAND "
        "--help' explains a command.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"cliplib {cliplib.__version__}, Python {platform.python_version()}",
        help="print the versions of cliplib and Python",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    arguments = tomllib.loads(
        Path(__file__).with_name("commands.toml").read_text("utf-8")
    )
    for name, run_command in COMMANDS.items():
        text = inspect.getdoc(run_command) or ""
        command = subparsers.add_parser(
            name,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            help=text.partition("\n")[0],
            description=text,
        )
        for group in [*arguments["shared"].get(name, []), name]:
            for argument, settings in arguments.get(group, {}).items():
                if settings.get("type") == "int":
                    settings["type"] = int
                command.add_argument(argument, **settings)
        command.set_defaults(run=run_command)
    return parser


def with_command(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with "train" before them if they begin with a source.

    ValueError if they begin with neither a source nor a command.
    """
    if not arguments:
        return ["--help"]
    first = arguments[0]
    if first in (*COMMANDS, "--help", "-h", "--version"):
        return [*arguments]
    if os.path.exists(first) or first.startswith("hf://datasets/"):
        return ["train", *arguments]
    raise ValueError(
        f"There is no folder or command {first!r}: begin with a folder that exists or "
        f"one of {', '.join(COMMANDS)}, and put options after it."
    )


# --- The commands


def train(source: str, out: str, **options: Any) -> None:
    """Measure a folder of class folders, print what was found, save a decision aid.

    The decision aid is the best of the light probes on a frozen CLIP.
    """
    from cliplib.aids.aid_folder import check_aid_can_be_saved
    from cliplib.reports.measure import measure
    from cliplib.reports.report import check_apart

    check_apart(source, out)
    check_aid_can_be_saved(out)
    findings = measure(source, **options)
    findings.aid.save(out)  # before printing, which fails if a pipe was closed
    print(cliplib.verdict(findings))
    print(f"Decision aid saved: cliplib classify {out} FOLDER_OR_FILES")


def report(source: str, out: str, fail_on: str = "never", **options: Any) -> int:
    """Make a page and a PDF on a folder of class folders, verdict first.

    They say whether a frozen CLIP sorts the images: the verdict, the evidence, the
    errors and the limits. Beside them are tables of all answers and copies, and a
    decision aid.
    """
    from cliplib.reports.data_warnings import check_threshold
    from cliplib.reports.report import SPLITS, WRITTEN

    check_threshold(fail_on)
    judged = cliplib.report(source, out, **options)
    print(judged)
    files = [Path(out, name) for name in (*WRITTEN, SPLITS)]
    written = ", ".join(str(file) for file in files if file.exists())
    print(f"\nWritten: {written}, and the decision aid {Path(out, 'aid')}")
    return FAILED if judged.fails(fail_on) else 0


def demo(out: str) -> None:
    """Make three folders with planted faults, and report on them.

    Their images are cut from photographs that scikit-image brings along.
    """
    from cliplib.reports.report import check_extra

    check_extra()  # before scikit-image is imported
    from cliplib.reports.demo import make_demo

    for folder, fault in make_demo(out).items():
        print(f"\n{folder}: {fault}\n")
        report(str(folder), str(Path(out, "reports", folder.name)))


def classify(
    aid: str,
    files: Sequence[str],
    out_prefix: str = "answers",
    heat_maps: bool = False,
    images: str = "",
    overwrite: bool = False,
) -> None:
    """Let a decision aid classify a folder or files.

    The answers are a table for spreadsheets (CSV) and a page to look at (HTML).
    """
    from cliplib.aids.decision_aid import DecisionAid
    from cliplib.data.files import check_writable, replacing
    from cliplib.data.folder import list_files
    from cliplib.data.text_table import write_csv
    from cliplib.reports.aid_answers import write_html

    missing = [name for name in (*files, images or ".") if not os.path.exists(name)]
    if missing:
        raise FileNotFoundError(
            f"There is no {missing[0]!r}: name one folder, or files that exist."
        )
    # "new/" is a folder, even if it does not exist yet.
    is_folder = os.path.isdir(out_prefix) or os.path.basename(out_prefix) == ""
    if is_folder:
        out_prefix = os.path.join(out_prefix, "answers")
    table = f"{out_prefix}.csv"
    page = f"{out_prefix}.html"
    if not overwrite and (os.path.exists(table) or os.path.exists(page)):
        raise FileExistsError(
            f"{table} or {page} is there already: choose another --out-prefix, or add "
            "--overwrite."
        )
    check_writable(Path(table).parent)
    decision_aid = DecisionAid.load(aid)
    names, sources = list_files(files[0] if len(files) == 1 else files)
    rows = decision_aid.classify(sources).assign(file=names)
    print_list("Files", _answer_lines(rows))
    print_list("Unreadable", rows["error"][rows["error"] != ""])
    with replacing(Path(table).parent) as new:
        write_csv(rows, new / Path(table).name)
        write_html(
            rows,
            new / Path(page).name,
            decision_aid,
            sources,
            heat_maps=heat_maps,
            training_folder=images,
        )
    print(f"Written: {table}")
    print(f"Written: {page}")


def _answer_lines(rows: pd.DataFrame) -> pd.Series:
    """Return a line with file and answer for each row of `DecisionAid.classify`.

    Examples are "a.jpg: cat (a training image)" and "b.jpg: no answer, uncertain".
    """
    from cliplib.reports.aid_answers import is_training_image

    # `where` replaces the class where the condition does not hold.
    answers = rows["class"].where(~rows["abstained"], "no answer, " + rows["reason"])
    note = is_training_image(rows).map({True: " (a training image)", False: ""})
    return rows["file"] + ": " + answers + note


def encode(source: str, output: str, **options: Any) -> None:
    """Compute features on several machines; the same call again does the rest.

    They are computed with Ray (pip install 'cliplib[scale]'), and hashes with them, by
    which copies are found.
    """
    from cliplib.features.distributed import encode_with_ray

    encode_with_ray(source, output, **options)
    print(f"FeatureTable.from_parquet({output!r}) reads the features, with copies.")


COMMANDS = {
    command.__name__: command for command in (train, report, demo, classify, encode)
}


def print_list(title: str, lines: pd.Series) -> None:
    """Print a title, the number of lines, and the first `MOST_LINES` of the lines."""
    print(f"{title}: {len(lines)}")
    for line in lines.head(MOST_LINES):
        print(f"    {line}")
    if len(lines) > MOST_LINES:
        print(f"    and {len(lines) - MOST_LINES} more")


if __name__ == "__main__":
    run()
