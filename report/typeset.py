"""Turn executed notebooks into Typst, and compile the report to PDF or to HTML."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import font_source_sans_pro
import font_source_serif_pro
import pandas as pd
import typst
from nbconvert.writers.files import FilesWriter

import nbtypst
from places import Places
from sources import functions_of


@dataclass(frozen=True)
class Document:
    """A compiled report: its bytes, and what the text says of itself."""

    data: bytes
    warnings: list[str] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)
    """Each with id, says (its condition), held, values, and the sentence printed."""
    layout: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Where headings, tables and figures stand: page from 1, y in points from above."""


def export(
    places: Places, notebooks: list[Path] | None = None, *, everything: bool = False
) -> None:
    """Turn notebooks into ``build/appendix/NAME.typ`` and their images.

    Parameters
    ----------
    places
        Of this build.
    notebooks
        Which ones; None for those that this build has executed.
    everything
        Whether all are printed in full, plumbing too; they then are a document of their
        own, whose headings start at the top.
    """
    folder = places.work / "appendix"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    functions = json.dumps(functions_of(places.project / "cliplib"))
    (folder / "functions.json").write_text(functions, "utf-8")
    exporter = nbtypst.typst_exporter(everything=everything)
    writer = FilesWriter(build_directory=str(folder))
    in_full = places.meta["appendix"]["in_full"]
    for path in notebooks or places.executed():
        about: dict[str, Any] = {
            "unique_key": path.stem,
            "output_files_dir": f"{path.stem}_files",
            "heading_shift": 0 if everything else 1,
            "in_full": everything or path.stem in in_full,
        }
        body, resources = exporter.from_filename(str(path), about)
        writer.write(body, resources, notebook_name=path.stem)


def fonts(places: Places) -> Path:
    """Return a folder with the report's fonts, TTF alone: typst would mix in OTF."""
    folder = places.work / "fonts"
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in (font_source_sans_pro, font_source_serif_pro):
        for face in Path(wheel.__file__).parent.glob("files/*.ttf"):
            shutil.copy(face, folder)
    return folder


def compile_document(
    places: Places,
    source: str = "report",
    kind: str = "pdf",
    *,
    everything: bool = False,
) -> Document:
    """Compile ``report/SOURCE.typ`` in the report's own fonts; a PDF with its claims.

    Parameters
    ----------
    places
        Of this build.
    source
        Name of the file in ``report``.
    kind
        "pdf", which is archivable, or "html".
    everything
        Whether the notebooks' long tables are printed whole.
    """
    names = [path.stem for path in places.notebooks()]
    committed = places.project / "committed"
    inputs = {
        "notebooks": ",".join(names),
        "results": ",".join(saved_by(names, places.figures)),
        "committed": ",".join(saved_by(names, committed)),
        "committed_claims": str((committed / "claims.csv").is_file()).lower(),
        "figures": f"/{places.figures.relative_to(places.project).as_posix()}/",
        "verdict": str((places.figures / "verdict_unseen.csv").is_file()).lower(),
        "kind": kind,
        "changes": places.changes,
        "model": places.model,
        "notes": json.dumps(places.notes if places.name else []),
        "everything": str(everything).lower(),
    }
    font_paths = typst.Fonts(
        include_system_fonts=False, font_paths=[str(fonts(places))]
    )
    options: dict[str, Any] = {"format": kind, "timestamp": places.epoch()}
    if kind == "pdf":
        options["pdf_standards"] = ["a-2u"]  # a missing glyph is an error
    compiler = typst.Compiler(
        str(places.project / "report" / f"{source}.typ"),
        root=str(places.project),
        font_paths=font_paths,
        sys_inputs=inputs,
    )
    try:
        data, warnings = compiler.compile_with_warnings(**options)
    except typst.TypstError as error:
        sys.exit(str(getattr(error, "diagnostic", error)).strip())
    whole = data if isinstance(data, bytes) else b"".join(data or [])
    if kind != "pdf":
        return Document(whole)
    claims = json.loads(compiler.query("<claim>", field="value"))
    noted = json.loads(compiler.query("<layout>", field="value"))
    layout = noted[0] if noted else {}
    return Document(whole, [each.message for each in warnings], claims, layout)


def saved_by(notebooks: list[str], folder: Path) -> list[str]:
    """Return the notebooks that saved results in a folder."""
    return [name for name in notebooks if (folder / f"{name}.json").is_file()]


def tell_claims(document: Document) -> None:
    """Print how many claims of the text hold, and which ones do not."""
    not_held = [claim for claim in document.claims if not claim["held"]]
    n_claims = len(document.claims)
    print(f"{n_claims - len(not_held)} of {n_claims} claims hold")
    for claim in not_held:
        outcome = "fell" if claim["measured"] else "could not be judged"
        print(f"  {outcome}: {claim['id']}. In its place: {claim['sentence']}")


def write_claims(document: Document, path: Path) -> None:
    """Write all claims with conditions, values and what is printed, as CSV."""
    columns = ["id", "held", "says", "values", "sentence"]
    claims = pd.DataFrame(document.claims).sort_values("id")[columns]
    claims["held"] = claims["held"].map({True: "true", False: "false"})
    named = claims.rename(columns={"says": "condition"})
    named.to_csv(path, index=False, lineterminator="\n")
