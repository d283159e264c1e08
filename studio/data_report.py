"""The data doctor's report, for a person and for a program."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studio import table
from studio.contact_sheet import sheet
from studio.data_audit import plural
from studio.data_doctor import Report, examine
from studio.pictures import save
from studio.pipelines import buckets
from studio.pipelines.confine import is_inside, permitted
from studio.pipelines.data_image import shown
from studio.pipelines.data_looks import BITS, MOST_BITS
from studio.pipelines.data_pictures import Pictures, nothing_usable
from studio.pipelines.errors import DataError, UsageError, is_full
from studio.pipelines.outline import Outline, outline

STYLES = {"used": "green", "beside": "cyan", "left out": "red", "row": "red", "warning": "yellow"}


def check(data: Pictures, model: str, picture: Path | None = None, *, as_json: bool = False) -> Report:
    """Examine the pictures for a model, print the report and draw the contact sheet.

    Raises DataError where no picture is usable, after printing; ModelError for a model that is not there.
    """
    data.listing()  # a missing folder is said before the model is looked up
    check_place(data, picture)
    about = outline(model)
    dataset = data.look(about)
    report = examine(dataset, about.tokenizers, about.limits)
    if picture is not None:
        draw(report, picture)
    if as_json:
        print(json.dumps(as_object(report, model, about), ensure_ascii=False))
    else:
        tell(report, model, about)
        if picture is not None:
            print(f"contact sheet: {shown(picture)}")
    if not dataset.examples:
        raise DataError(nothing_usable(data.folder, dataset.rejected))
    return report


def check_place(data: Pictures, picture: Path | None) -> None:
    """UsageError where the contact sheet is no PNG, or would itself become a training picture."""
    if picture is None:
        return
    permitted(picture, "--contact-sheet")
    if picture.suffix.lower() != ".png":
        raise UsageError(f"--contact-sheet {shown(picture)}: give a name that ends with .png")
    if data.folder is not None and data.folder.is_dir() and is_inside(data.folder, picture):
        raise UsageError(f"--contact-sheet {shown(picture)} lies among the training pictures: put it elsewhere")


def draw(report: Report, picture: Path) -> None:
    """Write the contact sheet. UsageError where that is not possible."""
    try:
        save(sheet(report), picture)
    except OSError as error:
        if is_full(error):
            raise
        raise UsageError(f"--contact-sheet {shown(picture)} cannot be written: {error.strerror or error}") from error


def tell(report: Report, model: str, about: Outline) -> None:
    """Print the report: head, files, audit, warnings, verdict."""
    data, numbers = report.dataset, report.summary()
    side = data.settings.resolution or about.pixels
    print(f"{shown(data.settings.folder)}: layout {data.layout}, for {model} at {side} pixels")
    table.show([[file.state, file.name, file.what] for file in report.files], STYLES)
    print()
    table.show([[name, text] for name, text in audit(report, numbers)])
    warnings = [*data.warnings, *report.doubts(), *([about.problem] if about.problem else [])]
    said = [["warning", text] for text in warnings] + [["note", text] for text in report.notes()]
    if said:
        print()
        table.show(said, STYLES)
    print()
    print(report.verdict())


def audit(report: Report, n: dict[str, int | float]) -> list[tuple[str, str]]:
    """The examination's numbers in sentences, by subject."""
    data, words = report.dataset, report.dataset
    rows = n["rows_left_out"]
    left = f"{n['left_out']} left out" + (f"; and {plural(int(rows), 'metadata row')} of no use" if rows else "")
    sizes = sorted({example.bucket for example in data.examples})
    crop = "" if data.settings.crop == "center" else ", cropped at random (the centre is drawn)"
    found = [
        ("files", f"{n['files']}: {n['used']} used, {n['beside']} beside them, {left}"),
        ("buckets", ", ".join(f"{w}x{h} ({count(report, (w, h))})" for w, h in sizes) + crop),
        ("copies", f"{n['duplicates']} exact; {n['near_duplicates']} near (at most {MOST_BITS} of {BITS} bits differ)"),
        ("captions", f"{n['captions_missing']} missing, {n['captions_empty']} empty or unreadable"),
        ("trigger", f"{words.trigger!r} is missing in {n['captions_without_trigger']} of {len(data)}"),
    ]
    if words.class_word:
        without = n["captions_without_class_word"]
        found.append(("class word", f"{words.class_word!r} is missing in {without} of {len(data)}"))
    for name, tokens in report.counted.items():
        if tokens:
            longest = max(one.count for one in tokens)
            cut = sum(bool(one.cut) for one in tokens)
            found.append((name, f"reads {tokens[0].limit} tokens; the longest caption has {longest}; {cut} cut off"))
    if n["masks"]:
        found.append(("masks", f"{n['masks']}, on average {n['mask_coverage']:.0%} white"))
    return found


def count(report: Report, bucket: buckets.Size) -> int:
    """How many pictures train at this size."""
    return sum(example.bucket == bucket for example in report.dataset.examples)


def as_object(report: Report, model: str, about: Outline) -> dict[str, Any]:
    """The whole report as JSON holds it."""
    data = report.dataset
    return {
        "folder": shown(data.settings.folder),
        "layout": data.layout,
        "model": model,
        "settings": data.settings.model_dump(mode="json", exclude={"folder"}),
        "files": [asdict(file) for file in report.files],
        "pictures": [picture(report, number) for number in range(len(data))],
        "warnings": [*data.warnings, *report.doubts()],
        "notes": report.notes(),
        "problem": about.problem,
        "summary": report.summary(),
        "verdict": report.verdict(),
    }


def picture(report: Report, number: int) -> dict[str, Any]:
    """One used picture as JSON holds it. crop: left, top, right, bottom in its own upright pixels."""
    example = report.dataset.examples[number]
    return {
        "name": shown(example.name),
        "size": example.size,
        "bucket": example.bucket,
        "crop": buckets.crop_box(example.size, example.bucket),
        "repeats": example.repeats,
        "weight": example.weight,
        "caption": example.caption,
        "caption_from": example.source,
        "tokens": {name: asdict(tokens[number]) for name, tokens in report.counted.items()},
        "mask_coverage": None if example.mask_seen is None else example.mask_seen.light,
    }
