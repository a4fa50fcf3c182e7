"""Sources of the library's functions, to be printed."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path


def functions_of(package: Path) -> dict[str, str]:
    """Return the sources of all functions and methods, without docstrings, by name.

    Such a name is "probes.kernel.KernelProbe._two_regressions".
    """
    sources = {}
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        text = path.read_text("utf-8")
        tree = ast.parse(text)
        owners: dict[str, ast.Module | ast.ClassDef] = {module: tree}
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                owners[f"{module}.{node.name}"] = node
        for name, owner in owners.items():
            for node in owner.body:
                if isinstance(node, ast.FunctionDef):
                    source = undocumented(node, text.splitlines())
                    sources[f"{name}.{node.name}"] = source
    return sources


def undocumented(node: ast.FunctionDef, lines: list[str]) -> str:
    """Return the source of a function but for its docstring, not indented.

    `lines` are those of its file.
    """
    start, end = node.lineno - 1, node.end_lineno
    kept = lines[start:end]
    first = node.body[0]
    if ast.get_docstring(node) is not None and first.end_lineno is not None:
        del kept[first.lineno - 1 - start : first.end_lineno - start]
    return textwrap.dedent("\n".join(kept))
