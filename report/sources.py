"""Sources of the library's functions, to be printed."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path


def functions_of(package: Path) -> dict[str, str]:
    """Return the sources of all functions and methods, without docstrings, by name.

    Such a name is "probes.kernel.KernelProbe._two_regressions".
    """
    sources = {}
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        text = path.read_text("utf-8")
        for name, node in functions_in(ast.parse(text)):
            sources[f"{module}.{name}"] = undocumented(node, text.splitlines())
    return sources


def functions_in(
    owner: ast.Module | ast.ClassDef,
) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield a module's functions by name, and methods after the name of their class."""
    for node in owner.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for name, method in functions_in(node):
                yield f"{node.name}.{name}", method


def undocumented(node: ast.FunctionDef, lines: list[str]) -> str:
    """Return the source of a function but for its docstring, not indented.

    `lines` are those of its file.
    """
    start = node.lineno - 1
    kept = lines[start : node.end_lineno]
    first = node.body[0]
    if ast.get_docstring(node) is not None and first.end_lineno is not None:
        del kept[first.lineno - 1 - start : first.end_lineno - start]
    return textwrap.dedent("\n".join(kept))
