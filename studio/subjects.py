"""The subjects and styles that come with the studio: `--data subject:fox`, and how well a run learned one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit
import torch
from PIL import Image
from torch import Tensor

from studio.config import RunConfig
from studio.pipelines.assets import assets_folder
from studio.pipelines.confine import inside
from studio.pipelines.errors import DataError
from studio.registry import nearest

if TYPE_CHECKING:
    from studio.pipelines.scorers.embedded import Judges

SCHEME = "subject:"


@lru_cache(maxsize=1)
def prompts() -> dict[str, dict[str, str]]:
    """The benchmark's prompts, with the attributes that must be seen in their pictures."""
    rows = tomlkit.parse((assets_folder() / "prompts" / "subject.toml").read_text("utf-8")).unwrap()["prompt"]
    return {row.pop("text"): row for row in rows}


def folder(name: str) -> Path:
    """Where a subject's or style's files are. Raises DataError with the nearest name for an unknown one."""
    place = inside(assets_folder() / "subjects", name, DataError, f"{SCHEME}{name}")
    if not (place / "subject.json").is_file():
        known = sorted(path.parent.name for path in (assets_folder() / "subjects").glob("*/subject.json"))
        raise DataError(f"there is no subject '{name}'{nearest(name, known)}; there are {', '.join(known)}")
    return place


def resolve(config: RunConfig) -> RunConfig:
    """The config with `subject:NAME` replaced by the folder it stands for, and its class word where none is given."""
    data = config.settings.data
    if not str(data.folder).startswith(SCHEME):
        return config
    place = folder(str(data.folder).removeprefix(SCHEME))
    word = data.class_word or json.loads((place / "subject.json").read_text())["class_word"]
    data = data.model_copy(update={"folder": place / "train", "class_word": word})
    return config.model_copy(update={"settings": config.settings.model_copy(update={"data": data})})


def about(data: Path | None) -> dict[str, Any]:
    """`subject.json` of the subject that a data folder belongs to; {} for anybody's own pictures."""
    file = data.parent / "subject.json" if data is not None else None
    return json.loads(file.read_text()) if file is not None and file.is_file() else {}


def read(path: Path, mode: str = "RGB") -> Tensor:
    """A picture `[C, H, W]` in 0..1."""
    from torchvision.transforms.functional import to_tensor  # brings torch's compiler with it: more than a second

    with Image.open(path) as picture:
        return to_tensor(picture.convert(mode))


def references(place: Path, colour: Sequence[int]) -> Tensor:
    """A subject's reference pictures `[R, 3, H, W]` in 0..1, cut out by their masks and put on one colour.

    With the prompt's own background behind them, a similarity is about the subject and not about the background.
    """
    ground = torch.tensor(colour).view(3, 1, 1) / 255
    files = sorted((place / "reference").glob("*.png"))
    masks = [read(place / "reference" / "masks" / file.name, "L") for file in files]
    return torch.stack([read(file) * mask + ground * (1 - mask) for file, mask in zip(files, masks, strict=True)])


def marks(judges: Judges, pictures: Tensor, prompt: str, place: Path) -> dict[str, list[float]]:
    """Scores of pictures `[B, 3, H, W]` in 0..1 made for one of `prompts()`: similarities and shares of wishes met."""
    from studio.pipelines.scorers.embedded import SubjectMatch
    from studio.world.concepts import BACKGROUNDS

    wishes = prompts()[prompt]
    near, read = list(references(place, BACKGROUNDS[wishes["colour"]])), judges.read(pictures * 2 - 1)
    return {
        "subject similarity (image)": SubjectMatch(judges)(pictures, [], near).tolist(),
        "subject similarity (attributes)": SubjectMatch(judges, "attribute")(pictures, [], near).tolist(),
        "prompt accuracy": [sum(row[k] == v for k, v in wishes.items()) / len(wishes) for row in read],
    }
