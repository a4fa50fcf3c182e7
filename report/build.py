"""Build the report: execute the notebooks, turn them into Typst, compile the PDF.

Without arguments this makes ``report/report.pdf`` from the committed features. With
another model, images or parameters, everything goes below ``build/`` instead.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

import typeset
import webpages
from execution import SUMMARY, Failure, execute
from places import EMBEDDED, Places, places_of
from surroundings import prepare, setting

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("01_brain_tumor_mri", "02_trashnet", SUMMARY)
QUICK_LIMIT = "700"


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    """Run the command line; what cannot work ends the process with one sentence."""
    options = parse(arguments)
    if options.lab:
        print(copy_notebooks(root))
    elif options.quick:
        try_out(root, options.jobs)
    else:
        make_report(options, root)


def make_report(options: argparse.Namespace, root: Path) -> None:
    """Execute the notebooks and write what the options ask for."""
    if options.out and not options.out.resolve().parent.is_dir():
        sys.exit(f"There is no folder {options.out.parent}: make it, or name another.")
    model = setting("CLIPLIB_MODEL", options.model)
    data = setting("CLIPLIB_DATA", options.data)
    given = dict(options.p)
    if options.commit:
        refuse_to_commit(data, model, given)
    places = places_of(root, model, data, given, commit=options.commit)
    if not (places.name or options.appendix or options.web):
        places = Places(root, publishes=True)
    failures: list[Failure] = []
    if not options.no_exec:
        notes = prepare(places, data, model, given)
        failures = run_notebooks(places, notes, given, options.jobs)
    source = "appendix" if options.appendix else "report"
    out = (options.out or places.pdf(source)).resolve()
    write_pdf(places, source, out)
    if options.web:
        print(f"{webpages.write(places, out)}: the same as web pages")
    if places.name:
        print(
            f"This is not the committed report: {places.banner}. "
            "figures/ and report/ are as they were."
        )
    # What only lacks images is named on the cover.
    if failed := [str(failure) for failure in failures if not failure.lacks_images]:
        sys.exit("\n".join(failed))


def run_notebooks(
    places: Places, notes: list[str], given: dict[str, str], jobs: int | None
) -> list[Failure]:
    """Execute the notebooks in `places`, and keep notes on the build for its cover."""
    for line in notes:
        print(line)
    places.stage()
    try:
        failures = execute(places, given, jobs)
    finally:
        places.publish()
    places.keep_notes(notes + [failure.note for failure in failures])
    return failures


def refuse_to_commit(data: str, model: str, given: dict[str, str]) -> None:
    """End the process where results are not those of the committed report."""
    if model not in EMBEDDED or given or not data:
        sys.exit(
            "--commit is for the committed report with images: give --data, "
            "and neither --model nor -p."
        )


def try_out(root: Path, jobs: int | None) -> None:
    """Execute three notebooks on `QUICK_LIMIT` images a set, below ``build/quick``.

    One is the summary; what it reads of notebooks that are not executed is as
    committed. The process ends with a sentence if one fails.
    """
    places = Places(root, "quick", changes=f"{QUICK_LIMIT} images a set")
    given = {"limit": QUICK_LIMIT}
    prepare(places, "", "", given)
    places.stage()
    shutil.copytree(root / "figures", places.figures, dirs_exist_ok=True)
    failures = execute(places, given, jobs, only=QUICK)
    if failures:
        sys.exit("\n".join(map(str, failures)))
    print(f"All works: see {places.work / 'executed'}.")


def copy_notebooks(root: Path) -> Path:
    """Copy notebooks to ``build/lab``, and return it; a newer copy there stays.

    Saving a copy leaves the repository as it is.
    """
    folder = root / "build" / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    for path in Places(root).notebooks():
        copy = folder / path.name
        if not copy.exists() or copy.stat().st_mtime < path.stat().st_mtime:
            shutil.copy(path, copy)
    return folder


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    text = {
        "--data": "folder of images, or hub (default: CLIPLIB_DATA, else none)",
        "--model": "CLIP by hub id or folder (default: CLIPLIB_MODEL, else the "
        "embedded one)",
    }
    flags = {
        "--commit": "with --data, for maintainers: write into figures/ and report/ "
        "what needs images, to commit it",
        "--no-exec": "use the notebooks as executed last",
        "--web": "also make web pages, in build/web",
        "--appendix": "only the notebooks, whole, as a PDF",
        "--quick": "execute two notebooks and the summary on a tenth of the rows, to "
        "see that all works",
        "--lab": "copy the notebooks to build/lab, to play with",
    }
    for name, words in text.items():
        parser.add_argument(name, help=words)
    for name, words in flags.items():
        parser.add_argument(name, action="store_true", help=words)
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="parameter of the notebooks",
    )
    parser.add_argument(
        "--out", type=Path, help="where the PDF goes (default: report/report.pdf)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        help="notebooks at a time (default: what cores and memory allow)",
    )
    return parser.parse_args(arguments)


def write_pdf(places: Places, source: str, out: Path) -> None:
    """Compile ``report/SOURCE.typ`` with the notebooks as appendix, and write the PDF.

    Its claims are printed, and listed beside the results.
    """
    everything = source == "appendix"
    typeset.export(places, everything=everything)
    document = typeset.compile_document(places, source, everything=everything)
    for warning in document.warnings:
        print(f"warning: {warning}")
    if document.claims:
        typeset.tell_claims(document)
        typeset.write_claims(document, places.figures / "claims.csv")
    places.publish()
    out.write_bytes(document.data)
    digest = hashlib.sha256(document.data).hexdigest()[:16]
    print(f"{out}: {len(document.data) / 1e6:.1f} MB, sha256 {digest}")


if __name__ == "__main__":
    main()
