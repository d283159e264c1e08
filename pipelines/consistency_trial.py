"""The trial of Direct Consistency Optimization: a run's first steps train plainly, to measure what there is to gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studio.pipelines.consistency_measure import Measure
from studio.pipelines.protocols import Adapter

MEASURED = 4  # the last 1/4 of the trial is measured


@dataclass
class Trial:
    """The first `steps` optimizer steps of a run, trained plainly to see how much that gains.

    When they are over, beta is in memory, the adapter is back at its start, and what the trial kept is forgotten. All
    of it is in `memory`: a resumed run goes on with the same numbers.
    """

    steps: int
    adapter: Adapter
    memory: dict[str, Any]

    def begin(self) -> None:
        """Keep the adapter's start, unless the trial is under way or over."""
        if "trial" not in self.memory and "beta" not in self.memory:
            start = {name: tensor.detach().clone() for name, tensor in self.adapter.state_dict().items()}
            self.memory["trial"] = {"done": 0, "gaps": [], "errors": [], "start": start}

    @property
    def running(self) -> bool:
        return "trial" in self.memory

    @property
    def compares(self) -> bool:
        """Whether the frozen model is asked in this step: always after the trial, and where the trial measures."""
        return not self.running or self.memory["trial"]["done"] >= self.steps - max(1, self.steps // MEASURED)

    def see(self, numbers: Mapping[str, float]) -> Measure | None:
        """Note a step's mean gap and the frozen model's mean error; what was measured, after the last step."""
        trial = self.memory["trial"]
        if self.compares:
            trial["gaps"].append(numbers["gap"])
            trial["errors"].append(numbers["base"])
        trial["done"] += 1
        if trial["done"] < self.steps:
            return None
        found = Measure.of(self.steps, trial["gaps"], trial["errors"])
        self.adapter.load_state_dict(trial["start"])
        del self.memory["trial"]
        self.memory["beta"] = found.beta
        return found
