"""The report on a folder of images: measure it, and write the findings."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from cliplib.aids.aid_folder import check_aid_can_be_saved
from cliplib.data.datasets import Source
from cliplib.data.files import replacing
from cliplib.data.text_table import write_csv
from cliplib.data.wording import listing
from cliplib.inspection.published_split import corrected_splits
from cliplib.reports.findings import Findings
from cliplib.reports.measure import measure
from cliplib.reports.report_data import answers_table, copies_table, report_json
from cliplib.reports.verdict import Verdict, verdict

# Files of every report.
WRITTEN = ("report.html", "report.pdf", "report.json", "answers.csv", "copies.csv")
# One more file, if the folder has a split of its own, and how it begins.
SPLITS = "splits.csv"
SPLITS_HEADER = '\ufeff"file","label","group","split","fold"'
# Packages of the extra "report", as they are imported.
NEEDED = (
    "matplotlib",
    "seaborn",
    "typst",
    "skimage",
    "font_source_sans_pro",
    "font_source_serif_pro",
)


def report(folder: Source, out: str | os.PathLike[str], **options: Any) -> Verdict:
    """Measure and judge images; write page, PDF, tables and decision aid.

    Parameters
    ----------
    folder
        A folder of class folders, or any other source of images: see `load_dataset`.
    out
        The folder for report.html, report.pdf, report.json, answers.csv, copies.csv and
        the decision aid, "aid". If the images have a split of their own on which a
        probe can be trained, it also gets splits.csv, one that keeps groups whole. An
        older report there is replaced.
    options
        Options of `measure`, such as title, groups, seed and split.

    Returns
    -------
    Verdict
        Its ``str()`` is the text that the command prints.

    Raises
    ------
    ImportError
        If a package of the extra "report" is missing.
    OSError, ValueError
        If `folder` or `out` cannot be used, or as from `measure`.
    """
    check_extra()
    check_apart(folder, out)
    place = Path(out)
    check_aid_can_be_saved(place / "aid")
    check_no_other_files(place)
    findings = measure(folder, out=out, **options)
    judged = verdict(findings)
    write_report(findings, judged, place)
    return judged


def check_apart(folder: Source, out: str | os.PathLike[str]) -> None:
    """Raise ValueError if `out`, for results, is inside the folder of images."""
    if not isinstance(folder, str | os.PathLike):
        return
    if Path(out).resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"{out} lies within {folder}, whose folders are classes: choose another "
            "place."
        )


def check_extra() -> None:
    """Raise ImportError if a package of the extra "report" is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"A report needs {listing(missing)}: pip install 'cliplib[report]'."
        )


def write_report(
    findings: Findings,
    judged: Verdict,
    out: str | os.PathLike[str],
) -> None:
    """Write page, PDF, report.json, tables and decision aid into a folder.

    The folder is made if it is missing. An older report there stays until this one is
    complete.

    Raises
    ------
    OSError
        If the folder cannot be written to, or holds files of these names that are not a
        whole report.
    """
    # Imported here, since it needs the extra "report".
    from cliplib.reports.document import as_html, as_pdf, document

    place = Path(out)
    check_no_other_files(place)
    content = document(findings, judged)
    pdf = as_pdf(content)
    about = json.dumps(report_json(findings, judged), indent=1, ensure_ascii=False)
    with replacing(place) as new:
        (new / "report.html").write_text(as_html(content), "utf-8", newline="\n")
        (new / "report.pdf").write_bytes(pdf)
        (new / "report.json").write_text(about, "utf-8", newline="\n")
        write_csv(answers_table(findings), new / "answers.csv")
        write_csv(copies_table(findings), new / "copies.csv")
        if findings.published_split is not None:
            results = findings.results
            splits = corrected_splits(
                results.table, n_splits=results.n_splits, seed=results.seed
            )
            write_csv(splits, new / SPLITS)
        findings.aid.save(place / "aid")
    if findings.published_split is None:
        (place / SPLITS).unlink(missing_ok=True)  # belongs to an older report


def check_no_other_files(out: Path) -> None:
    """Raise FileExistsError if files would be replaced that are not a whole report."""
    present = [name for name in (*WRITTEN, SPLITS) if (out / name).exists()]
    if present and not set(WRITTEN) <= set(present):
        raise FileExistsError(
            f"{out} holds {listing(present)}, but no whole report: name another "
            "folder, or move what is there."
        )
    splits = out / SPLITS
    if splits.exists() and SPLITS_HEADER not in splits.read_text("utf-8", "replace"):
        raise FileExistsError(f"{splits} is of no report: move it elsewhere.")
