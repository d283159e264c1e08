"""`studio doctor`: what works on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from studio.commands.form import parse


@dataclass(frozen=True)
class Options:
    """Ask every part whether it really works: torch, device, extras, attention, disk, memory, hub."""

    offline: bool = False
    """Do not ask whether the model hub can be reached."""


def main(args: list[str]) -> int:
    """Runs `studio doctor ARGS`: 0, or 1 when torch is unusable."""
    options = parse(Options, args, "doctor")
    from studio.doctor import report

    return report(ask_hub=not options.offline)
