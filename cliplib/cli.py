"""Does a frozen CLIP sort my images? The command line.

Nothing slow is imported before it is needed, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import datasets
    import pandas as pd

    from cliplib.app.decision_aid import AnyProbe
    from cliplib.judge.evaluation import Evaluation
    from cliplib.tables.features import FeatureTable

SHOWN = 10  # lines of a list, before "and 11 more"

# What these modules warn of, the commands say themselves.
SAID_HERE = (
    "cliplib.images.cache",
    "cliplib.judge.calibration",
)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser, commands = build_parser()
    try:
        chosen = vars(parser.parse_args(with_command(arguments, commands)))
        run = chosen.pop("run")
        with _warnings_once():
            run(**chosen)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; features computed so far are kept.\n")
        return 1
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def build_parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser, and the names of the commands it knows."""
    parser = argparse.ArgumentParser(
        "python -m cliplib",
        allow_abbrev=False,
        description="Does a frozen CLIP sort my images?",
        epilog="'python -m cliplib FOLDER --out AID' is short for 'train'. A folder "
        "that bears a command's name goes by './classify', or after 'train'. "
        "'python -m cliplib COMMAND --help' explains a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_train, _add_report, _add_classify, _add_encode):
        add(commands)
    return parser, list(commands.choices)


def with_command(arguments: Sequence[str], commands: Sequence[str]) -> list[str]:
    """Put "train" before a folder, the name of a data set, or an option of its own.

    ValueError for a word that is none of these and no command.
    """
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help") or first in commands:
        return [*arguments] or ["--help"]
    if not first.startswith("-") and not os.path.isdir(first):
        from cliplib.images.data import DATASETS

        if first not in DATASETS:
            alike = difflib.get_close_matches(first, commands, 1)
            hint = f"did you mean {alike[0]!r}?" if alike else "name one that exists."
            raise ValueError(
                f"{first!r} is neither a folder nor one of the commands "
                f"{', '.join(commands)}: {hint}"
            )
    return ["train", *arguments]


# --- train


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        allow_abbrev=False,
        help="audit a folder of class folders, measure probes, save a decision aid",
        description="Audit a folder of class folders, measure what a frozen CLIP and a "
        "light probe make of it, and save the best as a decision aid.",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="one folder of images for each class, with or without train, val and test "
        "folders above them; or the name of a known data set",
    )
    parser.add_argument(
        "--out", required=True, metavar="AID", help="the decision aid's new folder"
    )
    _add_model(parser)
    _add_groups(parser)
    parser.set_defaults(run=train)


def train(folder: str, out: str, model: str, groups: str | None) -> None:
    """Audit a folder, measure what a probe makes of it, and save a decision aid."""
    from cliplib.app.decision_aid import DecisionAid, check_folder
    from cliplib.encode.clip import ClipEncoder
    from cliplib.images.data import dataset_spec, load_dataset
    from cliplib.tables.extract import load_features
    from cliplib.tables.groups import suggested_pattern

    # What can be refused is refused before any image is encoded.
    check_folder(out)
    place = os.path.abspath(folder) if os.path.isdir(folder) else folder
    dataset = load_dataset(place)  # a folder goes before a known name
    if dataset is not None:
        _check_classes(folder, dataset.features["label"].names)
    encoder = ClipEncoder(model)
    errors: dict[str, str] = {}
    table = load_features(place, encoder, groups=groups, errors=errors)
    _check_classes(folder, {table.classes[label] for label in table.labels}, table)
    if dataset is not None:
        _show_audit(dataset, encoder.cache, errors)
        table = _with_folder(table, dataset)
    _show_groups(table, declared=groups is not None)
    if not groups and (pattern := suggested_pattern(table.ids.tolist())):
        print(
            "File names look like series. If those show one object or one patient, "
            f"keep them together: --groups '{pattern}'"
        )

    print("", encoder, sep="\n")
    candidates = _candidates(table)
    results = _measure(table, candidates, encoder, dataset_spec(place))
    best = max(candidates, key=lambda candidate: results[candidate.name].accuracy)
    _show_results(results, best)
    aid = DecisionAid.fit(table.with_readout(best.readout), encoder, probe=best.probe)
    aid.save(out)
    _show_aid(aid.about, out)


@dataclass(frozen=True)
class Candidate:
    """A probe that the decision aid may use, and the readout that it gets."""

    name: str
    probe: AnyProbe
    readout: str


def _candidates(table: FeatureTable) -> list[Candidate]:
    from cliplib.app.decision_aid import KERNEL_LIMIT
    from cliplib.probes.kernel import KernelProbe
    from cliplib.probes.linear import LinearProbe

    candidates = [
        Candidate("linear probe, pooled", LinearProbe(), "pooled"),
        Candidate("linear probe, deep", LinearProbe(), "deep"),
    ]
    if len(table) < KERNEL_LIMIT:
        candidates.append(Candidate("kernel probe, deep", KernelProbe(), "deep"))
    return candidates


def _check_classes(
    folder: str, classes: Any, table: FeatureTable | None = None
) -> None:
    """Raise ValueError for fewer than two classes, or one without a readable image."""
    expected = 2 if table is None else max(2, len(table.classes))
    if len(classes) < expected:
        raise ValueError(
            f"{folder} needs images that can be read in each of two classes or more; "
            f"there are some in {', '.join(map(repr, sorted(classes))) or 'none'}."
        )


def _with_folder(table: FeatureTable, dataset: datasets.Dataset) -> FeatureTable:
    """Note where the images lie, so that an aid's page can show the nearest ones."""
    from cliplib.press.sheet import IMAGES

    path, image_id = dataset[0]["image"]["path"], dataset[0]["id"]
    folder = Path(path).as_posix().removesuffix(image_id)
    return replace(table, provenance={**table.provenance, IMAGES: folder})


def _show_audit(
    dataset: datasets.Dataset, cache: Any, errors: Mapping[str, str]
) -> None:
    import pandas as pd

    from cliplib.tables.audit import audit_dataset

    audit = audit_dataset(dataset, cache=cache)
    counts = audit.images["label"].value_counts(sort=False)
    print(counts.to_string(), audit, sep="\n\n")
    show("Unreadable, left out", pd.Series(errors, dtype=object))
    show("Byte copies of another file", _byte_copies(dataset, errors))
    conflicts = audit.conflicts["id_a"] + " and " + audit.conflicts["id_b"]
    show("Near-duplicates in two classes", conflicts)
    show("Near-duplicates of training images among val and test", audit.leaks["id"])


def _byte_copies(dataset: datasets.Dataset, errors: Mapping[str, str]) -> pd.Series:
    """Return which files hold the same bytes as an earlier one."""
    import pandas as pd

    from cliplib.images.image import image_bytes

    first: dict[bytes, str] = {}
    copies = []
    for image_id, source in zip(dataset["id"], dataset["image"], strict=True):
        if image_id in errors:
            continue
        digest = hashlib.blake2b(image_bytes(source)).digest()
        if digest in first:
            copies.append(f"{image_id} is {first[digest]}")
        first.setdefault(digest, image_id)
    return pd.Series(copies, dtype=object)


def _show_groups(table: FeatureTable, *, declared: bool) -> None:
    together = "near-duplicates stay together"
    if declared:
        together = "near-duplicates and what you declared stay together"
    print(f"{len(table)} images, {len(set(table.groups))} groups: {together}")


def _measure(
    table: FeatureTable, candidates: Sequence[Candidate], encoder: Any, spec: Any
) -> dict[str, Evaluation]:
    """Evaluate the largest class, words, and the candidates, these out of fold."""
    import numpy as np

    from cliplib.judge.evaluation import evaluate
    from cliplib.tables.splits import out_of_fold_proba
    from cliplib.tools.words import zero_shot

    largest = np.bincount(table.labels).argmax()
    predicted: dict[str, Any] = {
        f"always {table.classes[largest]!r}": np.full(len(table), largest),
        "zero-shot": zero_shot(encoder, table, spec),
    }
    for candidate in candidates:
        predicted[candidate.name] = out_of_fold_proba(
            candidate.probe, table.with_readout(candidate.readout), n_repeats=1
        )
    return {
        name: evaluate(table.labels, prediction, table.classes, groups=table.groups)
        for name, prediction in predicted.items()
    }


def _show_results(results: Mapping[str, Evaluation], best: Candidate) -> None:
    line = "    {:<33}{:.3f} [{:.3f}, {:.3f}]".format
    print("Accuracy by 5-fold cross-validation, with 95% intervals")
    for name, result in results.items():
        print(line(name, *result.metrics.loc["accuracy", ["value", "low", "high"]]))
    largest = next(iter(results))
    if results["zero-shot"].accuracy <= results[largest].accuracy:
        print(
            "    Words alone (zero-shot) fail here: the names of the classes do no "
            f"better than {largest}."
        )
    print(f"The decision aid uses the best probe: {best.name}")
    print("Share of each class that it finds")
    columns = ["sensitivity", "sensitivity_low", "sensitivity_high"]
    for name, row in results[best.name].per_class[columns].iterrows():
        print(line(name, *row))


def _show_aid(about: Mapping[str, Any], out: str) -> None:
    from cliplib.press.sheet import three_digits

    print(f"Decision aid saved: python -m cliplib classify {out} FOLDER_OR_FILES")
    width = max(map(len, about))
    for name, value in about.items():
        print(f"    {name:<{width}}  {three_digits(value)}")


# --- report


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        allow_abbrev=False,
        help="make a page and a PDF on a folder of class folders, verdict first",
        description="Answer whether a frozen CLIP sorts the images of a folder: a page "
        "and a PDF with the verdict, the evidence, the errors and the limits, and a "
        "decision aid beside them. The same call again does only what has changed.",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="one folder of images for each class, with or without train, val and test "
        "folders above them",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="OUT",
        help="the folder that gets report.html, report.pdf and the decision aid, aid",
    )
    _add_model(parser)
    _add_groups(parser)
    parser.add_argument(
        "--title", default="", help="of the report (default: the folder's name)"
    )
    parser.add_argument(
        "--others",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="more vision models to set beside CLIP, such as facebook/dinov2-small: "
        "hub ids, or folders in Hugging Face format",
    )
    parser.set_defaults(run=report)


def report(
    folder: str,
    out: str,
    model: str,
    groups: str | None,
    title: str,
    others: Sequence[str],
) -> None:
    """Make a report on a folder of images: see `cliplib.press.report`."""
    from cliplib.app.verdict import Step, Verdict
    from cliplib.press.report import Request, write_report

    request = Request(Path(folder), Path(out), model, groups or "", title, others)
    said = write_report(request)
    if said is None:
        print("Nothing has changed since this report was made.")
    else:
        steps = [Step(*step) for step in said["steps"]]
        print(Verdict(said["answer"], said["reasons"], steps))
    page, pdf = request.pages
    print(f"Written: {page}, {pdf}, and the decision aid {request.aid}")


# --- classify


def _add_classify(commands: Any) -> None:
    parser = commands.add_parser(
        "classify",
        allow_abbrev=False,
        help="let a decision aid classify a folder or files",
        description="Let a decision aid classify a folder or files, and write a table "
        "for spreadsheets (CSV) and a page to look at (HTML).",
    )
    parser.add_argument(
        "aid", metavar="AID", help="the folder of a decision aid that 'train' has saved"
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FOLDER_OR_FILES",
        help="one folder, of which all files are taken, however deep; or image files",
    )
    parser.add_argument(
        "--out-prefix",
        dest="prefix",
        default="answers",
        metavar="PREFIX",
        help="what the two files are called before .csv and .html (default: answers)",
    )
    parser.add_argument(
        "--heat-maps",
        action="store_true",
        help="show on the page what spoke for each class: it takes about a second an "
        "image",
    )
    parser.set_defaults(run=classify)


def classify(aid: str, files: Sequence[str], prefix: str, heat_maps: bool) -> None:
    """Write what a decision aid says of a folder or of files."""
    given = _folder_or_files(files)
    from cliplib.app.decision_aid import DecisionAid, check_writable
    from cliplib.press.sheet import write_csv, write_html

    where = os.path.dirname(os.path.abspath(prefix))
    check_writable(where)
    decision_aid = DecisionAid.load(aid)
    rows = decision_aid.classify(given)
    if decision_aid.min_probability == float("inf"):
        print(
            "This decision aid abstains on everything: no probability made its answers "
            "reliable."
        )
    show("Files", _answer_lines(rows))
    show("Unreadable", rows["error"][rows["error"] != ""])
    os.makedirs(where, exist_ok=True)
    write_csv(rows, f"{prefix}.csv")
    print(f"Written: {prefix}.csv", flush=True)
    write_html(rows, f"{prefix}.html", decision_aid, given, heat_maps=heat_maps)
    print(f"Written: {prefix}.html")


def _folder_or_files(given: Sequence[str]) -> str | Sequence[str]:
    if len(given) == 1 and os.path.isdir(given[0]):
        return given[0]
    for file in given:
        if not os.path.isfile(file):
            raise ValueError(
                f"{file!r} is no file: name one folder, or files that exist."
            )
    return given


def _answer_lines(rows: pd.DataFrame) -> pd.Series:
    from cliplib.press.sheet import is_training_image

    answers = rows["class"].where(~rows["abstained"], "no answer, " + rows["reason"])
    known = is_training_image(rows).map({True: " (a training image)", False: ""})
    return rows["file"] + ": " + answers + known


# --- encode


def _add_encode(commands: Any) -> None:
    parser = commands.add_parser(
        "encode",
        allow_abbrev=False,
        help="compute features on several machines; the same call again does the rest",
        description="Compute features with Ray, on this machine or on a cluster (pip "
        "install -e '.[scale]'). The same call again does only what is missing.",
    )
    parser.add_argument(
        "source",
        metavar="INPUT",
        help="folder of images, or a URI that all machines can read",
    )
    parser.add_argument(
        "output", metavar="OUTPUT", help="folder or URI for Parquet files"
    )
    _add_model(parser)
    parser.add_argument(
        "--readout",
        default="pooled",
        help="which features: pooled (default), class_tokens, dinov2, means or deep",
    )
    parser.add_argument(
        "--actors",
        type=int,
        default=2,
        metavar="N",
        help="how many processes encode at once, each with a core (default: 2)",
    )
    parser.set_defaults(run=encode)


def encode(source: str, output: str, model: str, readout: str, actors: int) -> None:
    """Encode what `output` lacks of `source`: see `cliplib.encode.cluster.encode`."""
    from cliplib.encode import cluster

    cluster.encode(source, output, model=model, readout=readout, actors=actors)


# --- what the commands share


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="",
        help="another CLIP: a hub id, or a folder in Hugging Face format (default: "
        "the setting CLIPLIB_MODEL, else the embedded model mini)",
    )


def _add_groups(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--groups",
        metavar="CSV_OR_PATTERN",
        help="images that belong together and must not be separated, such as those of "
        "one patient: a CSV file with the columns file and group, or a regular "
        r"expression whose first bracket is the group, such as '(\w+)_\d+'",
    )


def show(title: str, lines: pd.Series) -> None:
    """Print how many lines there are, and the first ten of them."""
    print(f"{title}: {len(lines)}")
    for line in lines.head(SHOWN):
        print(f"    {line}")
    if len(lines) > SHOWN:
        print(f"    and {len(lines) - SHOWN} more")


class _Once(logging.Filter):
    """Let each message pass once, and none that the commands say themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.name in SAID_HERE or message in self.seen:
            return False
        self.seen.add(message)
        return True


@contextmanager
def _warnings_once() -> Iterator[None]:
    """Write the library's warnings to stderr, as the commands want them."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(_Once())
    library = logging.getLogger("cliplib")
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)
