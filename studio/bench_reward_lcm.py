"""How much prompt accuracy the embedded few-step adapter keeps: its 4 steps beside the model's own 25 with guidance.

The prompts are those of `assets/prompts/embedded.toml`, with several stated attributes each, about animals that no run
of rewards is trained on. All ways draw the same prompts from the same noise. The control is the model without the
adapter: in as many steps, and in as many calls of the network, of which guidance takes two a step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from math import nan
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from torch import Tensor

from studio import start
from studio.bench_reward_config import Drawing
from studio.bench_reward_measure import draw
from studio.evaluation import bootstrap, sets
from studio.evaluation.bootstrap import Interval
from studio.pipelines import attention, backbone, data_prompts, drawing
from studio.pipelines.adapters import files
from studio.pipelines.assets import assets_folder
from studio.pipelines.encoders.base import batches
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone
from studio.pipelines.scorers import embedded
from studio.pipelines.scorers._stated import Reader
from studio.precision import preferred
from studio.trainers.rewarded import Settings

FILE = "lcm.json"
TEACHER, STUDENT, SAME_STEPS, SAME_CALLS = "teacher", "4 steps", "DDIM, 4 steps", "DDIM, 2 steps"
BAR = 0.05  # how far the share may lie below the teacher's
LEAST = 3  # seeds
SAMPLER, OTHER = "tcd", "lcm"  # what the adapter's file says, and what people know best
FEW = {  # with the adapter
    "1 step": (SAMPLER, 1), "2 steps": (SAMPLER, 2), STUDENT: (SAMPLER, 4), "8 steps": (SAMPLER, 8),
    "4 steps by LCM's sampler": (OTHER, 4),
}  # fmt: skip
WAYS = {TEACHER: Drawing(steps=25), SAME_STEPS: Drawing(steps=4), SAME_CALLS: Drawing(steps=2),
        **{way: Drawing(sampler=name, steps=n, guidance_scale=1.0) for way, (name, n) in FEW.items()}}  # fmt: skip
ANIMALS = 8  # of each prompt: all that are held out
FIRST_SEED = 70000
MINUTES = 9.0


@dataclass(frozen=True)
class Drawn:
    """One way and seed. shares: of what each picture's prompt states, how much is seen; seconds: of one picture; kinds:
    by kind of attribute 1 or 0 for each picture, seen or not, NaN where its prompt states none of that kind.
    """

    way: str
    seed: int
    shares: list[float]
    seconds: float
    kinds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rows(self) -> list[tuple[str, float]]:
        """Each picture's prompt and share."""
        return list(zip(prompts(), self.shares, strict=True))


def run(out: Path, seeds: Sequence[int], console: Console) -> int:
    """Every way and seed that is not in `out` / lcm.json yet; the exit code."""
    found = read(out)
    if not (missing := missed(found, seeds)):
        return 0
    model = backbone.load("embedded", *preferred())
    attention.install(model.net, "auto")
    adapter = files.load(model, few_step())
    for seed, way in missing:
        with ExitStack() as held:
            held.enter_context(adapter.merged() if way in FEW else adapter.off())
            found.append(one(model, way, seed))
        write(out, found)
        console.print(f"lcm: seed {seed}, {way}: {fmean(found[-1].shares):.3f}, {found[-1].seconds:.3f} s a picture")
    return 0


def missed(found: Sequence[Drawn], seeds: Sequence[int]) -> list[tuple[int, str]]:
    """The seeds and ways that are not there yet."""
    there = {(one.seed, one.way) for one in found}
    return [(seed, way) for seed in seeds for way in WAYS if (seed, way) not in there]


def few_step() -> Path:
    """The embedded model's adapter for few steps. Raises UsageError where there is none."""
    place = start.file(Settings(start=Path(drawing.EMBEDDED)))
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
    wanted, seen = read_back(pictures, texts, model)
    shares = [embedded.share(want, saw) for want, saw in zip(wanted, seen, strict=True)]
    kinds = {
        kind: [float(saw[kind] == want[kind]) if kind in want else nan for want, saw in zip(wanted, seen, strict=True)]
        for kind in sorted({kind for want in wanted for kind in want})
    }
    return Drawn(way, seed, shares, seconds, kinds)


def read_back(
    pictures: Tensor, texts: Sequence[str], model: Backbone
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """What each prompt states, and what the attribute classifier says of its picture, by kind."""
    found = embedded.build(embedded.Config(), model.device, model.dtype)
    sight = next(one.sight for one in found if isinstance(one, embedded.StatedAttributes))
    judges, framing = sight.loaded.model, sight.loaded.framing
    seen = [row for chunk in batches(list(pictures)) for row in judges.attributes.read(framing(chunk).to(model.device))]
    return [Reader(judges.attributes.answers)(text) for text in texts], seen


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
    yield "**The embedded few-step adapter** (`lcm:embedded`) beside the model's own 25 DDIM steps at guidance 4, and"
    yield "beside the model without the adapter in as many steps and in as many calls of the network. It is drawn as"
    yield f"its file says, by {SAMPLER.upper()}'s sampler, but where the table says otherwise: share of what"
    yield f"{len(prompts())} prompts about {ANIMALS} animals state that the attribute classifier sees, noise seeds"
    yield f"{seeds}. Intervals by a bootstrap over prompts; differences are picture by picture, from the same noise."
    yield "`assets/base/README.md` has those of captions about all that the model knows: others, most in one step."
    yield from ("", "| drawn with | calls | accuracy | less the teacher | seconds a picture |", "|---|--:|--:|--:|--:|")
    for way, how in WAYS.items():
        rows = [one for one in found if one.way == way]
        value = interval([row for one in rows for row in one.rows])
        gap = "" if way == TEACHER else said(less(found, way), "+")
        calls = how.steps * (2 if how.guidance_scale > 1 else 1)
        seconds = fmean([one.seconds for one in rows] or [0.0])
        yield f"| {named(way)} | {calls} | {said(value)} | {gap} | {seconds:.3f} |"
    yield from ("", *conclusion(found), "", *by_kind(found))


def named(way: str) -> str:
    """A way in the words of the table."""
    return (
        f"adapter, {way}" if way in FEW else "DDIM, 25 steps: the teacher" if way == TEACHER else f"{way}, no adapter"
    )


def conclusion(found: Sequence[Drawn]) -> Iterator[str]:
    """What is judged, and what the adapter is worth: the bar alone says nothing about it where the control is near."""
    yield f"- **{verdict(found)}**: the bar that is judged, {STUDENT} with the adapter within {100 * BAR:g} points of"
    yield "  the teacher."
    for way, word in ((SAME_STEPS, "as many steps, twice the calls"), (SAME_CALLS, "as many calls")):
        control, over = less(found, way), less(found, STUDENT, way)
        if control.n and over.n:
            yield f"- The control, {named(way)} ({word}), lies {said(control, '+')} from the teacher:"
            yield f"  alone it {near(control)}."
            yield f"  The adapter in {STUDENT} is better than it by {said(over, '+')}."


def near(seen: Interval) -> str:
    """Whether a difference from the teacher is within the bar, in words."""
    if seen.low > -BAR:
        return "is within the bar too, which then does not show what the adapter is worth"
    return "is not within the bar" if seen.high < -BAR else "may or may not be within the bar"


def by_kind(found: Sequence[Drawn]) -> Iterator[str]:
    """The accuracy of each kind of attribute."""
    kinds = sorted({kind for one in found for kind in one.kinds})
    if not kinds:
        return
    yield f"| by kind | {' | '.join(kinds)} |"
    yield f"|---|{'--:|' * len(kinds)}"
    for way in WAYS:
        rows = [one for one in found if one.way == way]
        cells = [
            interval([row for one in rows for row in zip(prompts(), one.kinds.get(kind, ()), strict=False)])
            for kind in kinds
        ]
        yield f"| {named(way)} | {' | '.join(map(said, cells))} |"
    yield ""


def interval(rows: Sequence[tuple[str, float]]) -> Interval:
    """The mean of (prompt, value) rows."""
    return bootstrap.interval([value for _, value in rows], [prompt for prompt, _ in rows])


def said(seen: Interval, sign: str = "") -> str:
    """`0.812 [0.790, 0.834]`; "" for none."""
    return f"{seen.value:{sign}.3f} [{seen.low:{sign}.3f}, {seen.high:{sign}.3f}]" if seen.n else ""


def less(found: Sequence[Drawn], way: str, other: str = TEACHER) -> Interval:
    """A way's shares less those of another for the same prompt and noise."""
    table = {(one.way, one.seed): one for one in found}
    both = [(one, table[other, one.seed]) for one in found if one.way == way and (other, one.seed) in table]
    pairs = [pair for one, second in both for pair in zip(one.rows, second.rows, strict=True)]
    return interval([(prompt, mine - theirs) for (prompt, mine), (_, theirs) in pairs])


def verdict(found: Sequence[Drawn]) -> str:
    """Whether the student is near enough, by the interval of the difference."""
    seen = less(found, STUDENT)
    if not seen.n:
        return "no data yet"
    if len({one.seed for one in found if one.way == STUDENT}) < LEAST:
        return "undecided"
    return "holds" if seen.low > -BAR else "does not hold" if seen.high < -BAR else "undecided"
