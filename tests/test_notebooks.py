"""The notebooks as stored, and each executed at its smallest size."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

from execute import execute, parameters_of  # noqa: E402
from project import BuildError, Project  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALLEST = {"limit": 60}
LONGEST_CELL = 15


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """What is wrong with a notebook as it is stored."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        found.append(f"{len(tagged)} cells with the tag 'parameters'")
    for i, cell in enumerate(code):
        if cell.outputs or cell.execution_count is not None:
            found.append(f"code cell {i} is stored with outputs")
        if len(cell.source.splitlines()) > LONGEST_CELL:
            found.append(f"code cell {i} has more than {LONGEST_CELL} lines")
        lines = [line for line in cell.source.splitlines() if not line.startswith(("%", "!"))]
        tree = ast.walk(ast.parse("\n".join(lines)))
        if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree):
            found.append(f"code cell {i} defines a function or class")
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and (
            not cell.source.strip() or cell.source.startswith("# #") or "\n# " in cell.source
        ):
            found.append(f"cell {i} is empty or Markdown that was commented out")
    if not notebook.cells or notebook.cells[0].cell_type != "markdown" or not notebook.cells[0].source.startswith("# "):
        found.append("the first cell is not a title")
    return found


def test_the_notebooks_are_stored_stripped_short_and_with_parameters() -> None:
    assert NOTEBOOKS
    assert {path.name: faults(nbformat.read(path, 4)) for path in NOTEBOOKS} == {path.name: [] for path in NOTEBOOKS}


def test_the_names_are_numbered_and_the_parameters_known() -> None:
    numbers = [int(path.name[:2]) for path in NOTEBOOKS]
    assert numbers == sorted(set(numbers)) and all(path.name[2] == "_" for path in NOTEBOOKS)
    for path in NOTEBOOKS:
        assert {"model", "seed"} <= parameters_of(path), path.name
        assert f'figures.start("{path.stem}"' in path.read_text(encoding="utf-8").replace('\\"', '"'), path.name


def test_a_faulty_notebook_is_noticed() -> None:
    code = nbformat.v4.new_code_cell
    output = nbformat.v4.new_output("stream", text="x")
    cells = [code("def f():\n    pass"), code("x = 1\n" * 16), code("1", outputs=[output], execution_count=1)]
    cells.append(nbformat.v4.new_markdown_cell("# ## Title\n#\n# text"))
    assert faults(nbformat.v4.new_notebook(cells=cells)) == [
        "0 cells with the tag 'parameters'",
        "code cell 0 defines a function or class",
        "code cell 1 has more than 15 lines",
        "code cell 2 is stored with outputs",
        "cell 3 is empty or Markdown that was commented out",
        "the first cell is not a title",
    ]


def test_each_notebook_runs_at_its_smallest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLIPLIB_DATA", "CLIPLIB_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIPLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "report").mkdir()
    shutil.copy(ROOT / "report" / "meta.toml", tmp_path / "report")
    shutil.copytree(ROOT / "figures", tmp_path / "figures")
    seconds = execute(Project(tmp_path), NOTEBOOKS, SMALLEST, jobs=2)
    assert list(seconds) == [path.stem for path in NOTEBOOKS]
    executed = [nbformat.read(tmp_path / "build" / "executed" / path.name, 4) for path in NOTEBOOKS]
    assert all(any(cell.get("outputs") for cell in notebook.cells) for notebook in executed)


def test_an_unknown_parameter_fails(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="No notebook has a parameter 'lmit'"):
        execute(Project(tmp_path), NOTEBOOKS, {"lmit": 60})
