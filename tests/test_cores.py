"""Half of the cores for each: processes with more threads than cores wait for each other at every operation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from studio import cores, plan
from studio.config import make
from studio.sample import base_model
from studio.train import train

HALF = max(1, cores.available() // 2)
MANY = 2 * HALF + 1


@pytest.fixture(autouse=True)
def many() -> Iterator[None]:
    """As many threads as torch may take by itself, and more."""
    before = torch.get_num_threads()
    torch.set_num_threads(MANY)
    yield
    torch.set_num_threads(before)


def planned() -> None:
    plan.of(make("dreambooth", flags={"model": "toy", "settings": {"data": {"folder": "subject:dog"}}}))


@pytest.mark.parametrize("work", [cores.share, lambda: base_model("toy"), planned])
def test_half_of_the_cores_are_left(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    work()
    assert torch.get_num_threads() == HALF


def test_what_a_person_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(MANY))
    cores.share()
    assert torch.get_num_threads() == MANY
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    cores.share()
    assert torch.get_num_threads() == 1


def test_a_run_takes_half_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings = {"steps": 1, "precision": "no", "previews": {"steps": 1}, "data": {"folder": "subject:dog"}}
    folder = train(make("dreambooth", flags={"model": "toy", "run": "one", "runs": tmp_path, "settings": settings}))
    assert json.loads((folder / "env.json").read_text())["device"]["threads"] == HALF
