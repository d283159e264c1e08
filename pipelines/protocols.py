"""The few types everything else speaks: Cond, Noisy, Backbone, Adapter, About, Scorer, Guidance, Step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from studio.pipelines.errors import UsageError

Prediction = Literal["epsilon", "v_prediction", "flow"]
Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class Cond:
    """What the network is told about each picture of a batch.

    tokens: text states `[B, L, D]`; pooled: `[B, P]` or None; extra: further per-sample tensors `[B, ...]`
    (SDXL's time ids, attention masks), by the name the family's `predict` gives them.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> Cond:
        """The same conditioning with `function` applied to each of its tensors."""
        pooled = None if self.pooled is None else function(self.pooled)
        return replace(
            self, tokens=function(self.tokens), pooled=pooled, extra={k: function(v) for k, v in self.extra.items()}
        )

    def __getitem__(self, index: Any) -> Cond:
        """Rows of the batch; an int keeps the batch dimension."""
        index = slice(index, index + 1) if isinstance(index, int) else index
        return self.map(lambda tensor: tensor[index])

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """One batch out of several. Raises UsageError where one is told something that another is not."""
        if any(c.extra.keys() != conds[0].extra.keys() for c in conds):
            names = sorted({name for c in conds for name in c.extra})
            raise UsageError(f"conditionings that differ in {', '.join(names)}: give it to all of a batch, or to none")
        pooled = None if conds[0].pooled is None else torch.cat([c.pooled for c in conds if c.pooled is not None])
        extra = {key: torch.cat([c.extra[key] for c in conds]) for key in conds[0].extra}
        return Cond(torch.cat([c.tokens for c in conds]), pooled, extra)


@dataclass(frozen=True)
class Noisy:
    """A noised batch and what the network should say about it.

    x: `[B, C, H, W]` network input; t: `[B]` timesteps as the network takes them; target: `[B, C, H, W]` in the
    model's own prediction type; snr: `[B]` signal-to-noise ratio alpha^2 / sigma^2; weight: `[B]` the family's own
    loss weighting (ones for UNets); clean, eps: `[B, C, H, W]` the latents and the noise it was made of.
    """

    x: Tensor
    t: Tensor
    target: Tensor
    snr: Tensor
    weight: Tensor
    clean: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Step:
    """One sampler step in linear form: next = A x + B out + S z, with z standard normal.

    x, next, out, mean: `[B, C, H, W]`; `out` is the (guided) network output, mean = A x + B out; t: the timestep;
    A, B, S: floats; std = S. clean: the clean-latents estimate at this step.
    """

    x: Tensor
    t: Tensor
    out: Tensor
    A: float
    B: float
    S: float
    mean: Tensor
    next: Tensor
    clean: Tensor

    @property
    def std(self) -> float:
        """Standard deviation of the step's noise."""
        return self.S

    def log_prob(self, action: Tensor, reduction: Reduction = "sum") -> Tensor:
        """log N(action; mean, S^2), `[B]`, at least float32; gradients reach `mean` and never `action`.

        "sum" over a picture's elements is the density's; "mean" is that divided by their number, as DDPO's code has it.
        Raises UsageError where S = 0.
        """
        mean = precise(self.mean)
        self._noisy("log-probability")
        density = Normal(mean, self.S, validate_args=False).log_prob(action.detach().to(mean))
        return reduced(density, reduction)

    def kl(self, other: Step, reduction: Reduction = "sum") -> Tensor:
        """KL(this || other) = |mean - other's|^2 / (2 S^2), `[B]`, symmetric; reduction as in `log_prob`.

        Raises UsageError where S = 0 or the other step's S is not this one's.
        """
        self._noisy("divergence")
        if other.S != self.S:
            raise UsageError(f"steps with noise {self.S:g} and {other.S:g}: compare the same step of one schedule")
        apart = (precise(self.mean) - precise(other.mean)) / self.S
        return reduced(apart.square() / 2, reduction)

    def _noisy(self, what: str) -> None:
        if not self.S > 0:
            raise UsageError(f"a step without noise (S = {self.S:g}) has no {what}: leave it out, or sample with noise")


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is more precise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def reduced(values: Tensor, reduction: Reduction) -> Tensor:
    """The sum or the mean over everything but the batch, `[B]`. Raises UsageError for another word."""
    if reduction not in ("sum", "mean"):
        raise UsageError(f"reduction '{reduction}': give sum or mean")
    rows = values.flatten(1)
    return rows.sum(1) if reduction == "sum" else rows.mean(1)


@runtime_checkable
class Backbone(Protocol):
    """A diffusers UNet or DiT with its autoencoder, text encoders and noise schedule: one file per family."""

    net: nn.Module
    net_name: str  # what stock pipelines call the network: unet, transformer
    prediction: Prediction
    pixels: int  # the side, in pixels, the model was made for
    multiple: int  # picture sides must be divisible by this many pixels
    scheduler: Any  # the diffusers scheduler the checkpoint came with; its config is the schedule
    text_encoders: dict[str, nn.Module]  # stock pipeline names: text_encoder, text_encoder_2, ...
    tokenizers: dict[str, Any]
    device: torch.device
    dtype: torch.dtype  # of the frozen parts
    adapter: Adapter | None

    def embed(self, prompts: Sequence[str]) -> Cond: ...
    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]: ...  # mean, std of the scaled latents
    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor: ...
    def decode(self, latents: Tensor) -> Tensor: ...
    def noise(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
        *,
        t: Tensor | None = None,
        eps: Tensor | None = None,
        offset: float = 0.0,
    ) -> Noisy: ...
    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor: ...
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]: ...
    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Backbone: ...
    def pipeline(self) -> Any: ...  # a stock diffusers pipeline around the same modules
    def fingerprint(self) -> str: ...  # sha256 over the frozen weights
    def vae_fingerprint(self) -> str: ...  # of what decides the latents
    def text_fingerprint(self) -> str: ...  # of what decides the text embeddings


@dataclass(frozen=True)
class Batch:
    """One training batch. With prior preservation the instance rows come first, then the class rows.

    latents: `[B, C, H, W]` clean latents on the model's device, float32; prompts: B captions, caption dropout applied;
    prior: `[B]` bool, True for class rows; weights: `[B]` per-sample loss weights; masks: `[B, 1, H, W]` in 0..1 at
    latent size, or None; ids: B sample ids; generator: a CPU generator seeded by (seed, batch number): drawing noise
    and timesteps from it makes resuming exact. A batch has one picture size.
    """

    latents: Tensor
    prompts: list[str]
    prior: Tensor
    weights: Tensor
    masks: Tensor | None
    ids: list[str]
    generator: torch.Generator


class Stream(Protocol):
    """The endless, seeded stream of batches a trainer iterates over; `position` counts batches handed out."""

    position: int

    def __iter__(self) -> Iterator[Batch]: ...


class Adapter(Protocol):
    """Which weights learn. Inside `off()` the model is the base model bit for bit.

    kind: the module of `pipelines/adapters` that writes and reads its files; `at(t)` tells it a timestep where nothing
    else does. The flags are measured by test: exact_off (off() is the true base), linear_scale (scaled(s) is the base
    plus s times the update), identity_at_init, conv_ok, unmerged_ok.
    """

    kind: str
    config: Any
    exact_off: bool
    linear_scale: bool

    @property
    def trains_text(self) -> bool: ...
    def parameters(self) -> list[nn.Parameter]: ...
    def named_parameters(self) -> dict[str, nn.Parameter]: ...
    def at(self, t: Tensor) -> None: ...
    def off(self) -> AbstractContextManager[None]: ...
    def scaled(self, strength: float) -> AbstractContextManager[None]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...
    def merged(self, strength: float = 1.0) -> AbstractContextManager[None]: ...
    def folded(self, strength: float) -> AbstractContextManager[None]: ...
    def train(self, mode: bool) -> None: ...
    def remove(self) -> None: ...


@dataclass(frozen=True)
class About:
    """What a scorer's number is. Only numbers of one `group` may stand in one column or be subtracted.

    encoder: id and revision, "" where there is none; preprocessing: what happens to a picture before it; better: which
    way is good; per: whether a row's value is its picture's own, made of all pictures of its prompt, or the same for
    the whole set; needs: what must be given beside the pictures; unit: "" for a plain number; bounds: least and
    greatest value there can be, (0, 1) for shares, an infinite end where there is none, None where nothing is known.
    """

    name: str
    encoder: str
    preprocessing: str
    group: str
    better: Literal["higher", "lower"] = "higher"
    per: Literal["picture", "prompt", "set"] = "picture"
    needs: tuple[Literal["prompts", "references", "masks"], ...] = ()
    unit: str = ""
    bounds: tuple[float, float] | None = None


class Scorer(Protocol):
    """(pictures `[B, 3, H, W]` in 0..1, prompts, references) -> one number per picture, `[B]` float32.

    prompts: B of them, or none; references: pictures `[3, h, w]` in 0..1 of any size each, or `[4, h, w]` with the
    subject's mask as fourth channel. The number is in its published unit; `about.better` says which way is good. A row
    that cannot be scored (NaN pictures) is NaN. Raises DataError when something in `about.needs` is not there.
    """

    about: About
    differentiable: bool

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor: ...


Predict = Callable[[Tensor, Tensor, Cond], Tensor]
Guidance = Callable[[Predict], Predict]
