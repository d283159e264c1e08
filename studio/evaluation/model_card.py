"""README.md: the model card of an adapter: what it is, how to load it, how good it is, and its limits."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from studio.evaluation import page_advice, page_run, page_verdict, page_words
from studio.evaluation.model_card_use import licence, loading, model_name
from studio.evaluation.page_private import ABOVE, clean, leaves, said
from studio.evaluation.page_roles import Cast, cast
from studio.evaluation.page_tables import metrics
from studio.evaluation.records import Evaluation, Source

NAME, SAMPLES = "README.md", "README.jpg"
ELSEWHERE = ("choice", "missing", "run", "adapters", "command", "of")  # settings that are told in another place
ROWS, SIDE, GAP = 4, 256, 6  # of the sample picture: prompts, pixels
WORTH = r"steps|batch|lr|optimizer|rank|alpha|targets|resolution|prior\.weight|seed|trainer|precision|snr_gamma"


def write(evaluation: Evaluation, folder: Path, out: Path) -> Path:
    """Write the card, and beside it README.jpg with samples. folder: the evaluation's, with the pictures."""
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = cast(evaluation, origin=page_run.origin(evaluation, out.parent))
    sheet = samples(evaluation, parts, folder)
    if sheet is not None:
        picture = out.with_name(SAMPLES)
        aside = picture.with_name(f".{picture.name}.part")
        sheet.save(aside, "JPEG", quality=88)
        aside.replace(picture)
    aside = out.with_name(f".{out.name}.part")
    aside.write_text(text(evaluation, parts, sheet is not None), "utf-8")
    aside.replace(out)
    return out


def text(evaluation: Evaluation, parts: Cast, pictured: bool) -> str:
    """The whole card."""
    source = parts.main
    sections = [front_matter(source), f"# {title(evaluation, source)}", *opening(evaluation, parts)]
    if pictured:
        sections.append(f"![Samples: the base model above, the adapter below]({SAMPLES})")
    if source is not None:
        sections += ["## Use", loading(source, evaluation)]
    sections += [*scores(evaluation, parts), *limits(evaluation, parts), *training(evaluation, source)]
    return "\n\n".join(part for part in sections if part) + "\n"


def front_matter(source: Source | None) -> str:
    """YAML between dashes; no path of this machine."""
    from huggingface_hub import ModelCardData

    about: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    about["tags"] = ["text-to-image", "diffusers", "diffusers-training", "lora", "template:sd-lora"]
    if source is not None:
        about |= {"base_model": model_name(source.model), **licence(source.model)}
        if called := " ".join(filter(None, (source.trigger, source.class_word))):
            about["instance_prompt"] = " ".join(said(called).split())
    return f"---\n{ModelCardData(**about).to_yaml()}\n---"


def title(evaluation: Evaluation, source: Source | None) -> str:
    """The run's name, or the adapter's."""
    run = evaluation.config.get("run") or evaluation.settings.get("run")
    return plain(clean(run or (source.label if source else "Adapter")))


def opening(evaluation: Evaluation, parts: Cast) -> Iterator[str]:
    """What it is, and what was found, in words."""
    source, found = parts.main, page_words.facts(evaluation, parts)
    if source is not None:
        method = evaluation.config.get("trainer")
        how = f"trained by {plain(clean(method))} " if method else ""
        what = f"An adapter for `{code(model_name(source.model))}`, {how}in Personalization studio."
        words = " ".join(filter(None, (source.trigger, source.class_word)))
        leak = ", and acts without the trigger too" if any(map(page_verdict.leaks, found)) else ""
        called = f" It was trained to draw its subject when a prompt says `{code(said(words))}`{leak}." if words else ""
        yield what + called
    tone_and_words = page_verdict.verdict(found)[1]
    yield plain(f"{tone_and_words} {page_verdict.warning(found)}".strip())
    yield "\n".join(f"- {plain(fact.sentence)}" for fact in found)
    yield plain(page_advice.advice(parts))


def scores(evaluation: Evaluation, parts: Cast) -> Iterator[str]:
    """A table per question; a number stands beside its base model's only, never below another kind of number."""
    found = metrics(evaluation, parts)
    if not found:
        return
    yield "## Scores"
    yield (
        "Means with 95 % bootstrap intervals over prompts and seeds. Each row is a kind of number of its own: compare "
        "along a row, not down a column."
    )
    rows = []
    for role, kinds in found:
        for metric in kinds:
            for row in metric.whole:
                if parts.main is None or row.source == clean(parts.main.label):
                    name = f"{metric.name} {metric.arrow}"
                    cells = (role.title, name, row.base or "", joined(row.value, row.interval))
                    rows.append((*cells, joined(row.change, row.change_interval), row.n, metric.about))
    head = ("Question", "Score", "Base", "Adapter", "Change", "Pictures", "Measured by")
    yield "\n".join([line(head), line(["---", "---", "--:", "--:", "--:", "--:", "---"]), *map(line, rows)])


def limits(evaluation: Evaluation, parts: Cast) -> Iterator[str]:
    """What the adapter, or the evaluation, cannot be trusted with."""
    yield "## Limits"
    rows = [*page_words.limits(evaluation, parts), *evaluation.notes]
    rows.append(
        "It learned from few pictures: it may repeat them, and change what the base model draws for the same class. "
        "The base model's licence and limits hold for it too."
    )
    yield "\n".join(f"- {plain(clean(row))}" for row in rows)


def training(evaluation: Evaluation, source: Source | None) -> Iterator[str]:
    """How it was made, and the commands that make it and its evaluation again."""
    config = leaves(evaluation.config)
    if config:
        yield "## Training"
        worth = [(k, v) for k, v in config if re.search(rf"(^|\.)({WORTH})$", k) and "preview" not in k and v]
        yield "\n".join(f"- {plain(key)}: {plain(value)}" for key, value in worth)
        yield "The complete config is in `run.toml`; the same command makes the run again:"
        yield "```bash\nstudio train run.toml --fresh\n```"
    yield "## Evaluation"
    settings = {key: value for key, value in evaluation.settings.items() if key not in ELSEWHERE}
    asked = [(key, value) for key, value in leaves(settings) if value and len(value) < 120]
    yield "\n".join(f"- {plain(key)}: {plain(value)}" for key, value in asked)
    yield "Pictures and numbers in detail are in `report.html`."
    yield again(evaluation)


def again(evaluation: Evaluation) -> str:
    """The command that was given; places are shortened, so that the card may be handed on."""
    command = evaluation.settings.get("command")
    if not command:
        return ""
    words = [shell(word) for word in shlex.split(str(command))]
    hint = "; where it says `…/`, put the place on your machine" if any(ABOVE in word for word in words) else ""
    return f"The same evaluation again{hint}:\n\n```bash\n{' '.join(words)}\n```"


def samples(evaluation: Evaluation, parts: Cast, folder: Path) -> Image.Image | None:
    """Base model above, adapter below, for the first prompts; None without pictures."""
    firsts: dict[tuple[str, str, int], dict[str, Path]] = {}
    for made in evaluation.pictures:
        path = (folder / made.file).resolve()
        if made.set != "class" and path.is_file() and path.is_relative_to(folder.resolve()):
            firsts.setdefault((made.set, made.template, made.seed), {})[made.source] = path
    labels = [source.label for source in (parts.base, parts.main) if source is not None]
    once: dict[str, dict[str, Path]] = {}
    for (_, template, _), files in firsts.items():
        if all(label in files for label in labels):
            once.setdefault(template, files)
    columns = list(once.values())[:ROWS]
    if not columns or not labels:
        return None
    step = SIDE + GAP
    sheet = Image.new("RGB", (len(columns) * step - GAP, len(labels) * step - GAP), "white")
    for across, files in enumerate(columns):
        for down, label in enumerate(labels):
            with Image.open(files[label]) as picture:
                sheet.paste(picture.convert("RGB").resize((SIDE, SIDE)), (across * step, down * step))
    return sheet


def joined(value: str, interval: str) -> str:
    """A number with its interval."""
    return f"{value} ({interval})" if interval else value


def line(cells: Any) -> str:
    """A row of a table."""
    return f"| {' | '.join(plain(str(cell)) for cell in cells)} |"


def plain(words: str) -> str:
    """Text that Markdown and HTML take as letters only, on one line."""
    return re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", html.escape(" ".join(words.split()), quote=False))


def code(words: str) -> str:
    """Text between backticks, on one line, without backticks."""
    return " ".join(words.split()).replace("`", "'")


def shell(word: object) -> str:
    """A word of a command, quoted where it has to be."""
    return shlex.quote(code(clean(word)))
