"""What a run's checkpoints are worth: pictures of its held-out prompts with fixed seeds, scored by several judges.

The numbers are kept in the run's folder, `measured.json`, row by row: what is there is not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from studio import start
from studio.bench_reward_cells import Cell
from studio.bench_reward_config import Drawing
from studio.bench_reward_curves import looked
from studio.bench_reward_sheet import FILE, FRESH, Row, Sheet, grouped
from studio.choice_weights import holding, usable
from studio.evaluation import references
from studio.pipelines import attention, backbone, reward_guard_variety, rewards, sampling
from studio.pipelines.guidance import cfg
from studio.pipelines.guidance_hearing import hearing, hears
from studio.pipelines.protocols import Backbone
from studio.precision import preferred

__all__ = ["FILE", "FRESH", "Row", "Sheet", "draw", "measure", "wanted"]


@dataclass
class Eye:
    """Draws and scores with what the model's adapter is at the moment."""

    cell: Cell
    model: Backbone
    prompts: Sequence[str]
    references: list[Tensor]
    reward: rewards.Reward
    variety: Callable[[Tensor, Sequence[str]], dict[str, float]]

    def look(self, step: int, sampler_steps: int, kind: str) -> Row:
        """One row. Pictures of a prompt have seeds that no other prompt's have."""
        asked, how = self.cell.study.measure, self.cell.about.draw
        count, first = (asked.fresh, asked.fresh_seed) if kind == FRESH else (asked.pictures, asked.seed)
        prompts = [prompt for prompt in self.prompts for _ in range(count)]
        seeds = list(range(first, first + len(prompts)))
        how = how.model_copy(update={"steps": sampler_steps})
        began, busy = time.monotonic(), time.process_time()
        pictures = torch.cat(list(draw(self.model, how, prompts, seeds, asked.batch)))
        took, worked = time.monotonic() - began, time.process_time() - busy
        took = min(took, worked) if self.model.device.type == "cpu" else took  # others use the cores
        seconds = took / len(prompts)
        with torch.no_grad():
            scored = self.reward(pictures, prompts, self.references or None)
        numbers = {name: float(values[values.isfinite()].double().mean()) for name, values in scored.raw.items()}
        each = {name: grouped(values.double().tolist(), count) for name, values in scored.raw.items()}
        return Row(step, sampler_steps, kind, numbers | self.variety(pictures, prompts), seconds, len(prompts), each)


def measure(cell: Cell, say: Callable[[str], None]) -> Sheet:
    """Every checkpoint of a finished cell that has no row yet, and its start."""
    sheet = Sheet.read(cell.run)
    if not cell.about.measured:
        return sheet
    missing = [place for place in wanted(cell) if sheet.get(*place) is None]
    if borrowed := [row for place in missing if (row := of_another_seed(cell, *place))]:
        sheet.rows += borrowed
        sheet.write(cell.run)
        missing = [place for place in missing if sheet.get(*place) is None]
    if not missing:
        return sheet
    config = cell.run.config()
    model = backbone.load(config.model, *preferred())
    attention.install(model.net, config.settings.attention)
    dataset = config.settings.data.read(model)
    torch.manual_seed(0)
    adapter = start.adapter(config.settings, model, dataset)
    eye = sight(cell, model, dataset)
    at = usable(cell.run.checkpoints)
    for step in sorted({place[0] for place in missing}):
        held = holding(config.settings, model, adapter, at[step]) if step else nullcontext()
        with held, adapter.merged():
            for place in missing:
                if place[0] == step:
                    sheet.rows.append(eye.look(*place))
                    sheet.write(cell.run)
                    say(f"{cell.name}: step {step}, {place[1]} sampler steps {place[2]}: {said(sheet.rows[-1])}")
    return sheet


def wanted(cell: Cell) -> list[tuple[int, int, str]]:
    """(optimizer steps, sampler steps, kind) of every row that a finished cell should have."""
    steps, how = [0, *usable(cell.run.checkpoints)], cell.about.draw
    rows = [(step, how.steps, "") for step in steps]
    rows += [(step, other, "") for step in (steps[0], steps[-1]) for other in cell.about.also]
    again: set[int] = set()  # where a guard has looked, pictures that it has not seen
    for hack in cell.study.hack:
        again |= {0, *looked(cell.run.events(), hack.held_out), steps[-1]} if cell.recipe == hack.run else set()
        again |= {0, steps[-1]} if cell.recipe == hack.free else set()
    return rows + [(step, how.steps, FRESH) for step in sorted(again & set(steps))]


def of_another_seed(cell: Cell, step: int, sampler_steps: int, kind: str) -> Row | None:
    """The row of a start that is the same for every seed, where another one has it."""
    if step or cell.before is not None:
        return None
    others = [replace(cell, seed=seed) for seed in cell.study.seeds if seed != cell.seed]
    rows = (Sheet.read(other.run).get(step, sampler_steps, kind) for other in others)
    return next((row for row in rows if row is not None), None)


def sight(cell: Cell, model: Backbone, dataset: Any) -> Eye:
    """What looks at a cell: its held-out prompts, and its subject's pictures that nothing was trained on."""
    settings: Any = cell.run.config().settings
    ours = cell.study.model == "embedded"
    _, held_out = settings.prompts.read(dataset, ours)
    folder = settings.data.folder
    near = references.gather(None, folder, ours).references if folder is not None else []
    terms = [term for term in cell.study.measure.terms if near or not needs(term, model)]
    reward = rewards.build(rewards.Rewards(terms=tuple(terms)), model.device, model.dtype)
    return Eye(cell, model, held_out, near, reward, reward_guard_variety.variety(ours, model.device))


def needs(term: str, model: Backbone) -> bool:
    """Whether a term compares with references."""
    return "references" in rewards.build(rewards.Rewards(terms=(term,)), model.device, model.dtype).needs


def draw(model: Backbone, how: Drawing, prompts: Sequence[str], seeds: Sequence[int], batch: int) -> Iterator[Tensor]:
    """Pictures `[B, 3, H, W]` in 0..1, batch by batch, as `sampling.sample` has them, with DDIM's eta besides."""
    schedule = sampling.schedule(model, how.sampler, how.steps, eta=how.eta)
    scale, listen = 1.0 if hears(model) else how.guidance_scale, hearing(model, how.guidance_scale)
    for first in range(0, len(prompts), batch):
        rows = slice(first, first + batch)
        with torch.no_grad(), sampling.evaluating(model):
            guide = cfg(scale, model.embed([""]))
            cond, generators = model.embed(list(prompts[rows])), sampling.seeded(seeds[rows])
            x = sampling.start(model, generators)
            for step in sampling.walk(schedule, guide(listen(model.predict)), x, cond, generators):
                x = step.next
            yield model.decode(x).float().div(2).add(0.5).clamp(0, 1).cpu()


def said(row: Row) -> str:
    """A row's numbers in a line."""
    return ", ".join(f"{name} {value:.3g}" for name, value in row.numbers.items())
