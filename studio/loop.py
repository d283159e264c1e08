"""The one training loop: takes a trainer's losses, steps, and hands back what happened."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import AutocastKwargs
from torch import Tensor

from studio import optimizers
from studio.pipelines.errors import MemoryShortage, NumericalError, StudioError, UsageError
from studio.pipelines.protocols import Adapter, Backbone
from studio.precision import precision
from studio.snapshot import State, randomness, set_randomness
from studio.source import Source
from studio.trainers.base import Loss, Settings

NO_CACHE = AutocastKwargs(cache_enabled=False)  # a cast cached under no_grad would cut the next graph


@dataclass(frozen=True)
class Tick:
    """One optimizer step that was taken.

    step: how many are done; numbers: loss, grad_norm, lr and the trainer's own, tensors still on the device;
    safe: a checkpoint may be taken now; state(): everything to go on from here; averaged(): a context in
    which the adapter holds the weights to export (the moving average, where there is one).
    """

    step: int
    numbers: dict[str, float | Tensor]
    safe: bool
    state: Callable[[], State]
    averaged: Callable[[], AbstractContextManager[None]]

    def floats(self) -> dict[str, float]:
        """The numbers as floats, in one transfer from the device."""
        tensors = {name: value for name, value in self.numbers.items() if isinstance(value, Tensor)}
        values = torch.stack([value.float().reshape(()) for value in tensors.values()]).tolist() if tensors else []
        moved = dict(zip(tensors, values, strict=True))
        return {name: moved[name] if name in moved else float(value) for name, value in self.numbers.items()}


def train(
    settings: Settings,
    model: Backbone,
    adapter: Adapter,
    losses: Iterator[Loss],
    memory: dict[str, Any],
    *,
    start: int = 0,
    state: State | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Tick]:
    """Steps `start + 1` to `settings.steps`, one `Tick` each; with `state`, continues bit for bit (on a CPU).

    Ends early after the first safe tick at which `stop()` is true. Raises UsageError for a setting that
    cannot be, NumericalError before a step on something not finite, MemoryShortage when the device is full,
    StudioError when the trainer breaks the rules of generators. Without `state`, `memory` is left as it is.
    One loop at a time: accelerate keeps its state per process.
    """
    engine = Engine(settings, model, adapter, memory)
    if state is not None:
        engine.restore(state)
    return _ticks(engine, Source(losses, adapter), start, stop)


def resting(
    settings: Settings, model: Backbone, adapter: Adapter, memory: dict[str, Any], state: State, step: int
) -> Tick:
    """The tick at which `state` was taken, without training: for a run that ended before its export."""
    engine = Engine(settings, model, adapter, memory)
    engine.restore(state)
    return Tick(step, {}, True, engine.state, engine.averaged)


def _ticks(engine: Engine, source: Source, start: int, stop: Callable[[], bool]) -> Iterator[Tick]:
    for step in range(start + 1, engine.settings.steps + 1):
        numbers, safe = engine.step(step, source)
        yield Tick(step, numbers, safe, engine.state, engine.averaged)
        if safe and stop():
            return


class Engine:
    """Optimizer, schedule, precision and average of one adapter; only here is accelerate spoken to."""

    def __init__(self, settings: Settings, model: Backbone, adapter: Adapter, memory: dict[str, Any]) -> None:
        self.settings, self.adapter, self.memory = settings, adapter, memory
        self.named = adapter.named_parameters()
        self.parameters = list(self.named.values())
        self.accelerator = accelerator(settings, model.device)
        if settings.gradient_checkpointing:
            _checkpoint_activations(model)
        self.mixed = self.accelerator.mixed_precision != "no"
        optimizer = optimizers.build(settings.optimizer, _groups(adapter, settings.lr), settings)
        self.schedule = optimizers.schedule(optimizer, settings)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.optimizer.train()
        self.ema = _average(self.parameters, settings.ema)

    def step(self, step: int, source: Source) -> tuple[dict[str, float | Tensor], bool]:
        """Gathers losses, checks, clips and steps; the numbers, and whether it is safe to save now."""
        try:
            with _training(self.adapter):
                numbers, safe = self._gather(step, source)
            numbers |= self._finish(step, numbers)
        except torch.OutOfMemoryError:
            raise MemoryShortage(
                f"step {step}: the device's memory is full; use a smaller batch with accumulate, a smaller "
                "resolution or gradient_checkpointing = true"
            ) from None
        return numbers, safe

    def _gather(self, step: int, source: Source) -> tuple[dict[str, float | Tensor], bool]:
        """Backward of `accumulate` losses; the mean of their numbers."""
        totals: dict[str, float | Tensor] = {}
        for _ in range(self.settings.accumulate):
            with self.accelerator.accumulate():
                with self.autocast():
                    loss = source.next(step)
                self.accelerator.backward(loss.value)
            for name, value in {"loss": loss.value, **loss.numbers}.items():
                value = value.detach() if isinstance(value, Tensor) else value
                totals[name] = totals[name] + value if name in totals else value
        return {name: value / self.settings.accumulate for name, value in totals.items()}, loss.safe

    def autocast(self) -> AbstractContextManager[None]:
        """The run's precision, around a trainer's forward passes."""
        # accelerate's own context costs half a millisecond even where it does nothing
        return self.accelerator.autocast(NO_CACHE) if self.mixed else nullcontext()

    def _finish(self, step: int, numbers: dict[str, float | Tensor]) -> dict[str, float | Tensor]:
        """The optimizer step, refused when something is not finite."""
        norm = self._norm(step)
        # one transfer from the device for both
        loss, norm_value = torch.stack([torch.as_tensor(numbers["loss"]).float().reshape(()), norm.float()]).tolist()
        self._check(step, loss, norm_value, numbers)
        if 0 < self.settings.clip < norm_value < math.inf:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip, norm)
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:
            self.schedule.step()
            if self.ema is not None:
                self.ema.step(self.parameters)
        self.optimizer.zero_grad()
        return {"loss": loss, "grad_norm": norm_value, "lr": rate}

    def _norm(self, step: int) -> Tensor:
        """The norm of all gradients, unscaled and averaged over the processes."""
        self.accelerator.unscale_gradients()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            raise StudioError(f"step {step}: no gradient reached the adapter; does the loss use model.predict?")
        if self.accelerator.num_processes > 1:
            for gradient in gradients:
                gradient.copy_(self.accelerator.reduce(gradient, "mean"))
        return torch.nn.utils.get_total_norm(gradients)

    def _check(self, step: int, loss: float, norm: float, numbers: dict[str, float | Tensor]) -> None:
        scaler = self.accelerator.scaler
        # the scaler of fp16 skips a step that overflowed and halves its scale: a tiny one means it is stuck
        stuck = scaler is not None and scaler.get_scale() < 1e-3
        if math.isfinite(loss) and not stuck and (scaler is not None or math.isfinite(norm)):
            return
        raise NumericalError(
            f"step {step}: loss {loss:g}, gradient norm {norm:g}, first bad: {self._first_bad(numbers)}; "
            "nothing was changed by this step: use a smaller lr, or precision = 'no'"
        )

    def _first_bad(self, numbers: dict[str, float | Tensor]) -> str:
        """The first weight, number or gradient that is not finite."""
        weights = ((f"weight {name}", p) for name, p in self.named.items())
        plots = ((f"number {name!r}", torch.as_tensor(v)) for name, v in numbers.items() if name != "loss")
        gradients = ((f"gradient of {name}", p.grad) for name, p in self.named.items() if p.grad is not None)
        everything = [*weights, *plots, *gradients]
        return next((name for name, tensor in everything if not torch.isfinite(tensor).all()), "the loss")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the adapter holds the weights to preview, score and export."""
        self.optimizer.eval()  # schedule-free keeps its average inside the optimizer; the others do nothing
        if self.ema is not None:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            if self.ema is not None:
                self.ema.restore(self.parameters)
            self.optimizer.train()

    def state(self) -> State:
        """Adapter, optimizer, schedule, scaler, average, memory and random generators, copied to be saved."""
        state = State()
        for group, tree in self._parts().items():
            state.put(group, tree)
        return state

    def _parts(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "adapter": dict(self.adapter.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "memory": self.memory,
            "random": randomness(),
        }

    def restore(self, state: State) -> None:
        """Back to where `state` was taken; UsageError when it came from other settings."""
        self.adapter.load_state_dict(state.get("adapter"))
        scaler, ema = state.get("scaler"), state.get("ema")
        try:
            self.optimizer.load_state_dict(state.get("optimizer"))
        except (ValueError, KeyError) as error:
            raise UsageError(f"the checkpoint's optimizer is not {self.settings.optimizer!r}: {error}") from None
        self.schedule.load_state_dict(state.get("schedule"))
        if scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        if ema and self.ema is not None:
            self.ema.load_state_dict(ema)
            self.ema.to(device=self.parameters[0].device)
        self.memory.clear()
        self.memory.update(state.get("memory"))
        set_randomness(state.get("random"))


def accelerator(settings: Settings, device: torch.device) -> Accelerator:
    """accelerate for these settings on the model's device; UsageError for fp16 without a GPU."""
    choice = precision(settings.precision, device)
    # accelerate keeps one state per process; a second run in it may want another device or precision
    alone = not PartialState._shared_state or PartialState().num_processes == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    return Accelerator(
        mixed_precision=choice, cpu=device.type == "cpu", gradient_accumulation_steps=settings.accumulate
    )


def _checkpoint_activations(model: Backbone) -> None:
    """Forget activations and compute them again; UsageError for a network that cannot."""
    enable = getattr(model.net, "enable_gradient_checkpointing", None)
    if enable is None:
        raise UsageError(f"gradient_checkpointing: {type(model.net).__name__} cannot; leave it off")
    enable()


def _groups(adapter: Adapter, lr: float) -> list[dict[str, Any]]:
    """The adapter's own optimizer groups, or one."""
    groups = getattr(adapter, "groups", None)
    return [{"params": adapter.parameters(), "lr": lr}] if groups is None else groups(lr)


def _average(parameters: list[torch.nn.Parameter], decay: float) -> Any:
    """diffusers' moving average (with its warm-up), or None."""
    if decay == 0:
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(parameters, decay=decay, foreach=True)


@contextmanager
def _training(adapter: Adapter) -> Iterator[None]:
    """The adapter's dropout is on inside, off outside (previews, scores)."""
    switch = getattr(adapter, "train", lambda mode: None)
    switch(True)
    try:
        yield
    finally:
        switch(False)
