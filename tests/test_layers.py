"""Imports go one way: studio -> trainers -> pipelines -> kernels."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import FOLDERS, imported, module_name, sources

LAYERS = {"studio.kernels": 0, "studio.pipelines": 1, "studio.trainers": 2, "studio": 3}
SHARED = {"studio"}  # where the package's folders lie, and its version: no layer's own


def layer(module: str) -> int:
    """The height of a module."""
    return next(height for name, height in LAYERS.items() if f"{module}.".startswith(f"{name}."))


def every_import(path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import of a file, also inside functions, but not for type checkers."""
    yield from imported(ast.parse(path.read_text("utf-8")), lazy=True)


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_no_lower_layer_imports_a_higher_one(path: Path):
    mine = layer(module_name(path))
    wrong = [
        f"{module}, line {line}"
        for module, line in every_import(path)
        if module.partition(".")[0] == "studio" and module not in SHARED and layer(module) > mine
    ]
    assert not wrong, f"{path.name} imports upwards: {wrong}"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_the_folders_are_imported_as_parts_of_studio(path: Path):
    bare = [module for module, _ in every_import(path) if module.partition(".")[0] in FOLDERS]
    assert not bare, f"{path.name} imports {bare}: write studio.{bare[0]}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_folders_are_no_packages_of_their_own(root: Path, folder: str):
    assert not list((root / folder).rglob("__init__.py"))


def test_no_import_cycle():
    graph = {
        module_name(path): {module for module, _ in imported(ast.parse(path.read_text("utf-8")), lazy=False)}
        for path in sources()
    }
    graph = {module: {other for other in others if other in graph} for module, others in graph.items()}
    while free := {module for module, others in graph.items() if not others & graph.keys() - {"studio"}}:
        graph = {module: others for module, others in graph.items() if module not in free}
    assert not graph, f"these modules import each other in a circle, or need one that does: {sorted(graph)}"
