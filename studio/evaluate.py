"""`studio evaluate`: how good runs and adapter files are beside their base model, each number with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

import studio
from studio import cores
from studio.evaluation import again, gallery, homes, manner, picking, sets, table, targets
from studio.evaluation.homes import Home
from studio.evaluation.measuring import (
    Drawn,
    How,
    Material,
    Measured,
    Panel,
    assemble,
    draw,
    judge,
    measure,
    panel,
    repeated,
)
from studio.evaluation.panel import resolved
from studio.evaluation.records import Evaluation
from studio.evaluation.references import gather
from studio.evaluation.request import Request
from studio.evaluation.sets import PromptSet
from studio.evaluation.targets import Target
from studio.journal import Journal, Report
from studio.pipelines import attention, backbone
from studio.pipelines.adapters import files, writing
from studio.pipelines.errors import DataError, UsageError
from studio.pipelines.protocols import Backbone
from studio.precision import preferred
from studio.stop import listening

__all__ = ["Drawn", "How", "Material", "Measured", "Panel", "Request", "assemble", "evaluate", "measure", "panel"]

USUAL = Request()


@dataclass
class Work:
    """One evaluation at work. sources: as they were given; place: where it is written, once everything is checked;
    hows: how each source is drawn, by label.
    """

    request: Request
    targets: list[Target]
    journal: Journal
    sources: Sequence[str] = ()
    place: Home | None = None
    kept: dict[str, Tensor | None] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    hows: dict[str, How] = field(default_factory=dict)

    def run(self) -> tuple[Evaluation, Home]:
        """Everything, from the words to the files."""
        request = self.request
        bases = targets.bases(self.targets)
        groups = [[base, *(one for one in self.targets if one.subject == base.subject)] for base in bases]
        names = list(dict.fromkeys(one.source.model for one in self.targets))
        judges = {model: panel(request.scorers, model, *preferred(), request.options) for model in names}
        material = [self.material(group[0], judges[group[0].source.model]) for group in groups]
        wanted = {base.source.label: request.prompt_sets(base) for base in bases}
        self.hows, told = manner.of(groups, request)
        for group in groups:
            self.prompts(group, wanted)  # or says why not
        self.place = place = homes.choose(self.targets, request.out, request.quick, self.asked(wanted))
        if place.note:
            self.journal("message", message=place.note)
        if request.pick:
            picking.pick(self.targets, self.journal)
        drawn = {label: one for model in names for label, one in self.draw(model, groups, wanted)}
        measured: list[Measured] = []
        for group, near in zip(groups, material, strict=True):
            pictures = [drawn[one.source.label] for one in group]
            found = judge(pictures, judges[group[0].source.model], near, self.journal.count)
            measured += found[1:] if repeated(measured, found[0]) else found
        notes = [
            *self.unread,
            *(n for one in material for n in one.notes),
            *(n for j in judges.values() for n in j.notes),
            *told,
        ]
        notes = list(dict.fromkeys([*notes, *unfinished(measured)]))
        result = assemble(measured, notes, self.settings(wanted, judges))
        result.references = list(dict.fromkeys(name for one in material for name in one.names))
        result.config = targets.settings_of(self.targets) or self.data_of()
        return result, place

    def material(self, base: Target, judges: Panel) -> Material:
        """What one subject's pictures are held against.

        Raises DataError without references where a scorer that was asked for by its name needs them; the others are
        left out, with a note.
        """
        if self.request.data is not None and not self.request.data.exists():
            raise DataError(f"--data {self.request.data}: there is no such folder")
        found = gather(self.request.references, base.data, base.source.model == "embedded")
        needed = judges.needs("references") if not found.references else []
        if needed and self.request.explicit:
            raise DataError(
                f"{needed[0]} needs reference pictures of the subject: give --references DIR, or leave it out with "
                "--scorers (such as --scorers clip_text,jpeg)"
            )
        if needed:
            names = ", ".join(one.source.label for one in self.targets if one.subject == base.subject)
            found.notes.append(
                f"{names}: no {', '.join(needed)} without pictures of the subject: give --references DIR"
            )
        return found

    def draw(
        self, model: str, groups: list[list[Target]], wanted: dict[str, list[PromptSet]]
    ) -> Iterator[tuple[str, Drawn]]:
        """The pictures of all sources on one model, by label; the model is gone afterwards."""
        self.journal("message", message=f"loading {model}")
        device, dtype = preferred()
        loaded = backbone.load(model, device, dtype)
        attention.install(loaded.net, "auto")
        self.prints[model] = loaded.fingerprint()
        prompts = [
            prompt for group in groups if group[0].source.model == model for prompt in self.prompts(group, wanted)
        ]
        self.unread += gallery.unread(loaded, model, list(dict.fromkeys(prompts)))
        bases: dict[tuple[str, How], Drawn] = {}  # drawn once, also for subjects with other pictures
        for group in groups:
            if group[0].source.model == model:
                base, *mine = group
                asked = wanted[base.source.label]
                key = base.source.class_word, self.hows[base.source.label]
                bases[key] = called(bases.get(key) or self.gallery(loaded, base, asked), base)
                yield base.source.label, bases[key]
                yield from ((one.source.label, self.gallery(loaded, one, asked)) for one in mine)
        del loaded
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def prompts(self, group: list[Target], wanted: dict[str, list[PromptSet]]) -> list[str]:
        """What the adapters of a group are asked."""
        words = group[-1].source.trigger, group[-1].source.class_word
        return [one.prompt for one in sets.wanted(wanted[group[0].source.label], [0], *words)]

    def gallery(self, model: Backbone, one: Target, asked: list[PromptSet]) -> Drawn:
        """The pictures of one source; the model is left as it was."""
        folder = self.place.folder if self.place is not None else None
        with ExitStack() as after:
            if one.source.file:
                after.callback(files.load(model, one.file).remove)
            how, seeds = self.hows[one.source.label], self.request.numbers
            count = self.journal.count
            return draw(model, one.source, asked, seeds, how, folder, count, self.kept)

    def asked(self, wanted: dict[str, list[PromptSet]]) -> dict[str, object]:
        """What decides whether another evaluation says more."""
        names = {one.source.model for one in self.targets}
        return {
            "of": homes.of(self.targets),
            "seeds": self.request.numbers,
            "sets": {group.name: [prompt.text for prompt in group.prompts] for one in wanted.values() for group in one},
            "scorers": sorted({name for model in names for name in resolved(self.request.scorers, model)}),
        }

    def settings(self, wanted: dict[str, list[PromptSet]], judges: dict[str, Panel]) -> dict[str, object]:
        """What a person needs to do it again, and to know which numbers may be compared."""
        import diffusers
        import transformers

        request, device = self.request, preferred()
        first = self.targets[0].source
        how = asdict(self.hows[first.label]) | {
            "batch": "as many as are useful" if not request.batch else request.batch
        }
        different = manner.different(self.hows)
        missing = {file: words for one in judges.values() for file, words in one.missing.items()}
        return {
            "run": next((one.run.name for one in self.targets if one.run), first.label),
            **how,
            **self.asked(wanted),
            "prompts": sets.fingerprint([group for one in wanted.values() for group in one], request.numbers),
            "kind": request.kind or sets.kind_of(first.class_word),
            "quick": request.quick,
            "models": self.prints,
            "device": f"{device[0]}, {device[1]}".replace("torch.", ""),
            "versions": {one.__name__: one.__version__ for one in (studio, torch, diffusers, transformers)},
            "adapters": {one.source.label: held(one) for one in self.targets},
            "command": again.command(self.sources, request),
            **({"missing": missing} if missing else {}),
            **({"drawn": different} if different else {}),
        }

    def data_of(self) -> dict[str, object]:
        """Where the report finds the training pictures of a bare file."""
        return {"data.folder": str(self.request.data.absolute())} if self.request.data else {}

    def write(self, found: Evaluation, place: Home) -> None:
        """evaluation.json, scores.json, report.html and the model card."""
        from studio.evaluation import model_card, page

        self.journal.enter("export")
        table.write(place.folder / homes.FILE, found.to_json())
        table.write_scores(found, self.targets, place)
        for one in self.targets if not self.request.quick else ():
            if one.run is not None and one.run.folder in place.own and one.source.strength == 1:
                writing.annotate(one.file, {"scores": table.short(found, one.source.label)})
        card = homes.card(place.home)
        if card.name != homes.CARD:
            self.journal("message", message=f"{place.home / homes.CARD} is not by the studio and is kept as it is")
        for path in (
            page.write(found, place.folder, place.home / "report.html"),
            model_card.write(found, place.folder, card),
        ):
            self.journal("message", message=f"wrote {path}")


def held(one: Target) -> dict[str, str]:
    """What the header of a target's file says of the checkpoint in it."""
    header = files.header(one.file)
    return {key: header[key] for key in ("step", "strength") if key in header}


def called(drawn: Drawn, one: Target) -> Drawn:
    """The pictures of a base model under another of its labels."""
    label = one.source.label
    return replace(drawn, source=one.source, made=[replace(made, source=label) for made in drawn.made])


def unfinished(measured: Sequence[Measured]) -> Iterator[str]:
    """A sentence for each source that made pictures of numbers that are no numbers."""
    for one in measured:
        if lost := sum(picture is None for picture in one.drawn.pictures):
            total = len(one.drawn.pictures)
            yield f"{one.source.label}: {lost} of {total} pictures hold values that are no numbers and are not scored"


def evaluate(sources: Sequence[str], request: Request = USUAL, report: Report = lambda event: None) -> Evaluation:
    """Draw, score and write everything about runs and adapter files, beside their base model.

    Pictures that are there from before are kept. Raises UsageError, DataError and ModelError before anything is drawn
    or changed, Stopped (a KeyboardInterrupt) with what was drawn kept.
    """
    cores.share()
    request.check()
    if not sources:
        raise UsageError("evaluate needs a run or an adapter file; see studio evaluate --help")
    if request.pick:
        picking.check(sources, request.runs)
    words = request.trigger, request.class_word
    found = targets.targets(sources, request.strengths, request.model, request.runs, *words, request.data)
    with listening(None) as stop:
        journal = Journal(report, stop)
        work = Work(request, found, journal, sources)
        try:
            result, place = work.run()
            work.write(result, place)
        except KeyboardInterrupt:
            there = len(list(work.place.folder.glob(f"{gallery.FOLDER}/*/*.png"))) if work.place else 0
            kept = f"{there} pictures are kept in {work.place.folder}" if work.place else "nothing was drawn yet"
            journal.end("stopped", message=f"{kept}: the same command goes on from there")
            raise
        for note in result.notes:
            journal("note", message=note)
        journal("done", path=str(place.folder / homes.FILE))
    return result
