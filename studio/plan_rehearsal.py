"""The phases of a run, gone through on fake tensors: what they keep alive and how much they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from studio import registry
from studio.config import RunConfig
from studio.pipelines import attention
from studio.pipelines.guidance import cfg
from studio.pipelines.protocols import Backbone, Batch, Cond
from studio.pipelines.twin import tensors, twin
from studio.plan_live import Live
from studio.trainers import rewarded


class Known(Tensor):
    """A real tensor that stays one among fake ones: trainers count the class rows of a batch."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _disable_current_modes():
            return super().__torch_function__(func, types, args, kwargs)


@dataclass
class Rehearsal:
    """A model's fake twin on a device, and what was found by going through its phases.

    notes: what could not be gone through, and what stood in for it.
    """

    config: RunConfig
    model: Backbone
    device: torch.device
    notes: list[str] = field(default_factory=list)
    mode: FakeTensorMode = field(default_factory=lambda: FakeTensorMode(allow_non_fake_inputs=True))
    twin: Any = field(init=False)
    side: int = field(init=False)
    classes: Tensor = field(init=False)
    text: Cond | None = None

    def __post_init__(self) -> None:
        settings = self.config.settings
        self.twin = twin(self.model, self.mode, self.device)
        self.classes = torch.tensor([row >= settings.batch for row in range(self.rows)]).as_subclass(Known)
        self.side = settings.data.resolution or self.model.pixels
        # one has no fake kernel, the other times kernels on a GPU: both keep about what sdpa keeps
        sdpa = settings.attention == "xformers" or (settings.attention == "auto" and self.device.type == "cuda")
        attention.install(self.twin.net, "sdpa" if sdpa else settings.attention)
        if settings.gradient_checkpointing and hasattr(self.twin.net, "enable_gradient_checkpointing"):
            self.twin.net.enable_gradient_checkpointing()

    def through(self, act: Callable[[], Any], what: str) -> tuple[int, int]:
        """(peak bytes beyond what was there before, floating-point operations) of an act; zeros with a note if not."""
        live, flops = Live(tensors(self.twin)), FlopCounterMode(display=False)
        with ExitStack() as inside:
            inside.enter_context(torch.random.fork_rng(devices=[]))
            for context in (self.mode, flops, live):
                inside.enter_context(context)
            try:
                act()
            except (RuntimeError, NotImplementedError, TypeError) as error:  # what fake tensors cannot say
                self.notes.append(f"{what} could not be rehearsed: {' '.join(str(error).split())[:160]}")
                return 0, 0
        return live.peak, flops.get_total_flops()

    def cache(self) -> tuple[int, int]:
        """One picture through the autoencoder, one prompt through the text encoders."""

        @torch.no_grad()
        def act() -> None:
            self.twin.embed(["a"])
            self.twin.encode_moments(torch.zeros(1, 3, self.side, self.side, device=self.device))

        return self.through(act, "the cache")

    def sample(self, count: int, side: int = 0) -> tuple[int, int]:
        """One sampler step for `count` pictures with guidance, and the decoding; operations are of the step."""
        side = side or self.model.pixels
        previews = self.config.settings.previews  # the base model's pictures may be the larger batch
        scale = max(one.guidance_scale for one in (previews.drawing, previews.base_drawing))

        @torch.no_grad()
        def step() -> Tensor:
            x = torch.zeros(count, *self.twin.latent_shape(side, side), device=self.device)
            t = torch.zeros(count, device=self.device)
            cond = self.cond(count)
            guided: Tensor = cfg(scale, self.cond(1))(self.twin.predict)(x, t, cond)
            return guided

        @torch.no_grad()
        def decode() -> None:
            x = torch.zeros(count, *self.twin.latent_shape(side, side), device=self.device)
            self.twin.decode(x).div(2).add(0.5).clamp(0, 1)

        first, flops = self.through(step, "sampling")
        return max(first, self.through(decode, "decoding")[0]), flops

    def train(self) -> tuple[int, int]:
        """Forward and backward passes of a step's first losses; operations are of one loss."""
        settings = self.config.settings
        count = 2 if settings.accumulate > 1 else 1  # the second finds the gradients of the first
        if isinstance(settings, rewarded.Settings):
            peak, flops = self.through(lambda: self.drawn(settings, count), f"the loss of {self.config.trainer}")
            return peak, int(flops / count * calls(settings))
        result = self.through(lambda: self.losses(count), f"the loss of {self.config.trainer}")
        if not result[0]:
            self.notes.append("a plain squared error stands in for it")
            result = self.through(lambda: self.plain(count), "a plain squared error")
        for parameter in self.twin.adapter.parameters():
            parameter.grad = None
        return result[0], result[1] // count

    def losses(self, count: int) -> None:
        """The trainer's own losses and their gradients."""
        settings = self.config.settings
        if not self.twin.adapter.trains_text:
            self.twin.embed = lambda prompts: self.cond(len(prompts))
        module = registry.trainer(self.config.trainer)
        source = module.losses(settings, self.twin, self.twin.adapter, Always(self), {})
        try:
            for _ in range(count):
                with self.autocast():
                    loss = next(source)
                loss.value.backward()
        finally:
            source.close()
            vars(self.twin).pop("embed", None)

    def drawn(self, settings: rewarded.Settings, count: int) -> None:
        """One sampler step that learns: all others are forgotten, or computed again. Judges are left out."""
        for _ in range(count):
            batch = next(iter(Always(self)))
            with self.autocast():
                guided = cfg(settings.guidance_scale, self.cond(1))(self.twin.predict)
                t = torch.zeros(len(batch.latents), device=self.device)
                out: Tensor = checkpoint(guided, batch.latents, t, self.cond(len(t)), use_reentrant=False)
                made = rewarded.pictures(self.twin, out, checkpointed=True) if decodes(settings) else out
            made.float().square().mean().backward()

    def plain(self, count: int) -> None:
        """The mean squared error of one prediction, and its gradient."""
        for _ in range(count):
            batch = next(iter(Always(self)))
            with self.autocast():
                noisy = self.twin.noise(batch.latents, batch.generator)
                error = self.twin.predict(noisy.x, noisy.t, self.cond(len(batch.prompts))) - noisy.target
            error.square().mean().backward()

    def autocast(self) -> torch.autocast:
        """The precision of the loop."""
        half = self.twin.dtype
        return torch.autocast(self.device.type, half, enabled=half != torch.float32, cache_enabled=False)

    def cond(self, count: int) -> Cond:
        """What the network is told about `count` pictures, without a graph."""
        with torch.no_grad():
            self.text = self.text or type(self.twin).embed(self.twin, ["a"])
            return self.text.map(lambda tensor: tensor.repeat(count, *[1] * (tensor.ndim - 1)))

    @property
    def rows(self) -> int:
        """Pictures of one loss: with prior preservation, as many class pictures again."""
        prior = getattr(self.config.settings, "prior", None)
        return self.config.settings.batch * (2 if prior is not None and prior.weight else 1)


def decodes(settings: rewarded.Settings) -> bool:
    """Whether gradients come through the autoencoder, from a reward."""
    return bool(getattr(settings, "truncation", None) or getattr(settings, "pathwise", 0))


def calls(settings: rewarded.Settings) -> float:
    """How many rehearsed sampler steps' operations a loss takes.

    With gradients of rewards half of a picture's steps learn, at four times the cost of one that does not; a policy's
    loss is one step, and its share of drawing the pictures.
    """
    return 0.625 * settings.sampler_steps if hasattr(settings, "truncation") else 1.35


@dataclass
class Always:
    """The stream of a rehearsal: fake batches of the true shapes."""

    rehearsal: Rehearsal
    position: int = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.position += 1
            yield self.batch()

    def batch(self) -> Batch:
        """One batch."""
        own = self.rehearsal
        settings, rows, device = own.config.settings, own.rows, own.device
        shape = own.twin.latent_shape(own.side, own.side)
        masks = torch.ones(rows, 1, *shape[1:], device=device) if settings.data.masks or settings.data.zooms else None
        return Batch(
            latents=torch.zeros(rows, *shape, device=device),
            prompts=["a"] * rows,
            prior=own.classes,
            weights=torch.ones(rows, device=device),
            masks=masks,
            ids=[str(row) for row in range(rows)],
            generator=torch.Generator().manual_seed(0),
        )
