"""The project's own source files, and what they import: for the tests that read code."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("trainers", "pipelines", "kernels")


def sources() -> list[Path]:
    """Every Python file of the package and its three folders."""
    return sorted(path for folder in ("studio", *FOLDERS) for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """The name a file is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    dotted = ".".join(parts if parts[0] == "studio" else ("studio", *parts))
    return dotted.removesuffix(".__init__")


def imported(tree: ast.AST, lazy: bool) -> Iterator[tuple[str, int]]:
    """(module, line) of every import, not those for type checkers; lazy: those inside functions too."""
    for node in nodes(ast.iter_child_nodes(tree), lazy):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [submodule(node.module, alias.name) for alias in node.names]
            yield from ((module, node.lineno) for module in dict.fromkeys(found))


def submodule(package: str, name: str) -> str:
    """What `from package import name` loads: a module of ours called `package.name`, or the package."""
    inner = f"{package}.{name}"
    return inner if package.partition(".")[0] == "studio" and inner in MODULES else package


def nodes(children: Iterable[ast.AST], lazy: bool) -> Iterator[ast.AST]:
    """All nodes that run when the module is imported (lazy: or later)."""
    for node in children:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if not lazy and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield node
        yield from nodes(ast.iter_child_nodes(node), lazy)


MODULES = {module_name(path) for path in sources()}
