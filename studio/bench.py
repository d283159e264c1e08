"""Benchmarks, as ratios against a baseline run side by side: `python -m studio.bench loop|attention|subjects|...`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

from studio import loop, registry
from studio.config import make
from studio.pipelines import attention, backbone
from studio.pipelines.errors import StudioError
from studio.pipelines.protocols import Backbone, Batch
from studio.precision import dtype


@dataclass(frozen=True)
class Bench:
    """Measure something and print it as a ratio with its spread."""

    name: tyro.conf.Positional[
        Literal["loop", "attention", "subjects", "peer", "kills", "plan", "evaluate", "choice", "methods", "cost"]
    ]
    """loop: ours over a bare one; attention: kernels over SDPA; subjects: what is learned; peer: diffusers' script;
    kills: runs killed anywhere end with the same bits; plan: predicted against measured memory; evaluate: seconds
    of an evaluation over one picture at a time; choice: is the recommended checkpoint the best (three hours); methods:
    the page of a finished or unfinished `studio compare` of methods; cost: a step of each method over DreamBooth's."""
    model: str = "embedded"
    """The model to measure on."""
    batch: int = 4
    """Pictures per step."""
    steps: int = 20
    """Steps per round."""
    rounds: int = 9
    """Rounds of each side, taken in turn."""
    subjects: tuple[str, ...] = ("fox", "dog", "penguin", "octopus", "rocket", "dragon")
    """For `subjects`: which ones."""
    seeds: tuple[int, ...] = (0, 1)
    """For `subjects`: which seeds."""
    script: Annotated[Path, tyro.conf.arg(help="For `peer`: diffusers' train_dreambooth_lora.py of its release")] = (
        Path("train_dreambooth_lora.py")
    )
    kills: int = 300
    """For `kills`: at random moments."""
    faults: int | None = None
    """For `kills`: how many faults at file operations; without it, every one at every operation (an hour or two)."""
    out: Path = Path("build/bench")
    """Where `subjects` and `peer` keep their runs, and `kills` puts its kills.md."""
    config: Path = Path("assets/configs/methods.toml")
    """For `methods` and `cost`: the comparison's config."""
    runs: Path = Path("runs")
    """For `methods`: where `studio compare` keeps the runs."""
    pixels: int = 0
    """For `cost`: of the pictures; 0: the model's own."""
    methods: tuple[str, ...] = ()
    """For `cost`: names of the methods beside DreamBooth; without it, all of the comparison."""
    pages: Path = Path("assets/benchmarks")
    """For `methods` and `cost`: where the page goes."""


@dataclass
class Same:
    """A stream that hands out one batch for ever, with a fresh generator each time."""

    batch: dict[str, Any]
    position: int = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.position += 1
            yield Batch(**self.batch, generator=torch.Generator().manual_seed(self.position))


@dataclass
class Setup:
    """A model with an adapter, a batch and a trainer, fresh for one side of a comparison."""

    bench: Bench
    model: Backbone = field(init=False)

    def __post_init__(self) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        flags = {"model": self.bench.model, "settings": {"steps": 10**6, "batch": self.bench.batch}}
        self.settings = make("dreambooth", flags=flags).settings
        self.model = backbone.load(self.bench.model, device, dtype(self.settings, device))
        attention.install(self.model.net, "auto")
        torch.manual_seed(0)
        self.adapter = self.settings.adapter.build(self.model)
        prompts = ["a sks fox on a red background"] * self.bench.batch
        with torch.no_grad():
            cond = self.model.embed(prompts)
        self.model.embed = lambda prompts: cond  # type: ignore[method-assign]
        shape = (self.bench.batch, *self.model.latent_shape(self.model.pixels, self.model.pixels))
        about = {
            "latents": torch.randn(shape, device=device), "prompts": prompts, "masks": None, "ids": prompts,
            "prior": torch.zeros(len(prompts), dtype=torch.bool), "weights": torch.ones(len(prompts), device=device),
        }  # fmt: skip
        self.losses = registry.trainer("dreambooth").losses(self.settings, self.model, self.adapter, Same(about), {})

    def ours(self) -> Iterator[Any]:
        """One item per step of the studio's loop."""
        yield from loop.train(self.settings, self.model, self.adapter, self.losses, {})

    def bare(self) -> Iterator[Any]:
        """One item per step of the shortest loop that does the same arithmetic."""
        parameters = self.adapter.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=self.settings.lr, weight_decay=self.settings.weight_decay)
        kind, half = self.model.device.type, self.model.dtype
        while True:
            with torch.autocast(kind, half, enabled=half != torch.float32, cache_enabled=False):
                loss = next(self.losses)
            loss.value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield float(loss.value.detach())


def seconds(steps: Iterator[Any], count: int) -> float:
    """Wall seconds of the next `count` steps."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in islice(steps, count):
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def bench_loop(bench: Bench, console: Console) -> None:
    """Wall time per step of our loop over a bare loop, in turn in one process."""
    ours, bare = Setup(bench).ours(), Setup(bench).bare()
    for side in (ours, bare):
        seconds(side, 3)
    pairs = []
    for number in range(bench.rounds):
        order = (ours, bare) if number % 2 else (bare, ours)
        taken = {side is ours: seconds(side, bench.steps) for side in order}
        pairs.append((taken[True], taken[False]))
    ratios = sorted(a / b for a, b in pairs)
    best = min(a for a, _ in pairs) / min(b for _, b in pairs)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    per_step = statistics.median(a for a, _ in pairs) / bench.steps * 1000
    console.print(
        f"loop / bare on {bench.model}, batch {bench.batch}: median {statistics.median(ratios):.3f}, "
        f"quartiles {low:.3f} to {high:.3f}, fastest over fastest {best:.3f}; {per_step:.1f} ms per step, "
        f"{bench.rounds} rounds of {bench.steps} steps"
    )


def bench_attention(bench: Bench, console: Console) -> None:
    """Every attention implementation over SDPA."""
    from studio.kernels import bench as kernels

    kernels.main()


def bench_subjects(bench: Bench, console: Console) -> None:
    """Subject similarity and prompt accuracy of a demo run per subject and seed, beside the base model."""
    from studio import bench_subjects as found

    found.run(bench.subjects, bench.seeds, bench.out, console)


def bench_peer(bench: Bench, console: Console) -> None:
    """Steps per second and peak memory of diffusers' own script and of ours, on the same model, data and settings."""
    from studio import bench_peer as found

    found.run(bench.script, bench.model, bench.batch, bench.steps, bench.rounds, bench.out, console)


def bench_kills(bench: Bench, console: Console) -> None:
    """Runs killed at random moments and at file operations, held against an undisturbed one."""
    from studio import bench_kills as found

    found.run(bench.kills, bench.faults, bench.seeds[0], bench.out, console)


def bench_plan(bench: Bench, console: Console) -> None:
    """Predicted against measured peak memory of the demo with several settings."""
    from studio import bench_plan as found

    found.run(console)


def bench_evaluate(bench: Bench, console: Console) -> None:
    """Seconds of one evaluation, and the ratio to one picture at a time."""
    from studio import bench_evaluate as found

    found.run(bench.model, bench.out, console)


def bench_choice(bench: Bench, console: Console) -> None:
    """The recommended checkpoint against the best one by ten times as many pictures."""
    from studio import bench_choice as found

    found.run(found.Bench(subjects=bench.subjects, seeds=bench.seeds, out=bench.out / "choice"), console)


def bench_methods(bench: Bench, console: Console) -> None:
    """The papers' orderings, from what `studio compare` has of them."""
    from studio import bench_methods as found

    found.run(bench.config, bench.runs, bench.pages, console)


def bench_cost(bench: Bench, console: Console) -> None:
    """Step time and peak memory of each method over DreamBooth's LoRA."""
    from studio import bench_cost as found

    case = found.Case(bench.model, bench.batch, bench.pixels)
    found.run(bench.config, case, bench.steps, bench.rounds, bench.pages, console, bench.methods)


RUN: dict[str, Callable[[Bench, Console], None]] = {
    "loop": bench_loop, "attention": bench_attention, "subjects": bench_subjects, "peer": bench_peer,
    "kills": bench_kills, "plan": bench_plan, "evaluate": bench_evaluate, "choice": bench_choice,
    "methods": bench_methods, "cost": bench_cost,
}  # fmt: skip


def main() -> int:
    """Run one benchmark."""
    bench = tyro.cli(Bench, prog="python -m studio.bench", description=__doc__)
    try:
        RUN[bench.name](bench, Console(width=120))
    except StudioError as problem:
        print(f"studio: error: {problem}", file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
