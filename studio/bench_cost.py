"""`python -m studio.bench cost`: step time and peak memory of each method of a comparison over DreamBooth's LoRA."""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from studio import loop, memory, plan_time, registry, snapshot, start, subjects
from studio.bench import seconds
from studio.compare_config import read
from studio.compare_experiments import Method
from studio.config import RunConfig, make, merge
from studio.peaks import Peaks
from studio.pipelines import attention, backbone
from studio.pipelines.cache import Cache, Embeddings
from studio.pipelines.data import DataStream
from studio.pipelines.errors import UsageError
from studio.precision import dtype

FIRST = "DreamBooth"  # what the others are held against
LIKE = "ClassDiffusion"
TWIN = f"{FIRST} with the layers and token of {LIKE}"
BOUNDS = {"T-LoRA": 1.15, "vanilla T-LoRA": 1.15, "ClassDiffusion": 1.10, "DCO": 1.40}
SUBJECT, WARM, MEMORY_STEPS = "fox", 3, 4
BETA = 60.0  # as its trial finds it on the embedded model


HEAD = """\
# What a step of each method costs

`{command}`: ratios to {first} (LoRA) with the same model, pictures and batch. Time of a step: median and quartiles
over rounds that the methods take in turn in one process. Peak memory: of a process of its own while it trains, whole,
and what it adds to the loaded model.

"""
TAIL = """
T-LoRA with its orthogonal start has two products of rank R in every layer where LoRA has one, W x + U M (Q - Q0) x +
(U - U0) M Q0 x: the frozen copy of the start is subtracted under each sample's own mask, so no weight can hold it. The
vanilla one has no copy. The narrower a layer beside R, the more that counts; the embedded model's have 64 to 256
channels. ClassDiffusion learns keys and values of the cross-attention alone and a token, as published; the others every
layer. What its own loss costs is seen beside DreamBooth with the same layers and token: both wait for the text encoder.
SaRA's gradients are those of its chosen entries: full fine-tuning's memory is what dense ones take.
"""


@dataclass(frozen=True)
class Case:
    """What is trained on. pixels: of the pictures; 0: the model's own."""

    model: str = "embedded"
    batch: int = 4
    pixels: int = 0

    @property
    def shipped(self) -> bool:
        """Whether it is the model that the page is written for."""
        return self.model == "embedded"


@dataclass(frozen=True)
class Peak:
    """Bytes of a process: once the model is loaded, and at most while it trains."""

    loaded: int
    most: int


def configs(file: Path, case: Case, only: Collection[str] = ()) -> dict[str, RunConfig]:
    """A run's config per method of a comparison, `FIRST` first; those with class pictures are left out.

    only: names of the methods beside it; empty: all. Raises UsageError where one of them is not there.
    """
    comparison = read(file)
    found: dict[str, RunConfig] = {}
    for experiment in comparison.experiments:
        for method in experiment.method:
            shared = merge(comparison.base, experiment.settings)
            config = of(method, merge(shared, method.settings), case)
            if not getattr(getattr(config.settings, "prior", None), "weight", 0):
                found.setdefault(method.name, config)
    if FIRST not in found:
        raise UsageError(f"{file}: no method is called {FIRST}")
    if strange := next((name for name in only if name not in found), ""):
        raise UsageError(f"{file}: no method is called {strange}{registry.nearest(strange, found)}")
    found = {name: found[name] for name in (FIRST, *found) if not only or name in (FIRST, *only)}
    return {**found, TWIN: twin(found[FIRST], found[LIKE])} if LIKE in found else found


def twin(first: RunConfig, like: RunConfig) -> RunConfig:
    """The first method with the layers and the new token of another one: beside it, what that one's loss costs."""
    other = like.settings
    own = {"adapter": {"targets": other.adapter.targets}, "tokens": {"words": other.tokens.words}}
    flags = {"model": first.model, "settings": merge(first.settings.model_dump(exclude_unset=True), own)}
    return subjects.resolve(make(first.trainer, flags=flags))


def of(method: Method, settings: dict[str, Any], case: Case) -> RunConfig:
    """The config of one method on one subject, without an end."""
    own: dict[str, Any] = {"steps": 10**6, "batch": case.batch, "data": {"folder": f"subject:{SUBJECT}"}}
    own["data"] |= {"resolution": case.pixels} if case.pixels else {}
    own |= {"beta": BETA} if method.trainer == "dco" else {}  # no trial: its plain steps are not what is asked for
    flags = {"model": case.model, "settings": merge(settings, own)}
    return subjects.resolve(make(method.trainer, flags=flags))


def steps(config: RunConfig, folder: Path, loaded: list[int] | None = None) -> Iterator[Any]:
    """One item per optimizer step of the studio's loop. loaded: takes the process's bytes once the model is there."""
    settings, device = config.settings, plan_time.default_device()
    model = backbone.load(config.model, device, dtype(settings, device))
    attention.install(model.net, settings.attention)
    cache = Cache(folder)
    if loaded is not None:
        loaded.append(memory.held(device))
    dataset = settings.data.read(model)
    snapshot.seed(0)
    adapter = start.adapter(settings, model, dataset)
    stream = DataStream(model, dataset, batch=settings.batch, seed=0, cache=cache)
    for _ in stream.fill():
        pass
    if not adapter.trains_text:
        model.embed = Embeddings(model, cache.folder)  # type: ignore[method-assign]
    kept: dict[str, Any] = {}
    losses = registry.trainer(config.trainer).losses(settings, model, adapter, stream, kept)
    yield from loop.train(settings, model, adapter, losses, kept, data=stream)


def times(found: dict[str, RunConfig], count: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Seconds per step of each method in every round; in every second round in the other order."""
    sides = {name: steps(config, folder) for name, config in found.items()}
    for side in sides.values():
        seconds(side, WARM)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            taken[name].append(seconds(sides[name], count) / count)
    return taken


def peak(file: Path, name: str, case: Case) -> Peak:
    """Memory of one method, in a process of its own."""
    words = [sys.executable, "-m", "studio.bench_cost", str(file), name, json.dumps(vars(case))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"{name}: {said.removeprefix(f'{UsageError.__module__}.UsageError: ')}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def train(file: Path, name: str, case: Case) -> Peak:
    """A few steps of one method in this process, watched."""
    config, loaded = configs(file, case)[name], list[int]()
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        side = steps(config, folder, loaded)
        next(side)  # everything is loaded and encoded
        peaks = Peaks(plan_time.default_device())
        peaks.enter("train")
        for _ in islice(side, MEMORY_STEPS):
            pass
        peaks.end()
    return Peak(loaded[0], peaks.found["train"])


def page(taken: dict[str, list[float]], peaks: dict[str, Peak], command: str, tail: str = TAIL) -> Iterator[str]:
    """The lines of the page."""
    yield from HEAD.format(command=command, first=FIRST).splitlines()
    yield "| method | step time | quartiles | bound | peak memory | above the model |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name, mine in taken.items():
        middle, low, high = ratios(mine, taken[FIRST])
        kept = verdict(name, middle)
        here, first = peaks.get(name), peaks.get(FIRST)
        sizes = ["", ""] if here is None or first is None else relative(here, first)
        yield f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {kept} | {' | '.join(sizes)} |"
    if TWIN in taken:
        middle, low, high = ratios(taken[LIKE], taken[TWIN])
        yield from ("", f"{LIKE} beside {TWIN}: {middle:.2f}, {low:.2f} to {high:.2f}, {verdict(LIKE, middle)}.")
    yield from tail.rstrip().splitlines()


def verdict(name: str, ratio: float) -> str:
    """Whether a method's bound is kept; "" where it has none."""
    bound = BOUNDS.get(name)
    return "" if bound is None else f"<= {bound:.2f}: {'kept' if ratio <= bound else 'broken'}"


def ratios(mine: Sequence[float], first: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles of the ratio, round by round."""
    found = sorted(a / b for a, b in zip(mine, first, strict=True))
    return statistics.median(found), found[len(found) // 4], found[-1 - len(found) // 4]


def relative(mine: Peak, first: Peak) -> list[str]:
    """Whole, and above what the loaded model takes."""
    above = max(1, first.most - first.loaded)
    return [f"{mine.most / first.most:.2f}", f"{(mine.most - mine.loaded) / above:.2f}"]


def run(
    file: Path, case: Case, count: int, rounds: int, out: Path, console: Console, only: Collection[str] = ()
) -> None:
    """Measure, print and write `out` / cost.md, or cost_NAME.md of another model than the embedded one.

    A method that cannot be measured is said and left out. Raises UsageError where that is `FIRST`.
    """
    found = configs(file, case, only)
    peaks: dict[str, Peak] = {}
    for name in list(found):
        try:
            peaks[name] = peak(file, name, case)
        except UsageError as problem:
            if name == FIRST:  # the others are held against it: no page, and the old one stays
                raise
            console.print(f"left out: {problem}")
            del found[name]
    with tempfile.TemporaryDirectory() as folder:
        taken = times(found, count, rounds, Path(folder))
    lines = list(page(taken, peaks, command(case, count, rounds, only), TAIL if case.shipped else ""))
    out.mkdir(parents=True, exist_ok=True)
    file = out / ("cost.md" if case.shipped else f"cost_{Path(case.model).name}.md")
    file.write_text("\n".join(lines) + "\n", "utf-8")
    console.print("\n".join(lines), markup=False)


def command(case: Case, count: int, rounds: int, only: Collection[str]) -> str:
    """What makes the same page."""
    words = [] if case.shipped else ["--model", Path(case.model).name]
    words += ["--batch", str(case.batch), *(["--pixels", str(case.pixels)] if case.pixels else [])]
    words += ["--steps", str(count), "--rounds", str(rounds), *(["--methods", *only] if only else [])]
    return shlex.join(["python", "-m", "studio.bench", "cost", *words])


if __name__ == "__main__":
    file, name, case = sys.argv[1:]
    print(json.dumps(vars(train(Path(file), name, Case(**json.loads(case))))))
