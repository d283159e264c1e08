"""`studio sample`: pictures of a run or an adapter file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ValidationError

from studio.commands.form import parse
from studio.mistakes import message, nearest
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import KINDS, Guiding
from studio.sample_how import How
from studio.sample_out import check
from studio.sample_sources import check as check_source

SHORT = {"guidance": "guidance.kind"} | {name: f"guidance.{name}" for name in Guiding.model_fields if name != "kind"}


@dataclass(frozen=True)
class Options:
    """Make pictures with a run or an adapter file, beside the base model's, in one grid."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Runs, their checkpoints (RUN@STEP, RUN@latest), adapter files; lcm:embedded is the studio's own of few steps."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What to draw; may be given several times. {trigger} and {class_word} are filled in."""
    negative: str = ""
    """What not to draw, in the place of the empty prompt; not heard at guidance scale 1 (most few-step adapters)."""
    seed: int = 0
    """Seed of the first picture; the next ones count up."""
    n: int = 4
    """Pictures per prompt."""
    sampler: str = ""
    """auto, ddim, euler, lcm, tcd, pcm, sde or dance; empty: what the file is made for, else auto."""
    steps: int = 0
    """Sampler steps; 0: those the file is made for, else 25 (4 for lcm, tcd, pcm)."""
    guidance_scale: float = 0.0
    """Classifier-free guidance scale; 0: the one the file is made for, else 5 (1 for lcm, tcd, pcm)."""
    strength: tuple[float, ...] = (1.0,)
    """Strength of the adapters, 0: the base model; one number for each source: all of them together in one model."""
    guidance: Guiding = Guiding()
    decor: str = ""
    """Words, parted by commas, whose share in the prompt's embedding is removed (DECOR)."""
    decor_strength: float = 1.0
    """How much of it, from 0 to 1."""
    model: str = ""
    """Base model; empty: the one the adapter was trained on."""
    out: Path = Path("grid.png")
    """The picture to write."""
    runs: Path = Path("runs")
    """Folder of the runs."""


def main(args: list[str]) -> int:
    """Runs `studio sample ARGS`."""
    options = read(args)
    if not options.sources:
        raise UsageError("sample needs a run or an adapter file; see studio sample --help")
    if not options.prompt:
        raise UsageError("sample needs a --prompt; see studio sample --help")
    for name, least in (("n", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} = {getattr(options, name)}: should be greater than or equal to {least}")
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    How(**{field.name: values[field.name] for field in fields(How)}).check(options.sources)
    check(options.seed, options.n, options.out)
    for source in options.sources:
        check_source(source, options.runs)
    from studio.sample import sample  # torch: after all that can be refused without it

    print(sample(list(values.pop("sources")), list(values.pop("prompt")), report=say, **values))
    return 0


def say(line: str) -> None:
    """A doubt, on stderr."""
    print(f"studio: {line}", file=sys.stderr)


def read(args: Sequence[str]) -> Options:
    """The options, with the short flags of guidance. Raises UsageError in one line."""
    tokens = [unaliased(token) for token in args]
    for flag, value in pairwise([*(part for token in tokens for part in token.split("=", 1)), ""]):
        if flag == "--guidance.kind" and value not in KINDS:
            hint = nearest(value, KINDS)
            meant = f"did you mean '{hint}'?" if hint else f"there are {', '.join(KINDS)}"
            raise UsageError(f"--guidance {value}: no such guidance; {meant}")
    nested = [f"guidance.{name}" for name in Guiding.model_fields]
    known = [field.name for field in fields(Options)] + nested + list(SHORT)
    try:
        return parse(Options, tokens, "sample", known, description=f"{Options.__doc__}\n\nShort: {shown()}")
    except UsageError as error:
        if not isinstance(error.__cause__, ValidationError):
            raise
        mistake = error.__cause__.errors(include_url=False)[0]
        flag = str(mistake["loc"][-1]).replace("_", "-")
        raise UsageError(f"--guidance.{flag} = {mistake['input']}: {message(mistake)}") from None


def unaliased(token: str) -> str:
    """A token with a short flag of guidance written out."""
    head, equals, value = token.partition("=")
    name = SHORT.get(head[2:].replace("-", "_")) if head.startswith("--") else None
    return f"--{name}{equals}{value}" if name else token


def shown() -> str:
    """The short flags, for the help."""
    pairs = {short.replace("_", "-"): name.replace("_", "-") for short, name in SHORT.items()}
    return ", ".join(f"--{short} = --{name}" for short, name in pairs.items())
