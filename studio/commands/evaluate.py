"""`studio evaluate`: how good runs and adapter files are, beside their base model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from studio.commands.form import parse
from studio.pipelines.confine import permitted
from studio.pipelines.errors import UsageError

WIDE = 300  # columns of a table that goes into a file: it is not folded


@dataclass(frozen=True)
class Options:
    """Evaluate runs or adapter files: fixed prompts and seeds, the base model beside them, 95 % intervals.

    Writes evaluation.json, the pictures, scores.json, report.html and a model card; the same command goes on where it
    was stopped. A run's are in its folder. A look with fewer prompts, seeds or scorers than the one that is there goes
    beside it, to evaluation-quick or evaluation-part; with --out, everything goes there and the run's scores stay. A
    README.md that somebody else wrote is kept: the card is model-card.md then.
    """

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Runs or adapter files."""
    sets: str = ""
    """Sets of prompts, with commas between; empty: all (recontext, attribute, composition, style, class)."""
    seeds: int = 4
    """Pictures per prompt."""
    prompts: Path | None = None
    """TOML file with sets of your own, a table each: prompts = ["a {subject} on the moon"]."""
    references: Path | None = None
    """Folder of pictures of the subject that were not trained on, with masks if there are any."""
    data: Path | None = None
    """Folder of the training pictures; empty: the run's."""
    scorers: str = ""
    """Scorers, with commas between (personal, captions, `studio list scorers`); all; empty: those that suit."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A scorer's setting, such as dino.encoder=FOLDER or personal.family=clip; may be given several times."""
    strength: tuple[float, ...] = (1.0,)
    """Strengths of the adapters."""
    sampler: str = ""
    """auto, ddim, euler, lcm, tcd, pcm, sde or dance; empty: what the file is made for, else auto."""
    steps: int = 0
    """Sampler steps; 0: those the file is made for, else the model's own."""
    guidance_scale: float = 0.0
    """Guidance scale; 0: the one the file is made for, else the model's own."""
    batch: int = 0
    """Pictures drawn at once; 0: as many as are useful."""
    kind: str = ""
    """live, object or style; empty: by the class word."""
    trigger: str = ""
    """The trigger word; empty: the file's."""
    class_word: str = ""
    """What the subject is; empty: the file's."""
    model: str = ""
    """Base model; empty: the one the adapter was trained on."""
    out: Path | None = None
    """Folder for everything, instead of the run's, or `evaluation/NAMES` for files and several runs."""
    runs: Path = Path("runs")
    """Folder of the runs."""
    pick: bool = False
    """First make the runs' recommended checkpoints, at their strengths, their adapters."""
    quick: bool = False
    """A rough look: two prompts of each set, two seeds; a fuller evaluation is kept (see above)."""
    json: bool = False
    """Events as JSON lines on stdout."""


def main(args: list[str]) -> int:
    """Runs `studio evaluate ARGS`."""
    options = parse(Options, args, "evaluate")
    if not options.sources:
        raise UsageError("evaluate needs a run or an adapter file; see studio evaluate --help")
    for name in ("out", "prompts", "references", "data"):
        if (path := getattr(options, name)) is not None:
            permitted(path, f"--{name}")
    values = {
        key: getattr(options, key) for key in vars(options) if key not in ("sources", "json", "option", "strength")
    }
    values |= {name: split(values[name]) for name in ("sets", "scorers")}
    values |= {"strengths": options.strength, "options": settings(options.option)}
    from studio import logs
    from studio.evaluate import Request, evaluate
    from studio.evaluation.progress import Counting

    logs.hush()
    with Counting("json" if options.json else "auto") as progress:
        found = evaluate(list(options.sources), Request(**values), progress)
    for note in found.notes:
        print(f"studio: note: {note}", file=sys.stderr)
    if not options.json:
        from rich.console import Console

        from studio.evaluation.table import legend, table

        console = Console() if sys.stdout.isatty() else Console(width=WIDE)
        console.print(table(found))
        console.print(legend(found), markup=False, highlight=False)
    return 0


def split(text: str) -> tuple[str, ...]:
    """Words with commas between."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def settings(options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`scorer.setting=value` by scorer. Raises UsageError for another form."""
    found: dict[str, dict[str, Any]] = {}
    for text in options:
        name, _, value = text.partition("=")
        scorer, _, key = name.partition(".")
        if not (scorer and key and value):
            raise UsageError(f"--option {text}: should be SCORER.SETTING=VALUE, such as dino.encoder=FOLDER")
        found.setdefault(scorer, {})[key] = value
    return found
