"""The library's modules in an order to read them in, and its functions' sources."""

from __future__ import annotations

import ast
import textwrap
from graphlib import TopologicalSorter
from pathlib import Path


def modules_in_order(package: Path) -> list[str]:
    """Return modules such as "features.audit", each after those that it imports."""
    files = {
        ".".join(path.relative_to(package).with_suffix("").parts): path
        for path in sorted(package.rglob("*.py"))
        if not path.stem.startswith("__")
    }
    sorter = TopologicalSorter(
        {name: sorted(imported(path, set(files))) for name, path in files.items()}
    )
    return list(sorter.static_order())


def imported(path: Path, modules: set[str]) -> set[str]:
    """Return which of these modules, such as "features.audit", a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if module.startswith("cliplib."):
            part = module.removeprefix("cliplib.")
            found.add(part)
            # A name that is imported may be that of a module.
            found |= {f"{part}.{alias.name}" for alias in node.names}
    return found & modules


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
