"""Guidance between an adapter and its base model.

Consistency guidance (Lee et al. 2024, arXiv 2402.12004); personalization guidance (ICCV 2025); RL guidance; combined
generation (ImageReFL).

The base model is told its own words: `base` is the empty prompt and the prompt without what only the adapter knows,
both embedded with the adapter off. `rescale` is how far the output's standard deviation goes back to the conditional
prediction's (Lin et al. 2023, section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from studio.pipelines.guidance import rescaled
from studio.pipelines.guidance_branches import Branch, Branched, Plan
from studio.pipelines.guidance_pair import Guided, of_base, of_tuned
from studio.pipelines.guidance_strength import allowed
from studio.pipelines.protocols import Adapter, Cond

Found = Mapping[str, Tensor]


def consistency(
    adapter: Adapter | None, base: tuple[Cond, Cond], w_cfg: float, w_con: float, rescale: float = 0.0
) -> Branched:
    """out = base(0) + w_cfg (base(c') - base(0)) + w_con (tuned(c) - base(c')): three rows in two calls.

    c' is the base model's prompt. w_con = 0 is the base model under cfg, and the adapter is not called; w_cfg = w_con
    = 1 is the tuned model. Raises UsageError for an adapter without exact_off.
    """
    allowed(adapter, 0)
    start = of_base(base, w_cfg)
    if w_con == 0:
        return Branched(start.plan(rescale), adapter)

    def combine(found: Found) -> Tensor:
        out = start.out(found) + w_con * (found["prompt"] - found["base"])
        return rescaled(out, found["prompt"], rescale)

    return Branched(Plan((*start.branches, Branch("prompt")), combine), adapter)


def personalization(adapter: Adapter | None, empty: Cond, scale: float, omega: float, rescale: float = 0.0) -> Branched:
    """out = weak(0) + scale (tuned(c) - weak(0)); the weak model's weights are (1 - omega) base + omega tuned.

    empty: the empty prompt, embedded with the adapter at omega. omega = 1 is cfg, in one call instead of two. Raises
    UsageError for an adapter without exact_off, and for omega between 0 and 1 without linear_scale.
    """
    allowed(adapter, omega)
    return Branched(Guided(Branch("weak", omega, empty), Branch("prompt"), scale).plan(rescale), adapter)


def rl(
    adapter: Adapter | None, base: tuple[Cond, Cond], empty: Cond, scale: float, gain: float, rescale: float = 0.0
) -> Branched:
    """out = base + gain (tuned - base), each under cfg; 0 is the base model, 1 the tuned one, above 1 beyond it.

    empty: the empty prompt, embedded with the adapter. Four rows in two calls. Raises UsageError for an adapter without
    exact_off.
    """
    allowed(adapter, 0)
    start, end = of_base(base, scale), of_tuned(empty, scale)
    if gain in (0, 1):
        return Branched((end if gain else start).plan(rescale), adapter)

    def combine(found: Found) -> Tensor:
        out = start.out(found) + gain * (end.out(found) - start.out(found))
        return rescaled(out, found["prompt"], rescale)

    return Branched(Plan((*start.branches, *end.branches), combine), adapter)


def combined(
    adapter: Adapter | None,
    base: tuple[Cond, Cond],
    empty: Cond,
    scale: float,
    window: float,
    late_scale: float | None = None,
    horizon: int = 1000,
    rescale: float = 0.0,
) -> Branched:
    """The base model for the first `window` of the noise schedule, then the tuned one, each under cfg: one call.

    window: a share of the `horizon` timesteps, counted from the noisy end: of T evenly spaced steps it is the first
    window * T. late_scale: of the tuned part; None is `scale`. Raises UsageError for an adapter without exact_off.
    """
    allowed(adapter, 0)
    early = of_base(base, scale).plan(rescale)
    late = of_tuned(empty, scale if late_scale is None else late_scale).plan(rescale)
    if window in (0, 1):
        return Branched(early if window else late, adapter)
    switch = round((1 - window) * horizon, 6)  # rounding: 1 - 0.7 is not 0.3
    return Branched(lambda t: late if t < switch else early, adapter)
