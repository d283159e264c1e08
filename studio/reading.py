"""What a module is, read off its source: nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path


def defined(tree: ast.Module) -> set[str]:
    """The names that a module's top level defines, assigns or imports."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def locate(module: str) -> Path:
    """The source file of a module, found without importing it or its parents.

    Raises ModuleNotFoundError when there is none.
    """
    paths: list[str] | None = None
    spec = None
    for end in range(1, module.count(".") + 2):
        spec = PathFinder.find_spec(".".join(module.split(".")[:end]), paths)
        if spec is None:
            raise ModuleNotFoundError(f"no module named '{module}'")
        paths = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"'{module}' has no source file")
    return Path(spec.origin)


def imports(tree: ast.Module) -> Iterator[str]:
    """The packages that a module imports unconditionally."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def there(package: str) -> bool:
    """Whether a top-level package can be found; nothing is imported."""
    return importlib.util.find_spec(package) is not None
