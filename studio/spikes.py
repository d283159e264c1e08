"""Sudden rises of the loss and of the gradient: warnings, never a stop."""

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

    def see(self, step: int, numbers: Mapping[str, float]) -> str | None:
        """Note a step's numbers; a warning where one of them has jumped."""
        found = [text for name in WATCHED if (text := self._note(step, name, numbers[name]))]
        return f"step {step}: {'; '.join(found)}" if found else None

    def risen(self, step: int) -> int:
        """The step of a jump of the loss within the last steps before `step`; 0 where there was none."""
        return self.at["loss"] if 0 < self.at["loss"] >= step - CALM else 0

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
        return {"recent": {name: list(values) for name, values in self.recent.items()}, "at": dict(self.at)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.recent = {name: list(values) for name, values in state["recent"].items()}
        self.at = dict(state["at"])


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
