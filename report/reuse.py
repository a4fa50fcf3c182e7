"""Whether a notebook has to be executed again: not when nothing that its results depend on has changed.

That is the notebook, its parameters, the library with the embedded model and features, every installed package, Python,
the machine and the variables of the build; and what came of it must still lie there as it was written. Images and
models from elsewhere are not looked at, so a notebook that uses some is always executed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import papermill
from project import Project

FROM_ELSEWHERE = ("data", "model", "external", "others")
VARIABLES = ("CLIPLIB_", "HF_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "SOURCE_DATE_EPOCH")


def inputs(project: Project, notebook: Path, given: Mapping[str, Any], env: Mapping[str, str]) -> str:
    """Digest of what a notebook's results depend on; empty if that cannot be known."""
    defaults = papermill.inspect_notebook(str(notebook))
    named = [given.get(name) or env.get(f"CLIPLIB_{name.upper()}") for name in FROM_ELSEWHERE]
    named += [defaults[name]["default"].strip("\"'") for name in FROM_ELSEWHERE if name in defaults]
    if any(named) or any(isinstance(value, str) and value for value in given.values()):
        return ""
    variables = {name: value for name, value in env.items() if name.startswith(VARIABLES)}
    facts = [dict(given), variables, _packages(), platform.python_version(), platform.platform()]
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in (notebook, *_code(project)):
        total.update(path.as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def results(project: Project, notebook: Path) -> str:
    """Digest of the executed notebook and of its entries and files in ``figures/``; empty where one is missing."""
    figures, executed = project.root / "figures", project.executed / notebook.name
    manifest = figures / "manifest.json"
    entries = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    own = {id: entry for id, entry in entries.items() if entry["notebook"] == notebook.stem}
    files = [executed, *(figures / name for entry in own.values() for name in entry["files"])]
    if not all(path.exists() for path in files):
        return ""
    total = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
    for path in files:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def remembered(project: Project, notebook: Path, key: str) -> list[str] | None:
    """The lines of the last execution's record, if that one can stand for another; else None."""
    note = project.executed / f"{notebook.stem}.json"
    if not key or not note.exists():
        return None
    try:
        last = json.loads(note.read_text(encoding="utf-8"))
    except json.JSONDecodeError:  # a build was stopped while it wrote it
        return None
    found = results(project, notebook)
    return list(last["record"]) if found and (last["inputs"], last["results"]) == (key, found) else None


def remember(project: Project, notebook: Path, key: str) -> None:
    """Note, once a notebook was executed without an error, what it was executed from and what came of it."""
    lines = project.record.read_text(encoding="utf-8").splitlines()
    own = [record for record in map(json.loads, lines) if record["notebook"] == notebook.stem]
    record = [json.dumps(r | {"status": r["status"].replace("rebuilt", "unchanged")}) for r in own]
    note = {"inputs": key, "results": results(project, notebook), "record": record}
    (project.executed / f"{notebook.stem}.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def _code(project: Project) -> list[Path]:
    """Files of the library that the notebooks import, and of the build that executes them."""
    library, report = project.root / "cliplib", Path(__file__).parent
    if not library.is_dir() and (spec := importlib.util.find_spec("cliplib")) and spec.origin:
        library = Path(spec.origin).parent  # a report elsewhere uses the installed one
    found = [path for path in sorted(library.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return [*found, report / "execute.py", report / "nbtypst" / "outputs.py"]


@cache
def _packages() -> list[str]:
    return sorted(f"{found.name} {found.version}" for found in importlib.metadata.distributions())
