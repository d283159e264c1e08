"""`studio evaluate`: how good runs and adapter files are beside their base model, each number with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import studio
from studio.evaluation import gallery, sets, table, targets
from studio.evaluation.measuring import Drawn, How, Material, Measured, Panel, assemble, draw, judge, measure, panel
from studio.evaluation.panel import Options
from studio.evaluation.records import Evaluation
from studio.evaluation.references import gather
from studio.evaluation.sets import PromptSet
from studio.evaluation.targets import Target
from studio.journal import Journal, Report
from studio.pipelines import assets, attention, backbone
from studio.pipelines.adapters import files, writing
from studio.pipelines.errors import DataError, UsageError
from studio.pipelines.protocols import Backbone
from studio.precision import preferred
from studio.stop import listening

__all__ = ["Drawn", "How", "Material", "Measured", "Panel", "Request", "assemble", "evaluate", "measure", "panel"]

QUICK = 2  # prompts of a set, and seeds
STEPS, GUIDANCE = 20, 5.0  # where a model says nothing of its own


@dataclass(frozen=True)
class Request:
    """What to evaluate by. sets: names, none: all; prompts: a person's own sets; kind: live, object or style.

    references: pictures of the subject; data: those trained on; scorers: names, none: those that suit the model;
    options: by scorer; steps, guidance_scale 0: the model's own; strengths: of the adapters; trigger, class_word:
    instead of the files' own; out: instead of the run's folder; quick: a rough look.
    """

    sets: Sequence[str] = ()
    seeds: int = 4
    prompts: Path | None = None
    references: Path | None = None
    data: Path | None = None
    scorers: Sequence[str] = ()
    options: Options = field(default_factory=dict)
    strengths: Sequence[float] = (1.0,)
    steps: int = 0
    guidance_scale: float = 0.0
    batch: int = 0
    kind: str = ""
    model: str = ""
    trigger: str = ""
    class_word: str = ""
    out: Path | None = None
    runs: Path = Path("runs")
    quick: bool = False

    def check(self) -> None:
        """Raises UsageError for numbers that mean nothing."""
        for name, least in (("seeds", 1), ("steps", 0), ("batch", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name} = {getattr(self, name)}: should be greater than or equal to {least}")
        if not all(math.isfinite(one) for one in (*self.strengths, self.guidance_scale)):
            raise UsageError("--strength and --guidance-scale should be finite numbers")
        if self.guidance_scale and self.guidance_scale < 1:
            raise UsageError(f"--guidance-scale = {self.guidance_scale}: should be 1 or more")
        if not self.strengths:
            raise UsageError("--strength needs a number")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {self.out}: is a file; name a folder")
        if self.out is not None and (self.out / "README.md").exists() and not (self.out / "evaluation.json").exists():
            raise UsageError(f"--out {self.out}: has a README.md of somebody's; name a new folder")

    def how(self, model: str) -> How:
        """How the pictures of a model are drawn."""
        advised = assets.recommended(model).get("settings", {}).get("previews", {})
        steps, scale = advised.get("steps", STEPS), advised.get("guidance_scale", GUIDANCE)
        return How(self.steps or int(steps), self.guidance_scale or float(scale), batch=self.batch)

    def prompt_sets(self, target: Target) -> list[PromptSet]:
        """The sets a source is asked for."""
        word = target.source.class_word
        found = sets.shipped(target.source.model, self.kind or sets.kind_of(word))  # type: ignore[arg-type]
        found = sets.choose(sets.merged(found, sets.read(self.prompts) if self.prompts else []), self.sets)
        return sets.shortened(found, QUICK) if self.quick else found

    @property
    def numbers(self) -> list[int]:
        """The seeds."""
        return sets.seeds(min(self.seeds, QUICK) if self.quick else self.seeds)


@dataclass
class Work:
    """One evaluation at work. folder: of `evaluation.json` and the pictures; home: of report and model card."""

    request: Request
    targets: list[Target]
    journal: Journal
    folder: Path
    home: Path
    kept: dict[str, Tensor | None] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def run(self) -> Evaluation:
        """Everything, from the words to the files."""
        request = self.request
        bases = targets.bases(self.targets)
        groups = [[base, *(one for one in self.targets if one.subject == base.subject)] for base in bases]
        names = list(dict.fromkeys(one.source.model for one in self.targets))
        judges = {model: panel(request.scorers, model, *preferred(), request.options) for model in names}
        material = [self.material(group[0], judges[group[0].source.model]) for group in groups]
        wanted = {base.source.label: request.prompt_sets(base) for base in bases}
        for group in groups:
            self.prompts(group, wanted)  # or says why not
        drawn = {label: one for model in names for label, one in self.draw(model, groups, wanted)}
        measured: list[Measured] = []
        for group, near in zip(groups, material, strict=True):
            pictures = [drawn[one.source.label] for one in group]
            measured += judge(pictures, judges[group[0].source.model], near, self.journal.count)
        notes = [
            *self.unread,
            *(n for one in material for n in one.notes),
            *(n for j in judges.values() for n in j.notes),
        ]
        found = assemble(measured, list(dict.fromkeys([*notes, *unfinished(measured)])), self.settings(wanted, judges))
        found.references = list(dict.fromkeys(name for one in material for name in one.names))
        found.config = targets.settings_of(self.targets) or self.data_of()
        return found

    def material(self, base: Target, judges: Panel) -> Material:
        """What one subject's pictures are held against. Raises DataError where a scorer needs references."""
        if self.request.data is not None and not self.request.data.exists():
            raise DataError(f"--data {self.request.data}: there is no such folder")
        found = gather(self.request.references, base.data, base.source.model == "embedded")
        needed = judges.needs("references")
        if needed and not found.references:
            raise DataError(
                f"{needed[0]} needs reference pictures of the subject: give --references DIR, or leave it out with "
                "--scorers (such as --scorers clip_text,jpeg)"
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
        for group in groups:
            if group[0].source.model == model:
                asked = wanted[group[0].source.label]
                for one in group:
                    yield one.source.label, self.gallery(loaded, one, asked)
        del loaded
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def prompts(self, group: list[Target], wanted: dict[str, list[PromptSet]]) -> list[str]:
        """What the adapters of a group are asked."""
        words = group[-1].source.trigger, group[-1].source.class_word
        return [one.prompt for one in sets.wanted(wanted[group[0].source.label], [0], *words)]

    def gallery(self, model: Backbone, one: Target, asked: list[PromptSet]) -> Drawn:
        """The pictures of one source; the model is left as it was."""
        with ExitStack() as after:
            if one.source.file:
                after.callback(files.load(model, one.file).remove)
            how, seeds = self.request.how(one.source.model), self.request.numbers
            count = self.journal.count
            return draw(model, one.source, asked, seeds, how, self.folder, count, self.kept)

    def settings(self, wanted: dict[str, list[PromptSet]], judges: dict[str, Panel]) -> dict[str, object]:
        """What a person needs to do it again, and to know which numbers may be compared."""
        import diffusers
        import transformers

        request, device = self.request, preferred()
        first = self.targets[0].source
        how = asdict(request.how(first.model)) | {
            "batch": "as many as are useful" if not request.batch else request.batch
        }
        asked = {group.name: [prompt.text for prompt in group.prompts] for one in wanted.values() for group in one}
        missing = {file: words for one in judges.values() for file, words in one.missing.items()}
        return {
            "run": next((one.run.name for one in self.targets if one.run), first.label),
            **how,
            "seeds": request.numbers,
            "prompts": sets.fingerprint([group for one in wanted.values() for group in one], request.numbers),
            "kind": request.kind or sets.kind_of(first.class_word),
            "sets": asked,
            "quick": request.quick,
            "models": self.prints,
            "device": f"{device[0]}, {device[1]}".replace("torch.", ""),
            "versions": {one.__name__: one.__version__ for one in (studio, torch, diffusers, transformers)},
            **({"missing": missing} if missing else {}),
        }

    def data_of(self) -> dict[str, object]:
        """Where the report finds the training pictures of a bare file."""
        return {"data.folder": str(self.request.data.absolute())} if self.request.data else {}

    def write(self, found: Evaluation) -> None:
        """evaluation.json, scores.json, report.html and the model card."""
        from studio.evaluation import model_card, page

        self.journal.enter("export")
        self.folder.mkdir(parents=True, exist_ok=True)
        table.write(self.folder / "evaluation.json", found.to_json())
        table.write_scores(found, self.targets, self.folder, self.home)
        for one in self.targets:
            if one.run is not None and one.source.strength == 1:
                writing.annotate(one.file, {"scores": table.short(found, one.source.label)})
        for path in (
            page.write(found, self.folder, self.home / "report.html"),
            model_card.write(found, self.folder, self.home / "README.md"),
        ):
            self.journal("message", message=f"wrote {path}")


def unfinished(measured: Sequence[Measured]) -> Iterator[str]:
    """A sentence for each source that made pictures of numbers that are no numbers."""
    for one in measured:
        if lost := sum(picture is None for picture in one.drawn.pictures):
            total = len(one.drawn.pictures)
            yield f"{one.source.label}: {lost} of {total} pictures hold values that are no numbers and are not scored"


def evaluate(sources: Sequence[str], request: Request = Request(), report: Report = lambda event: None) -> Evaluation:
    """Draw, score and write everything about runs and adapter files, beside their base model.

    Pictures that are there from before are kept. Raises UsageError, DataError and ModelError before anything is drawn,
    Stopped (a KeyboardInterrupt) with what was drawn kept.
    """
    request.check()
    if not sources:
        raise UsageError("evaluate needs a run or an adapter file; see studio evaluate --help")
    words = request.trigger, request.class_word
    found = targets.targets(sources, request.strengths, request.model, request.runs, *words, request.data)
    homes = {one.run.folder if one.run is not None else None for one in found}
    run = homes.pop() if len(homes) == 1 else None
    folder = request.out or (run / "evaluation" if run is not None else Path("evaluation"))
    home = run if run is not None and request.out is None else folder
    with listening(None) as stop:
        journal = Journal(report, stop)
        work = Work(request, found, journal, folder, home)
        try:
            result = work.run()
            work.write(result)
        except KeyboardInterrupt:
            there = len(list(folder.glob(f"{gallery.FOLDER}/*/*.png")))
            journal.end(
                "stopped", message=f"{there} pictures are kept in {folder}: the same command goes on from there"
            )
            raise
        for note in result.notes:
            journal("note", message=note)
        journal("done", path=str(folder / "evaluation.json"))
    return result
