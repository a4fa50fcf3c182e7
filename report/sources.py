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
        for name, node in named_functions(tree, module):
            sources[name] = undocumented(node, text.splitlines())
    return sources


def named_functions(
    tree: ast.Module | ast.ClassDef, prefix: str
) -> list[tuple[str, ast.FunctionDef]]:
    """Return functions and methods below a module or a class, after dotted names.

    `prefix` is the name of the module or class itself.
    """
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.append((f"{prefix}.{node.name}", node))
        elif isinstance(node, ast.ClassDef):
            found += named_functions(node, f"{prefix}.{node.name}")
    return found


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
