"""Where `studio sample` may write. Never imports torch."""

from __future__ import annotations

import os
from pathlib import Path

from studio.pipelines.confine import permitted
from studio.pipelines.errors import UsageError


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
