"""What a run's adapter is compared with when it is drawn under guidance: the adapter that the run went on from."""

from __future__ import annotations

from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from studio.pipelines.errors import UsageError
from studio.store import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from studio.pipelines.protocols import Adapter, Backbone


def beginning(run: Run) -> tuple[Path | None, str]:
    """The file that a run went on from, and where it is not what it was any more, why. Reads no trainer's settings."""
    table = run.table()
    said = table.get(table.get("trainer", ""), {}).get("start", "")
    file, basis = Path(said), run.basis()
    if not file.is_absolute():  # a run begins from nothing, or has resolved its start
        return None, ""
    if not file.is_file():
        return None, f"{file}, is gone"
    known = basis.config.get("settings.start", "") if basis else ""
    if known and sha256(file.read_bytes()).hexdigest() != known:
        return None, f"{file}, has changed since"
    return file, ""


class Begun:
    """An adapter that gives, switched off, not the base model but what its run began with."""

    exact_off = True

    def __init__(self, adapter: Adapter, state: Mapping[str, Tensor]) -> None:
        self.inner, self.state = adapter, dict(state)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # asked for by copy before there is anything
            raise AttributeError(name)
        return getattr(self.inner, name)

    def off(self) -> AbstractContextManager[None]:
        """Inside, the model is what the run began with. No graph inside."""
        from studio.pipelines.rewarding import START, reference

        return reference(self.inner, {START: self.state})


def load(model: Backbone, file: Path, begun: Path | None) -> Adapter:
    """The adapter of a file, in the model. begun: what switching it off shall give; None: the base model.

    Raises UsageError where the two files are of different kinds, and as `files.load`.
    """
    from studio.pipelines.adapters import files

    if begun is None:
        return files.load(model, file)
    first = files.load(model, begun)
    state = {name: tensor.detach().clone() for name, tensor in first.state_dict().items()}
    first.remove()
    adapter = files.load(model, file)
    if {name: tensor.shape for name, tensor in adapter.state_dict().items()} != {n: t.shape for n, t in state.items()}:
        adapter.remove()
        raise UsageError(f"{file} cannot be compared with {begun}, from which it began: use cfg guidance")
    made = cast("Adapter", Begun(adapter, state))
    model.adapter = made
    return made
