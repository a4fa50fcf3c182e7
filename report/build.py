"""Builds the report: executes the notebooks, turns them into Typst, compiles the PDF, and says what changed.

python report/build.py                                         # everything into report/report.pdf
python report/build.py --data ../images --model openai/clip-vit-base-patch32 -p seed=1
python report/build.py --fresh                                 # every notebook anew, also where nothing changed
python report/build.py --no-exec                               # the text only, from the results that are there
python report/build.py --web                                   # the report, and all as web pages: build/web/index.html
python report/build.py --appendix                              # the executed notebooks alone
python report/build.py --only notebooks/01_brain_tumor_mri.ipynb
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

from execute import execute  # noqa: E402
from project import BuildError, Project  # noqa: E402
from typeset import compile_pdf, export  # noqa: E402
from web import build_site  # noqa: E402

KINDS = ("figure", "table", "numbers")
STATUSES = ("rebuilt", "unchanged", "kept", "missing")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    """Run the command line; ends the process with a sentence when something is wrong."""
    try:
        build(parse(arguments), Project(root.resolve()))
    except BuildError as error:
        sys.exit(f"{error}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Execute the notebooks and typeset the report.")
    parser.add_argument("--data", help="folder of images, or hub (default: CLIPLIB_DATA, then the embedded features)")
    parser.add_argument("--model", help="CLIP by hub id or folder (default: CLIPLIB_MODEL, then the embedded one)")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="of the notebooks")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--no-exec", action="store_true", help="use the notebooks as executed last")
    how.add_argument("--fresh", action="store_true", help="execute also those whose inputs are unchanged")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--only", type=Path, metavar="NOTEBOOK", help="this executed notebook alone, as a PDF")
    what.add_argument("--web", action="store_true", help="the report, and all as web pages in build/web")
    what.add_argument("--appendix", action="store_true", help="the executed notebooks alone, as one PDF")
    parser.add_argument("--standard", action="append", default=[], help="PDF standard to keep to, such as a-2u")
    parser.add_argument("-o", "--out", type=Path, help="the PDF (default: report/report.pdf, else in build/)")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each; fixed, since sums depend on it (1)")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace, project: Project) -> None:
    chosen, source, out = target(options, project)
    if not chosen:
        raise BuildError("There are no notebooks in notebooks/.")
    seconds: dict[str, float] = {}
    if not options.no_exec:
        given = parameters(options, project)
        seconds |= execute(project, chosen, given, jobs=options.jobs, threads=options.threads, fresh=options.fresh)
    reused = [path.stem for path in chosen if path.stem not in seconds and not options.no_exec]
    begin = time.perf_counter()
    alone = source == "appendix.typ"
    export(project, [project.executed / path.name for path in chosen], heading_shift=0 if alone else 1)
    seconds["nbconvert"], begin = time.perf_counter() - begin, time.perf_counter()
    title = chosen[0].stem.replace("_", " ") if options.only else ""
    names = [path.stem for path in chosen]
    warnings = compile_pdf(project, source, out, names, title=title, standards=options.standard)
    seconds["typst"], begin = time.perf_counter() - begin, time.perf_counter()
    if options.web:
        warnings += build_site(project, [project.executed / path.name for path in chosen], out)
        seconds["web"] = time.perf_counter() - begin
    text = f"Notebooks executed: {0 if options.no_exec else len(chosen) - len(reused)} of {len(chosen)}"
    text += " (--fresh executes all)\n" if reused else "\n"
    text += summary(project, seconds, reused, executed=not options.no_exec)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()[:16]
    shown = out.relative_to(project.root) if out.is_relative_to(project.root) else out
    text += f"\n{shown}: {out.stat().st_size / 1e6:.1f} MB, sha256 {digest}…"
    if options.web:
        text += f"\n{(project.build / 'web' / 'index.html').relative_to(project.root)}: the same on the screen"
    text += "".join(f"\nwarning: {warning}" for warning in warnings)
    (project.build / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print(text)


def target(options: argparse.Namespace, project: Project) -> tuple[list[Path], str, Path]:
    """Which notebooks, which Typst source, which PDF."""
    if options.only:
        chosen = [path for path in project.notebooks if path.stem == options.only.stem]
        if not chosen:
            raise BuildError(f"There is no notebook {options.only} in notebooks/.")
        source, default = "appendix.typ", project.build / f"{options.only.stem}.pdf"
    elif options.appendix:
        chosen, source, default = project.notebooks, "appendix.typ", project.build / "appendix.pdf"
    else:
        chosen, source, default = project.notebooks, "report.typ", project.root / "report" / "report.pdf"
    return chosen, source, options.out.resolve() if options.out else default


def parameters(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    """The notebooks' parameters; paths as seen from the root, where the notebooks run."""
    given: dict[str, Any] = {}
    for pair in options.parameter:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BuildError(f"Write a parameter as name=value, not {pair!r}.")
        given[name] = yaml.safe_load(value)
    for name, value in (("data", options.data), ("model", options.model)):
        if value:
            path = Path(value).expanduser()
            if name == "data" and value != "hub" and not path.is_dir():
                raise BuildError(f"There is no folder {value}: give the folder that holds the images, or hub.")
            given[name] = Path(os.path.relpath(path, project.root)).as_posix() if path.is_dir() else value
    return given


def summary(project: Project, seconds: dict[str, float], reused: list[str], *, executed: bool) -> str:
    """One table of what this run rebuilt, left unchanged or kept, what it did not execute, how long each step took."""
    lines = []
    if executed:
        last = {r["id"]: r for r in map(json.loads, project.record.read_text(encoding="utf-8").splitlines())}
        counts = Counter((r["kind"], r["status"]) for r in last.values())
        shown = [status for status in STATUSES if status != "missing" or any(s == status for _, s in counts)]
        lines.append(f"{'':36}" + "".join(f"{status:>11}" for status in shown))
        kinds = KINDS if len(shown) < len(STATUSES) else (*KINDS, "result")  # of what is missing the kind is unknown
        lines += [f"{kind:36}" + "".join(f"{counts[kind, s]:>11}" for s in shown) for kind in kinds]
        lines += [f"  {r['id']} {r['status']}: {r['reason']}" for r in last.values() if r["reason"]]
    lines += ["", f"{'step':36}{'seconds':>11}"]
    lines += [f"{step:36}{duration:>11.1f}" for step, duration in seconds.items()]
    lines += [f"{name:36} unchanged inputs, not executed again" for name in reused]
    return "\n".join(lines).lstrip("\n")


if __name__ == "__main__":
    main()
