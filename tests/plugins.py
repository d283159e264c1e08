"""A stranger's package, laid out as pip would install it."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

TRAINER = '''
    """Huber DreamBooth: a loss that outliers pull on less."""

    from collections.abc import Iterator
    from typing import Annotated, Any

    import torch
    from pydantic import Field
    from torch.nn.functional import huber_loss

    from studio.pipelines.protocols import Adapter, Backbone, Stream
    from studio.trainers.base import Loss, Settings


    class Config(Settings):
        """Settings of the Huber trainer."""

        delta: Annotated[float, Field(gt=0, description="Where the parabola turns into a line")] = 0.1


    def losses(
        config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]
    ) -> Iterator[Loss]:
        """One loss per batch."""
        for batch in data:
            noisy = model.noise(batch.latents, batch.generator)
            with torch.no_grad():
                cond = model.embed(batch.prompts)
            error = huber_loss(model.predict(noisy.x, noisy.t, cond), noisy.target, delta=config.delta)
            yield Loss(error, {"huber": error.detach()})
'''


def install(folder: Path, name: str, code: str, group: str = "studio.trainers", module: str = "") -> Path:
    """Writes a module and the metadata with its entry point into a folder for sys.path."""
    module = module or f"studio_{name}"
    info = folder / f"studio_{name}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(dedent(code).lstrip(), encoding="utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: studio-{name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n", encoding="utf-8")
    return folder
