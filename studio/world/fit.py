"""A small resumable training loop for the embedded world's own networks (the studio's trainers use `studio.loop`)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass
class Fit:
    """Trains `modules` for `steps` steps of AdamW (cosine to zero, warm-up), keeping an average of the weights.

    State goes to `folder/state.safetensors` every `save_every` seconds and is taken up again by the next call.
    """

    modules: dict[str, nn.Module]
    folder: Path
    steps: int
    lr: float
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    save_every: float = 120.0
    step: int = 0
    seconds: float = 0.0
    average: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.named = {f"{m}.{n}": p for m, net in self.modules.items() for n, p in net.named_parameters()}
        self.named = {n: p for n, p in self.named.items() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.named.values(), lr=self.lr, weight_decay=self.weight_decay, betas=(0.9, 0.99), fused=True
        )
        self.average = {n: p.detach().clone() for n, p in self.named.items()}
        if (self.folder / "state.safetensors").exists():
            self.load()

    def run(self, loss: Callable[[int], Tensor], report: Callable[[str], None] = print) -> None:
        """Step on `loss(step)` until `steps` are done."""
        began = saved = time.monotonic()
        shown, total, device = self.step, 0.0, next(iter(self.named.values())).device
        while self.step < self.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * self.schedule()
            value = loss(self.step)
            value.backward()
            nn.utils.clip_grad_norm_(self.named.values(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.track()
            total += float(value.detach()) if device.type == "cpu" or self.step % 20 == 0 else 0.0
            self.step += 1
            if self.step % 100 == 0 or self.step == self.steps:
                rate = (self.step - shown) / max(time.monotonic() - began, 1e-9)
                left = (self.steps - self.step) / rate / 60
                report(f"{self.folder.name} {self.step}/{self.steps} loss {float(value.detach()):.4f} "
                       f"{rate:.2f} steps/s, {left:.1f} min left")  # fmt: skip
            if time.monotonic() - saved > self.save_every:
                self.save(self.seconds + time.monotonic() - began)
                saved = time.monotonic()
        self.seconds += time.monotonic() - began
        self.save(self.seconds)

    def schedule(self) -> float:
        """Learning rate at this step as a share of `lr`: linear warm-up, then cosine to zero."""
        if self.step < self.warmup:
            return (self.step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * self.step / self.steps))

    @torch.no_grad()
    def track(self) -> None:
        """Move the average of the weights; young averages forget faster, so the start does not linger."""
        decay = min(self.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), list(self.named.values()), 1 - decay)

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the averaged weights into the modules."""
        for name, parameter in self.named.items():
            parameter.copy_(self.average[name])

    def save(self, seconds: float) -> None:
        """Weights, averages and optimizer moments in one safetensors file, replaced in one rename."""
        tensors = {f"weight.{n}": p.detach() for n, p in self.named.items()}
        tensors |= {f"average.{n}": p for n, p in self.average.items()}
        for name, parameter in self.named.items():
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": value for key, value in state.items()}
        part = self.folder / "state.part"
        meta = {"step": json.dumps(self.step), "seconds": json.dumps(seconds)}
        save_file({n: t.contiguous().clone() for n, t in tensors.items()}, part, metadata=meta)
        part.replace(self.folder / "state.safetensors")

    @torch.no_grad()
    def load(self) -> None:
        """Take up the saved state."""
        with safe_open(self.folder / "state.safetensors", "pt") as file:
            meta, keys = file.metadata(), set(file.keys())
            self.step, self.seconds = json.loads(meta["step"]), json.loads(meta["seconds"])
            for name, parameter in self.named.items():
                parameter.copy_(file.get_tensor(f"weight.{name}"))
                self.average[name] = file.get_tensor(f"average.{name}").to(parameter.device)
                if f"exp_avg.{name}" in keys:
                    self.optimizer.state[parameter] = {
                        k: file.get_tensor(f"{k}.{name}").to(parameter.device)
                        for k in ("step", "exp_avg", "exp_avg_sq")
                    }
