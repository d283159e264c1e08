"""`studio sample`: pictures by a run or an adapter file, beside nothing or each other, as one grid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from studio import cores, guiding, pictures, sample_begun, sample_out
from studio.pipelines import attention, backbone, conditioner, drawing, sampling
from studio.pipelines.adapters import files, stacking
from studio.pipelines.captioners.words import twin
from studio.pipelines.drawing import Drawing
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.guidance_hearing import hears
from studio.pipelines.protocols import Adapter, Backbone
from studio.precision import preferred
from studio.sample_begun import beginning
from studio.sample_how import How
from studio.sample_sources import checkpoint, file_of
from studio.store import Run, Store

Report = Callable[[str], None]
Models = Callable[[str], Backbone]  # the base model of a name


@dataclass(frozen=True)
class Source:
    """An adapter file, what to call it, the model it belongs to, the words of its run, and how it wants to be drawn.

    run: whether it is a run's; begun: the file that this run went on from; lost: why that is not there.
    """

    label: str
    file: Path | None
    model: str
    words: dict[str, str]
    own: Drawing | None = None
    run: bool = False
    begun: Path | None = None
    lost: str = ""

    def of(self, run: Run) -> Source:
        """The same, of a run."""
        begun, lost = beginning(run)
        return replace(self, run=True, begun=begun, lost=lost)


@dataclass(frozen=True)
class Column:
    """Sources in one model, each at its strength, and how the pictures are drawn."""

    sources: tuple[Source, ...]
    strengths: tuple[float, ...]
    drawing: Drawing

    @property
    def model(self) -> str:
        """The base model."""
        return self.sources[0].model

    @property
    def adapted(self) -> bool:
        """Whether there is an adapter in it."""
        return self.sources[0].file is not None

    @property
    def label(self) -> str:
        """What stands above it."""
        return " + ".join(source.label for source in self.sources)

    @property
    def words(self) -> dict[str, str]:
        """The words of the first source that has any."""
        return next((one.words for one in self.sources if any(one.words.values())), self.sources[0].words)

    def told(self, prompt: str) -> tuple[str, str]:
        """A prompt with its places filled, and as the base model knows it."""
        said = self.words
        filled, trigger = fill(prompt, said), said.get("trigger", "")
        taught = files.header(self.compared).get("trigger", "") if self.compared else ""
        same = bool(trigger) and taught == trigger  # what it is compared with knows the word too
        return filled, filled if same else twin(filled, trigger, said.get("class_word", ""))

    @property
    def compared(self) -> Path | None:
        """The file that takes the base model's place in guidance: what the run of the one source began with."""
        return self.sources[0].begun if len(self.sources) == 1 else None

    def blanks(self, prompts: Sequence[str]) -> Iterator[str]:
        """A line where prompts lose their noun; a trigger that nobody learned is no loss."""
        if not self.words.get("class_word") and any("{class_word}" in prompt for prompt in prompts):
            yield f"{self.label}: no class word is known, {{class_word}} is left out; write it instead"

    def doubts(self, how: How, heard: bool = False) -> Iterator[str]:
        """A line for each thing in which what is asked for is not what its files are made for.

        heard: the network hears the guidance scale, and is not guided from outside.
        """
        guided = how.guidance if self.adapted else how.guidance.without_adapter()
        if how.negative.strip() and not guided.hears_negative(1.0 if heard else self.drawing.guidance_scale):
            why = "its network has the guidance inside" if heard else "guidance scale 1 asks for the prompt alone"
            yield f"{self.label}: --negative is not heard, for {why}" + ("" if heard else "; raise --guidance-scale")
        for source in self.sources:
            if said := drawing.differing(source.label, source.own, self.drawing):
                yield said
        if not self.adapted and how.guidance.kind != "cfg":
            yield f"base is drawn with cfg: {how.guidance.kind} guidance is for adapters"
        elif how.guidance.kind != "cfg":
            yield from self.base_doubts(how.guidance.kind)
        for source in self.sources:
            if source.begun and any(source.begun == other.file for other in self.sources):
                yield f"{source.label} began from {source.begun}: together with that it counts twice; leave that out"

    def base_doubts(self, kind: str) -> Iterator[str]:
        """A line where guidance would compare with a base model that does not draw so, or is not the right one."""
        first = self.sources[0]
        if first.lost:
            began = f"since what the run began with, {first.lost}"
            yield f"{self.label}: {kind} guidance compares with the base model, {began}"
        elif len(self.sources) == 1 and self.drawing.few_step and not first.begun:
            besides = "" if first.run else "; where the file began from one, draw it by its run's name instead"
            yield (
                f"{self.label}: {kind} guidance draws the base model in {self.drawing.steps} steps too, for which it "
                f"is not made; put a few-step adapter beneath both, as in {drawing.EMBEDDED} --strength 1 1{besides}"
            )


def base_model(name: str) -> Backbone:
    """The base model of a name, on the best device here. Raises as `backbone.load`."""
    cores.share()
    loaded = backbone.load(name, *preferred())
    attention.install(loaded.net, "auto")
    return loaded


def find(name: str, model: str, runs: Path, models: Models = base_model) -> Source:
    """A run's exported adapter, its checkpoint (RUN@STEP), an adapter file, "lcm:embedded", or "base" without one.

    models: of the base model that a checkpoint is put into, to be written as a file. Raises UsageError for a name that
    is none of these, ModelError when a file does not say its model or is damaged.
    """
    if (at := checkpoint(name, runs)) is not None:
        return saved(*at, model, models)
    file = file_of(name, runs)
    if file is None:
        return Source("base", None, model or "embedded", words({}))
    header = files.header(file)
    own = drawing.read(header, file)
    if drawing.place(name).is_file():
        base = model or header.get("base_model", "")
        if not base:
            raise ModelError(f"{file} does not say which model it was trained on: give --model")
        label = drawing.EMBEDDED.partition(":")[0] if name == drawing.EMBEDDED else file.stem
        return Source(label, file, base, words(header), own)
    run = Store(runs).open(name)
    return Source(run.name, file, model or run.summary()["model"] or "embedded", words(header), own).of(run)


def saved(run: Run, step: int, model: str, models: Models) -> Source:
    """A run's checkpoint. Raises as `sample_checkpoint.adapter_file`."""
    from studio.sample_checkpoint import adapter_file  # the training's engine: not for every picture

    file = adapter_file(run, step, models)
    header = files.header(file)
    made = Source(f"{run.name}@{step}", file, model or header["base_model"], words(header), drawing.read(header, file))
    return made.of(run)


def words(header: dict[str, str]) -> dict[str, str]:
    """What `{trigger}` and `{class_word}` stand for in prompts."""
    return {key: header.get(key, "") for key in ("trigger", "class_word")}


def fill(prompt: str, said: dict[str, str]) -> str:
    """A prompt with its places filled."""
    for key, word in said.items():
        prompt = prompt.replace(f"{{{key}}}", word)
    return " ".join(prompt.split())


def columns(found: Sequence[Source], how: How) -> list[Column]:
    """A column for each source; several strengths: one column of all of them together. `base` has the others' class.

    Raises UsageError for sources of different models, or samplers, that would be together.
    """
    if len(how.strengths) == 1:
        known = next((one.words["class_word"] for one in found if one.words.get("class_word")), "")
        named = [one if one.file else replace(one, words={"trigger": "", "class_word": known}) for one in found]
        return [Column((one,), how.strengths, how.drawing(one.own)) for one in named]
    if len(bases := list(dict.fromkeys(one.model for one in found))) > 1:
        raise UsageError(f"adapters of {bases[0]} and of {bases[1]} cannot be drawn together: give --model")
    own = drawing.together([(one.label, one.own) for one in found], how.sampler)
    return [Column(tuple(found), how.strengths, how.drawing(own))]


def sample(
    sources: Sequence[str],
    prompts: Sequence[str],
    seed: int = 0,
    n: int = 4,
    model: str = "",
    out: Path = Path("grid.png"),
    runs: Path = Path("runs"),
    report: Report = lambda line: None,
    **how: Any,
) -> Path:
    """Draw `n` pictures per prompt (seeds seed .. seed + n - 1) with each source, one column a source, into `out`.

    how: the fields of `How`. `base` as a source is the model without an adapter, which is always drawn with cfg. One
    picture alone is written as it is, without a grid. report: called with each line of doubt.
    """
    if not sources or not prompts:
        raise UsageError("sample needs a run or an adapter file, and --prompt")
    manner = How(**how)
    manner.check(sources)
    sample_out.check(seed, n, out)
    wanted = [(prompt, seed + i) for prompt in prompts for i in range(n)]
    models = functools.cache(base_model)
    asked = columns([find(name, model, runs, models) for name in sources], manner)
    said = [*manner.doubts(prompts)]
    for column in asked:
        loaded = models(column.model)
        sampling.by_name(loaded, column.drawing.sampler)
        said += [*column.doubts(manner, bool(hears(loaded))), *column.blanks([*prompts, manner.negative])]
    said += [f"not all columns are drawn alike: {apart}"] if (apart := together(asked).get("drawn")) else []
    for doubt in dict.fromkeys(said):
        report(doubt)
    drawn: dict[str, list[Image.Image]] = {}
    for column in asked:
        texts = [fill(prompt, column.words) for prompt, _ in wanted]
        label = column.label if column.adapted or manner.guidance.kind == "cfg" else f"{column.label} (cfg)"
        label = label if label not in drawn else f"{label} ({len(drawn) + 1})"
        drawn[label] = draw(models(column.model), column, texts, [s for _, s in wanted], manner)
    captions = [f"{prompt}  (seed {number})" for prompt, number in wanted]
    alone = len(wanted) == 1 and len(drawn) == 1
    sheet = next(iter(drawn.values()))[0] if alone else pictures.grid(drawn, captions)
    about = {"prompt": " | ".join(prompts), "seed": seed, "sources": ", ".join(sources)}
    return pictures.save(sheet, out, **about, **manner.about(), **together(asked))


def together(asked: Sequence[Column]) -> dict[str, object]:
    """Sampler, steps and guidance scale for a picture's header: once, or column by column where they differ."""
    if len({column.drawing for column in asked}) == 1:
        return vars(asked[0].drawing)
    return {"drawn": "; ".join(f"{column.label}: {column.drawing.said()}" for column in asked)}


def draw(model: Backbone, column: Column, prompts: list[str], seeds: list[int], how: How) -> list[Image.Image]:
    """One column's pictures; the model is left as it was."""
    own, references = column.drawing, [column.told(prompt)[1] for prompt in prompts]
    with ExitStack() as after:
        after.enter_context(torch.no_grad())
        adapter, strength = load(model, column, after, how.guidance.kind != "cfg")
        guidance = how.guidance if adapter else how.guidance.without_adapter()
        after.enter_context(acting(adapter, strength, guidance.kind == "cfg" and model.dtype == torch.float32))
        edit = conditioner.decor(model, how.removed, how.decor_strength) if how.removed else None
        drawn = guiding.draw(
            model, prompts, seeds, steps=own.steps, guidance_scale=own.guidance_scale, sampler=own.sampler,
            how=guidance, references=references, edit=edit, negative=column.told(how.negative),
        )  # fmt: skip
        return [pictures.image(picture) for picture in drawn]


def load(model: Backbone, column: Column, after: ExitStack, compared: bool = True) -> tuple[Adapter | None, float]:
    """The adapter on top, its strength, and the other files in the weights beneath it, until `after` is closed.

    compared: it is switched off on the way, which gives what its run began with, where it is alone.
    """
    paths = [source.file for source in column.sources if source.file]
    if not paths:
        return None, 1.0
    top, *others = stacking.ordered(paths) if len(paths) > 1 else [0]
    if others:
        after.enter_context(stacking.beneath(model, [(paths[one], column.strengths[one]) for one in others]))
    adapter = sample_begun.load(model, paths[top], column.compared if compared else None)
    after.callback(adapter.remove)
    return adapter, column.strengths[top]


def acting(adapter: Adapter | None, strength: float, fast: bool) -> AbstractContextManager[None]:
    """The adapter at its strength. fast: in the frozen weights, where nothing switches or rounds it."""
    if adapter is None:
        return nullcontext()
    return adapter.merged(strength) if fast and hasattr(adapter, "merged") else adapter.scaled(strength)
