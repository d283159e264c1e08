"""Requests to stop: SIGINT, SIGTERM, and a file called `stop` in the run's folder."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from studio.pipelines.protocols import Backbone, Cond

LOOK = 0.3  # seconds between two looks at the file while nobody else looks
STOPPED = 130  # exit code
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop. Its text, where there is one, says what was not kept."""


class Stop:
    """Whether somebody asked the run to stop; once asked, it stays so.

    at_once: nothing would be lost now, so that the request ends the run wherever it is. Otherwise the run looks
    when it can. lost: what was raised where Python swallows it (in a callback of a weak reference, in `__del__`), and
    is raised again.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file, self.at_once, self.asked, self.nudged = file, True, threading.Event(), False
        self.lost: type[BaseException] | None = None

    def __call__(self) -> bool:
        if not self.asked.is_set() and self.file is not None and self.file.exists():
            self.asked.set()
        if self.asked.is_set():
            self.lost = None  # the run knows it now
        return self.asked.is_set()

    def check(self) -> None:
        """Raises Stopped when somebody asked."""
        if self():
            raise Stopped

    def hear(self, number: int, frame: Any) -> None:
        """The handler of the signals: the first one asks, the second one ends the run wherever it is."""
        again, nudged, lost = self.asked.is_set(), self.nudged, self.lost
        self.asked.set()
        self.nudged, self.lost = False, None
        if again and not nudged:
            raise KeyboardInterrupt
        if lost is not None and (self.at_once or lost is not Stopped):
            raise lost
        if self.at_once and not again:
            raise Stopped
        if not again:
            os.write(2, b"studio: stopping at the next step that can be saved; once more: at once\n")

    def watch(self, over: threading.Event) -> None:
        """Look at the file where the main thread cannot: in a download, or in somebody else's pipeline."""
        while not over.wait(LOOK):
            lost = self.lost
            new = not self.asked.is_set() and self.file is not None and self.file.exists()
            if (self.at_once and new) or (lost is not None and (self.at_once or lost is not Stopped)):
                self.nudged = True  # not a person's second signal, should the run have looked meanwhile
                _thread.interrupt_main()

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Inside, a request that Python swallows is noticed."""
        before = sys.unraisablehook

        def noticed(swallowed: Any) -> None:
            if issubclass(swallowed.exc_type, KeyboardInterrupt):
                self.lost = swallowed.exc_type  # raised here it would be swallowed once more
            else:
                before(swallowed)

        sys.unraisablehook = noticed
        try:
            yield
        finally:
            sys.unraisablehook = before

    @contextmanager
    def between_calls(self, model: Backbone) -> Iterator[None]:
        """Inside, every call of the model's network looks first: Stopped comes between two sampler steps."""
        before, predict = vars(model).get("predict"), model.predict

        def asking(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            self.check()
            return predict(x, t, cond)

        model.predict = asking  # type: ignore[method-assign]
        try:
            yield
        finally:
            if before is None:
                vars(model).pop("predict")
            else:
                model.predict = before  # type: ignore[method-assign]


def unbegun(number: int, frame: Any) -> None:
    """The handler until a run listens itself: nothing is there to be saved, and the process ends here."""
    # not raised: what imports raise, the libraries that are being imported may swallow
    os.write(2, b"studio: stopped before anything was written\n")
    os._exit(STOPPED)


def before_listening(train: bool) -> None:
    """From now on SIGTERM ends the process as Ctrl-C does; train: in one line, at once, until a run listens itself."""
    signal.signal(signal.SIGTERM, unbegun if train else signal.default_int_handler)
    if train and signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # else somebody has it ignored
        signal.signal(signal.SIGINT, unbegun)


@contextmanager
def listening(file: Path | None) -> Iterator[Stop]:
    """Requests to stop are heard inside; signals only in the main thread, where Python delivers them."""
    stop = Stop(file)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    over = threading.Event()
    watcher = threading.Thread(target=stop.watch, args=(over,), name="stop file", daemon=True)
    before = {number: signal.signal(number, stop.hear) for number in SIGNALS}
    watcher.start()
    try:
        with stop.catching():
            yield stop
    finally:
        over.set()
        watcher.join()
        for number, handler in before.items():
            signal.signal(number, signal.default_int_handler if handler is unbegun else handler)
