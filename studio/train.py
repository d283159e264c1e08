"""One run, from its config to an exported adapter that stock diffusers was seen to load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torchvision.transforms.functional import to_pil_image

from studio import export, loop, pictures, previews, registry, scores, subjects
from studio.config import RunConfig
from studio.environment import environment
from studio.journal import Journal, Report, Stopped, stop_on_signals
from studio.pipelines import attention, backbone
from studio.pipelines.adapters.lora import LoRA
from studio.pipelines.cache import Cache, Embeddings
from studio.pipelines.data import Dataset, DataStream
from studio.pipelines.data_image import shown
from studio.pipelines.errors import StudioError
from studio.pipelines.protocols import Backbone
from studio.precision import dtype
from studio.snapshot import State
from studio.store import Run, Store

SCORE_SEEDS = 2


def train(config: RunConfig, report: Report = lambda event: None) -> Path:
    """Run `config`, or go on with it where an earlier start ended; returns the run's folder.

    Raises UsageError, DataError, ModelError before anything is written; NumericalError, MemoryShortage and Stopped
    (a KeyboardInterrupt) later, with everything that was finished kept in the folder.
    """
    config = subjects.resolve(config)
    journal = Journal(report)
    journal("message", message=f"{config.trainer} on {config.model}")
    session = Session.begin(config, journal)
    if session is None:
        return Store(config.runs).create(config).folder
    with session.run.alone(), stop_on_signals() as asked:
        journal.asked = asked
        try:
            session.work(asked)
        except Stopped:
            journal("stopped", message=f"state saved in {session.run.folder}; the same command goes on")
            raise
        except KeyboardInterrupt:
            journal("stopped", message="stopped at once; the same command goes on from the newest checkpoint")
            raise
        except BaseException as problem:
            code = getattr(problem, "exit_code", 1)
            journal("failed", message=str(problem), error=type(problem).__name__, exit_code=code)
            raise
    return session.run.folder


@dataclass
class Session:
    """Everything one run works with."""

    config: RunConfig
    journal: Journal
    run: Run
    model: Backbone
    dataset: Dataset
    adapter: LoRA
    stream: DataStream = field(init=False)
    shots: list[previews.Shot] = field(init=False)
    base: list[Image] = field(init=False)

    @classmethod
    def begin(cls, config: RunConfig, journal: Journal) -> Session | None:
        """Check words and pictures, load the model, open the folder; None when the run is already finished."""
        settings = config.settings
        settings.data.listing()  # a missing folder is said before a model is loaded
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = backbone.load(config.model, device, dtype(settings, device))
        dataset = settings.data.read(model)
        attention.install(model.net, settings.attention)
        torch.manual_seed(config.seed)
        adapter = settings.adapter.build(model)
        loop.Engine(settings, model, adapter, {})  # a wrong optimizer or schedule is said before anything is written
        run = Store(config.runs).create(config)
        if run.state(settings.steps) == "done":
            journal("message", message=f"this run is finished: {run.folder}; more --steps go on, --fresh starts anew")
            return None
        return cls(config, journal, run, model, dataset, adapter)

    def work(self, asked: Callable[[], bool]) -> None:
        """Cache, train, preview, export, check."""
        self.journal.open(self.run)
        self.run.write("env.json", environment(self.model, self.dataset))
        self.tell_data()
        self.stream = self.fill()
        self.shots = previews.shots(self.config.settings.previews, self.dataset)
        self.base = self.base_previews()
        last = self.train(asked)
        with last.averaged():
            self.finish(self.preview(f"{last.step:06}"))
        self.journal("done", path=str(self.run.folder))

    def tell_data(self) -> None:
        """Every picture that is left out, and every doubt, in the events."""
        data = self.dataset
        words = f"{data.trigger} {data.class_word}".strip()
        self.journal("message", message=f"{len(data)} pictures ({data.layout}), called '{words}'")
        for rejected in data.rejected:
            self.journal("warning", message=f"left out: {shown(rejected.path)}: {rejected.reason}")
        for doubt in data.warnings:
            self.journal("warning", message=doubt)

    def fill(self) -> DataStream:
        """Latents and embeddings into the cache, and the stream that reads them."""
        settings, cache = self.config.settings, Cache(self.config.runs / ".cache")
        prior = self.prior()
        stream = DataStream(
            self.model, self.dataset, batch=settings.batch, seed=self.config.seed, cache=cache, prior=prior
        )
        self.journal.count("cache", stream.fill())
        if not settings.adapter.text_encoder:
            self.model.embed = Embeddings(self.model, cache.folder)  # type: ignore[method-assign]
        return stream

    def prior(self) -> Dataset | None:
        """Class pictures, when the trainer asks for them; made by the base model when none are given."""
        from studio.pipelines import prior

        wanted = getattr(self.config.settings, "prior", None)
        if wanted is None or not wanted.weight:
            return None
        data = self.config.settings.data
        prompt = wanted.prompt.replace("{class_word}", self.dataset.class_word).strip()
        folder = wanted.folder
        if folder is None:
            where = (self.model, prompt, wanted.images, self.config.runs / ".cache" / "prior", self.config.seed)
            self.journal.count("cache", prior.pictures(*where))
            folder = prior.location(*where)
        return data.model_copy(update={"folder": folder, "prompt": prompt, "masks": False}).read(self.model)

    def train(self, asked: Callable[[], bool]) -> loop.Tick:
        """The loop; checkpoints and previews on the way. Returns the last tick, Stopped when asked to stop."""
        settings, run = self.config.settings, self.run
        memory: dict[str, Any] = {}
        state, start = self.resume()
        if state is not None and start >= settings.steps:  # trained to the end, but not exported
            return loop.resting(settings, self.model, self.adapter, memory, state, start)
        trainer = registry.trainer(self.config.trainer)
        losses = trainer.losses(settings, self.model, self.adapter, self.stream, memory)
        self.journal.phase = "train"
        for tick in loop.train(
            settings, self.model, self.adapter, losses, memory,
            start=start, state=state, stop=lambda: asked() or run.asks_to_stop(),
        ):  # fmt: skip
            self.journal.step = tick.step
            self.journal(numbers=tick.floats())
            self.on_the_way(tick)
        self.checkpoint(tick)
        if tick.step < settings.steps:
            raise Stopped
        return tick

    def on_the_way(self, tick: loop.Tick) -> None:
        """Checkpoint and previews of a step, when they are due; the last step's come with the end of the run."""
        settings = self.config.settings
        if tick.step >= settings.steps:
            return
        if settings.save_every and tick.safe and tick.step % settings.save_every == 0:
            self.checkpoint(tick)
        if settings.previews.every and tick.step % settings.previews.every == 0:
            with tick.averaged():
                self.preview(f"{tick.step:06}")
            self.journal.phase = "train"

    def resume(self) -> tuple[State | None, int]:
        """State and step of the newest valid checkpoint, or a fresh start."""
        found = self.run.latest()
        if found is None:
            return None, 0
        meta = dict(found.meta)
        self.stream.position = meta.pop("position")
        self.journal.step = found.step
        self.journal("message", message=f"going on from step {found.step}")
        return State({name: found.tensors(name) for name in found.names()}, meta), found.step

    def checkpoint(self, tick: loop.Tick) -> None:
        """Save everything that resuming needs."""
        state = tick.state()
        folder = self.run.save_checkpoint(tick.step, state.tensors, {**state.meta, "position": self.stream.position})
        self.journal("checkpoint", path=str(folder.relative_to(self.run.folder)))

    def base_previews(self) -> list[Image]:
        """The base model's pictures for the same prompts and seeds, made once."""
        return previews.load(self.run.samples, "base", self.shots) or self.preview("base", base=True)

    def preview(self, label: str, base: bool = False) -> list[Image]:
        """Make, save and announce the previews under a label."""
        made: list[Image] = []

        def drawn() -> Iterator[tuple[int, int]]:
            yield 0, len(self.shots)
            for picture in previews.take(self.model, self.shots, self.config.settings.previews, base):
                made.append(picture)
                yield len(made), len(self.shots)

        self.journal.count("preview", drawn())
        paths = previews.save(self.run.samples, label, self.shots, made)
        self.journal("preview", path=str(paths[0].relative_to(self.run.folder)), pictures=len(paths))
        return made

    def finish(self, made: list[Image]) -> None:
        """Export, check the file in a fresh stock pipeline, draw the grid, score."""
        self.journal.phase = "export"
        config, model = self.config, self.model
        about = {"trigger": self.dataset.trigger, "class_word": self.dataset.class_word, "base_model": config.model}
        for path in export.write(model, self.adapter, self.run.folder, about):
            self.journal("message", message=f"wrote {path.name}, {path.stat().st_size / 2**20:.1f} MiB")
        references = [to_pil_image(subjects.read(example.path)) for example in self.dataset.examples[:6]]
        sheet = pictures.grid({"base": self.base, "adapter": made}, [s.caption for s in self.shots], references)
        pictures.save(sheet, self.run.folder / "grid.png", run=self.run.name)
        self.journal("preview", path="grid.png", message="base | adapter")
        self.journal.phase = "check"
        file = self.run.folder / export.NAME
        seen = export.check(config.model, model, file, self.shots[0], config.settings.previews, made[0])
        far = f"mean difference {seen.difference:.2f} of 255 (tolerance {seen.tolerance:g})"
        self.journal("message", message=f"{file.name} in a fresh {seen.by}: {far}")
        try:
            self.score()
        except StudioError as problem:  # the adapter is finished: it only stays unscored
            self.journal("warning", message=f"no scores: {problem}")

    def score(self) -> None:
        """On a subject that came with the studio: similarity and prompt accuracy beside the base model's."""
        data = self.config.settings.data
        subject = subjects.about(data.folder)
        if subject.get("kind") != "subject" or self.config.model != "embedded" or data.folder is None:
            return
        words = (self.dataset.trigger, self.dataset.class_word)
        comparison = scores.Comparison(self.model, data.folder.parent, *words, SCORE_SEEDS)
        self.journal.count("check", comparison.run())
        found = comparison.table()
        scores.write(found, self.run.folder / "scores.json")
        for name, score in found.items():
            self.journal("message", message=f"{name}: {score['value']:.3f} (base {score['base']:.3f})")
