"""A run's log.txt: tracebacks, Python's warnings and libraries' messages, with the time and without secrets."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import studio
from studio.secrets import redact

NAME = "log.txt"
LIBRARIES = ("diffusers", "transformers", "huggingface_hub")  # they keep a screen of their own
OURS = tuple(str(Path(studio.__file__).resolve().parent.parent / name) + os.sep for name in
             ("studio", "trainers", "pipelines", "kernels"))  # fmt: skip


class Log(logging.Handler):
    """Lines for log.txt, kept in memory until the run has a folder.

    path: the file; hushed: whether libraries' words stay off the screen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None
        self.hushed = False
        self.waiting: deque[str] = deque(maxlen=1000)
        self.before: dict[str, list[logging.Handler]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.write(record.levelname.lower(), f"{record.name}: {self.format(record)}")

    def write(self, kind: str, text: str) -> bool:
        """Adds an entry; False when the file cannot be written, which must not end a run."""
        return self.put(redact(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {kind}: {text.rstrip()}\n"))

    def put(self, entry: str) -> bool:
        """An entry into the file, or with those that wait for one."""
        if self.path is None:
            self.waiting.append(entry)
            return True
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(entry)
        except OSError:
            return False
        return True

    def open(self, folder: Path) -> None:
        """From now on entries go to the folder's log.txt, those that waited first."""
        self.path = folder / NAME
        while self.waiting:
            self.put(self.waiting.popleft())

    def hush(self) -> None:
        """Libraries speak to the log only; those with a screen of their own must be imported by now."""
        self.hushed = True
        for name in ("", *LIBRARIES):
            logger = logging.getLogger(name)
            if name and logger.propagate:  # not imported: the root hears it
                continue
            self.before.setdefault(name, logger.handlers)
            logger.handlers = [*logger.handlers, self] if not name else [self]

    def unhush(self) -> None:
        """Libraries get their own handlers back."""
        for name, handlers in self.before.items():
            logging.getLogger(name).handlers = handlers

    def hear(self, message: Warning | str, category: type[Warning], file: str, line: int, *_: Any, **__: Any) -> bool:
        """A Python warning; True when a person should see it: it is ours, or no run is under way."""
        self.write("warning", f"{category.__name__}: {message} ({file}, line {line})")
        return file.startswith(OURS) or not self.hushed

    def traceback(self, error: BaseException, command: str) -> Path | None:
        """Keeps the traceback in the run's log; None where there is no run, or no way to write."""
        text = "".join(traceback.format_exception(error))
        there = self.path is not None and self.write("failed", f"{command}\n{text}")
        return self.path if there else None

    def aside(self, error: BaseException, command: str) -> Path | None:
        """Keeps what waited and the traceback in a temporary file; None where there is no room for one."""
        text = "".join([*self.waiting, f"{command}\n", *traceback.format_exception(error)])
        try:
            handle, path = tempfile.mkstemp(prefix="studio-", suffix=".txt")
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(redact(text))
        except OSError:
            return None
        return Path(path)


current: Log | None = None


@contextmanager
def listening(say: Callable[[str], None]) -> Iterator[Log]:
    """Inside, `current` is a new log that hears Python's warnings; `say` shows a person those meant for one."""
    global current
    outer, log, shown = current, Log(), warnings.showwarning

    def hear(message: Warning | str, *rest: Any, **named: Any) -> None:
        if log.hear(message, *rest, **named):
            say(str(message))

    warnings.showwarning, current = hear, log
    try:
        yield log
    finally:
        warnings.showwarning, current = shown, outer
        log.unhush()


def hush() -> None:
    """A run begins: libraries' messages are for its log. Outside the command line nothing happens."""
    if current is not None:
        current.hush()


def to(folder: Path) -> None:
    """The run under way has a folder now. Outside the command line nothing happens."""
    if current is not None:
        current.open(folder)
