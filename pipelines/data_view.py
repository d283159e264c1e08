"""One example as a batch shows it: its pixels and its mask, cropped, resized, mirrored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from studio.pipelines.buckets import Box, Size
from studio.pipelines.data_image import decode, read_bytes, rgb, shown
from studio.pipelines.data_pictures import Example, Pictures
from studio.pipelines.data_zoom import WHOLE, Zoom
from studio.pipelines.errors import DataError


@dataclass(frozen=True)
class View:
    """One example as a batch shows it: its size, which part of it, mirrored or not, with which prompt, how near."""

    example: Example
    settings: Pictures
    bucket: Size
    box: Box
    flip: bool
    prompt: str
    zoom: Zoom = WHOLE

    @property
    def cacheable(self) -> bool:
        """Whether the same view can come again: a random crop hardly does."""
        return self.settings.crop == "center"

    def pixels(self) -> Tensor:
        """The picture, `[3, H, W]` in -1..1. DataError where the file is no longer what it was."""
        data = unchanged(self.example.path, self.example.content)
        image = rgb(decode(data), self.settings.background)
        return self.mirrored(self.zoom.fit(image, self.bucket, self.box, 0.5)) * 2 - 1

    def mask(self) -> Tensor:
        """Where to learn, `[1, H, W]` in 0..1; ones without a mask."""
        if self.example.mask is None or not self.settings.masks:
            return torch.ones(1, self.bucket[1], self.bucket[0])
        image = rgb(decode(unchanged(self.example.mask, self.example.mask_content)), "black").convert("L")
        across, down = (mask / picture for mask, picture in zip(image.size, self.example.size, strict=True))
        left, top, right, bottom = self.box
        box = left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)
        return self.mirrored(self.zoom.fit(image, self.bucket, box, 0.0))

    def inside(self) -> Tensor:
        """1 where the picture is and 0 where its zoom leaves grey, `[1, H, W]`."""
        return self.mirrored(self.zoom.inside(self.bucket))

    def mirrored(self, values: Tensor) -> Tensor:
        return values.flip(-1) if self.flip else values


def unchanged(path: Path, content: str) -> bytes:
    """The file's bytes. DataError where they are not those that were checked."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read any more: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != content:
        raise DataError(f"{shown(path)} was changed since the data were checked: start again")
    return data
