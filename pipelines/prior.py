"""Class pictures for prior preservation, made by the base model and kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone


def location(
    model: Backbone,
    prompt: str,
    count: int,
    folder: Path,
    seed: int,
    *,
    steps: int = 25,
    guidance_scale: float = 5.0,
) -> Path:
    """Where the pictures of this model, prompt, seed and number are kept below `folder`."""
    said = (model.fingerprint(), prompt, count, seed, steps, guidance_scale)
    return folder / sha256(repr(said).encode()).hexdigest()[:16]


def pictures(
    model: Backbone,
    prompt: str,
    count: int,
    folder: Path,
    seed: int,
    *,
    steps: int = 25,
    guidance_scale: float = 5.0,
    batch: int = 8,
) -> Iterator[tuple[int, int]]:
    """Fills `location(...)` with `count` pictures by the base model, yielding (done, count) as they come.

    Each is a PNG named by its seed, with prompt and seed in its metadata. Pictures already there are kept,
    one that cannot be read is made again.
    """
    place = location(model, prompt, count, folder, seed, steps=steps, guidance_scale=guidance_scale)
    place.mkdir(parents=True, exist_ok=True)
    missing = [one for one in range(seed, seed + count) if not _readable(place / name(one))]
    yield count - len(missing), count
    for start in range(0, len(missing), batch):
        seeds = missing[start : start + batch]
        for one, picture in zip(seeds, _base_pictures(model, prompt, seeds, steps, guidance_scale), strict=True):
            _save(picture, place / name(one), prompt, one)
        yield count - len(missing) + start + len(seeds), count


def name(seed: int) -> str:
    """The file name of the picture with this seed."""
    return f"{seed:08d}.png"


def _base_pictures(model: Backbone, prompt: str, seeds: list[int], steps: int, guidance_scale: float) -> list[Tensor]:
    """Pictures `[3, H, W]` in 0..1 by the model without its adapter."""
    from studio.pipelines.sampling import sample

    with nullcontext() if model.adapter is None else model.adapter.off():
        return list(
            sample(
                model,
                [prompt] * len(seeds),
                seeds,
                steps=steps,
                guidance_scale=guidance_scale,
                batch=len(seeds),
            )
        )


def _save(picture: Tensor, path: Path, prompt: str, seed: int) -> None:
    """A PNG beside `path`, then renamed."""
    from PIL.PngImagePlugin import PngInfo
    from torchvision.transforms.functional import to_pil_image

    info = PngInfo()
    info.add_itxt("prompt", prompt)
    info.add_text("seed", str(seed))
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    to_pil_image(picture.float().clamp(0, 1).cpu()).save(aside, format="PNG", pnginfo=info)
    os.replace(aside, path)


def _readable(path: Path) -> bool:
    """Whether a whole picture lies there."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError):
        return False
    return True
