"""What a run's finished adapter says of itself, read without torch."""

from __future__ import annotations

from safetensors import SafetensorError, safe_open

from studio.store import Run

ADAPTER = "adapter.safetensors"


def header(run: Run) -> dict[str, str]:
    """What the finished adapter's file says of itself; {} where there is none, or it is damaged."""
    try:
        with safe_open(run.folder / ADAPTER, "np") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}
