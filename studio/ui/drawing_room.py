"""Where the page's pictures are drawn: one base model loaded at a time, one drawing at a time. Never imports torch."""

from __future__ import annotations

import gc
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from studio.pipelines.errors import StudioError
from studio.ui.recipes import Recipe

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

IDLE = 600.0  # seconds after which an unused model leaves the memory, for trainings


@dataclass(frozen=True)
class Drawn:
    """A picture, and its recipe with sampler, steps and guidance scale as they were."""

    recipe: Recipe
    image: Image.Image


@dataclass(frozen=True)
class Frame:
    """How far a drawing is: in words, as a share 0..1, with estimates of the pictures on their way.

    done: finished pictures by their place among the recipes; notes: doubts about what was asked for.
    """

    said: str
    share: float = 0.0
    early: tuple[Image.Image, ...] = ()
    done: Mapping[int, Drawn] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Room:
    """Draws recipes in a thread of its own, for torch's modes belong to threads and a page's steps come from many."""

    def __init__(self, idle: float = IDLE) -> None:
        self.idle = idle
        self._alone = threading.Lock()
        self._stops: dict[str, threading.Event] = {}
        self._name = ""
        self._model: Backbone | None = None
        self._later: threading.Timer | None = None
        self._leave = False  # a training waits for the GPU

    @property
    def loaded(self) -> str:
        """The name of the base model in memory, or ""."""
        return self._name

    def draw(self, recipes: Sequence[Recipe], runs: Path, visitor: str = "") -> Iterator[Frame]:
        """The frames of a drawing; the last has all pictures, unless it was stopped. Raises what the drawing raises.

        A visitor's new drawing stops the older one, and so does leaving this iterator.
        """
        for recipe in recipes:
            recipe.check()
        self.stop(visitor)
        stop = self._stops[visitor] = threading.Event()
        told: queue.SimpleQueue[Frame | BaseException | None] = queue.SimpleQueue()
        work = threading.Thread(target=self._work, args=(recipes, runs, stop, told.put), daemon=True, name="drawing")
        work.start()
        try:
            while (heard := told.get()) is not None:
                if isinstance(heard, BaseException):
                    raise heard
                yield heard
        finally:
            stop.set()
            if self._stops.get(visitor) is stop:
                del self._stops[visitor]

    def stop(self, visitor: str = "") -> bool:
        """Ends a visitor's drawing after the step it is at; whether there was one."""
        if (event := self._stops.get(visitor)) is None:
            return False
        event.set()
        return True

    def release(self) -> bool:
        """Takes the model out of the memory, if nothing is being drawn; whether it did."""
        if not self._alone.acquire(blocking=False):
            return False
        try:
            self._forget()
        finally:
            self._alone.release()
        return True

    def make_way(self) -> bool:
        """For a training that begins: a model on a GPU leaves it, now or when the drawing at work ends; whether it did.

        One in ordinary memory stays for the next drawing, until it has been idle for long.
        """
        model = self._model
        if model is None or model.device.type == "cpu":
            return False
        self._leave = True
        return self.release()

    def model(self, name: str) -> Backbone:
        """The base model of a name, loaded unless it is there. For whoever draws. Raises as `backbone.load`."""
        from studio.sample import base_model

        if self._model is None or self._name != name:
            self._forget()
            self._model = base_model(name)
            self._name = name
        return self._model

    def _work(self, recipes: Sequence[Recipe], runs: Path, stop: threading.Event, tell: Callable[[Any], None]) -> None:
        """One drawing, from its waiting to its end, told frame by frame; an error, then None, at the end."""
        if not self._entered(stop, tell):
            tell(None)
            return
        try:
            from studio.ui.drawing_steps import frames

            tell(Frame("preparing" if self._name else "loading the model"))
            for frame in frames(recipes, runs, self.model, stop.is_set):
                tell(frame)
        except StudioError as error:
            tell(error)
        except BaseException as error:  # whoever waits for the pictures raises it; the model may be in any state
            self._forget()
            tell(error)
        finally:
            self._alone.release()
            if self._leave:
                self.release()
            self._rest()  # only now: a short rest would find the room still taken
            tell(None)

    def _entered(self, stop: threading.Event, tell: Callable[[Frame], None]) -> bool:
        """Whether it is this drawing's turn; False where it was stopped while it waited."""
        if not self._alone.acquire(blocking=False):
            tell(Frame("waiting: another drawing goes first"))
            while not self._alone.acquire(timeout=0.2):
                if stop.is_set():
                    return False
        if self._later is not None:
            self._later.cancel()
        return True

    def _rest(self) -> None:
        """After a while without a drawing, the model leaves the memory."""
        self._later = threading.Timer(self.idle, self.release)
        self._later.daemon = True
        self._later.start()

    def _forget(self) -> None:
        """The model is not held any more."""
        self._name, self._model, self._leave = "", None, False
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


ROOM = Room()  # one for the whole server: the model's memory is
