"""The learning audit: in a run's first steps everything that should learn does, or the run stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from studio.pipelines.errors import NumericalError, StudioError
from studio.pipelines.protocols import Adapter

WINDOW = 3  # steps: LoRA's A has no gradient before B, which starts at zero, has moved
IDLE = 30  # steps without any gradient: a policy gradient may well have a few


@dataclass(frozen=True)
class Look:
    """What is known before an optimizer step: which tensors have a gradient (bool `[n]`), and their values."""

    gradients: Tensor
    values: list[Tensor]


class Audit:
    """Judges after WINDOW steps that could move something whether every tensor got a gradient and moved.

    excused: patterns of names (as in a shell) -> why they need not; what an adapter's or a trainer module's
    `audit_exceptions` says. A run with fewer steps is not judged. Costs nothing once it is over.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], excused: Mapping[str, str]) -> None:
        self.named = named
        self.excused = {name: why for name in named for pattern, why in excused.items() if fnmatchcase(name, pattern)}
        self.steps = self.idle = 0
        self.learnt: set[str] = set()
        self.moved: set[str] = set()

    @property
    def over(self) -> bool:
        return self.steps >= WINDOW

    def look(self) -> Look | None:
        """Before an optimizer step; None once it is over."""
        if self.over:
            return None
        none = torch.zeros((), dtype=torch.bool, device=next(iter(self.named.values())).device)
        gradients = [none if p.grad is None else p.grad.ne(0).any() for p in self.named.values()]
        return Look(torch.stack(gradients), [p.detach().clone() for p in self.named.values()])

    def judge(self, step: int, before: Look, rate: float) -> str:
        """After a step that the scaler did not skip, taken with this learning rate: the verdict, or ''.

        NumericalError, naming the tensors, when some do not learn.
        """
        moves = [a.ne(b).any() for a, b in zip(before.values, self.named.values(), strict=True)]
        gradients, moved = torch.stack([before.gradients, torch.stack(moves)]).tolist()
        self.learnt |= {name for name, yes in zip(self.named, gradients, strict=True) if yes}
        self.moved |= {name for name, yes in zip(self.named, moved, strict=True) if yes}
        if not any(gradients):
            self.idle += 1
        elif rate > 0:  # a warm-up from zero moves nothing
            self.steps += 1
        if self.idle >= IDLE:
            raise NumericalError(
                f"step {step}: in {IDLE} steps no gradient differed from zero: the loss does not depend on what "
                "should learn; look at the loss, or at the reward, if there is one"
            )
        return self._verdict(step) if self.over else ""

    def _verdict(self, step: int) -> str:
        names = [name for name in self.named if name not in self.excused]
        silent = [name for name in names if name not in self.learnt]
        still = [name for name in names if name not in self.moved and name not in silent]
        found = []
        if silent:
            found.append(f"{_some(silent)} got no gradient: {_reason(silent, names)}")
        if still:
            found.append(f"{_some(still)} did not move: their steps are lost in rounding, use a larger lr")
        if found:
            raise NumericalError(
                f"step {step}: {len(silent) + len(still)} of {len(names)} tensors do not learn: {'; '.join(found)}"
            )
        self.learnt, self.moved = set(), set()
        whys = ", ".join(dict.fromkeys(self.excused.values()))
        rest = f"; {len(self.excused)} need not: {whys}" if self.excused else ""
        return f"learning audit: all {len(names)} tensors got a gradient and moved{rest}"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"steps": self.steps, "idle": self.idle, "learnt": sorted(self.learnt), "moved": sorted(self.moved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self.idle = state["steps"], state["idle"]
        self.learnt, self.moved = set(state["learnt"]), set(state["moved"])


def _reason(silent: Sequence[str], names: Sequence[str]) -> str:
    """Why tensors probably get no gradient."""
    parts = {name.partition(".")[0] for name in silent}
    whole = [part for part in sorted(parts) if all(n in silent for n in names if n.startswith(f"{part}."))]
    if any(part.startswith("text_encoder") for part in whole):
        return (
            "the prompts are embedded without a graph; leave adapter.text_encoder off and tokens.words empty, or use "
            "another trainer"
        )
    return "the loss does not depend on them; leave these layers out of adapter.targets"


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def exceptions(*declaring: Any) -> dict[str, str]:
    """What adapters and trainer modules declare in `audit_exceptions`; StudioError for one without a reason."""
    found: dict[str, str] = {}
    for one in declaring:
        found |= getattr(one, "audit_exceptions", {})
    if empty := [pattern for pattern, why in found.items() if not why]:
        raise StudioError(f"audit_exceptions: {empty[0]!r} says no reason; say why it need not learn")
    return found


def inventory(adapter: Adapter) -> dict[str, dict[str, Any]]:
    """What trains, by part of the pipeline: modules, tensors, parameters and their dtypes."""
    parts: dict[str, dict[str, Any]] = {}
    modules: dict[str, set[str]] = {}
    for name, parameter in adapter.named_parameters().items():
        part = name.partition(".")[0]
        entry = parts.setdefault(part, {"modules": 0, "tensors": 0, "parameters": 0, "dtype": ""})
        modules.setdefault(part, set()).add(name.rsplit(".", 2)[0])
        kinds = {*entry["dtype"].split(" + "), str(parameter.dtype).removeprefix("torch.")} - {""}
        entry |= {
            "modules": len(modules[part]),
            "tensors": entry["tensors"] + 1,
            "parameters": entry["parameters"] + parameter.numel(),
            "dtype": " + ".join(sorted(kinds)),
        }
    return parts


def lines(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """An inventory for people, a line per part."""
    text = "{part}: {parameters:,} parameters in {tensors} tensors of {modules} modules, {dtype}"
    return [text.format(part=part, **one) for part, one in parts.items()]
