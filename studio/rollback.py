"""A run by rewards, back at the best look of its guard: its adapter's files, written anew with those weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.choice_weights import usable
from studio.events import Event
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Adapter, Backbone
from studio.pipelines.reward_guard import MEMORY
from studio.rewriting import rewrite
from studio.snapshot import State
from studio.store import Run


def roll_back(run: Run) -> tuple[int, list[Path]]:
    """The step of the best look, and the files. The run's checkpoints stay: to train on is to go on from its end.

    Raises UsageError where no guard has looked or another process trains the run, ModelError as `rewrite`.
    """
    with run.alone():
        kept = usable(run.checkpoints)
        newest = kept[max(kept)] if kept else None
        guard: dict[str, Any] = {}
        if newest is not None:
            state = State({name: newest.tensors(name) for name in newest.names()}, newest.meta)
            guard = state.get("memory").get(MEMORY, {})
        if "best" not in guard:
            raise UsageError(
                f"the run '{run.name}' has no look of a guard to go back to: --guard.every N looks every N steps"
            )
        step = int(guard["best_look"]["step"])

        @contextmanager
        def best(model: Backbone, adapter: Adapter) -> Iterator[None]:
            adapter.load_state_dict(guard["best"])
            yield

        files = rewrite(run, best, {"step": str(step)})
        said = f"rolled back: the adapter's files hold step {step}, the guard's best look"
        run.log(Event("export", step, event="message", fields={"message": said}))
    return step, files
