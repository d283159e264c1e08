"""Roll-outs: pictures drawn without a graph, kept as the network saw them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from studio.pipelines.guidance import cfg
from studio.pipelines.guidance_hearing import hearing, hears
from studio.pipelines.policy_plan import Plan, fresh
from studio.pipelines.policy_settings import Policy
from studio.pipelines.protocols import Backbone, Batch, Cond, Predict

Reference = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Drawn:
    """Pictures that were drawn, on the CPU.

    states: `[N, kept, C, h, w]`, what the network saw, each the last one's action; log_probs: of the actions, `[N, A]`;
    latents: clean, `[N, C, h, w]`; apart: `[N]`, the mean log-ratio to the reference, 0 where it was not asked.
    """

    prompts: list[str]
    states: Tensor
    log_probs: Tensor
    latents: Tensor
    apart: Tensor

    @staticmethod
    def cat(parts: Sequence[Drawn]) -> Drawn:
        """All of them."""
        tensors = (one.name for one in fields(Drawn) if one.name != "prompts")
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensors}
        return Drawn([prompt for part in parts for prompt in part.prompts], **joined)


def guided(model: Backbone, scale: float, embed: Callable[[list[str]], Cond]) -> Predict:
    """The network under guidance, as the sampler has it: told the scale where it hears one, else by two predictions."""
    if scale == 1 or hears(model):
        return hearing(model, scale)(model.predict)
    return cfg(scale, embed([""]))(model.predict)


@torch.no_grad()
def draw(
    settings: Policy, plan: Plan, model: Backbone, batch: Batch, most: int, scale: float, reference: Reference
) -> Drawn:
    """The first `most` prompts of a batch, each `settings.group` times, in calls of the batch's number of rows.

    reference: inside it, the model is what actions are compared with for `settings.kl_reward`.
    """
    prompts, latents, parts = batch.prompts[:most], batch.latents[:most], []
    same = fresh(latents, batch.generator, 1) if settings.same_start else None
    for passes in shares(settings.group, max(1, len(batch.prompts) // len(prompts))):
        told, like = prompts * passes, latents.repeat(passes, 1, 1, 1)
        noise = fresh(like, batch.generator, passes) if same is None else same.repeat(passes, 1, 1, 1)
        predict, cond = guided(model, scale, model.embed), model.embed(told)
        states, log_probs, clean = plan.play(predict, noise, cond, batch.generator, passes, settings.logprob_reduction)
        apart = torch.zeros(len(told))
        if settings.kl_reward:
            with reference():
                predict, cond = guided(model, scale, model.embed), model.embed(told)
                apart = (log_probs - judged(plan, predict, states, cond, settings)).mean(1)
        parts.append(Drawn(told, states.cpu(), log_probs.cpu(), clean.cpu(), apart.cpu()))
    return Drawn.cat(parts)


def judged(plan: Plan, predict: Predict, states: Tensor, cond: Cond, settings: Policy) -> Tensor:
    """Log-probabilities `[B, A]` of known actions under another model."""
    found = []
    for k in plan.acting.tolist():
        again = plan.again(predict, states[:, k], torch.full((len(states),), k), cond)
        found.append(again.log_prob(states[:, k + 1], settings.logprob_reduction))
    return torch.stack(found, 1)


def shares(count: int, most: int) -> Iterator[int]:
    """`count` in as few parts of at most `most` as can be."""
    while count > 0:
        yield min(count, most)
        count -= most
