"""What is free is what a process can have: the shell's limits count too."""

from __future__ import annotations

import psutil
import pytest
import torch

from studio import ladder, memory
from studio.config import RunConfig, make
from studio.ladder import Have

CPU = torch.device("cpu")
resource = pytest.importorskip("resource")


def limited(monkeypatch: pytest.MonkeyPatch, kind: int, most: int) -> None:
    infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (most, most) if asked == kind else infinite)


@pytest.mark.parametrize(("name", "has"), [("RLIMIT_AS", "vms"), ("RLIMIT_DATA", "data")])
def test_a_limit_of_the_shell_is_what_can_be_had(name: str, has: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = memory.left(CPU)
    taken = getattr(psutil.Process().memory_info(), has)
    limited(monkeypatch, getattr(resource, name), taken + 2**25)
    assert 2**24 < memory.left(CPU) < 2**26 < before
    limited(monkeypatch, getattr(resource, name), taken // 2)
    assert abs(memory.left(CPU)) < 2**22  # nothing, and not less
    limited(monkeypatch, -1, 0)
    assert memory.allowance() > before


def test_what_was_just_seen_to_fail_is_never_the_advice() -> None:
    def cost(one: RunConfig) -> int:
        return one.settings.batch

    settings = {"free_encoders": True, "gradient_checkpointing": True}
    failed = make("dreambooth", flags={"model": "toy", "settings": {**settings, "batch": 4}})
    said = ladder.advice(failed, Have(), cost)  # by the plan it would fit many times
    assert "this fits: a smaller batch" in said
    assert "batch = 2" in said
    last = make("dreambooth", flags={"model": "toy", "settings": {**settings, "batch": 1}})
    assert ladder.advice(last, Have(), cost) == "every rung of the ladder is taken: use a smaller resolution or model"
