"""The small held-out examination of checkpoints: prompts with fixed seeds, drawn, kept as pictures, and scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from studio.choice import Marks, Scale
from studio.choice_judges import Judge
from studio.evaluation import sets
from studio.evaluation.gallery import Drawn, Gallery, How
from studio.evaluation.records import Source
from studio.evaluation.sets import Prompt, PromptSet
from studio.pipelines.encoders.base import content
from studio.pipelines.errors import DataError
from studio.pipelines.protocols import Backbone
from studio.trainers.base import Choice

ASKED, CLASS = "choice", "class"
FIRST_SEED = 500  # another than previews (0 ...) and `studio evaluate` (1000 ...) begin with
EACH, WITHOUT = 4, 2  # prompts of each kind; class prompts
KINDS = ("recontext", "attribute")


@dataclass
class Exam:
    """What every candidate is asked. folder: where its pictures are kept; trigger, class_word: how it is called.

    The base model is asked for its class alone, as it does not know the trigger. plain: how its pictures are drawn,
    where that is another way than the candidates'.
    """

    model: Backbone
    name: str
    judge: Judge
    sets: Sequence[PromptSet]
    how: How
    folder: Path | None
    trigger: str
    class_word: str
    first: int = FIRST_SEED
    plain: How | None = None
    base: dict[int, Drawn] = field(default_factory=dict)

    def draw(self, step: int, strength: float, seeds: int) -> Iterator[tuple[int, int]]:
        """Draw a candidate's pictures, unless they are there; (done, total). The adapter holds its weights now."""
        label = f"{step:06}-{strength:g}" if step else "base"
        source = Source(label, self.name, "", strength, step, self.trigger if step else "", self.class_word)
        rows = sets.wanted(self.sets, range(self.first, self.first + seeds), source.trigger, self.class_word)
        how = self.how if step or self.plain is None else self.plain
        self.gallery = Gallery(self.model, source, rows, how, self.folder, frozenset([CLASS]))
        yield from self.gallery.run()
        if not step:
            self.base[seeds] = self.gallery.result()

    def marks(self, step: int, strength: float, seeds: int) -> Marks:
        """The marks of what was just drawn; the base model's pictures of as many seeds were drawn before."""
        drawn = self.gallery.result()
        rows = asked(drawn)
        plain = [drawn.wanted[row].plain for row in rows]
        pictures = drawn.batch(rows)
        identity, prompt = self.judge.identity(pictures, plain), self.judge.prompt(pictures, plain)
        drift = self.drift(drawn, self.base[seeds]) if step else 0.0
        return Marks(step, strength, tuple(identity), tuple(prompt), drift)

    def drift(self, drawn: Drawn, base: Drawn) -> float:
        """1 - cosine of the class's pictures, asked for without the trigger, to the base model's of the same seeds."""
        rows = drawn.rows(CLASS)
        if not rows:
            return float("nan")
        view = self.judge.views[0]
        ours, theirs = (view(list(one.batch(rows))).cpu() for one in (drawn, base))
        return float((1 - (ours * theirs).sum(-1)).mean())

    def scale(self, marks: Marks, seeds: int, weight: float = 1.0) -> Scale:
        """From the base model's marks. weight: of identity."""
        drawn = self.base[seeds]
        rows = asked(drawn)
        plain = [drawn.wanted[row].plain for row in rows]
        return Scale.of(marks, self.judge.ceiling(plain), self.judge.scale(drawn.batch(rows), plain), weight)

    @property
    def prompts(self) -> int:
        """How many prompts ask for the subject: pictures come seed by seed."""
        return len(self.sets[0].prompts)

    def fingerprint(self) -> str:
        """Numbers of two exams may be compared where it is the same."""
        asked = [group.model_dump(mode="json") for group in self.sets]
        known = [content(picture) for picture in self.judge.material(self.sets[0].prompts[0].text)]
        how = [str(self.how)] + ([str(self.plain)] if self.plain is not None else [])
        words = [asked, self.first, *how, self.judge.name, known, self.trigger, self.class_word]
        said = json.dumps([*words, self.model.fingerprint(), str(self.model.dtype)])
        return hashlib.sha256(said.encode()).hexdigest()


def asked(drawn: Drawn) -> list[int]:
    """The rows that ask for the subject, seed by seed: more seeds only add to their end."""
    return sorted(drawn.rows(None), key=lambda row: (drawn.wanted[row].seed, drawn.wanted[row].number))


def held_out(choice: Choice, model: str, trigger: str, class_word: str, captions: Sequence[str]) -> list[PromptSet]:
    """The sets of an exam: a person's prompts or some of `studio evaluate`, none of them a caption of the data."""
    shipped = {group.name: group for group in sets.shipped(model, sets.kind_of(class_word))}
    prompts = [Prompt(text=text) for text in choice.prompts]
    known = {" ".join(caption.lower().split()) for caption in captions}

    def fresh(prompt: Prompt) -> bool:
        called = sets.fill(prompt.text, f"{trigger} {class_word}")
        return called.lower() not in known

    if stale := next((prompt.text for prompt in prompts if not fresh(prompt)), ""):
        raise DataError(
            f"choice.prompts: '{stale}' is a caption of the data, where a copy scores best; ask for another"
        )
    if not prompts:
        for kind in KINDS:
            prompts += [prompt for prompt in shipped[kind].prompts if fresh(prompt)][:EACH] if kind in shipped else []
    if not prompts:
        raise DataError("every held-out prompt is a caption of the data: give others, choice.prompts = [...]")
    without = shipped[CLASS].prompts[:WITHOUT] if CLASS in shipped and class_word else ()
    groups = [PromptSet(name=ASKED, prompts=tuple(prompts))]
    return groups + ([PromptSet(name=CLASS, prompts=without, trigger=False)] if without else [])
