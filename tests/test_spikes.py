"""Spikes: jumps are told, noise is not, and a restart changes nothing."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import pytest

from studio.spikes import FACTOR, LEAST, Spikes

Draw = Callable[[random.Random], float]
SEQUENCES: dict[str, Draw] = {
    "epsilon, one picture": lambda r: 10 ** r.uniform(-2.2, 0) * r.gauss(1, 0.05),  # measured: 0.01 to 1.2
    "flow, one picture": lambda r: 0.2 * r.lognormvariate(0, 0.3) + r.choice((0, 0, 0, 0.5)),
    "long tail": lambda r: r.lognormvariate(0, 1.0),
    "around zero": lambda r: r.gauss(0, 1),
    "constant": lambda r: 0.25,
    "zero": lambda r: 0.0,
}


def told(values: list[float], spikes: Spikes | None = None, start: int = 0) -> dict[int, str]:
    """Step -> warning."""
    spikes = spikes or Spikes()
    found = {i: spikes.see(i, {"loss": value, "grad_norm": 1.0}) for i, value in enumerate(values, start + 1)}
    return {step: text for step, text in found.items() if text}


@pytest.mark.parametrize("name", SEQUENCES)
def test_noise_is_no_spike(name: str) -> None:
    source = random.Random(0)
    assert len(told([SEQUENCES[name](source) for _ in range(3000)])) <= (2 if name == "long tail" else 0)


@pytest.mark.parametrize("name", ["epsilon, one picture", "flow, one picture", "around zero", "constant"])
def test_a_jump_is_told_once_with_its_step(name: str) -> None:
    source = random.Random(0)
    values = [SEQUENCES[name](source) for _ in range(200)]
    values[149:155] = [100.0, 200.0, 400.0, 800.0, 1600.0, 1e5]
    warnings = told(values)
    assert list(warnings) == [150]
    assert warnings[150].startswith("step 150: the loss jumped to 100 (usual:")


def test_the_gradient_is_watched_too() -> None:
    spikes = Spikes()
    texts = [spikes.see(i, {"loss": 1.0, "grad_norm": 50.0 if i == 40 else 1.0 + i % 3}) for i in range(1, 60)]
    assert [i for i, text in enumerate(texts, 1) if text] == [40]
    assert "the gradient norm jumped to 50" in str(texts[39])
    assert spikes.risen(41) == 0  # only the loss says that a run goes wrong


def test_the_first_values_have_nothing_to_be_compared_with() -> None:
    assert told([1.0] * (LEAST - 1) + [100.0]) == {}
    assert list(told([1.0] * LEAST + [100.0])) == [LEAST + 1]
    assert told([1.0] * LEAST + [0.99 * FACTOR]) == {}


def test_a_restart_anywhere_changes_no_warning() -> None:
    source = random.Random(1)
    values = [90.0 if i in (60, 70) else SEQUENCES["epsilon, one picture"](source) for i in range(170)]
    values[165] = 900.0
    straight = told(values)
    assert list(straight) == [61, 166]
    for cut in (1, 59, 61, 65, 165):
        first, second = Spikes(), Spikes()
        head = told(values[:cut], first)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert head | told(values[cut:], second, cut) == straight


def test_a_loss_that_runs_away_slowly_is_told_and_told_again_when_it_is_ten_times_worse() -> None:
    spikes = Spikes()
    told = {step: text for step in range(1, 200) if (text := spikes.see(step, {"loss": 1.05**step, "grad_norm": 1.0}))}
    assert [int(math.log10(1.05**step / 1.05**LEAST)) for step in told] == [1, 2, 3]
    assert all("runs away" in text for text in told.values())


def test_weights_that_grow_threefold_in_a_step_are_told_and_remembered() -> None:
    spikes = Spikes()
    for step, norm in enumerate([0.0, 1.0, 1.2, 1.3, 9.0, 9.1], 1):
        spikes.grew(step, norm)
        assert bool(spikes.see(step, {"loss": 1.0, "grad_norm": 1.0})) == (step == 5)
    assert spikes.risen(7) == 5
    again = Spikes()
    again.load_state_dict(spikes.state_dict())
    assert again.state_dict() == spikes.state_dict()
