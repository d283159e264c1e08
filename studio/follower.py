"""What every process but the first one does: the same steps on its own rows of each batch; it writes nothing."""

from __future__ import annotations

from pathlib import Path

from studio import class_pictures, loop, ranks, registry, snapshot
from studio.materials import Materials
from studio.past import Past
from studio.pipelines.data_order import digest
from studio.stop import listening
from studio.store import Run


def follow() -> Path | None:
    """Waits for the first process's word, then trains beside it; the run's folder, None when there is nothing to do.

    Requests to stop are heard by all and obeyed together (`Engine.agree`). Raises StudioError when the others ended.
    """
    ranks.join()
    with ranks.company(), listening(None) as stop:
        stop.at_once = False
        folder = ranks.told()
        if folder:
            train(Run(Path(folder)), stop)
    return Path(folder) if folder else None


def train(run: Run, stop: loop.Stop) -> None:
    """The loop, from where the first process starts it."""
    config = run.config()
    made = Materials.gather(config, lambda: None)
    if made.classes is None and class_pictures.wanted(config):
        place = class_pictures.location(config, made.model, made.dataset)
        made.classes = class_pictures.read(config, made.model, made.dataset, place)
    stream, past = made.read(), Past.of(run)
    state, stream.position = past.state(made.basis, made.engine)
    if state is None:
        snapshot.seed(digest(config.seed, "train"))
    memory: dict[str, object] = {}
    losses = registry.trainer(config.trainer).losses(config.settings, made.model, made.adapter, stream, memory)
    with made.thrift.training(run.folder / f"process-{ranks.rank()}"):
        for _ in loop.train(
            config.settings, made.model, made.adapter, losses, memory,
            data=stream, start=past.step, state=state, stop=stop,
        ):  # fmt: skip
            pass
