"""Executed notebooks to Typst, and Typst to PDF."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import typst
from nbconvert.writers.files import FilesWriter
from nbtypst import TypstExporter
from project import BuildError, Project

FACES = ("Regular", "It", "Semibold", "SemiboldIt", "Bold", "BoldIt")


def fonts(project: Project) -> Path:
    """Copy the faces that the theme uses; the wheels hold each as TTF and OTF, and typst would mix them."""
    folder = project.build / "fonts"
    folder.mkdir(parents=True, exist_ok=True)
    for family in ("sans", "serif"):
        wheel = importlib.util.find_spec(f"font_source_{family}_pro")
        if wheel is None or wheel.origin is None:
            raise BuildError(f"The font wheel font-source-{family}-pro is missing: install requirements.txt.")
        for face in FACES:
            shutil.copy(Path(wheel.origin).parent / "files" / f"Source{family.title()}Pro-{face}.ttf", folder)
    return folder


def export(project: Project, notebooks: Sequence[Path], *, heading_shift: int) -> None:
    """Turn notebooks into ``build/appendix/NAME.typ`` and their pictures."""
    folder = project.build / "appendix"
    exporter, writer = TypstExporter(), FilesWriter(build_directory=str(folder))
    for path in notebooks:
        if not path.exists():
            raise BuildError(f"{path.relative_to(project.root)} is missing: build once without --no-exec.")
        shutil.rmtree(folder / f"{path.stem}_files", ignore_errors=True)
        resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files", "heading_shift": heading_shift}
        notebook = nbformat.read(path, as_version=4)
        body, made = exporter.from_notebook_node(notebook, {**resources, "metadata": {"name": path.stem}})
        writer.write(body, made, notebook_name=path.stem)


def compile_pdf(
    project: Project,
    source: str,
    out: Path,
    notebooks: Sequence[str],
    *,
    title: str = "",
    standards: Sequence[Any] = (),
) -> list[str]:
    """Compile ``report/SOURCE`` to a tagged PDF.

    Returns
    -------
    list of str
        Warnings, one line each.
    """
    inputs = {"notebooks": ",".join(notebooks), **({"title": title} if title else {})}
    found = typst.Fonts(include_system_fonts=False, include_embedded_fonts=True, font_paths=[str(fonts(project))])
    compiler = typst.Compiler(
        str(project.root / "report" / source), root=str(project.root), font_paths=found, ignore_system_fonts=True
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _, warnings = compiler.compile_with_warnings(
            output=str(out), format="pdf", pdf_standards=list(standards), timestamp=project.epoch, sys_inputs=inputs
        )
    except typst.TypstError as error:
        raise BuildError(str(getattr(error, "diagnostic", None) or error).strip()) from None
    return [str(getattr(warning, "message", warning)) for warning in warnings]
