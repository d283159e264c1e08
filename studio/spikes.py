"""Sudden rises of loss, gradient and weights, and a loss that runs away slowly: warnings, never a stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

WATCHED = {"loss": "the loss", "grad_norm": "the gradient norm"}
WINDOW, LEAST = 100, 25  # values compared with; steps before the first warning
FACTOR = 3.0  # times the largest of the window
FAR = 5.0  # times the usual distance from the median, in logarithms
CALM = 16  # steps after a warning without another
AWAY = 10.0  # a loss so many times the largest of the first LEAST has run away
BURST = 3.0  # times its norm to which no sound step brings an adapter


class Spikes:
    """Compares each value with the last WINDOW of its kind; deterministic, and a checkpoint keeps its state.

    A spike is larger than FACTOR times the window's largest value and, in logarithms, further above its median than
    FAR times the median distance. The loss of a diffusion model differs by orders of magnitude between timesteps but
    has an upper end, which the first rule knows; the second keeps quiet where values have a long tail. Values that
    are not positive have no logarithm: they are compared as they are.
    """

    def __init__(self) -> None:
        self.recent: dict[str, list[float]] = {name: [] for name in WATCHED}
        self.at = dict.fromkeys(WATCHED, 0)
        self.first: list[float] = []
        self.away = AWAY  # how far the loss may go before it is said (again)
        self.norm, self.burst = 0.0, 0

    def see(self, step: int, numbers: Mapping[str, float]) -> str | None:
        """Note a step's numbers; a warning where one of them has jumped."""
        quiet = 0 < self.at["loss"] >= step - CALM
        found = [text for name in WATCHED if (text := self._note(step, name, numbers[name]))]
        if (text := self._away(step, numbers["loss"])) and not found and not quiet:
            found.append(text)
        if self.burst == step:
            found.append(f"the weights grew to {self.norm:.3g} in one step: the learning rate is too large")
        return f"step {step}: {'; '.join(found)}" if found else None

    def risen(self, step: int) -> int:
        """The step of a jump of loss or weights within the last steps before `step`; 0 where there was none."""
        return max(at if 0 < at >= step - CALM else 0 for at in (self.at["loss"], self.burst))

    def grew(self, step: int, norm: float) -> None:
        """Note the norm of the weights after a step."""
        if 0 < BURST * self.norm < norm:
            self.burst = step
        self.norm = norm

    def _away(self, step: int, loss: float) -> str:
        """A loss that rises and rises, too slowly for a jump."""
        if len(self.first) < LEAST:
            self.first.append(abs(loss))
            return ""
        if not loss > self.away * max(self.first) > 0:
            return ""
        self.at["loss"] = step
        times, self.away = loss / max(self.first), AWAY * loss / max(self.first)
        return (
            f"the loss is {times:.3g} times the largest of the first {LEAST}: it runs away, stop and use a smaller lr"
        )

    def _note(self, step: int, name: str, value: float) -> str:
        if not math.isfinite(value):  # a gradient that overflowed, in a step that fp16's scaler skipped
            return ""
        lately = self.recent[name]
        self.recent[name] = [*lately, value][-WINDOW:]
        if not is_spike(value, lately):
            return ""
        quiet, self.at[name] = 0 < self.at[name] >= step - CALM, step
        usual = f"usual: {median(lately):.3g}, largest lately: {max(lately):.3g}"
        return "" if quiet else f"{WATCHED[name]} jumped to {value:.3g} ({usual})"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        kept = {"first": list(self.first), "away": self.away, "norm": self.norm, "burst": self.burst}
        return {"recent": {name: list(values) for name, values in self.recent.items()}, "at": dict(self.at)} | kept

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.recent = {name: list(values) for name, values in state["recent"].items()}
        self.at = dict(state["at"])
        if "first" in state:  # checkpoints from before these were watched
            self.first, self.away = list(state["first"]), state["away"]
            self.norm, self.burst = state["norm"], state["burst"]


def is_spike(value: float, recent: list[float]) -> bool:
    """Whether a value is far above all of the recent ones."""
    if len(recent) < LEAST:
        return False
    largest, low = max(recent), min(recent)
    if low > 0:
        if value <= FACTOR * largest:
            return False
        recent, value = [math.log(one) for one in recent], math.log(value)
    middle = median(recent)
    spread = median(abs(one - middle) for one in recent)
    far = value - middle > FAR * spread
    return far if low > 0 else far and value - middle > FACTOR * (largest - middle)
