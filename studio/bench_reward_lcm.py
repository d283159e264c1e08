"""How much prompt accuracy the embedded few-step adapter keeps: its 4 steps beside the model's own 25 with guidance.

The prompts are those of `assets/prompts/embedded.toml`, with several stated attributes each, about animals that no run
of rewards is trained on. Both sides draw the same prompts from the same noise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console

from studio import start
from studio.bench_reward_config import Drawing
from studio.bench_reward_measure import draw
from studio.evaluation import bootstrap, sets
from studio.evaluation.bootstrap import Interval
from studio.pipelines import attention, backbone, data_prompts
from studio.pipelines.adapters import files
from studio.pipelines.assets import assets_folder
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone
from studio.pipelines.rewards import Rewards, build
from studio.precision import preferred
from studio.trainers.rewarded import Settings

FILE = "lcm.json"
TERM = "embedded-attributes"
TEACHER, STUDENT = "teacher", "4 steps"
BAR = 0.05  # how far the share may lie below the teacher's
LEAST = 3  # seeds
WAYS = {TEACHER: Drawing(steps=25), "2 steps": Drawing(sampler="lcm", steps=2, guidance_scale=1.0),
        "4 steps": Drawing(sampler="lcm", steps=4, guidance_scale=1.0),
        "8 steps": Drawing(sampler="lcm", steps=8, guidance_scale=1.0)}  # fmt: skip
ANIMALS = 8  # of each prompt: all that are held out
FIRST_SEED = 70000
MINUTES = 13.0


@dataclass(frozen=True)
class Drawn:
    """One way and seed. shares: of what each picture's prompt states, how much is seen; seconds: of one picture."""

    way: str
    seed: int
    shares: list[float]
    seconds: float

    @property
    def rows(self) -> list[tuple[str, float]]:
        """Each picture's prompt and share."""
        return list(zip(prompts(), self.shares, strict=True))


def run(out: Path, seeds: Sequence[int], console: Console) -> int:
    """Every way and seed that is not in `out` / lcm.json yet; the exit code."""
    found = read(out)
    there = {(one.seed, one.way) for one in found}
    missing = [(seed, way) for seed in seeds for way in WAYS if (seed, way) not in there]
    if not missing:
        return 0
    model = backbone.load("embedded", *preferred())
    attention.install(model.net, "auto")
    adapter = files.load(model, few_step())
    for seed, way in missing:
        with ExitStack() as held:
            held.enter_context(adapter.off() if way == TEACHER else adapter.merged())
            found.append(one(model, way, seed))
        write(out, found)
        console.print(f"lcm: seed {seed}, {way}: {fmean(found[-1].shares):.3f}, {found[-1].seconds:.3f} s a picture")
    return 0


def few_step() -> Path:
    """The embedded model's adapter for few steps. Raises UsageError where there is none."""
    place = start.file(Settings(start=Path(start.EMBEDDED)))
    if place is None or not place.is_file():
        raise UsageError(f"{place} is not there: make it with `python -m studio.world fewstep`")
    return place


def one(model: Backbone, way: str, seed: int) -> Drawn:
    """One way's pictures with a seed's noise."""
    texts = prompts()
    numbers = range(FIRST_SEED + 1000 * seed, FIRST_SEED + 1000 * seed + len(texts))
    began = time.monotonic()
    pictures = torch.cat(list(draw(model, WAYS[way], texts, list(numbers), 16)))
    seconds = (time.monotonic() - began) / len(texts)
    shares = build(Rewards(terms=(TERM,)), model.device, model.dtype)(pictures, texts).raw[TERM]
    return Drawn(way, seed, [float(share) for share in shares], seconds)


@cache
def prompts() -> tuple[str, ...]:
    """Every prompt of the sets that name the subject, about a few animals."""
    _, animals = data_prompts.read(assets_folder() / "prompts" / "reward" / "animals-embedded.toml")
    words = [animal.split(maxsplit=1)[1] for animal in animals]
    templates = [prompt.text for group in sets.shipped("embedded", "live") if group.trigger for prompt in group.prompts]
    return tuple(sets.fill(text, word) for text in templates for word in words[:ANIMALS])


def read(out: Path) -> list[Drawn]:
    """What is there."""
    file = out / FILE
    return [Drawn(**row) for row in json.loads(file.read_text("utf-8"))] if file.is_file() else []


def write(out: Path, found: Sequence[Drawn]) -> None:
    """All of it, aside and renamed."""
    out.mkdir(parents=True, exist_ok=True)
    aside = out / f".{FILE}.writing"
    aside.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", "utf-8")
    aside.replace(out / FILE)


def lines(out: Path) -> Iterator[str]:
    """The section of the page."""
    yield from ("## lcm", "")
    found = read(out)
    if not found:
        yield from ("No data yet.", "")
        return
    seeds = sorted({one.seed for one in found})
    yield "**The embedded few-step adapter** (`lcm:embedded`) beside the model's own 25 DDIM steps at guidance 4:"
    yield f"share of what {len(prompts())} prompts state that the attribute classifier sees, noise seeds {seeds}."
    yield "Intervals by a bootstrap over prompts; differences are picture by picture, from the same noise."
    yield from ("", "| drawn with | accuracy | less the teacher | seconds a picture |", "|---|--:|--:|--:|")
    for way in WAYS:
        rows = [one for one in found if one.way == way]
        value = interval([row for one in rows for row in one.rows])
        gap = "" if way == TEACHER else said(less(found, way), "+")
        yield f"| {way} | {said(value)} | {gap} | {fmean([one.seconds for one in rows] or [0.0]):.3f} |"
    yield from ("", f"- **{verdict(found)}**: {STUDENT} are within {100 * BAR:g} points of the teacher.", "")


def interval(rows: Sequence[tuple[str, float]]) -> Interval:
    """The mean of (prompt, value) rows."""
    return bootstrap.interval([value for _, value in rows], [prompt for prompt, _ in rows])


def said(seen: Interval, sign: str = "") -> str:
    """`0.812 [0.790, 0.834]`; "" for none."""
    return f"{seen.value:{sign}.3f} [{seen.low:{sign}.3f}, {seen.high:{sign}.3f}]" if seen.n else ""


def less(found: Sequence[Drawn], way: str) -> Interval:
    """A way's shares less the teacher's for the same prompt and noise."""
    table = {(one.way, one.seed): one for one in found}
    both = [(one, table[TEACHER, one.seed]) for one in found if one.way == way and (TEACHER, one.seed) in table]
    pairs = [pair for one, other in both for pair in zip(one.rows, other.rows, strict=True)]
    return interval([(prompt, mine - theirs) for (prompt, mine), (_, theirs) in pairs])


def verdict(found: Sequence[Drawn]) -> str:
    """Whether the student is near enough, by the interval of the difference."""
    seen = less(found, STUDENT)
    if not seen.n:
        return "no data yet"
    if len({one.seed for one in found if one.way == STUDENT}) < LEAST:
        return "undecided"
    return "holds" if seen.low > -BAR else "does not hold" if seen.high < -BAR else "undecided"
