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

import yaml

import fastimports  # noqa: F401 (first, before what it spares)
import forecast
import lab
import typeset
import webpages
from execution import SUMMARY, cores, execute
from places import EMBEDDED, Places, places_of
from surroundings import multiplies_in_bfloat16, prepare, setting

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("01_brain_tumor_mri", "02_trashnet")
QUICK_LIMIT = "700"


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    """Run the command line; what cannot work ends the process with one sentence."""
    options = parse(arguments)
    if options.lab:
        print(lab.copies(root))
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
    refuse_to_commit(options.commit, model, data, given)
    places = places_of(root, model, data, given, commit=options.commit)
    failures: list[str] = []
    if options.no_exec:
        refuse_unexecuted(places)
    else:
        failures = run_notebooks(places, data, model, given, options.jobs)
    source = "appendix" if options.appendix else "report"
    out = (options.out or places.pdf(source)).resolve()
    asks_for_more = options.no_exec or options.web or options.appendix
    if is_current(out, places) and not asks_for_more:
        print(f"{out} is up to date.")
        return
    write_pdf(places, source, out)
    if options.web:
        print(f"{webpages.write(places, out)}: the same as web pages")
    if places.name:
        print(
            f"This is not the committed report: {places.banner}. "
            "figures/ and report/ are as they were."
        )
    if failures:
        sys.exit("\n".join(failures))


def run_notebooks(
    places: Places, data: str, model: str, given: dict[str, str], jobs: int | None
) -> list[str]:
    """Execute the notebooks in `places`, and keep notes on the build for its cover.

    Returns a sentence for each notebook that failed. One that only lacks images is not
    among them: it is named on the cover.
    """
    dtype = given.get("dtype", "")
    notes = prepare(places, data, model, given)
    models = [model] if model not in EMBEDDED else []
    models += yaml.safe_load(given.get("others", "[]"))
    forecasts = [forecast.model_in_words(name, given, cores()) for name in models]
    for line in notes + forecasts:
        print(line, flush=True)
    places.stage()
    if not places.name and places.pdf().is_file():
        print("Until it is made anew, report/report.pdf is the report as committed.")
    if data and places.name and not dtype and multiplies_in_bfloat16():
        print("-p dtype bfloat16 encodes in little more than half the time here.")
    failures = execute(places, given, jobs)
    places.keep_notes(notes + [failure.note for failure in failures])
    if data and model in EMBEDDED and not dtype:
        from check import check_features  # now that the variables are set

        print(check_features(int(given.get("limit", 0))))
    return [str(failure) for failure in failures if not failure.lacks_images]


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
    failures = execute(places, given, jobs, only=(*QUICK, SUMMARY))
    if failures:
        sys.exit("\n".join(map(str, failures)))
    print(
        f"All works: see {places.work / 'executed'}. The report as committed is "
        f"{places.root / 'report' / 'report.pdf'}; make report makes it anew."
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--data",
        help="folder of images, or hub (default: CLIPLIB_DATA, else none)",
    )
    add(
        "--model",
        help="CLIP by hub id or folder (default: CLIPLIB_MODEL, else the embedded one)",
    )
    parameter = ("NAME", "VALUE")
    add("-p", nargs=2, action="append", default=[], metavar=parameter, help="parameter")
    add(
        "--commit",
        action="store_true",
        help="with --data, for maintainers: write into figures/ and report/ what needs "
        "images, to commit it",
    )
    add("--no-exec", action="store_true", help="use the notebooks as executed last")
    add("--web", action="store_true", help="also make web pages, in build/web")
    add("--appendix", action="store_true", help="only the notebooks, whole, as a PDF")
    add("--out", type=Path, help="where the PDF goes (default: report/report.pdf)")
    add(
        "--jobs",
        type=int,
        help="notebooks at a time (default: what cores and memory allow)",
    )
    add(
        "--quick",
        action="store_true",
        help="execute two notebooks and the summary on a tenth of the rows, to see "
        "that all works",
    )
    add(
        "--lab",
        action="store_true",
        help="copy the notebooks to build/lab, to play with",
    )
    return parser.parse_args(arguments)


def refuse_to_commit(
    commit: bool, model: str, data: str, given: dict[str, str]
) -> None:
    """End the process where results would be committed that are not the report's."""
    if commit and (model not in EMBEDDED or given or not data):
        sys.exit(
            "--commit is for the committed report with images: give --data, "
            "and neither --model nor -p."
        )


def refuse_unexecuted(places: Places) -> None:
    """End the process where a notebook was never executed."""
    missing = [path.name for path in places.executed() if not path.exists()]
    if missing:
        sys.exit(f"{missing[0]} was never executed: build once without --no-exec.")


def is_current(pdf: Path, places: Places) -> bool:
    """Return whether a PDF is newer than all that it is made of."""
    if not pdf.exists():
        return False
    # Not the copy of the text in a build of one's own, which is always new.
    sources = [
        *(path for path in (places.root / "report").rglob("*.*") if path != pdf),
        *(path for path in places.figures.glob("*.*") if path.name != "claims.csv"),
        *places.executed(),
    ]
    return pdf.stat().st_mtime >= max(path.stat().st_mtime for path in sources)


def write_pdf(places: Places, source: str, out: Path) -> None:
    """Compile ``report/SOURCE.typ`` with the notebooks as appendix, and write the PDF.

    Its claims are printed, and listed beside the results.
    """
    everything = source == "appendix"
    typeset.export(places, everything=everything)
    document = typeset.compile_document(places, source, everything=everything)
    typeset.tell_claims(document)
    typeset.write_claims(document, places.figures / "claims.csv")
    out.write_bytes(document.data)
    digest = hashlib.sha256(document.data).hexdigest()[:16]
    print(f"{out}: {len(document.data) / 1e6:.1f} MB, sha256 {digest}")


if __name__ == "__main__":
    main()
