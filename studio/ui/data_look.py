"""The data doctor's answer for the page: each picture's crop, caption and problems; and captions written back."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.pipelines.confine import HOME, is_inside
from studio.pipelines.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from studio.caption_rows import Job, Row
    from studio.data_doctor import File, Report
    from studio.pipelines.data_examples import Example
    from studio.pipelines.data_pictures import Pictures
    from studio.ui.place import Place

LONGEST = 4000  # characters of a caption
KEPT = re.compile(r"(^|/)\.?captions-\d{8}-\d{6}(-\d+)?\.zip$")  # by studio.caption_backup
EARLIER = "earlier captions, kept: to have them back, unzip it there, or drop it above with the pictures"
FROM = {"metadata": "metadata file", "sidecar": "text file", "missing": "the prompt", "empty": "the prompt"}


@dataclass(frozen=True)
class Picture:
    """One used picture. kept: share that the crop keeps; tokens: of the caption, by tokenizer; cut: never seen of it.

    own: whether the caption is in a text file or missing, so that the page may write it; mask: its share of white.
    """

    name: str
    size: tuple[int, int]
    bucket: tuple[int, int]
    kept: float
    caption: str
    source: str
    own: bool
    tokens: str
    cut: str
    mask: float | None
    doubts: tuple[str, ...]

    @property
    def line(self) -> str:
        """What stands below its thumbnail."""
        mask = "" if self.mask is None else f", mask {self.mask:.0%} white"
        said = f"{self.name}: {self.size[0]}x{self.size[1]} to {self.bucket[0]}x{self.bucket[1]}, {self.kept:.0%} kept"
        return f"{said}{mask}{''.join(f'; {doubt}' for doubt in self.doubts)}"


@dataclass(frozen=True)
class Look:
    """What was found. trainable: whether a picture is usable; left_out: (file, reason); spare: files left out;
    missing: no trigger in them.
    """

    verdict: str
    trainable: bool
    pictures: tuple[Picture, ...]
    left_out: tuple[tuple[str, str], ...]
    spare: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    trigger: str
    class_word: str
    layout: str
    missing: tuple[str, ...]
    cut: tuple[str, ...]
    report: Report

    def thumbnail(self, number: int) -> Image.Image:
        """A picture, 200x150 pixels, its crop framed and what is cut away veiled. DataError: the file has changed."""
        from studio.contact_sheet import thumbnail

        return thumbnail(self.examples[number], self.report.dataset.settings.background)

    @property
    def examples(self) -> tuple[Example, ...]:
        return self.report.dataset.examples


def look(data: Pictures, model: str) -> Look:
    """Examine a folder for a model. Raises DataError where it is missing or empty, ModelError for a missing model."""
    from studio.data_doctor import examine
    from studio.pipelines.outline import outline

    data.listing()  # a missing folder is said before the model is looked up
    about = outline(model)
    report = examine(data.look(about), about.tokenizers, about.limits)
    captions, known = report.captions, report.dataset
    missing, cut = tuple(captions.without_trigger), tuple(dict.fromkeys(name for name, _, _ in captions.cut))
    return Look(
        verdict=report.verdict(),
        trainable=bool(known.examples),
        pictures=tuple(picture(report, number, missing, cut) for number in range(len(known))),
        left_out=tuple((file.name, why(file)) for file in report.files if file.state in ("left out", "row")),
        spare=tuple(file.name for file in report.files if file.state == "left out"),
        warnings=(*known.warnings, *report.doubts(), *([about.problem] if about.problem else [])),
        notes=tuple(report.notes()),
        trigger=known.trigger,
        class_word=known.class_word,
        layout=known.layout,
        missing=missing,
        cut=cut,
        report=report,
    )


def why(file: File) -> str:
    """Why a file was left out; what the studio itself laid there is said to be that."""
    return EARLIER if KEPT.search(file.name) else file.what


def picture(report: Report, number: int, missing: tuple[str, ...], cut: tuple[str, ...]) -> Picture:
    """One picture's answer."""
    from studio.data_doctor import changes
    from studio.pipelines import buckets
    from studio.pipelines.data_image import shown

    example = report.dataset.examples[number]
    tokens = {name: rows[number] for name, rows in report.counted.items()}
    doubts = [*changes(example, report.dataset.settings.background), *report.twins(number)]
    doubts += ["the trigger is missing"] * (example.name in missing) + ["caption cut off"] * (example.name in cut)
    return Picture(
        name=shown(example.name),
        size=example.size,
        bucket=example.bucket,
        kept=buckets.kept(example.size, example.bucket),
        caption=example.caption,
        source=FROM[example.source],
        own=example.source != "metadata",
        tokens=", ".join(f"{one.count} of {one.limit}" for one in tokens.values()),
        cut=" | ".join(dict.fromkeys(one.cut for one in tokens.values() if one.cut)),
        mask=None if example.mask_seen is None else example.mask_seen.light,
        doubts=tuple(doubts),
    )


def stamp(data: Pictures, model: str) -> str:
    """What an answer depends on, cheaply: settings, model, and size and time of every file; '' without a folder."""
    if data.folder is None:
        return ""
    folder = data.folder.parent if data.folder.is_file() else data.folder
    count, size, newest = 0, 0, 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                there = os.stat(f"{root}/{name}")  # noqa: PTH116
            except OSError:
                continue  # deleted meanwhile
            count, size, newest = count + 1, size + there.st_size, max(newest, there.st_mtime_ns)
    return f"{model}|{data.model_dump_json()}|{count}|{size}|{newest}"


def write(place: Place, data: Pictures, captions: Mapping[str, str]) -> list[str]:
    """Write captions (by picture name) into the text files beside their pictures; the names that were written.

    What the files said before goes into a zip in the folder. Nothing is written unless all can be. Raises DataError
    with the picture and the reason, UsageError where the folder is not the visitor's.
    """
    from studio.caption_backup import back_up, put
    from studio.caption_files import Plan
    from studio.pipelines.data_image import shown

    place.may_write("writing captions")
    folder = place.permitted(data.folder or "", "data.folder")
    if is_inside(HOME, folder):
        raise UsageError("example subjects stay as they are: copy the pictures to a folder of yours to caption them")
    root = folder.parent if folder.is_file() else folder
    plan = Plan(root, force=True)
    items = {shown(one.name): plan.item(one) for one in data.listing().found}  # of all: two may share a text file
    jobs = [job(name, items.get(name), text) for name, text in captions.items()]
    _, reason = back_up(root, jobs)
    if reason:
        raise DataError(f"no copy of the old captions {reason}; nothing was written")
    for one, text in zip(jobs, captions.values(), strict=True):
        if reason := put(one.target, f"{one_line(text)}\n".encode()):
            raise DataError(f"{one.target.name} {reason}")
    return list(captions)


def job(name: str, item: Job | Row | None, text: str) -> Job:
    """The text file to write for a picture. Raises DataError with the reason why there is none."""
    from studio.caption_rows import Job

    if not isinstance(item, Job):
        raise DataError(f"{name}: {item.reason if item else 'it is not in the folder any more'}")
    if said := problem(one_line(text)):
        raise DataError(f"{name}: {said}")
    return item


def one_line(text: str) -> str:
    """A caption as its file holds it."""
    return " ".join(text.split())


def problem(text: str) -> str:
    """Why a text cannot be a caption; '' where it can."""
    if not text:
        return "an empty caption says nothing: write what is seen, or {trigger} {class_word}"
    if len(text) > LONGEST:
        return f"{len(text)} characters are no caption: text encoders read about 300"
    return "" if text.isprintable() else "it has characters that cannot be seen: type it anew"


def edited(before: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> dict[str, str]:
    """The captions that differ in a table of (picture, caption, ...) rows, by picture. before: what was shown.

    Raises DataError for a row of no picture.
    """
    found: dict[str, str] = {}
    for row in rows:
        name, caption = str(row[0]), one_line(str(row[1] or ""))
        if name not in before:
            raise DataError(f"there is no picture '{name[:80]}' in the table: edit captions only, and reload the page")
        if caption != before[name]:
            found[name] = caption
    return found
