"""A run's checkpoints examined as they are made, and the best one named at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from studio import checkpoints, choice_exam, choice_plot, choice_words
from studio.choice import Marks, Ranking
from studio.choice_exam import Exam
from studio.choice_file import NAME, Ledger
from studio.choice_judges import judge
from studio.choice_weights import holding, usable
from studio.config import RunConfig
from studio.evaluation.gallery import How
from studio.evaluation.sets import fill
from studio.pipelines.errors import StudioError
from studio.pipelines.weights import digest
from studio.snapshot import randomness, set_randomness

if TYPE_CHECKING:
    from studio.session import Session

PROBLEMS = (StudioError, torch.OutOfMemoryError, OSError)  # the run goes on, unscored
PLOT = "choice.png"


def wanted(config: RunConfig) -> bool:
    """Whether checkpoints are scored."""
    settings = config.settings
    several = 0 < settings.save_every < settings.steps
    return settings.choice.score == "always" or settings.choice.score == "auto" and several and config.model != "toy"


def regular(config: RunConfig, step: int) -> bool:
    """Whether a checkpoint on the way is one that is kept, not one that only the clock asked for."""
    return config.settings.save_every > 0 and step % config.settings.save_every == 0


def begin(session: Session) -> Chooser | None:
    """The base model examined, before training; None where nothing is to be chosen, or it cannot be."""
    if not wanted(session.config):
        return None
    try:
        chooser = Chooser(session, exam(session))
        chooser.begin(1)
        chooser.base(session.config.settings.choice.seeds)
    except PROBLEMS as problem:
        session.journal("warning", message=f"checkpoints are not scored: {problem}")
        return None
    for note in chooser.exam.judge.notes:
        session.journal("message", message=note)
    return chooser


def exam(session: Session) -> Exam:
    """What a run's checkpoints are asked. Raises ModelError and DataError where nobody can score them."""
    config, data, model = session.config, session.dataset, session.model
    choice, shots = config.settings.choice, config.settings.previews
    groups = choice_exam.held_out(choice, config.model, data.trigger, data.class_word, data.captions)
    plain = [fill(prompt.plain or prompt.text, data.class_word) for prompt in groups[0].prompts]
    how, base = How.of(shots.drawing), How.of(shots.base_drawing)
    by, folder = judge(model, config.model, config.settings, plain), session.run.folder / "choice"
    called = (data.trigger, data.class_word)
    return Exam(model, config.model, by, groups, how, folder, *called, plain=base if base != how else None)


@dataclass
class Chooser:
    """Keeps the marks in choice.json. off: scoring failed, and was given up; picked: what is exported in the place
    of the last step's adapter.
    """

    session: Session
    exam: Exam
    ledger: Ledger = field(init=False)
    off: bool = False
    picked: Marks | None = None
    round: int = 0
    rounds: int = 1
    since: float = 0.0

    def __post_init__(self) -> None:
        found, exam = Ledger.read(self.session.run.folder / NAME), self.exam.fingerprint()
        self.ledger = found if found.exam == exam else Ledger(exam)
        self.ledger.about = {
            "judge": self.exam.judge.name,
            "prompts": [prompt.text for prompt in self.exam.sets[0].prompts],
            "notes": self.exam.judge.notes,
        }
        self.choice = self.session.config.settings.choice
        self.run, self.journal = self.session.run, self.session.journal

    def base(self, seeds: int) -> Marks:
        """The base model's marks, and the scale that they make."""
        self.round += 1
        self.draw(0, 1.0, seeds, "the base model")
        marks = self.exam.marks(0, 1.0, seeds)
        self.ledger.scale = self.exam.scale(marks, seeds, self.choice.identity)
        self.ledger.put(marks)
        return marks

    @contextmanager
    def careful(self) -> Iterator[None]:
        """Inside, what fails costs the scores, never the run; the random state is left as it was."""
        before = randomness()
        try:
            yield
        except PROBLEMS as problem:
            self.off = True
            self.journal("warning", message=f"checkpoints are not scored any more: {problem}")
        finally:
            set_randomness(before)

    def knows(self, step: int) -> bool:
        """Whether a step's checkpoint was scored."""
        return (step, 1.0) in self.ledger.marks

    def see(self, step: int) -> None:
        """Examine what the adapter holds now as the checkpoint of a step, and mark the best so far."""
        if self.off:
            return
        with self.careful():
            self.ledger.forget(step, digest(self.session.adapter.state_dict()))
            self.begin(1)
            self.measure(step, 1.0, self.choice.seeds, self.called(step))
            curve = self.curve(step)
            self.keep(curve)
            here = next(number for number, marks in enumerate(curve.marks) if marks.step == step)
            best = curve.marks[curve.pick()]
            said = f"{choice_words.line(curve.marks[here], curve)}; best so far: {best.label}"
            self.journal("score", message=said, data=curve.row(here) | {"best": best.step})
            self.mark(best.step)

    def begin(self, rounds: int) -> None:
        """So many candidates are to be drawn, one after the other."""
        self.round, self.rounds, self.since = 0, rounds, time.time()

    def draw(self, step: int, strength: float, seeds: int, what: str) -> None:
        """A candidate's pictures; their progress says what they are of, and which of how many it is."""
        place = {"what": what, "round": self.round, "rounds": self.rounds, "since": round(self.since, 3)}
        self.session.count("score", self.exam.draw(step, strength, seeds), **place)

    def called(self, step: int) -> str:
        """`checkpoint 2 of 3`: a step among those at which checkpoints are kept, the last step with them."""
        settings = self.session.config.settings
        every = settings.save_every or settings.steps
        return f"checkpoint {math.ceil(step / every)} of {math.ceil(settings.steps / every)}"

    def measure(self, step: int, strength: float, seeds: int, what: str) -> Marks:
        """A candidate's marks, drawn unless they are known. The adapter holds its weights now."""
        self.round += 1
        found = self.ledger.get(step, strength, seeds * self.exam.prompts)
        if found is None:
            self.draw(step, strength, seeds, what)
            found = self.exam.marks(step, strength, seeds)
            self.ledger.put(found)
        return found

    def curve(self, now: int) -> Ranking:
        """The checkpoints that are there, and the step that is now, at strength 1."""
        steps = sorted({*checkpoints.steps(self.run.checkpoints), now})
        pictures = self.choice.seeds * self.exam.prompts
        found = [marks for step in steps if (marks := self.ledger.get(step, 1.0, pictures))]
        return self.ranking(found)

    def ranking(self, marks: list[Marks]) -> Ranking:
        """Candidates of equally many pictures."""
        return Ranking(marks, self.ledger.scale, self.exam.prompts)

    def keep(self, ranking: Ranking) -> None:
        """Write choice.json."""
        self.ledger.rank(ranking)
        self.journal.patiently(lambda: self.run.write(NAME, self.ledger.to_json()))

    def mark(self, step: int) -> None:
        """Mark the best checkpoint, which keep_best then keeps."""
        path = checkpoints.steps(self.run.checkpoints).get(step)
        if path is not None:
            with suppress(OSError):
                checkpoints.mark(path, checkpoints.BEST)

    def decide(self, last: int) -> Marks:
        """Score all with the final number of pictures, try strengths of the leaders, and name the recommended one."""
        self.ledger.forget(last, digest(self.session.adapter.state_dict()))
        kept, seeds = usable(self.run.checkpoints), max(self.choice.seeds, self.choice.final_seeds)
        found: list[Marks] = []
        steps = sorted({*kept, last})
        others = self.choice.strengths if getattr(self.session.adapter, "holds_strength", True) else ()
        self.begin(1 + len(steps) + min(self.choice.leaders, len(steps)) * len({*others} - {1.0}))
        base = self.base(seeds)
        for number, step in enumerate(steps, 1):
            with self.weights(step, last, kept):
                found.append(self.measure(step, 1.0, seeds, f"checkpoint {number} of {len(steps)}"))
        curve = self.ranking(found)
        for one in curve.leaders(self.choice.leaders):
            step = curve.marks[one].step
            with self.weights(step, last, kept):
                for strength in sorted({*others} - {1.0}):
                    found.append(self.measure(step, strength, seeds, f"step {step} at strength {strength:g}"))
        final = self.ranking(found)
        self.tell(curve, final, base)
        return final.marks[final.pick()]

    def tell(self, curve: Ranking, final: Ranking, base: Marks) -> None:
        """The recommendation: in choice.json, as a picture, as an event, and as a mark."""
        one, about = final.pick(), Ranking([base], self.ledger.scale).means
        doubt = choice_words.doubt(final, float(about["points"][0]))
        reason = "; ".join(filter(None, [choice_words.reason(curve, final), doubt]))
        self.ledger.picked = {**final.row(one), "reason": reason, "exported": self.choice.pick}
        self.keep(final)
        known, path = (float(about["identity"][0]), float(about["prompt"][0])), self.run.folder / PLOT
        self.journal.patiently(lambda: choice_plot.plot(final, known, self.run.name, path))
        self.journal("choice", message=f"recommended: {reason}", path=PLOT, data=final.row(one))
        self.mark(final.marks[one].step)

    def weights(self, step: int, last: int, kept: dict[int, Any]) -> AbstractContextManager[None]:
        """Inside, the adapter holds a step's weights; it holds the last one's already."""
        session = self.session
        if step == last:
            return nullcontext()
        return holding(session.config.settings, session.model, session.adapter, kept[step])

    def header(self) -> dict[str, str]:
        """What an exported file says about where its weights are from."""
        picked = self.picked
        return {"step": str(picked.step), "strength": f"{picked.strength:g}"} if picked is not None else {}


@contextmanager
def concluded(session: Session, last: int) -> Iterator[bool]:
    """Names the best; inside, the adapter is what is to be exported. Yields whether that is not the last step's."""
    chooser = session.chooser
    with ExitStack() as held:
        if chooser is not None and not chooser.off:
            with chooser.careful():
                best = chooser.decide(last)
            if not chooser.off and chooser.choice.pick:
                chooser.picked = best
                kept = usable(session.run.checkpoints) if best.step != last else {}
                held.enter_context(chooser.weights(best.step, last, kept))
                held.enter_context(session.adapter.folded(best.strength))
        yield chooser is not None and chooser.picked is not None and chooser.picked.order != (last, 1.0)
