"""The personal measures over drawn pictures: identity, diversity, copies, drift, leak, prompt accuracy, captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from studio.evaluation import bootstrap, personal, personal_copies, personal_prior, personal_words, scoring
from studio.evaluation.gallery import Drawn
from studio.evaluation.personal import Eye
from studio.evaluation.personal_copies import Shelf
from studio.evaluation.records import Pair
from studio.evaluation.references import Material
from studio.evaluation.scoring import Column, Panel

Found = personal.Measured


@dataclass
class Traits:
    """The measures of one source after another, against the same material. notes go to the panel."""

    panel: Panel
    material: Material
    shelf: Shelf | None = None

    def columns(self, drawn: Drawn, base: Drawn | None) -> tuple[list[Column], list[Pair]]:
        """One source's columns, and its pictures beside the training pictures nearest to them."""
        found: list[Column] = []
        pairs: list[Pair] = []
        for name, make in (
            ("diversity", lambda eye: self.diversity(eye, drawn)),  # first: in large batches, which the eye remembers
            ("identity", lambda eye: self.identity(eye, drawn)),
            ("copy risk", lambda eye: self.copies(eye, drawn, pairs)),
            ("prior drift", lambda eye: self.drift(eye, drawn, base)),
            ("trigger leak", lambda eye: self.leak(eye, drawn, base)),
        ):
            if (eye := self.panel.eye) is not None:
                found += self.panel.attempt(name, lambda make=make, eye=eye: list(make(eye))) or []  # type: ignore[misc]
        if self.panel.read is not None:
            found += self.panel.attempt("prompt accuracy", lambda: list(self.accuracy(drawn))) or []
        if self.panel.captioner is not None:
            found += self.panel.attempt("caption round trip", lambda: list(self.captions(drawn))) or []
        return found, pairs

    def identity(self, eye: Eye, drawn: Drawn) -> Iterator[Column]:
        """Mean and largest similarity to the references, for all pictures."""
        rows = list(range(len(drawn.wanted)))
        for measured in self.likeness(eye, drawn, rows) if self.material.references else []:
            yield from self.spread(drawn, rows, measured)

    def likeness(self, eye: Eye, drawn: Drawn, rows: Sequence[int]) -> list[Found]:
        """`personal.identity` of some rows, each held against the references that suit its prompt."""
        material = self.material
        found = joined(rows, (
            (part, personal.identity(eye, list(drawn.batch(part)), material.near(ground), material.trained_on))
            for ground, part in scoring.chunks(drawn, rows, material)
        ))  # fmt: skip
        return [replace(one, notes=()) for one in found]  # what they are held against is in the material's own notes

    def diversity(self, eye: Eye, drawn: Drawn) -> Iterator[Column]:
        """How different the pictures of a prompt are."""
        rows = list(range(len(drawn.wanted)))
        keys = [f"{one.set} {one.number}" for one in drawn.wanted]
        found = joined(rows, (
            (part, [personal.diversity(eye, list(drawn.batch(part)), [keys[row] for row in part])])
            for _, part in scoring.chunks(drawn, rows, None)
        ))  # fmt: skip
        yield from self.spread(drawn, rows, found[0])

    def copies(self, eye: Eye, drawn: Drawn, pairs: list[Pair]) -> Iterator[Column]:
        """The nearest training picture of each picture."""
        material, rows = self.material, list(range(len(drawn.wanted)))
        if not material.training:
            return
        if self.shelf is None:
            self.shelf = personal_copies.shelf(eye, material.training, material.training_names, material.references)
        bound, flagged = self.shelf.bound, 0
        parts: list[tuple[list[int], list[Found]]] = []
        for _, part in scoring.chunks(drawn, rows, None):
            found = personal_copies.copies(eye, list(drawn.batch(part)), self.shelf, part)
            pairs += found.pairs
            flagged += sum(pair.similarity >= bound for pair in found.pairs)
            parts.append((part, [found.similarity, found.flagged]))
        for measured in joined(rows, parts):
            yield from self.spread(drawn, rows, replace(measured, notes=(self.shelf.note,)))
        if flagged:
            said = f"{flagged} of {len(rows)} pictures look like copies of training pictures: look at the pairs"
            self.panel.note(f"{drawn.source.label}: {said}")

    def drift(self, eye: Eye, drawn: Drawn, base: Drawn | None) -> Iterator[Column]:
        """How far pictures without the trigger went from the base model's."""
        rows, theirs = paired(drawn, base, called=False)
        if base is not None and rows:
            other = dict(zip(rows, theirs, strict=True))
            found = joined(rows, (
                (part, [personal_prior.drift(eye, list(drawn.batch(part)), list(base.batch([other[r] for r in part])))])
                for _, part in scoring.chunks(drawn, rows, None)
            ))  # fmt: skip
            yield from self.spread(drawn, rows, found[0])

    def leak(self, eye: Eye, drawn: Drawn, base: Drawn | None) -> Iterator[Column]:
        """How much of the subject comes without its trigger."""
        (called, base_called), (silent, base_silent) = (paired(drawn, base, called=c) for c in (True, False))
        if base is None or not called or not silent or not self.material.references:
            return
        sides = [(drawn, called), (base, base_called), (drawn, silent), (base, base_silent)]
        with_trigger, base_with, without, base_without = (self.likeness(eye, side, rows)[0] for side, rows in sides)
        share, bare = (
            replace(found, notes=tuple(f"{drawn.source.label}: {note}" for note in found.notes))
            for found in personal_prior.leak(with_trigger, base_with, without, base_without)
        )
        added = personal_prior.differences(with_trigger, base_with)
        extra = dict(zip(silent, bare.values, strict=True))
        for column in self.spread(drawn, silent, share):
            above = [extra[row] for row in column.rows]
            seen = bootstrap.ratio(above, prompts(drawn, column.rows), added, prompts(drawn, called))
            yield replace(column, ends=(seen.low, seen.high) if share.mean == share.mean else None)
        yield from self.spread(drawn, silent, bare)

    def accuracy(self, drawn: Drawn) -> Iterator[Column]:
        """Whether the judges read in the pictures what the prompts wish."""
        from studio.evaluation.personal_wishes import wishes
        from studio.pipelines.scorers._stated import spoken

        rows = [row for row, picture in enumerate(drawn.pictures) if picture is not None]
        wanted = [wishes(drawn.wanted[row].plain, drawn.source.class_word) for row in rows]
        if rows and self.panel.read is not None:
            read = self.panel.read(drawn.batch(rows))
            for row, answers, asked in zip(rows, read, wanted, strict=True):
                plain = drawn.wanted[row].plain
                unmet = [name for name, word in asked.items() if personal_words.share(answers, {name: word}) < 1]
                if unmet:
                    self.panel.missing[drawn.made[row].file] = [spoken(plain, name, asked[name]) for name in unmet]
            yield from self.spread(drawn, rows, personal_words.accuracy(read, wanted, "embedded judges"))

    def captions(self, drawn: Drawn) -> Iterator[Column]:
        """What a captioner says of the pictures, beside what they were asked to show."""
        rows = list(range(len(drawn.wanted)))
        prompts = [one.plain for one in drawn.wanted]
        if self.panel.captioner is None or self.panel.reader is None:
            return
        said = personal_words.describe(self.panel.captioner, list(drawn.batch(rows)))
        who = getattr(self.panel.captioner, "id", self.panel.captioner_id)  # a commit is known once it was read
        for found in personal_words.round_trip(said, prompts, self.panel.reader, who):
            yield from self.spread(drawn, rows, found)

    def spread(self, drawn: Drawn, rows: Sequence[int], found: Found) -> Iterator[Column]:
        """A measure as columns: of each set, and of all that call the subject."""
        for note in found.notes:
            self.panel.note(note)
        values = dict(zip(rows, found.values, strict=True))
        for name in ("", *dict.fromkeys(one.set for one in drawn.wanted)):
            if mine := [row for row in drawn.rows(name or None) if row in values]:
                yield Column(found.about, name, tuple(mine), tuple(values[row] for row in mine))


def joined(rows: Sequence[int], parts: Iterable[tuple[Sequence[int], Sequence[Found]]]) -> list[Found]:
    """Measures taken of some rows at a time, as measures of all, in the order of `rows`."""
    found: list[Found] = []
    values: list[dict[int, float]] = []
    for part, measured in parts:
        found = found or list(measured)
        values = values or [{} for _ in measured]
        for kept, one in zip(values, measured, strict=True):
            kept |= dict(zip(part, one.values, strict=True))
    return [replace(one, values=tuple(kept[row] for row in rows)) for one, kept in zip(found, values, strict=True)]


def prompts(drawn: Drawn, rows: Sequence[int]) -> list[tuple[str, int]]:
    """Whose picture each row is."""
    return [(drawn.wanted[row].set, drawn.wanted[row].number) for row in rows]


def paired(drawn: Drawn, base: Drawn | None, called: bool) -> tuple[list[int], list[int]]:
    """Rows of a source and of its base model for the same prompts and seeds, with or without the trigger."""
    if base is None:
        return [], []
    places = {place(one): row for row, one in enumerate(base.wanted)}
    mine = [row for row, one in enumerate(drawn.wanted) if (one.set not in drawn.uncalled) == called]
    mine = [row for row in mine if place(drawn.wanted[row]) in places]
    return mine, [places[place(drawn.wanted[row])] for row in mine]


def place(one: object) -> tuple[object, ...]:
    """What pairs a picture with the base model's."""
    return tuple(getattr(one, name) for name in ("set", "template", "seed"))
