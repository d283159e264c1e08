"""The code stays small: lines per file, per function, per trainer."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median, quantiles

import pytest

from tests.sources import ROOT, module_name, sources

FILE_MEDIAN, FILE_MOST = 90, 300
FUNCTION_MEDIAN, FUNCTION_P90, FUNCTION_MOST = 10, 35, 60
TRAINER_MOST = 120


def lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def functions(path: Path) -> list[tuple[str, int]]:
    """(name, lines from `def` to the last line) of every function of a file."""
    return [
        (f"{module_name(path)}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def test_files_are_short():
    sizes = {module_name(path): lines(path) for path in sources()}
    assert not {name: size for name, size in sizes.items() if size > FILE_MOST}
    assert median(sizes.values()) <= FILE_MEDIAN


def test_functions_are_short():
    sizes = dict(function for path in sources() for function in functions(path))
    assert not {name: size for name, size in sizes.items() if size > FUNCTION_MOST}
    assert median(sizes.values()) <= FUNCTION_MEDIAN
    assert quantiles(sizes.values(), n=10)[-1] <= FUNCTION_P90


@pytest.mark.parametrize("path", sorted((ROOT / "trainers").glob("*.py")), ids=lambda path: path.stem)
def test_a_trainer_is_a_page(path: Path):
    assert lines(path) <= TRAINER_MOST


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_modules_say_what_they_are(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8"))) or not path.read_text("utf-8").strip()
