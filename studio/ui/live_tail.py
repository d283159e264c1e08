"""A run's events.jsonl read as it grows: each line once, none while it is still being written."""

from __future__ import annotations

from pathlib import Path

from studio.events import Event

HEAD = 200  # bytes at the start by which a file is known again: its first line has a time to the millisecond
LONGEST = 2**24  # bytes of one look; the rest of a very long file comes with the next


class Tail:
    """The events of a file, as far as they were not read before."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset, self.head = path, 0, b""

    def read(self) -> tuple[bool, list[Event]]:
        """Whether it is another file than before (then everything is new), and the new events.

        A line without its end waits for it; lines torn by a crash are left out.
        """
        try:
            with self.path.open("rb") as file:
                head = file.read(HEAD)
                size = file.seek(0, 2)
                anew = size < self.offset or not head.startswith(self.head)
                start = 0 if anew else self.offset
                file.seek(start)
                text = file.read(LONGEST)
        except OSError:
            anew, start, head, text = bool(self.offset), 0, b"", b""
        end = text.rfind(b"\n") + 1
        self.offset, self.head = start + end, head[: start + end]
        return anew, [event for line in text[:end].splitlines() if (event := parsed(line)) is not None]


def parsed(line: bytes) -> Event | None:
    """The event of a line; None where it is none."""
    try:
        event = Event.read(line.decode("utf-8", "replace"))
        return event if isinstance(event.step, int) and isinstance(event.time, (int, float)) else None
    except (ValueError, TypeError, RecursionError):
        return None
