"""Further pictures by adapters that a comparison has trained: under a guidance, or with a style's adapter added.

`python -m studio.methods_draw COMPARISON.toml RUNS EXPERIMENT SEED`; `studio compare` starts it. It keeps what it has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from studio import compare, compare_prices, subjects
from studio.compare_cells import Cell
from studio.compare_experiments import Draw, Experiment
from studio.compare_files import write
from studio.evaluation import measuring, scoring, sets
from studio.evaluation.gallery import How
from studio.evaluation.panel import Panel, panel
from studio.evaluation.records import Source
from studio.evaluation.references import Material, gather
from studio.evaluation.sets import PromptSet, Wanted
from studio.methods_guided import Guided
from studio.methods_orderings import STYLE
from studio.methods_values import DRAWS, IDENTITY
from studio.pipelines import assets, attention, backbone
from studio.pipelines.adapters import files
from studio.pipelines.assets import assets_folder
from studio.pipelines.errors import StudioError, UsageError
from studio.pipelines.protocols import Backbone
from studio.precision import preferred
from studio.sample import words


@dataclass
class Drawing:
    """All draws of one experiment and one seed. model, judges: loaded once."""

    study: compare.Study
    experiment: Experiment
    seed: int
    model: Backbone
    judges: Panel

    @property
    def file(self) -> Path:
        """What is known."""
        return self.study.folder / DRAWS / f"{self.experiment.name}-seed-{self.seed}.json"

    def run(self) -> None:
        """Everything that is not there yet; written after every adapter, failures said and left out."""
        known = read(self.file)
        for cell, draw in self.wanted():
            key = f"{draw.name} | {cell.name}"
            if key in known and not adapter(cell).is_file():  # restored by `bench_records`
                continue
            try:
                found = self.one(cell, draw, known.get(key, {}))
            except StudioError as problem:
                print(f"studio: {key}: {problem}", file=sys.stderr)
                continue
            known[key] = found
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write(self.file.parent, self.file.name, json.dumps(known) + "\n")

    def wanted(self) -> list[tuple[Cell, Draw]]:
        """Which finished adapter draws what, adapter by adapter."""
        uses = [(cell, draw) for cell in self.study.cells for draw in self.experiment.draw
                if cell.seed == self.seed and (self.experiment.name, draw.of) in cell.uses]  # fmt: skip
        uses = [(cell, draw) for cell, draw in uses if cell.name not in self.study.refused]
        return [(cell, draw) for cell, draw in uses if cell.run.state(cell.steps) == "done"]

    def one(self, cell: Cell, draw: Draw, known: dict[str, Any]) -> dict[str, Any]:
        """One adapter's numbers for one draw. known: what an earlier start wrote about it."""
        style = self.style(draw)
        about = [
            draw.model_dump(mode="json"),
            *(digest(one) for one in (cell, style) if one),
            self.prompts_hash,
            asdict(self.how),
        ]
        if known.get("stamp") == about:
            return known
        header = words(files.header(adapter(cell)))
        source = Source(
            f"{cell.name} {draw.name}",
            cell.config.model,
            cell.name,
            trigger=header["trigger"],
            class_word=header["class_word"],
        )
        place = subjects.folder(cell.subject)
        near = gather(place / "reference", cell.config.settings.data.folder, cell.config.model == "embedded")
        with ExitStack() as held:
            if style:
                held.enter_context(added(self.model, adapter(style)))
            if not draw.alone:
                held.callback(files.load(self.model, adapter(cell)).remove)
            folder = self.study.folder / DRAWS / self.experiment.name
            more = [digest(style)] if style else []
            made = Guided(
                self.model, source, self.asked(draw, header), self.how, folder, guiding=draw.guidance, more=more
            )
            for _ in made.run():
                pass
        drawn = made.result()
        columns = measuring.judge([drawn], self.judges, near)[0].columns
        rows = [(draw.name, one.about.name, one) for one in columns if one.set and one.about.per != "set"]
        for scorer in self.judges.scorers if style else ():
            if style and scorer.about.name == IDENTITY:
                look = scoring.columns(scorer, drawn, self.of_style(style), None)
                rows += [(draw.name, STYLE, one) for one in look if one.set]
        values = [
            [label, number, [cell.subject, cell.seed, wish.set, wish.template, wish.seed], value]
            for label, number, column in rows
            for wish, value in zip((drawn.wanted[row] for row in column.rows), column.values, strict=True)
            if value == value
        ]
        return {"stamp": json.loads(json.dumps(about)), "rows": values}

    def style(self, draw: Draw) -> Cell | None:
        """Whose adapter is added: the k-th seed takes the k-th of the other experiment's subjects.

        Raises UsageError while it is not trained.
        """
        if not draw.beside:
            return None
        name, _, label = draw.beside.partition(": ")
        cells = [cell for cell in self.study.cells if (name, label) in cell.uses]
        there = list(dict.fromkeys(cell.subject for cell in cells))
        turn = list(self.study.comparison.seeds).index(self.seed)
        mine = next(cell for cell in cells if cell.subject == there[turn % len(there)])
        if mine.run.state(mine.steps) != "done":
            raise UsageError(f"{mine.name} is not trained")
        return mine

    def asked(self, draw: Draw, said: dict[str, str]) -> list[Wanted]:
        """The pictures; a style alone is not told the subject's trigger, a subject alone not the style's words."""
        numbers = sets.seeds(self.study.comparison.evaluation.seeds or 1)
        rows = sets.wanted(self.prompts, numbers, said["trigger"], said["class_word"])
        called = f"{said['trigger']} {said['class_word']}"
        plain = {(one.name, prompt.text): prompt.plain or prompt.text for one in self.prompts for prompt in one.prompts}
        if draw.alone:
            return [replace(row, prompt=sets.fill(row.template, said["class_word"])) for row in rows]
        if self.experiment.prompts and not draw.beside:
            return [replace(row, prompt=sets.fill(plain[row.set, row.template], called)) for row in rows]
        return rows

    @property
    def prompts(self) -> list[PromptSet]:
        """The experiment's own, or the usual ones that call the subject."""
        if self.experiment.prompts:
            return sets.read(assets_folder() / "prompts" / f"{self.experiment.prompts}.toml")
        usual = sets.choose(sets.shipped(self.study.comparison.model, "live"), self.study.comparison.evaluation.sets)
        return [one for one in usual if one.trigger]

    @property
    def prompts_hash(self) -> str:
        """Of the prompts and their number."""
        return sets.fingerprint(self.prompts, sets.seeds(self.study.comparison.evaluation.seeds or 1))

    @property
    def how(self) -> How:
        """As the cells' own evaluation draws."""
        judging, model = self.study.comparison.evaluation, self.study.comparison.model
        advised = assets.recommended(model).get("settings", {}).get("previews", {}).get("guidance_scale", 5.0)
        return How(judging.steps or 20, judging.guidance_scale or float(advised))

    def of_style(self, style: Cell) -> Material:
        """A style's own drawings."""
        return gather(subjects.folder(style.subject) / "reference", None)


def read(file: Path) -> dict[str, dict[str, Any]]:
    """What was written; {} where nothing was."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


def adapter(cell: Cell) -> Path:
    """What a cell learned."""
    return cell.run.folder / files.NAME


def digest(cell: Cell) -> str:
    """sha256 of what it learned. Raises UsageError where only its records are left."""
    if not adapter(cell).is_file():
        raise UsageError(f"{adapter(cell)} is gone: remove {cell.run.folder} to train it again")
    return sha256(adapter(cell).read_bytes()).hexdigest()


def kept(now: Tensor, before: Tensor) -> Tensor:
    """What a weight holds: itself where nothing changed it."""
    return before if now.data_ptr() == before.data_ptr() else now.clone()


@contextmanager
def added(model: Backbone, file: Path) -> Iterator[None]:
    """Inside, the frozen network holds an adapter's update; afterwards its weights are the tensors that they were.

    Raises UsageError for an adapter that trains text encoders: what it learned there would be lost.
    """
    weights: list[nn.Parameter] = list(model.net.parameters())
    before = [weight.data for weight in weights]
    one = files.load(model, file)
    try:
        if one.trains_text:
            raise UsageError(f"{file} trains text encoders: it cannot be added to the network alone")
        with one.merged():
            after = [kept(weight.data, old) for weight, old in zip(weights, before, strict=True)]
    finally:
        one.remove()
    try:
        for weight, data in zip(weights, after, strict=True):
            weight.data = data
        yield
    finally:
        for weight, data in zip(weights, before, strict=True):
            weight.data = data


def main(arguments: list[str]) -> int:
    """Draw what one experiment and seed want; the exit code."""
    file, runs, name, seed = arguments
    try:
        study = compare.Study.of(Path(file), Path(runs))
        study.prices = compare_prices.plain(study.cells)
        study.budgeted()
        experiment = next(one for one in study.comparison.experiments if one.name == name)
        device, dtype = preferred()
        model = backbone.load(study.comparison.model, device, dtype)
        attention.install(model.net, "auto")
        judges = panel(study.comparison.evaluation.scorers, study.comparison.model, device, dtype)
        Drawing(study, experiment, int(seed), model, judges).run()
    except StudioError as problem:
        print(f"studio: error: {problem}", file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
