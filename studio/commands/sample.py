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

SHORT = {"guidance": "guidance.kind"} | {name: f"guidance.{name}" for name in Guiding.model_fields if name != "kind"}


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
    for name, least in (("n", 1), ("steps", 1), ("seed", 0), ("guidance_scale", 1)):
        if getattr(options, name) < least:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} = {getattr(options, name)}: should be greater than or equal to {least}")
    if options.guidance.kind != "cfg" and "base" in options.sources:
        said = f"base is drawn with cfg: {options.guidance.kind} guidance is for adapters"
        print(f"studio: {said}", file=sys.stderr)
    from studio.sample import sample

    values = {field.name: getattr(options, field.name) for field in fields(options)}
    print(sample(list(values.pop("sources")), list(values.pop("prompt")), **values))
    return 0


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
