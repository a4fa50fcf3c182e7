"""Build the report: execute the notebooks, turn them into Typst, compile the PDF; see --help."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from string import Template
from typing import Any
from urllib.request import urlopen

import font_source_sans_pro
import font_source_serif_pro
import nbtypst
import numpy as np
import papermill
import typst
import yaml
from nbconvert import HTMLExporter
from nbconvert.writers.files import FilesWriter

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ("CLIPLIB_DATA", "CLIPLIB_MODEL")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    """Run the command line; what cannot work ends the process with one sentence."""
    options = parse(arguments)
    notebooks = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    executed = [root / "build" / "executed" / path.name for path in notebooks]
    out = options.out or root / (
        "build/appendix.pdf" if options.appendix else "report/report.pdf"
    )
    if options.out and not out.parent.is_dir():
        sys.exit(f"There is no folder {out.parent}: make it, or name another.")
    if not options.no_exec:
        prepare(root, options.data, options.model)
        execute(root, notebooks, dict(options.p), jobs=options.jobs)
        read = [
            *(root / "report").rglob("*.*"),
            *(root / "figures").glob("*.*"),
            *executed,
        ]
        latest = max(file.stat().st_mtime for file in read)
        if (
            not (options.web or options.appendix)
            and out.exists()
            and out.stat().st_mtime >= latest
        ):
            print(f"{out} is up to date.")
            return
    elif missing := [path.name for path in executed if not path.exists()]:
        sys.exit(f"{missing[0]} was never executed: build once without --no-exec.")
    export(root, executed, heading_shift=0 if options.appendix else 1)
    pdf = compile_typst(
        root, "appendix" if options.appendix else "report", executed, "pdf"
    )
    out.write_bytes(pdf)
    print(
        f"{out}: {len(pdf) / 1e6:.1f} MB, sha256 {hashlib.sha256(pdf).hexdigest()[:16]}"
    )
    if options.web:
        print(f"{web_pages(root, executed, out)}: the same as web pages")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--data",
        help="folder of images, or hub (default: CLIPLIB_DATA, else committed features)",
    )
    add(
        "--model",
        help="CLIP by hub id or folder (default: CLIPLIB_MODEL, else the embedded one)",
    )
    add(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter",
    )
    add("--no-exec", action="store_true", help="use the notebooks as executed last")
    add("--web", action="store_true", help="also make web pages, in build/web")
    add(
        "--appendix",
        action="store_true",
        help="the executed notebooks alone, as one PDF",
    )
    add("--out", type=Path, help="the PDF (default: report/report.pdf)")
    add("--jobs", type=int, default=2, help="notebooks at a time (default 2)")
    return parser.parse_args(arguments)


def prepare(root: Path, data: str | None, model: str | None) -> None:
    """Set the variables that make two executions equal, and try out the images and the model."""
    for name, given in zip(SETTINGS, (data, model), strict=True):
        if value := given or os.environ.get(
            name
        ):  # relative to where the command was typed
            os.environ[name] = (
                str(Path(value).resolve()) if Path(value).is_dir() else value
            )
    fixed = tomllib.loads(
        (Path(__file__).with_name("environment.toml")).read_text("utf-8")
    )
    numpy: Any = np.show_config(mode="dicts")
    modern = {"AVX2", "X86_V3"} & set(numpy["SIMD Extensions"]["found"])
    os.environ |= fixed["always"] | (fixed["avx2"] if modern else {})
    os.environ |= {
        "CLIPLIB_FIGURES": str(root / "figures"),
        "SOURCE_DATE_EPOCH": str(epoch(root)),
    }
    os.environ.pop("MPLBACKEND", None)  # the kernel's own
    if not all(Path(os.environ.get(name, ".")).is_dir() for name in SETTINGS):
        try:
            urlopen("https://huggingface.co", timeout=10).close()
        except OSError:
            os.environ["HF_HUB_OFFLINE"] = "1"  # then the hub's client ends at once
    try:
        if folder := os.environ.get("CLIPLIB_DATA"):
            from cliplib.data import DATASETS, load_dataset

            if not [name for name in DATASETS if load_dataset(name) is not None]:
                raise ValueError(
                    f"{folder} holds none of the data sets {', '.join(DATASETS)}."
                )
        if os.environ.get("CLIPLIB_MODEL"):
            from cliplib.encoder import ClipEncoder

            ClipEncoder(cache=False)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(str(error))


def epoch(root: Path) -> int:
    """Return the report's date in seconds, the only date that a build writes."""
    day = tomllib.loads((root / "report" / "meta.toml").read_text("utf-8"))["date"]
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def execute(
    root: Path, notebooks: list[Path], given: dict[str, str], jobs: int = 2
) -> None:
    """Execute what has changed, or all if images or a model are named, `jobs` at a time."""
    known = {path: set(papermill.inspect_notebook(str(path))) for path in notebooks}
    names = sorted(set().union(*known.values()))
    if unknown := set(given) - set(names):
        sys.exit(
            f"No notebook has a parameter {min(unknown)!r}; there are: {', '.join(names)}."
        )
    tasks: list[tuple[Path, Path, dict[str, str]]] = []
    fresh = any(os.environ.get(name) for name in SETTINGS)
    for path in sorted(
        notebooks, key=os.path.getsize, reverse=True
    ):  # large ones take longest
        values = {name: value for name, value in given.items() if name in known[path]}
        stamp = root / "build" / "executed" / f"{path.stem}.stamp"
        if (
            fresh
            or not stamp.exists()
            or stamp.read_text() != fingerprint(root, path, values)
        ):
            tasks.append((root, path, values))
    print(
        f"{len(tasks)} of {len(notebooks)} notebooks to execute, {jobs} at a time",
        flush=True,
    )
    with ProcessPoolExecutor(jobs) as pool:
        runs = [pool.submit(run, *task) for task in tasks]
    if failures := [sentence for each in runs if (sentence := each.result())]:
        sys.exit("\n".join(failures))


def run(root: Path, notebook: Path, parameters: dict[str, str]) -> str:
    """Execute one notebook, and say how far it is; return a sentence if it fails."""
    out = root / "build" / "executed" / notebook.name
    out.parent.mkdir(parents=True, exist_ok=True)
    line = (
        "{desc}: cell {n_fmt} of {total_fmt}, {elapsed} gone, about {remaining} to go\n"
    )
    bar = {
        "desc": notebook.stem,
        "bar_format": line,
        "mininterval": 10,
        "disable": False,
    }
    how: dict[str, Any] = {
        "kernel_name": "python3",
        "extra_arguments": ["--log-level=ERROR"],
    }
    try:
        values = {name: yaml.safe_load(value) for name, value in parameters.items()}
        papermill.execute_notebook(
            str(notebook), out, values, cwd=root, progress_bar=bar, **how
        )
    except papermill.PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}".splitlines()[0]
        return (
            f"{notebook.name} failed in cell [{error.exec_count}]: {reason} (see {out})"
        )
    scrub(out)
    out.with_suffix(".stamp").write_text(fingerprint(root, notebook, parameters))
    return ""


def scrub(path: Path) -> None:
    """Drop from an executed notebook what differs between two equal runs: times, random ids."""
    notebook = json.loads(path.read_text("utf-8"))
    notebook["metadata"] = {"kernelspec": notebook["metadata"]["kernelspec"]}
    for i, cell in enumerate(notebook["cells"]):
        cell["id"], cell["metadata"] = (
            f"cell-{i:03d}",
            {"tags": cell["metadata"].get("tags", [])},
        )
    path.write_text(
        json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True), "utf-8"
    )


def fingerprint(root: Path, notebook: Path, parameters: dict[str, str]) -> str:
    """Return a digest of what the results of a notebook depend on, and of these."""
    figures, sidecar = root / "figures", root / "figures" / f"{notebook.stem}.json"
    results = (
        json.loads(sidecar.read_text("utf-8"))["results"] if sidecar.exists() else {}
    )
    files = [
        notebook,
        root / "build" / "executed" / notebook.name,
        figures / "captions.toml",
    ]
    files += [
        file for id in sorted(results) for file in sorted(figures.glob(f"{id}.*"))
    ]
    files += sorted(
        file for file in (ROOT / "cliplib").rglob("*.*") if file.suffix != ".pyc"
    )
    packages = sorted(f"{each.name} {each.version}" for each in distributions())
    facts = json.dumps([parameters, packages, results]).encode()
    contents = b"".join(file.read_bytes() for file in files if file.exists())
    return hashlib.sha256(facts + contents).hexdigest()


def export(root: Path, executed: list[Path], heading_shift: int) -> None:
    """Turn executed notebooks into ``build/appendix/NAME.typ`` and their images."""
    folder = root / "build" / "appendix"
    shutil.rmtree(folder, ignore_errors=True)
    exporter, writer = (
        nbtypst.typst_exporter(),
        FilesWriter(build_directory=str(folder)),
    )
    for path in executed:
        about: dict[str, Any] = {
            "unique_key": path.stem,
            "output_files_dir": f"{path.stem}_files",
        }
        made = exporter.from_filename(
            str(path), about | {"heading_shift": heading_shift}
        )
        writer.write(*made, notebook_name=path.stem)


def compile_typst(root: Path, source: str, executed: list[Path], kind: str) -> bytes:
    """Compile ``report/SOURCE.typ`` in the report's own fonts, to an archivable PDF or to HTML."""
    fonts = root / "build" / "fonts"
    fonts.mkdir(parents=True, exist_ok=True)
    for wheel in (
        font_source_sans_pro,
        font_source_serif_pro,
    ):  # typst would mix TTF and OTF
        for face in Path(wheel.__file__).parent.glob("files/*.ttf"):
            shutil.copy(face, fonts)
    names = [path.stem for path in executed]
    saved = [name for name in names if (root / "figures" / f"{name}.json").exists()]
    inputs = {"notebooks": ",".join(names), "results": ",".join(saved), "kind": kind}
    found = typst.Fonts(include_system_fonts=False, font_paths=[str(fonts)])
    options: dict[str, Any] = {"format": kind, "timestamp": epoch(root)}
    options |= (
        {"pdf_standards": ["a-2u"]} if kind == "pdf" else {}
    )  # a missing glyph is an error
    where: dict[str, Any] = {
        "root": str(root),
        "font_paths": found,
        "sys_inputs": inputs,
    }
    compiler = typst.Compiler(f"{root}/report/{source}.typ", **where)
    try:
        made, warnings = compiler.compile_with_warnings(**options)
    except typst.TypstError as error:
        sys.exit(str(getattr(error, "diagnostic", error)).strip())
    for warning in warnings if kind == "pdf" else ():
        print(f"warning: {warning.message}")
    claims = (
        json.loads(compiler.query("<claim>", field="value")) if kind == "pdf" else []
    )
    fell = [claim for claim in claims if not claim["held"]]
    if claims:
        print(f"{len(claims) - len(fell)} of {len(claims)} claims hold")
    for claim in fell:
        print(f"  fell: {claim['id']}, which says {claim['says']}")
    return bytes(made)


def web_pages(root: Path, executed: list[Path], pdf: Path) -> Path:
    """Write the report and the executed notebooks as pages that load nothing from elsewhere."""
    folder, theme = root / "build" / "web", root / "report" / "theme"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "build" / "fonts", folder / "fonts")
    shutil.copy(theme / "web.css", folder)
    shutil.copy(pdf, folder / "report.pdf")
    report = compile_typst(root, "report", executed, "html").decode()
    pages, names = {"index": re.split("</?body>", report)[1]}, {"index": "Report"}
    exporter = HTMLExporter(
        template_name="basic", preprocessors=[nbtypst.PrintableOutputs]
    )
    exporter.register_filter("markdown2html", nbtypst.markdown)
    for path in executed:
        body, _ = exporter.from_filename(str(path))
        pages[path.stem] = body.replace('.ipynb"', '.html"')
        names[path.stem] = re.findall("<h1[^>]*>([^<]+)", body)[0]
    links = "".join(
        f'<a href="{name}.html">{title}</a>' for name, title in names.items()
    )
    frame = Template((theme / "web.html").read_text("utf-8"))
    for name, body in pages.items():
        page = frame.substitute(title=names[name], links=links, body=body)
        (folder / f"{name}.html").write_text(page, "utf-8")
    return folder / "index.html"


if __name__ == "__main__":
    main()
