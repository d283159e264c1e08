"""Is the recommended checkpoint the best one? Runs on embedded subjects, and the truth about each of their checkpoints.

The truth: exact attribute accuracy + identity by the judges, in percentage points of each, on many more pictures, of
prompts in other words and with other seeds; and the same as points (`studio.choice`), which weigh what the base model
reaches by itself. `python -m studio.bench_choice --help` names what can be varied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from studio import choice_file
from studio.choice import Array, Ranking
from studio.choice_exam import Exam
from studio.choice_file import Ledger
from studio.choice_judges import embedded
from studio.choice_weights import holding, usable
from studio.config import layer, make
from studio.evaluation import references, sets
from studio.evaluation.gallery import How
from studio.evaluation.sets import Prompt, PromptSet
from studio.flags import demo
from studio.pipelines import attention, backbone
from studio.precision import preferred
from studio.store import Run
from studio.train import train

FIRST_SEED = 5000
NEAR = 2.0
SUM, POINTS = "attribute accuracy + identity", "points"
FILE = "truth.json"
PROMPTS = (
    "a {subject} in front of a blue wall",
    "a {subject} in front of a green wall",
    "a {subject} in front of a black wall",
    "a {subject} in front of a pink wall",
    "a {subject} with a brown background",
    "a {subject} with an orange background",
    "a {subject} with a gray background",
    "a {subject} with a teal background",
    "a small {subject} in front of a gray wall",
    "a large {subject} in front of a green wall",
    "a small {subject} with a blue background",
    "a large {subject} with a black background",
    "a small {subject} on the left with a brown background",
    "a small {subject} on the right with a green background",
    "a small {subject} on the left in front of an orange wall",
    "a small {subject} on the right in front of a blue wall",
)


@dataclass(frozen=True)
class Bench:
    """Train, let the studio choose, measure the truth, compare. The same command goes on where it was stopped."""

    subjects: tuple[str, ...] = ("fox", "dog", "penguin", "octopus", "rocket", "dragon")
    """Embedded subjects."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the runs."""
    lrs: tuple[float, ...] = (1e-3, 3e-3)
    """Learning rates."""
    steps: int = 300
    """Steps of each run."""
    save_every: int = 50
    """Steps between its checkpoints."""
    truth: int = 10
    """Pictures per prompt for the truth; there are 16 prompts."""
    prompts: int = len(PROMPTS)
    """How many of the prompts the truth has."""
    each: int = 2
    """Pictures per prompt that the studio scores each checkpoint with; there are 8 prompts."""
    final: int = 2
    """Pictures per prompt that it decides with."""
    sampler_steps: int = 12
    """Steps of every picture's sampler."""
    out: Path = Path("build/bench/choice")
    """Where the runs are kept."""


@dataclass(frozen=True)
class Found:
    """One run: what was recommended, and how good its checkpoints truly are.

    ours: our points by checkpoint; true: by kind of truth, the same; taken: the recommended strength's, by kind.
    """

    run: str
    step: int
    strength: float
    steps: list[int]
    ours: Array
    true: dict[str, Array]
    taken: dict[str, float]

    def regret(self, kind: str) -> float:
        """How far the recommended checkpoint is below the best one, both at strength 1."""
        return float(self.true[kind].max() - self.true[kind][self.steps.index(self.step)])

    def regret_taken(self, kind: str) -> float:
        """The same, with the recommended strength."""
        return float(self.true[kind].max() - self.taken[kind])

    def correlation(self, kind: str) -> float:
        """Spearman's, of our points and the truth."""
        return spearman(self.ours, self.true[kind])


def run(bench: Bench, console: Console) -> list[Found]:
    """Every subject, seed and learning rate, with a table at the end."""
    found = []
    for subject, seed, lr in cells(bench):
        flags = {
            "run": f"{subject}-{seed}-{lr:g}", "runs": bench.out, "seed": seed,
            "settings": {
                "steps": bench.steps, "save_every": bench.save_every, "lr": lr,
                "choice": {"score": "always", "seeds": bench.each, "final_seeds": bench.final},
                "previews": {"steps": bench.sampler_steps}, "data": {"folder": f"subject:{subject}"},
            },
        }  # fmt: skip
        folder = train(make(toml=layer(demo()), flags=flags, file=str(demo())))
        found.append(compare(Run(folder), bench, console))
        console.print(words(found[-1]))
    report(found, console)
    return found


def cells(bench: Bench) -> Iterator[tuple[str, int, float]]:
    """Subject, seed, learning rate; all subjects once before any comes again."""
    for lr in bench.lrs:
        for seed in bench.seeds:
            for subject in bench.subjects:
                yield subject, seed, lr


def compare(run: Run, bench: Bench, console: Console) -> Found:
    """A finished run's recommendation beside the truth."""
    said, known = choice_file.recommended(run.folder), Ledger.read(run.folder / choice_file.NAME)
    step, strength = int(said["step"]), float(said["strength"])
    ours = {row["step"]: row["points"] for row in known.table if row["strength"] == 1}
    truth = measure(run, bench, (step, strength), console)
    everything = Ranking([marks for marks in truth.marks.values() if marks.step], truth.scale, bench.prompts)
    means, orders = everything.means, [marks.order for marks in everything.marks]
    worth = {SUM: 100 * (means["identity"] + means["prompt"]), POINTS: means["points"]}
    steps = sorted(ours)
    true = {kind: np.array([values[orders.index((s, 1.0))] for s in steps]) for kind, values in worth.items()}
    taken = {kind: float(values[orders.index((step, strength))]) for kind, values in worth.items()}
    return Found(run.name, step, strength, steps, np.array([ours[s] for s in steps]), true, taken)


def measure(run: Run, bench: Bench, picked: tuple[int, float], console: Console) -> Ledger:
    """The truth about a run's checkpoints, kept in its folder."""
    config = run.config()
    model = backbone.load(config.model, *preferred())
    attention.install(model.net, config.settings.attention)
    adapter, exam = config.settings.adapter.build(model), examination(run, bench, model)
    held, fingerprint = Ledger.read(run.folder / FILE), exam.fingerprint()
    held = held if held.exam == fingerprint else Ledger(fingerprint)
    through(exam.draw(0, 1.0, bench.truth))
    held.put(exam.marks(0, 1.0, bench.truth))
    held.scale = exam.scale(held.marks[0, 1.0], bench.truth)
    for step, checkpoint in usable(run.checkpoints).items():
        with holding(config.settings, model, adapter, checkpoint):
            for strength in sorted({1.0, *([picked[1]] if picked[0] == step else [])}):
                if held.get(step, strength, bench.truth * exam.prompts) is None:
                    through(exam.draw(step, strength, bench.truth))
                    held.put(exam.marks(step, strength, bench.truth))
                    run.write(FILE, held.to_json())
                    console.print(f"{run.name}: step {step} at strength {strength:g} measured")
    return held


def examination(run: Run, bench: Bench, model: backbone.Backbone) -> Exam:
    """Other words, other seeds, more pictures, and the classifier's answers themselves."""
    config = run.config()
    data, shots = config.settings.data, config.settings.previews
    prompts = PROMPTS[: bench.prompts]
    pictures = [picture[:3] for picture in references.gather(None, data.folder).references]
    plain = [sets.fill(text, data.class_word) for text in prompts]
    judge = embedded(model.device, pictures, data, plain, sure=True)
    asked = PromptSet(name="truth", prompts=tuple(Prompt(text=text) for text in prompts))
    how = How(shots.steps, shots.guidance_scale)
    return Exam(model, config.model, judge, [asked], how, None, data.trigger, data.class_word, FIRST_SEED)


def through(steps: Iterator[tuple[int, int]]) -> None:
    """Nobody looks at this progress."""
    for _ in steps:
        pass


def spearman(one: Array, other: Array) -> float:
    """Spearman's rank correlation, equals with their mean rank; NaN where all are equal."""
    ranks = [np.array([(row < v).sum() + ((row == v).sum() - 1) / 2 for v in row]) for row in (one, other)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def words(found: Found) -> str:
    """One run in a line."""
    true = ", ".join(f"{step}: {worth:.1f}" for step, worth in zip(found.steps, found.true[SUM], strict=True))
    return (
        f"{found.run}: recommended step {found.step}, {found.regret(SUM):.1f} under the best; rank correlation "
        f"{found.correlation(SUM):.2f}; at strength {found.strength:g} {found.taken[SUM]:.1f}; truth {true}"
    )


def report(found: Sequence[Found], console: Console) -> None:
    """The table, and the figures that count."""
    table = Table("run", "recommended", "best", "under the best", "in points", "strength", "over the best", "Spearman")
    for one in found:
        best = one.steps[int(one.true[SUM].argmax())]
        table.add_row(
            one.run, str(one.step), str(best), f"{one.regret(SUM):.1f}", f"{one.regret(POINTS):.1f}",
            f"{one.strength:g}", f"{-one.regret_taken(SUM):.1f}", f"{one.correlation(SUM):.2f}",
        )  # fmt: skip
    console.print(table)
    for kind in (SUM, POINTS):
        console.print(f"truth: {kind}")
        sides = {
            "the recommended checkpoint": [one.regret(kind) for one in found],
            "it at the recommended strength": [one.regret_taken(kind) for one in found],
            "the last checkpoint": [float(one.true[kind].max() - one.true[kind][-1]) for one in found],
        }
        for name, regrets in sides.items():
            near = sum(regret <= NEAR for regret in regrets)
            console.print(
                f"{name}: within {NEAR:g} of the best checkpoint in {near} of {len(found)} runs "
                f"({near / len(found):.0%}); under it: median {np.median(regrets):.1f}, most {max(regrets):.1f}"
            )
        ranks = np.array([one.correlation(kind) for one in found])
        ranks = ranks[np.isfinite(ranks)]
        if ranks.size:
            console.print(f"rank correlation: median {np.median(ranks):.2f}, least {ranks.min():.2f}, n {ranks.size}")


def main() -> None:
    """`python -m studio.bench_choice`."""
    run(tyro.cli(Bench, prog="python -m studio.bench_choice", description=__doc__), Console(width=120))


if __name__ == "__main__":
    main()
