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
import warnings
from collections.abc import Callable, Sequence
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
    as the arguments are.
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
    for run_command, arguments in COMMANDS.items():
        told = inspect.getdoc(run_command) or ""
        command = subparsers.add_parser(
            run_command.__name__,
            allow_abbrev=False,
            help=told.partition("\n")[0],
            description=told,
        )
        for name, settings in arguments.items():
            command.add_argument(name, **settings)
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


# --- The arguments of the commands


def _seed(text: str) -> int:
    """Return a seed from the command line; an argparse error if it is none."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 to 2³² - 1")
    return int(text)


def _text(metavar: str, told: str) -> dict[str, Any]:
    """Return the settings of an option that takes a text, by default an empty one."""
    return {"default": "", "metavar": metavar, "help": told}


def _flag(told: str) -> dict[str, Any]:
    return {"action": "store_true", "help": told}


MODEL = _text(
    "MODEL",
    "another CLIP: a hub id, or a folder in Hugging Face format (default: the setting "
    "CLIPLIB_MODEL, else the embedded model mini)",
)
MEASURING: dict[str, dict[str, Any]] = {
    "folder": {
        "metavar": "FOLDER",
        "help": "one folder of images for each class, with or without train, val and "
        "test folders above them; a CSV file with the columns file and label, and "
        "group and split where they are known; or a data set of the hub, "
        "hf://datasets/OWNER/NAME",
    },
    "--out": {
        "required": True,
        "metavar": "OUT",
        "help": "the new folder of the decision aid, or of the report",
    },
    "--image-column": _text(
        "NAME", "which column holds the images of a data set, or a CSV's files"
    ),
    "--label-column": _text("NAME", "which column holds the labels"),
    "--split": _text("NAME", "the only split to take, such as train"),
    "--revision": _text("NAME", "branch, tag or commit of a data set of the hub"),
    "--model": MODEL,
    "--groups": _text(
        "CSV_OR_PATTERN",
        "images that belong together and must not be separated, such as those of one "
        "patient: a CSV file with the columns file and group, or a regular expression "
        r"whose first bracket is the group, such as '(\w+)_\d+'",
    ),
    "--copies": {
        "default": "near",
        "metavar": "KIND",
        "help": "which images count as copies, and are kept together: off (none), "
        "exact (the same pixels), near (the default: changed, turned or cropped as "
        "well), or the smallest correlation of their detail, 0.82 for near",
    },
    "--others": {
        "nargs": "+",
        "default": [],
        "metavar": "MODEL",
        "help": "more vision models to set beside CLIP, such as facebook/dinov2-small: "
        "hub ids, or folders in Hugging Face format",
    },
    "--elsewhere": _text(
        "FOLDER",
        "another folder of the same classes, from another camera or site, to be judged "
        "by what was trained on the first one",
    ),
    "--boxes": _text(
        "CSV",
        "where the objects lie, to erase them and see what is left: a CSV file with "
        "the columns file, x_center, y_center, width, height, as shares of the image's "
        "sides",
    ),
    "--anonymous": _flag(
        "call images by numbers, so that no file name and no folder stands in what is "
        "given away; a report's answers.csv and copies.csv keep them"
    ),
    "--seed": {
        "type": _seed,
        "default": 0,
        "help": "of everything random (default: 0)",
    },
}
"""What train and report take."""


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
    from cliplib.encoders import cluster
    from cliplib.features.hashes import image_hash

    cluster.encode(
        source,
        output,
        image_hash,
        model=model,
        readout=readout,
        actors=actors,
    )
    print(f"FeatureTable.from_parquet({output!r}) reads the features, with copies.")


COMMANDS: dict[Callable[..., int | None], dict[str, dict[str, Any]]] = {
    train: MEASURING,
    report: MEASURING
    | {
        "--title": _text("TITLE", "of the report (default: the folder's name)"),
        "--fail-on": {
            "default": "never",
            "metavar": "WARNING",
            "help": "end with status 3 if there is a warning of this id or severity "
            "(high, medium or low, or a higher one): for checks of a data set "
            "(default: never)",
        },
    },
    demo: {"out": {"metavar": "OUT", "help": "a new folder for all of it"}},
    classify: {
        "aid": {
            "metavar": "AID",
            "help": "the folder of a decision aid that 'train' has saved",
        },
        "files": {
            "nargs": "+",
            "metavar": "FOLDER_OR_FILES",
            "help": "one folder, of which all files are taken, however deep; or image "
            "files",
        },
        "--out-prefix": {
            "default": "answers",
            "metavar": "PREFIX",
            "help": "what the two files are called before .csv and .html (default: "
            "answers)",
        },
        "--heat-maps": _flag(
            "show on the page what spoke for each class: it takes about a second an "
            "image"
        ),
        "--images": _text(
            "FOLDER",
            "the folder that the decision aid was trained on: the page then shows the "
            "nearest training images, too",
        ),
        "--overwrite": _flag("replace these two files"),
    },
    encode: {
        "source": {
            "metavar": "INPUT",
            "help": "folder of images, or a URI that all machines can read",
        },
        "output": {"metavar": "OUTPUT", "help": "folder or URI for Parquet files"},
        "--model": MODEL,
        "--readout": {
            "default": "pooled",
            "help": "which features: pooled (default), class_tokens, dinov2, means or "
            "deep",
        },
        "--actors": {
            "type": int,
            "default": 2,
            "metavar": "N",
            "help": "how many processes encode at once, each with a core (default: 2)",
        },
    },
}
"""The arguments of each command, as argparse takes them."""


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
