"""`studio sample`: pictures of a run or an adapter file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from studio.commands.form import parse
from studio.pipelines.errors import UsageError


@dataclass(frozen=True)
class Options:
    """Make pictures with a run or an adapter file, beside the base model's, in one grid."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Runs or adapter files."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What to draw; may be given several times. {trigger} and {class_word} are filled in."""
    seed: int = 0
    """Seed of the first picture; the next ones count up."""
    n: int = 4
    """Pictures per prompt."""
    steps: int = 25
    """Sampler steps."""
    guidance_scale: float = 5.0
    """Classifier-free guidance scale."""
    strength: float = 1.0
    """Strength of the adapter; 0: the base model."""
    model: str = ""
    """Base model; empty: the one the adapter was trained on."""
    out: Path = Path("grid.png")
    """The picture to write."""
    runs: Path = Path("runs")
    """Folder of the runs."""


def main(args: list[str]) -> int:
    """Runs `studio sample ARGS`."""
    options = parse(Options, args, "sample")
    if not options.sources:
        raise UsageError("sample needs a run or an adapter file; see studio sample --help")
    if not options.prompt:
        raise UsageError("sample needs a --prompt; see studio sample --help")
    for name, least in (("n", 1), ("steps", 1), ("seed", 0), ("guidance_scale", 1)):
        if getattr(options, name) < least:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} = {getattr(options, name)}: should be greater than or equal to {least}")
    from studio.sample import sample

    values = {field.name: getattr(options, field.name) for field in fields(options)}
    print(sample(list(values.pop("sources")), list(values.pop("prompt")), **values))
    return 0
