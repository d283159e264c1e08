"""Pictures as a captioner sees them: read as training reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from studio.pipelines.data_check import check_all
from studio.pipelines.data_image import decode, one_line, read_bytes, rgb

if TYPE_CHECKING:
    from torch import Tensor

MOST_PIXELS = 1536  # of the longer side: more than any captioner looks at


def look(paths: Sequence[Path], background: str) -> list[Tensor | str]:
    """Pictures `[3, h, w]` in 0..1, read as training reads them, or the reason why one cannot be."""
    from torchvision.transforms.functional import to_tensor

    found: list[Tensor | str] = []
    for path, checked in zip(paths, check_all(paths, background), strict=True):
        if isinstance(checked, str):
            found.append(checked)
            continue
        try:
            picture = rgb(decode(read_bytes(path)), background)
        except Exception as error:  # it was whole a moment ago
            found.append(f"cannot be read: {one_line(error)}")
            continue
        picture.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
        found.append(to_tensor(picture))
    return found
