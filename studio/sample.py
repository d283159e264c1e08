"""`studio sample`: pictures by a run or an adapter file, beside nothing or each other, as one grid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from studio import guiding, pictures
from studio.pipelines import attention, backbone, conditioner
from studio.pipelines.adapters import files
from studio.pipelines.adapters.files import NAME
from studio.pipelines.captioners.words import twin
from studio.pipelines.confine import permitted
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Adapter, Backbone
from studio.precision import preferred
from studio.sample_how import How
from studio.store import Run, Store


@dataclass(frozen=True)
class Source:
    """An adapter file, what to call it, the model it belongs to, and the words of its run."""

    label: str
    file: Path | None
    model: str
    words: dict[str, str]


def find(name: str, model: str, runs: Path) -> Source:
    """A run's exported adapter, an adapter file, or "base" for the model without one.

    Raises UsageError for a name that is none of these, ModelError when a file does not say its model.
    """
    if name == "base":
        return Source("base", None, model or "embedded", {})
    path = Path(name).expanduser()
    if path.is_file():
        header = files.header(path)
        base = model or header.get("base_model", "")
        if not base:
            raise ModelError(f"{path} does not say which model it was trained on: give --model")
        return Source(path.stem, path, base, words(header))
    run: Run = Store(runs).open(name)
    file = run.folder / NAME
    if not file.is_file():
        raise UsageError(f"the run '{run.name}' has no {NAME} yet: `studio train` of its run.toml goes on with it")
    header = files.header(file)
    return Source(run.name, file, model or run.summary()["model"] or "embedded", words(header))


def words(header: dict[str, str]) -> dict[str, str]:
    """What `{trigger}` and `{class_word}` stand for in prompts."""
    return {key: header.get(key, "") for key in ("trigger", "class_word")}


def fill(prompt: str, said: dict[str, str]) -> str:
    """A prompt with its places filled."""
    for key, word in said.items():
        prompt = prompt.replace(f"{{{key}}}", word)
    return " ".join(prompt.split())


def sample(
    sources: Sequence[str],
    prompts: Sequence[str],
    seed: int = 0,
    n: int = 4,
    model: str = "",
    out: Path = Path("grid.png"),
    runs: Path = Path("runs"),
    **how: Any,
) -> Path:
    """Draw `n` pictures per prompt (seeds seed .. seed + n - 1) with each source, one column a source, into `out`.

    how: the fields of `How`. `base` as a source is the model without an adapter, which is always drawn with cfg. One
    picture alone is written as it is, without a grid.
    """
    if not sources or not prompts:
        raise UsageError("sample needs a run or an adapter file, and --prompt")
    manner = How(**how)
    manner.check()
    check(seed, n, out)
    wanted = [(prompt, seed + i) for prompt in prompts for i in range(n)]
    columns: dict[str, list[Image.Image]] = {}
    loaded: dict[str, Backbone] = {}
    for source in [find(name, model, runs) for name in sources]:
        if source.model not in loaded:
            device, dtype = preferred()
            loaded[source.model] = backbone.load(source.model, device, dtype)
            attention.install(loaded[source.model].net, "auto")
        texts = [fill(prompt, source.words) for prompt, _ in wanted]
        label = source.label if source.file or manner.guidance.kind == "cfg" else f"{source.label} (cfg)"
        label = label if label not in columns else f"{label} ({len(columns) + 1})"
        columns[label] = draw(loaded[source.model], source, texts, [s for _, s in wanted], manner)
    captions = [f"{prompt}  (seed {number})" for prompt, number in wanted]
    alone = len(wanted) == 1 and len(columns) == 1
    sheet = next(iter(columns.values()))[0] if alone else pictures.grid(columns, captions)
    about = {"prompt": " | ".join(prompts), "seed": seed, "sources": ", ".join(sources)}
    return pictures.save(sheet, out, **about, **manner.about())


def check(seed: int, n: int, out: Path) -> None:
    """UsageError for what would fail only after everything was drawn, or lies where it may not."""
    permitted(out, "--out")
    if seed + n >= 2**63:
        raise UsageError(f"--seed {seed}: should be less than 2^63")
    if out.suffix.lower() != ".png" or out.is_dir():
        raise UsageError(f"--out {out}: should be a file that ends in .png")
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not os.access(place, os.W_OK) or not place.is_dir():
        raise UsageError(f"--out {out}: {place} cannot be written to")


def draw(model: Backbone, source: Source, prompts: list[str], seeds: list[int], how: How) -> list[Image.Image]:
    """One source's pictures; the model is left as it was."""
    adapter = files.load(model, source.file) if source.file else None
    guidance = how.guidance if adapter else how.guidance.without_adapter()
    references = [
        twin(prompt, source.words.get("trigger", ""), source.words.get("class_word", "")) for prompt in prompts
    ]
    try:
        with acting(adapter, how, model.dtype), torch.no_grad():
            removed = [text for text in how.decor.split(",") if text.strip()]
            edit = conditioner.decor(model, removed, how.decor_strength) if removed else None
            drawn = guiding.draw(
                model, prompts, seeds, steps=how.steps, guidance_scale=how.guidance_scale,
                how=guidance, references=references, edit=edit,
            )  # fmt: skip
            return [pictures.image(picture) for picture in drawn]
    finally:
        if adapter:
            adapter.remove()


def acting(adapter: Adapter | None, how: How, dtype: torch.dtype) -> AbstractContextManager[None]:
    """The adapter at its strength; in the frozen weights, which is faster, where nothing switches or rounds it."""
    if adapter is None:
        return nullcontext()
    merged = how.guidance.kind == "cfg" and dtype == torch.float32 and hasattr(adapter, "merged")
    return adapter.merged(how.strength) if merged else adapter.scaled(how.strength)
