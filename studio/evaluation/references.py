"""What pictures are held against: references of the subject, and the pictures the adapter was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from studio.pipelines import layouts
from studio.pipelines.data_examples import MASK_SHAPE
from studio.pipelines.data_image import decode, one_line, read_bytes, rgb, shown
from studio.pipelines.errors import DataError
from studio.pipelines.layouts import Found

SIDE = 1024  # pixels: no encoder looks closer
HELD_OUT = 4  # pictures from which on some should be kept from training


@dataclass
class Material:
    """References `[3, h, w]` in 0..1, or `[4, h, w]` with the subject's mask, and training pictures; their names.

    notes: what a person must know about them; trained_on: the references are the training pictures; embedded: they are
    of the embedded world, whose prompts say the background.
    """

    references: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    training: list[Tensor] = field(default_factory=list)
    training_names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trained_on: bool = False
    embedded: bool = False
    grounds: dict[str, list[Tensor]] = field(default_factory=dict)

    def ground(self, prompt: str) -> str:
        """The background that a prompt asks for, where references can be put on it; else ''."""
        if not self.embedded or not all(len(reference) == 4 for reference in self.references):
            return ""
        from studio.evaluation.personal_wishes import wishes

        return wishes(prompt).get("colour", "")

    def near(self, ground: str) -> list[Tensor]:
        """The references, cut out and put on a background: a similarity is then about the subject alone."""
        if not ground:
            return self.references
        if ground not in self.grounds:
            from studio.world.concepts import BACKGROUNDS

            colour = torch.tensor(BACKGROUNDS[ground]).view(3, 1, 1) / 255
            cut = [(one[:3] * one[3:] + colour * (1 - one[3:]), one[3:]) for one in self.references]
            self.grounds[ground] = [torch.cat(parts) for parts in cut]
        return self.grounds[ground]


@dataclass(frozen=True)
class Read:
    """One picture of a folder."""

    name: str
    pixels: Tensor
    content: str


def gather(references: Path | None, data: Path | None, embedded: bool = False) -> Material:
    """References of a folder, else the held-out ones beside an embedded subject's data, else the data themselves.

    Raises DataError for a folder without a usable picture, and for a mask of another shape than its picture.
    """
    found = Material(embedded=embedded)
    training = folder(data, found.notes) if data is not None and data.exists() else []
    if data is not None and not data.exists():
        found.notes.append(f"the training pictures are not in {shown(data)} any more: nothing is held against them")
    found.training, found.training_names = [one.pixels[:3] for one in training], [one.name for one in training]
    if references is None and data is not None and (data.parent / "subject.json").is_file():
        references = data.parent / "reference"
    rows = unseen(folder(references, found.notes), training, found.notes) if references is not None else []
    if references is None and training:
        rows, found.trained_on = training, True
        found.notes.append(scored_on_training(len(training)))
    if len(rows) == 1:
        found.notes.append("one reference alone: the similarity is to that picture, its pose and background included")
    found.references, found.names = [one.pixels for one in rows], [one.name for one in rows]
    return found


def scored_on_training(count: int) -> str:
    """What it means that there are no other references."""
    more = f"; with {count} pictures, keep one or two out of training" if count >= HELD_OUT else ""
    return (
        "similarity is to the pictures it was trained on, and a copy of them scores best: "
        f"give others of the subject with --references{more}"
    )


def unseen(references: list[Read], training: list[Read], notes: list[str]) -> list[Read]:
    """References that were not trained on; all of them where there are no others."""
    known = {one.content for one in training}
    fresh = [one for one in references if one.content not in known]
    if len(fresh) == len(references):
        return references
    if not fresh:
        notes.append("all references are training pictures: a copy of them scores best")
        return references
    notes.append(f"{len(references) - len(fresh)} of {len(references)} references are training pictures and left out")
    return fresh


def folder(place: Path, notes: list[str]) -> list[Read]:
    """The pictures of a folder, or one picture, with their masks.

    Raises DataError where there is none; those that cannot be read are noted.
    """
    try:
        listing = layouts.scan_file(place) if place.is_file() else layouts.scan(place)
    except OSError as error:
        raise DataError(f"{shown(place)} cannot be read: {error.strerror or one_line(error)}") from error
    rows = [one for found in listing.found if (one := picture(found, notes))]
    if not rows:
        raise DataError(f"no picture in {shown(place)} can be used as a reference; name a folder of pictures")
    return rows


def picture(found: Found, notes: list[str]) -> Read | None:
    """One picture with its mask; None with a note for one that cannot be read."""
    try:
        data = read_bytes(found.path)
        image = rgb(decode(data))
        mask = rgb(decode(read_bytes(found.mask)), "black").convert("L") if found.mask else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        notes.append(f"{shown(found.name)} is no reference: {one_line(error)}")
        return None
    parts = [to_tensor(fitted(image, image.size))]
    if mask is not None:
        check(found, image, mask)
        parts.append(to_tensor(fitted(mask, image.size)))
    return Read(found.name, torch.cat(parts), sha256(data).hexdigest())


def check(found: Found, image: Image.Image, mask: Image.Image) -> None:
    """Raises DataError for a mask of another shape than its picture."""
    if abs(mask.width * image.height / (mask.height * image.width) - 1) > MASK_SHAPE:
        raise DataError(
            f"{shown(found.name)} is {image.width}x{image.height} and its mask {mask.width}x{mask.height}: "
            "make the mask again, or take it away"
        )


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image at a size, made smaller where that is larger than any encoder looks."""
    scale = min(1.0, SIDE / max(size))
    target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return image if image.size == target else image.resize(target, Image.Resampling.LANCZOS)
