"""The library's modules in an order to read them in, from their imports."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path


def modules_in_order(package: Path) -> list[str]:
    """Return modules such as "tables.audit", each behind those that it imports."""
    files = {
        ".".join(path.relative_to(package).with_suffix("").parts): path
        for path in sorted(package.rglob("*.py"))
        if not path.stem.startswith("__")
    }
    sorter = TopologicalSorter(
        {name: sorted(imported(path, set(files))) for name, path in files.items()}
    )
    return list(sorter.static_order())


def imported(path: Path, names: set[str]) -> set[str]:
    """Return which of these modules a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        module = (isinstance(node, ast.ImportFrom) and node.module) or ""
        if module.startswith("cliplib."):
            part = module.removeprefix("cliplib.")
            found |= {part, *(f"{part}.{alias.name}" for alias in node.names)}
    return found & names
