"""A notebook whose inputs are unchanged is not executed again; whatever its results depend on makes it execute.

A stand-in takes the place of papermill; that real executions are reused as well is tested with the toy report.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

from execute import execute  # noqa: E402
from project import BuildError, Project  # noqa: E402

NAMES = ["01_first", "02_second"]
PARAMETERS = 'data = ""\nmodel = ""\nlabel = "x"\nseed = 0'


def write_notebook(path: Path, code: str = "seed", parameters: str = PARAMETERS) -> None:
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two notebooks, a library of one module, and a date."""
    for folder in ("notebooks", "cliplib", "report", "figures"):
        (tmp_path / folder).mkdir()
    for name in NAMES:
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "cliplib" / "module.py").write_text("x = 1\n")
    (tmp_path / "report" / "meta.toml").write_text("date = 2025-01-01\n")
    return Project(tmp_path)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The notebooks that were executed; a stand-in for papermill writes what a real execution would."""
    names: list[str] = []

    def stand_in(project: Project, notebook: Path, given: Mapping[str, Any], env: dict[str, str]) -> tuple[float, str]:
        names.append(notebook.stem)
        id, figures = f"of_{notebook.stem}", project.root / "figures"
        (project.executed / notebook.name).write_text(notebook.read_text() + json.dumps(dict(given)))
        (figures / f"{id}.json").write_text("{}\n")
        manifest = figures / "manifest.json"
        entries = json.loads(manifest.read_text()) if manifest.exists() else {}
        entries[id] = {"notebook": notebook.stem, "files": [f"{id}.json"], "caption": "A result."}
        manifest.write_text(json.dumps(entries))
        with project.record.open("a") as record:
            line = {"id": id, "kind": "numbers", "notebook": notebook.stem, "status": "rebuilt", "reason": ""}
            record.write(json.dumps(line) + "\n")
        return 1.0, "it failed." if given.get("seed") == -1 else ""

    monkeypatch.setattr("execute._execute_one", stand_in)
    return names


def run(project: Project, executed: list[str], **options: Any) -> list[str]:
    """Which notebooks a build executes."""
    executed.clear()
    seconds = execute(project, project.notebooks, options.pop("parameters", {}), jobs=1, **options)
    assert list(seconds) == executed
    return list(executed)


def statuses(project: Project) -> dict[str, str]:
    return {r["notebook"]: r["status"] for r in map(json.loads, project.record.read_text().splitlines())}


def test_an_unchanged_notebook_is_not_executed_again(project: Project, executed: list[str]) -> None:
    assert run(project, executed) == NAMES
    assert statuses(project) == dict.fromkeys(NAMES, "rebuilt")
    assert run(project, executed) == []
    assert statuses(project) == dict.fromkeys(NAMES, "unchanged")
    assert run(project, executed, parameters={"seed": 1}) == NAMES
    assert run(project, executed, parameters={"seed": 1}) == []


def test_fresh_executes_all(project: Project, executed: list[str]) -> None:
    run(project, executed)
    assert run(project, executed, fresh=True) == NAMES
    assert run(project, executed) == []


def edit(name: str, text: str) -> Callable[[Path, pytest.MonkeyPatch], object]:
    return lambda root, _: (root / name).write_text(text)


def variable(name: str, value: str) -> Callable[[Path, pytest.MonkeyPatch], object]:
    return lambda _, patch: patch.setenv(name, value)


def caption(root: Path, _: pytest.MonkeyPatch) -> None:
    manifest = root / "figures" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("A result.", "Another.", 1))


CHANGES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], object], list[str]]] = {
    "nothing": (lambda root, _: None, []),
    "a notebook": (lambda root, _: write_notebook(root / "notebooks" / "01_first.ipynb", "seed + 1"), NAMES[:1]),
    "a file of the library": (edit("cliplib/module.py", "x = 2\n"), NAMES),
    "a new file in the library": (edit("cliplib/other.py", ""), NAMES),
    "a file of the library goes": (lambda root, _: (root / "cliplib" / "module.py").unlink(), NAMES),
    "a setting": (variable("CLIPLIB_CACHE", "elsewhere"), NAMES),
    "a variable of PyTorch's threads": (variable("OMP_PROC_BIND", "true"), NAMES),
    "a variable of something else": (variable("EDITOR", "ed"), []),
    "the date": (edit("report/meta.toml", "date = 2025-01-02\n"), NAMES),
    "the report's text": (edit("report/report.typ", "Words."), []),
    "a result": (edit("figures/of_02_second.json", "{ }\n"), NAMES[1:]),
    "a result is gone": (lambda root, _: (root / "figures" / "of_02_second.json").unlink(), NAMES[1:]),
    "a caption": (caption, NAMES[:1]),
    "the manifest is gone": (lambda root, _: (root / "figures" / "manifest.json").unlink(), NAMES),
    "an executed notebook": (edit("build/executed/01_first.ipynb", "{}"), NAMES[:1]),
    "an executed notebook is gone": (lambda root, _: (root / "build/executed/01_first.ipynb").unlink(), NAMES[:1]),
    "a note that was cut off": (edit("build/executed/01_first.json", '{"inputs": '), NAMES[:1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_makes_it_execute(
    project: Project, executed: list[str], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project, executed)
    act, expected = CHANGES[change]
    act(project.root, monkeypatch)
    assert run(project, executed) == expected
    assert run(project, executed) == []


def test_compiled_modules_do_not_count_and_threads_and_packages_do(
    project: Project, executed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project, executed)
    (project.root / "cliplib" / "__pycache__").mkdir()
    (project.root / "cliplib" / "__pycache__" / "module.pyc").write_bytes(b"")
    assert run(project, executed) == []
    assert run(project, executed, threads=2) == NAMES
    monkeypatch.setattr("reuse._packages", lambda: ["torch 0"])
    assert run(project, executed, threads=2) == NAMES


@pytest.mark.parametrize("name", ["data", "model"])
@pytest.mark.parametrize("how", ["parameter", "setting", "default"])
def test_images_and_models_from_elsewhere_are_always_executed(
    project: Project, executed: list[str], monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    options = {"parameters": {name: "there"}} if how == "parameter" else {}
    if how == "setting":
        monkeypatch.setenv(f"CLIPLIB_{name.upper()}", "there")
    expected = NAMES
    if how == "default":
        changed = PARAMETERS.replace(f'{name} = ""', f'{name} = "there"')
        write_notebook(project.root / "notebooks" / "02_second.ipynb", parameters=changed)
        run(project, executed)
        expected = NAMES[1:]
    else:
        assert run(project, executed, **options) == expected
    assert run(project, executed, **options) == expected


def test_any_text_given_may_name_a_file_and_so_executes(project: Project, executed: list[str]) -> None:
    for _ in range(2):
        assert run(project, executed, parameters={"label": "y"}) == NAMES


def test_results_that_are_not_all_there_do_not_stand_for_an_execution(project: Project, executed: list[str]) -> None:
    run(project, executed)
    manifest = project.root / "figures" / "manifest.json"
    entries = json.loads(manifest.read_text())
    lost = {"notebook": "01_first", "files": ["lost.json"], "caption": "Its file is lost."}
    manifest.write_text(json.dumps(entries | {"lost": lost}))
    for _ in range(2):
        assert run(project, executed) == NAMES[:1]


def test_a_notebook_that_failed_is_executed_again(project: Project, executed: list[str]) -> None:
    for _ in range(2):
        executed.clear()
        with pytest.raises(BuildError, match=r"it failed\."):
            execute(project, project.notebooks, {"seed": -1}, jobs=1)
        assert executed == NAMES
