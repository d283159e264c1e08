"""One run at work: words, pictures and model brought together, the cache filled, the adapter trained."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from studio import audit, choice_run, class_pictures, early, loop, plan, plan_disk, previews, registry, snapshot, start
from studio.config import RunConfig
from studio.data_doctor import examine
from studio.disk import make
from studio.environment import describe
from studio.guards import NotFinite
from studio.journal import Journal, Stopped
from studio.materials import Materials, Streams
from studio.past import Past
from studio.pipelines.adapters import eva
from studio.pipelines.cache import Embeddings
from studio.pipelines.data_image import shown
from studio.pipelines.data_order import digest
from studio.pipelines.errors import UsageError
from studio.pipelines.outline import limits
from studio.saver import Saver
from studio.store import Run, Store, listed, refuse_another

ENDED = "ended"  # in the trainer's memory: why the run was over before its last step
DIAGNOSED = 50  # steps between what an adapter says of itself


@dataclass
class Session(Materials):
    """Everything one run works with.

    past: what an earlier start left; changes: what is different now and was accepted; chooser: scores checkpoints.
    memory: the trainer's.
    """

    journal: Journal
    run: Run
    past: Past
    changes: list[str]
    stream: Streams = field(init=False)
    shots: list[previews.Shot] = field(init=False)
    base: list[Image] = field(init=False)
    begun: list[Image] = field(init=False)
    chooser: choice_run.Chooser | None = field(init=False, default=None)
    memory: dict[str, Any] = field(init=False, default_factory=dict)

    @classmethod
    def begin(
        cls, config: RunConfig, journal: Journal, run: Run, held: ExitStack, accept: bool, text: str = ""
    ) -> Session | None:
        """Check words and pictures, load the model, open the folder; None when the run is already finished.

        held: keeps the folder for this process; text: the TOML that the config came from. Raises before anything is
        written.
        """
        settings = config.settings
        settings.data.listing()  # a missing folder is said before a model is loaded, and so is another config
        if run.config_file.exists():
            refuse_another(run, config.resolved(run.name, run.folder.parent), accept=True)  # what can never be
        if run.state(settings.steps) != "done":
            early.wishes(settings)
        made = Materials.gather(config, journal.stop.check)
        past = Past.of(run)
        for reason in past.damaged:
            journal("warning", message=reason)
            warnings.warn(reason, stacklevel=2)  # stderr: no display hides that steps are done again
        if past.damaged and past.checkpoint is None and not accept:
            raise UsageError(
                f"none of the {len(past.damaged)} checkpoints of '{run.name}' can be read: "
                "--accept-change trains it again from the start, --fresh starts another run"
            )
        changes = past.admit(run, made.basis, made.adapter, accept)
        if run.state(settings.steps) == "done":
            if changes:
                said = f"to go on with {listed(changes)}, give more --steps"
                raise UsageError(f"the run '{run.name}' is finished: {said}")
            ended = str(done.get("ended") or "") if (done := run.last("done")) else ""
            more = f"it ended by itself ({ended})" if ended else "more --steps go on"
            journal("message", message=f"this run is finished: {run.folder}; {more}, --fresh starts anew")
            return None
        early.lessons(made)
        plan_disk.refuse(config, made.model, (made.dataset, made.classes), run)
        if not run.config_file.exists():
            make(run.folder)
            held.enter_context(run.alone())
        Store(config.runs).create(config, accept, text)
        return cls(**vars(made), journal=journal, run=run, past=past, changes=changes)

    def open(self) -> None:
        """The run's folder says what the run is made with, and what is different from before."""
        self.journal.open(self.run, self.config.settings.disk_wait)
        if self.changes:
            self.journal("accepted", message="; ".join(self.changes), changes=self.changes)
        about = describe(model=self.basis.model, data=self.basis.data) | {"basis": self.basis.as_dict()}
        self.run.write("env.json", json.dumps(about, indent=1) + "\n")
        parts = audit.inventory(self.adapter)
        self.journal("audit", message="; ".join(audit.lines(parts)), parts=parts)
        self.foresee()

    def foresee(self) -> None:
        """The memory each phase will take, said before and, as it is measured, after."""
        try:
            made = plan.of(self.config, self.model)
        except Exception as problem:  # a model of somebody else's may not bear a rehearsal: it trains all the same
            self.journal("warning", message=f"no memory plan: {type(problem).__name__}: {problem}")
            return
        self.journal.stop.check()
        said = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in made.predicted().items())
        said = f"peak memory in GiB: {said}; there is {made.free / 2**30:.1f}"
        self.journal("plan", message=said, predicted=made.predicted(), free=made.free)
        if not made.fits:
            self.journal("warning", message=f"by the plan this run does not fit into memory: {said}")
        self.journal.watch(self.model.device, made.predicted())

    def tell_data(self) -> None:
        """Every picture that is left out, and every doubt, in the events."""
        data = self.dataset
        for text in (*start.doubts(self.config.settings, data), *getattr(self.adapter, "notes", ())):
            self.journal("warning", message=text)
        if not data.examples:  # a run that learns from what it draws
            return
        words = f"{data.trigger} {data.class_word}".strip()
        report = examine(data, self.model.tokenizers, limits(type(self.model).__module__))
        head = f"{len(data)} pictures ({data.layout}), called '{words}'"
        self.journal("message", message=head, data=report.summary())
        for rejected in data.rejected:
            self.journal("warning", message=f"left out: {shown(rejected.path)}: {rejected.reason}")
        for kind, said in (("warning", (*data.warnings, *report.doubts())), ("message", report.notes())):
            for text in said:
                self.journal(kind, message=text)

    def fill(self) -> None:
        """Latents and embeddings into the cache, the stream that reads them, the base model's previews."""
        config = self.config
        if self.classes is None and class_pictures.wanted(config):
            self.count("cache", class_pictures.make(config, self.model, self.dataset))
            place = class_pictures.location(config, self.model, self.dataset)
            self.classes = class_pictures.read(config, self.model, self.dataset, place)
        self.stream = self.read()
        self.count("cache", self.stream.fill())
        if isinstance(self.model.embed, Embeddings):
            captions = [text for data in (self.dataset, self.classes) if data for text in data.captions]
            captions += getattr(registry.trainer(config.trainer), "texts", lambda data: ())(self.dataset)
            captions += getattr(self.stream, "captions", ())
            self.count("cache", self.model.embed.fill(list(dict.fromkeys(captions))))
        self.shots = previews.shots(config.settings.previews, self.dataset, getattr(self.stream, "samples", ()))
        # made once, for the same prompts and seeds
        self.base = previews.load(self.run.samples, "base", self.shots) or self.preview("base", base=True)
        self.begun = self.beginning()
        self.chooser = choice_run.begin(self)

    def beginning(self) -> list[Image]:
        """What the run goes on from, drawn once as a preview of step 0; nothing of a fresh adapter."""
        if self.config.settings.start is None:
            return []
        label = f"{0:06}"
        there = previews.load(self.run.samples, label, self.shots)
        return there or ([] if self.past.step else self.preview(label))

    def prepare(self) -> None:
        """What an adapter wants to see of its data before the first step: EVA's A comes from the run's own batches."""
        start.remember(self.config.settings, self.adapter, self.memory)
        for part in getattr(self.adapter, "parts", (self.adapter,)):
            if hasattr(part, "prepare"):
                part.prepare(self.stream.at(number) for number in range(eva.BATCHES))

    def train(self) -> loop.Tick:
        """The loop; checkpoints and previews on the way. Returns the last tick, Stopped when asked to stop."""
        settings, start, stop = self.config.settings, self.past.step, self.journal.stop
        seeds = {"seeds": [shot.seed for shot in self.shots]}  # all there is to the generators of previews
        saver = Saver(self.run, self.journal, settings, {"basis": self.basis.as_dict(), "previews": seeds}, start)
        state, position = self.past.state(self.basis, self.engine)
        if state is not None:
            self.journal.step = start
            self.journal("message", message=f"going on from step {start}")
            last = loop.resting(settings, self.model, self.adapter, self.memory, state, start)
            if start >= settings.steps or ENDED in self.memory:  # trained to the end, but not exported
                return last
            if self.due(start) and not previews.load(self.run.samples, f"{start:06}", self.shots):
                with last.averaged():
                    self.preview(f"{start:06}")
            if self.chooser and choice_run.regular(self.config, start) and not self.chooser.knows(start):
                with last.averaged():
                    self.chooser.see(start)
        if state is None:
            self.prepare()
        self.stream.position = position
        self.journal.enter("train")
        stop.at_once = False
        try:
            with self.thrift.training(self.run.folder):
                last = self.ticks(saver, start, state)
            saver.save(last, self.stream.position)
        finally:
            stop.at_once = True
        if last.step < settings.steps and not last.stop:
            raise Stopped
        return last

    def ticks(self, saver: Saver, start: int, state: snapshot.State | None) -> loop.Tick:
        """The loop from `start` to its end; the last tick."""
        settings, journal, memory = self.config.settings, self.journal, self.memory
        on_cpu = self.model.device.type == "cpu"
        if state is None:  # whatever was cached or drawn before changes nothing
            snapshot.seed(digest(self.config.seed, "train"))
        losses = registry.trainer(self.config.trainer).losses(settings, self.model, self.adapter, self.stream, memory)
        try:
            for tick in loop.train(
                settings, self.model, self.adapter, losses, memory,
                data=self.stream, start=start, state=state, stop=journal.stop,
            ):  # fmt: skip
                journal.step = tick.step
                busy: dict[str, Any] = {"busy": round(time.process_time(), 3)} if on_cpu else {}
                journal(numbers=tick.floats() | self.diagnosis(tick.step), **busy)
                self.tell(tick)
                self.on_the_way(tick, saver)
        except NotFinite as problem:  # the state is as it was before the refused step
            if problem.last is not None:
                saver.save(problem.last, self.stream.position)
            raise
        return tick

    def tell(self, tick: loop.Tick) -> None:
        """A step's texts. One that ends the run is kept in its memory: the end is not trained again."""
        if tick.stop:
            self.memory[ENDED] = tick.stop
        for kind, texts in (("warning", tick.warnings), ("message", tick.messages), ("ended", (tick.stop,))):
            for text in filter(None, texts):
                self.journal(kind, message=text)

    def diagnosis(self, step: int) -> dict[str, float]:
        """What an adapter says of itself now and then, as far as it says something."""
        due = step % DIAGNOSED == 0 or step == self.config.settings.steps
        said = getattr(self.adapter, "numbers", dict) if due else dict
        return {name: float(value) for name, value in said().items()}

    def on_the_way(self, tick: loop.Tick, saver: Saver) -> None:
        """Checkpoint and previews of a step, when they are due; the last step's come with the end of the run."""
        settings = self.config.settings
        # not of the last step: with a mended judge the same command learns instead of exporting what has learnt nothing
        if tick.failed is not None and tick.step < settings.steps:
            saver.save(tick, self.stream.position)
        if tick.step >= settings.steps or tick.stop or tick.failed is not None:
            return
        saver.pass_by(tick, self.stream.position)
        due = self.due(tick.step)
        scored = self.chooser is not None and saver.saved == tick.step and choice_run.regular(self.config, tick.step)
        scored = scored and "trial" not in self.memory
        if due or scored:
            # the loop sees the request too, and ends at a step that can be saved
            with suppress(Stopped), tick.averaged():
                if due:
                    self.preview(f"{tick.step:06}")
                if self.chooser and scored:
                    self.chooser.see(tick.step)
            self.thrift.park()
            self.journal.enter("train")

    def due(self, step: int) -> bool:
        """Whether previews belong to a step on the way."""
        every = self.config.settings.previews.every
        return (bool(every) and step % every == 0) or self.run.sample_file.exists()

    def preview(self, label: str, base: bool = False) -> list[Image]:
        """Make, save and announce the previews under a label."""
        made: list[Image] = []

        def drawn() -> Iterator[tuple[int, int]]:
            yield 0, len(self.shots)
            for picture in previews.take(self.model, self.shots, self.config.settings.previews, base):
                made.append(picture)
                yield len(made), len(self.shots)

        self.count("preview", drawn())
        self.run.sample_file.unlink(missing_ok=True)
        said = previews.about(self.config.settings.previews, base)
        paths = self.journal.patiently(lambda: previews.save(self.run.samples, label, self.shots, made, **said))
        self.journal("preview", path=str(paths[0].relative_to(self.run.folder)), pictures=len(paths))
        return made

    def count(self, phase: str, steps: Iterator[tuple[int, int]], **about: Any) -> None:
        """A phase's progress; a request to stop ends it before the network's next call. about: what is counted."""
        with self.journal.stop.between_calls(self.model):
            self.journal.count(phase, steps, **about)
