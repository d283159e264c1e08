"""What takes a step: optimizer, schedule, precision, average, and the checks around them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import AutocastKwargs
from torch import Tensor

from studio import audit, guards, optimizers
from studio.blank import Blank
from studio.guards import Before, NotFinite
from studio.pipelines.errors import MemoryShortage, StudioError, UsageError
from studio.pipelines.protocols import Adapter, Backbone, Stream
from studio.precision import deterministic, precision
from studio.snapshot import State, randomness, set_randomness
from studio.source import Source
from studio.spikes import Spikes
from studio.tick import Tick, floats
from studio.trainers.base import Loss, Settings, Turn
from studio.undo import Undo

Numbers = dict[str, float | Tensor]
NO_CACHE = AutocastKwargs(cache_enabled=False)  # a cast cached under no_grad would cut the next graph


class Engine:
    """Optimizer, schedule, precision and average of one adapter; only here is accelerate spoken to."""

    def __init__(
        self,
        settings: Settings,
        model: Backbone,
        adapter: Adapter,
        memory: dict[str, Any],
        data: Stream | None = None,
        exceptions: Mapping[str, str] | None = None,
    ) -> None:
        self.settings, self.model, self.adapter, self.memory, self.data = settings, model, adapter, memory, data
        self.named = adapter.named_parameters()
        self.parameters = list(self.named.values())
        self.audit, self.spikes = audit.Audit(self.named, exceptions or {}), Spikes()
        self.last: Tick | None = None
        deterministic(settings.deterministic, model.device)
        self.accelerator = accelerator(settings, model.device)
        if settings.gradient_checkpointing:
            _checkpoint_activations(model)
        self.mixed = self.accelerator.mixed_precision != "no"
        optimizer = optimizers.build(settings.optimizer, _groups(adapter, settings.lr), settings)
        self.schedule = optimizers.schedule(optimizer, settings)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.optimizer.train()
        self.undo, self.blank = Undo(optimizer), Blank(optimizer)
        self.ema = _average(self.parameters, settings.ema)

    def step(self, step: int, source: Source) -> Tick:
        """Gathers losses, checks, clips and steps."""
        before = Before(self.memory, self.data)
        getattr(self.adapter, "stepping", lambda done: None)((step - 1) / self.settings.steps)
        try:
            with _training(self.adapter):
                gathered, loss = self._gather(step, source)
            numbers, message = self._finish(step, gathered, before, loss.steepness)
        except torch.OutOfMemoryError:
            raise MemoryShortage(
                f"step {step}: the device's memory is full; use a smaller batch with accumulate, a smaller "
                "resolution or gradient_checkpointing = true"
            ) from None
        spike, turn = self.spikes.see(step, numbers), Turn() if loss.then is None else loss.then(numbers)
        if turn.fresh:
            self._forget()
        warned, said = (tuple(filter(None, texts)) for texts in ((spike, *turn.warnings), (message, *turn.messages)))
        self.last = Tick(
            step, numbers | turn.numbers, loss.safe, self.state, self.averaged, warned, said, turn.stop, turn.failed
        )
        return self.last

    def _gather(self, step: int, source: Source) -> tuple[Numbers, Loss]:
        """Backward of `accumulate` losses; the mean of their numbers, and the last of them."""
        totals: Numbers = {}
        for _ in range(self.settings.accumulate):
            with self.accelerator.accumulate():
                with self.autocast():
                    loss = source.next(step)
                self.accelerator.backward(loss.value)
            idle = {} if loss.idle is None else {"idle": loss.idle}
            for name, value in {"loss": loss.value, **loss.numbers, **idle}.items():
                value = value.detach() if isinstance(value, Tensor) else value
                totals[name] = totals[name] + value if name in totals else value
        return {name: value / self.settings.accumulate for name, value in totals.items()}, loss

    def autocast(self) -> AbstractContextManager[None]:
        """The run's precision, around a trainer's forward passes."""
        # accelerate's own context costs half a millisecond even where it does nothing
        return self.accelerator.autocast(NO_CACHE) if self.mixed else nullcontext()

    def _finish(self, step: int, gathered: Numbers, before: Before, steepness: float) -> tuple[dict[str, float], str]:
        """The optimizer step, refused when something is not finite; its numbers, and the audit's verdict."""
        norm = self._norm(step)
        numbers = self._means(floats({**gathered, "grad_norm": norm}))
        self._check(step, numbers, before)
        limit, idle = self.settings.clip * steepness, numbers.get("idle") == 1
        if 0 < limit < numbers["grad_norm"] < math.inf:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        numbers["lr"] = self.optimizer.param_groups[0]["lr"]
        look, message = None if idle else self.audit.look(), ""
        self.undo.take()
        if idle:  # not left out altogether: fp16's scaler wants a step after it unscaled
            self.optimizer.zero_grad()
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:
            getattr(self.adapter, "stepped", lambda: None)()
            self._check_weights(step, before)
            if look is not None:
                message = self.audit.judge(step, look, max(group["lr"] for group in self.optimizer.param_groups))
            self.schedule.step()
            if self.ema is not None:
                self.ema.step(self.parameters)
        self.optimizer.zero_grad()
        return numbers, message

    def _forget(self) -> None:
        """Optimizer, average and watch for spikes as they began; the schedule goes on."""
        self.blank.back()
        self.ema, self.spikes = _average(self.parameters, self.settings.ema), Spikes()

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

    def _means(self, numbers: dict[str, float]) -> dict[str, float]:
        """The mean over the processes of each number."""
        if self.accelerator.num_processes == 1:
            return numbers
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(numbers, self.accelerator.reduce(values, "mean").tolist(), strict=True))

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it: all of them stop at the same step, or none."""
        if self.accelerator.num_processes == 1:
            return wish
        votes = torch.tensor(float(wish), device=self.accelerator.device)
        return bool(self.accelerator.reduce(votes, "sum") > 0)

    def _check(self, step: int, numbers: dict[str, float], before: Before) -> None:
        scaler, norm = self.accelerator.scaler, numbers["grad_norm"]
        # the scaler of fp16 skips a step that overflowed and halves its scale: a tiny one means it is stuck
        stuck = scaler is not None and scaler.get_scale() < 1e-3
        gathered = {name: value for name, value in numbers.items() if name != "grad_norm"}
        finite = all(map(math.isfinite, gathered.values())) and (scaler is not None or math.isfinite(norm))
        if stuck or not finite:
            said = f"loss {numbers['loss']:g}, gradient norm {norm:g}"
            kind, name = guards.first_bad(self.model, self.named, gathered, before.batches())
            # a weight that is bad now was good after the step before, but nobody has kept it
            self._refuse(step, said, kind, name, before, spoilt=kind == "weight")

    def _refuse(self, step: int, said: str, kind: str, name: str, before: Before, spoilt: bool = False) -> NoReturn:
        """Everything as it was before the step, and NotFinite. spoilt: the weights are not what they were then."""
        self.optimizer.zero_grad()
        before.back()
        last, kept = self.last, "nothing was changed by this step"
        if spoilt or (last is not None and not last.safe):
            last, kept = None, "the newest checkpoint is from before"
        elif risen := self.spikes.risen(step):
            last = None
            kept = f"loss or weights had jumped at step {risen}, go on from a checkpoint before it, or --fresh"
        tips = guards.advice(kind, self.settings, self.accelerator.mixed_precision, self.model.dtype)
        raise NotFinite(f"step {step}: {said}, first bad: {name}; {kept}: {tips}", last)

    def _check_weights(self, step: int, before: Before) -> None:
        """One number from the device: what an optimizer made of finite gradients can still overflow."""
        norm = torch.nn.utils.get_total_norm(self.parameters).item()
        if math.isfinite(norm):
            self.spikes.grew(step, norm)
        else:
            kind, name = guards.first_bad(self.model, self.named, {}, [])
            name = name if kind == "weight" else "the norm of the weights"
            said = "the optimizer's step was not finite and was taken back"
            self._refuse(step, said, "weight", name, before, spoilt=not self.undo.back())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the adapter holds the weights to preview, score and export."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
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
            with torch.no_grad():  # there and back rounds: a preview must leave the very same bits
                torch._foreach_copy_(list[Tensor](self.parameters), kept)

    def state(self) -> State:
        """Adapter, optimizer, schedule, scaler, average, memory and random generators, copied to be saved.

        NotFinite, so that nothing is saved, when the adapter, the optimizer or the average holds what is not finite.
        """
        state = State()
        for group, tree in self._parts().items():
            state.put(group, tree)
        guards.refuse_to_save(state, ("adapter", "optimizer", "ema"))
        return state

    def _parts(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "adapter": dict(self.adapter.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "audit": self.audit.state_dict(),
            "spikes": self.spikes.state_dict(),
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
        if "audit" in state.meta:  # checkpoints from before there was one
            self.audit.load_state_dict(state.get("audit"))
            self.spikes.load_state_dict(state.get("spikes"))
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
