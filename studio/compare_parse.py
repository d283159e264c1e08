"""The tables of a comparison's TOML file: grids of values, and the keys that are decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.mistakes import brief
from studio.pipelines.errors import UsageError

Grid = dict[str, list[Any]]
TAKEN = {
    "steps": "the budget decides the steps: [budget] equal = 'steps', amount = ...",
    "seed": "write seeds = [...] at the top",
    "data.folder": "all cells learn from the same data; compare other data in another comparison",
    "model": "all cells start from the same model; compare other models in another comparison",
}


def table(path: Path, values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of the file; UsageError where it is something else."""
    found = values.get(key, {})
    if not isinstance(found, Mapping):
        raise UsageError(f"{path}: {key} = {brief(found)}: should be a table, [{key}]")
    return found


def grid(path: Path, value: Any, where: str) -> Grid:
    """Settings by dotted name with their values. UsageError for anything else than lists of different values."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{path}: {where} = {brief(value)}: should be a table, [{where}]")
    found = flatten(value)
    for key, values in found.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{path}: [{where}] {key} = {brief(values)}: should be a list of values, such as [1, 2]")
        if any(value in values[:number] for number, value in enumerate(values)):
            raise UsageError(f"{path}: [{where}] {key} = {brief(values)}: a value is there twice")
    refuse_taken(path, where, found)
    return found


def refuse_taken(path: Path, where: str, keys: Mapping[str, Any]) -> None:
    """UsageError for a key that is decided elsewhere. [base] may name the data."""
    for key in keys:
        if key in TAKEN and not (where == "base" and key == "data.folder"):
            raise UsageError(f"{path}: [{where}] {key}: {TAKEN[key]}")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within tables as dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        found |= inner
    return found
