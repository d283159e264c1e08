"""Pictures as an encoder takes them: resize, centre crop, mean and deviation, in torch and differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.pipelines.errors import ModelError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
RESAMPLE: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
Size = int | tuple[int, int]  # the short side, or (height, width) whatever the proportions are


@dataclass(frozen=True)
class Framing:
    """What happens to a picture before an encoder. crop: side of the square cut from the middle, None for no cut."""

    size: Size
    crop: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: Literal["bilinear", "bicubic"] = "bicubic"

    def read(self, settings: dict[str, Any]) -> Framing:
        """As a `preprocessor_config.json` says, and like this one where it says nothing. ModelError for nonsense."""
        found: dict[str, Any] = {}
        try:
            if settings.get("size") is not None:
                found["size"] = sides(settings["size"], isinstance(self.size, tuple))
            if settings.get("crop_size") is not None:
                found["crop"] = square(sides(settings["crop_size"], True))
            cut = settings.get("do_center_crop")
            if not (self.crop is not None if cut is None else cut):
                found["crop"] = None
            for key in ("mean", "std"):
                if settings.get(f"image_{key}"):
                    found[key] = tuple(float(value) for value in settings[f"image_{key}"])
            if settings.get("resample") is not None:
                found["mode"] = RESAMPLE[settings["resample"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"preprocessor_config.json asks for what is not known here: {error!r}") from None
        return replace(self, **found)

    @property
    def square(self) -> int:
        """The side, in pixels, of what the encoder sees."""
        return self.crop or square(self.size)

    def __call__(self, pictures: Sequence[Tensor]) -> Tensor:
        """`[B, 3, h, w]` for pictures `[3, H, W]` in 0..1."""
        return prepare(pictures, self.size, self.crop, self.mean, self.std, self.mode)

    def masks(self, masks: Sequence[Tensor]) -> Tensor:
        """Masks `[1, H, W]` in 0..1, cut as their pictures are, `[B, 1, h, w]`."""
        return torch.stack([framed(mask, self.size, self.crop, self.mode) for mask in masks])

    def __str__(self) -> str:
        to = f"short side to {self.size}" if isinstance(self.size, int) else f"to {self.size[1]}x{self.size[0]}"
        cut = f", centre {self.crop}x{self.crop}" if self.crop else ""
        return f"{to} px (antialiased {self.mode}){cut}, mean {self.mean}, std {self.std}"


def sides(size: Any, both: bool) -> Size:
    """Out of transformers' forms: 224, {"shortest_edge": 224}, {"height": 224, "width": 224}. both: 224 is for both."""
    if isinstance(size, int):
        return (size, size) if both else size
    return int(size["shortest_edge"]) if "shortest_edge" in size else (int(size["height"]), int(size["width"]))


def square(size: Size) -> int:
    """The side of a square; ValueError for another shape."""
    if isinstance(size, int) or size[0] != size[1]:
        raise ValueError(f"not square: {size}")
    return size[0]


def prepare(
    pictures: Sequence[Tensor],
    size: Size,
    crop: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    mode: Literal["bilinear", "bicubic"] = "bicubic",
) -> Tensor:
    """`[B, 3, h, w]` float32 for pictures `[3 or 4, H, W]` in 0..1 of any size each (a fourth channel is left out).

    size: of the short side, or (height, width); crop: side of the square cut from the middle, None for none.
    """
    colours = [picture[:3].float() for picture in pictures]
    if len({colour.shape for colour in colours}) == 1:
        x = framed(torch.stack(colours), size, crop, mode)
    else:
        x = torch.stack([framed(colour, size, crop, mode) for colour in colours])
    middle, spread = (torch.tensor(values, device=x.device).view(-1, 1, 1) for values in (mean, std))
    return (x - middle) / spread


def framed(x: Tensor, size: Size, crop: int | None, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """`[..., C, H, W]` in 0..1 resized and cut, as PIL and transformers place it."""
    height, width = x.shape[-2:]
    if isinstance(size, int):
        short = min(height, width)
        target = (size * height // short, size * width // short)
    else:
        target = size
    if target != (height, width):
        batch = x if x.dim() == 4 else x.unsqueeze(0)
        # bicubic overshoots at edges, where pictures of bytes are cut to their range
        batch = F.interpolate(batch, target, mode=mode, antialias=True).clamp(0, 1)
        x = batch if x.dim() == 4 else batch.squeeze(0)
    if crop is None:
        return x
    if crop > min(target):
        raise ModelError(f"an encoder that cuts {crop} px out of {min(target)} px; name another one")
    top, left = ((length - crop) // 2 for length in target)
    return x[..., top : top + crop, left : left + crop]


def rows(pictures: Sequence[Tensor], make: Callable[[list[Tensor]], Tensor]) -> Tensor:
    """`make(pictures)` `[B, ...]` with NaN in the rows of pictures that hold a value that is no number.

    `make` sees black pictures in their place, so that its other rows are what they are without them.
    """
    good = torch.tensor([bool(picture.isfinite().all()) for picture in pictures])
    if good.all():
        return make(list(pictures))
    values = make([p if ok else torch.zeros_like(p) for p, ok in zip(pictures, good.tolist(), strict=True)])
    return torch.where(good.to(values.device).view(-1, *[1] * (values.dim() - 1)), values, torch.nan)
