"""File operations of this process below one folder: counted, written down, and chosen ones made to fail (Linux)."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

Fault = Literal["kill", "torn", "term", "full", "broken"]
GROWING = frozenset({"create", "write", "mkdir"})  # what a full disk refuses
# audit event -> (name, argument with the path, argument with the folder's descriptor)
HEARD: dict[str, tuple[str, int, int | None]] = {
    "os.rename": ("rename", 1, 3), "os.remove": ("remove", 0, 1), "os.mkdir": ("mkdir", 0, 2),
    "os.rmdir": ("rmdir", 0, 1), "os.link": ("link", 1, 3), "os.symlink": ("link", 1, 2),
    "os.truncate": ("truncate", 0, None), "os.listdir": ("list", 0, None), "os.scandir": ("list", 0, None),
}  # fmt: skip


@dataclass
class Faults:
    """What happens at which file operation.

    folder: operations outside do not count; trace: descriptor that gets a line `kind path` before each operation;
    at: by number, from 1: kill (SIGKILL before it), torn (SIGKILL after half of a write), term (SIGTERM before it),
    full (from here on nothing can be written: ENOSPC), broken (EIO, once).
    """

    folder: str
    trace: int
    at: Mapping[int, Fault]
    count: int = 0
    full: bool = False

    def install(self) -> None:
        """Listen and wrap, until this process ends."""
        import safetensors.torch

        wrapped: list[tuple[Any, str, Callable[..., Any]]] = [
            (safetensors.torch, "serialize_file", self.serialize),
            (os, "fsync", self.through_handle), (os, "fdatasync", self.through_handle),
        ]  # fmt: skip
        for module, name, ours in wrapped:
            setattr(module, name, partial(ours, getattr(module, name)))
        opening = partial(self.open, builtins.open)
        for module in (builtins, io):
            setattr(module, "open", opening)  # noqa: B010  (a plain assignment is no `open` to mypy)
        sys.addaudithook(self.heard)

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        """Python's own report of what it is about to do."""
        if event == "open":
            path, _, flags = args
            if not isinstance(path, int):
                reads = flags & os.O_ACCMODE == os.O_RDONLY
                self.operation("read" if reads else "create", self.inside(path))
        elif event in HEARD:
            kind, path, handle = HEARD[event]
            self.operation(kind, self.inside(args[path], None if handle is None else args[handle]))

    def inside(self, path: Any, handle: int | None = None) -> str:
        """The path (or descriptor) from the folder on; '' outside of it."""
        if path is None or isinstance(path, int):
            path = os.getcwd() if path is None else os.readlink(f"/proc/self/fd/{path}")
        near = os.getcwd() if handle in (None, -1) else os.readlink(f"/proc/self/fd/{handle}")
        whole = os.path.abspath(os.path.join(near, os.fsdecode(path)))
        return os.path.relpath(whole, self.folder) if f"{whole}/".startswith(f"{self.folder}/") else ""

    def operation(self, kind: str, path: str, tear: Callable[[], object] = lambda: None) -> None:
        """Count it, write it down, and let it fail when its time has come. tear: does half of it.

        Raises OSError.
        """
        if not path:
            return
        self.count += 1
        os.write(self.trace, f"{kind} {path}\n".encode(errors="replace"))
        fault = self.at.get(self.count)
        self.full = self.full or fault == "full"
        if fault == "torn":
            tear()
        if fault in ("kill", "torn", "term"):
            os.kill(os.getpid(), signal.SIGTERM if fault == "term" else signal.SIGKILL)
        if self.full and kind in GROWING:
            tear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if fault == "broken":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def through_handle(self, real: Callable[[int], None], handle: Any) -> None:
        """fsync and fdatasync: Python does not report them."""
        number = handle if isinstance(handle, int) else handle.fileno()
        self.operation("fsync", self.inside(number))
        real(number)

    def serialize(self, real: Callable[..., None], tensors: Any, path: Any, metadata: Any = None) -> None:
        """safetensors writes in Rust: beside the file and renamed, so a torn one has a name of its own."""
        from safetensors import SafetensorError

        def tear() -> None:
            aside = os.path.join(os.path.dirname(path), ".tmpTorn")
            real(tensors, aside, metadata=metadata)
            os.truncate(aside, os.path.getsize(aside) // 2)

        try:
            self.operation("write", self.inside(path), tear)
        except OSError as error:
            words = f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
            raise SafetensorError(words) from None
        real(tensors, path, metadata=metadata)

    def open(
        self, real: Callable[..., Any], file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        """`open`, whose every write to a file of the folder is an operation."""
        if not set(mode) & set("wax+") or not self.inside(file):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Raw(self, file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class Raw(io.FileIO):
    """A file whose writes to the system are operations."""

    def __init__(self, faults: Faults, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        super().__init__(file, mode, closefd, opener)
        self.faults, self.place = faults, faults.inside(file)

    def write(self, data: Any, /) -> int:
        """One system call."""
        whole = super().write
        self.faults.operation("write", self.place, lambda: whole(bytes(data)[: len(data) // 2]))
        return whole(data)
