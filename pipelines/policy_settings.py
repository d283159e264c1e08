"""Settings of policy gradients, and how many losses an optimizer step is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from studio.pipelines.policy_advantages import History, Standard, counted, grouped, tracked
from studio.pipelines.protocols import Reduction
from studio.pipelines.settings import Part

CLIPS: dict[str, float] = {"mean": 1e-4, "sum": 0.2}  # DDPO's, of ratios' D-th roots; PPO's, of the ratios themselves


class Policy(Part):
    """How pictures are drawn in roll-outs, and how much is learnt from each."""

    rollout: Annotated[int, Field(ge=1, le=65536, description="Pictures drawn before each round of learning")] = 16
    group: Annotated[int, Field(ge=1, le=4096, description="Pictures of each prompt in a roll-out")] = 1
    same_start: Annotated[bool, Field(description="A group's pictures start from the same noise (DanceGRPO)")] = False
    epochs: Annotated[int, Field(ge=1, le=100, description="Rounds of learning from each roll-out")] = 1
    updates: Annotated[int, Field(ge=1, le=1000, description="Optimizer steps of each round; 1: on-policy")] = 1
    train_share: Annotated[
        float, Field(gt=0, le=1, description="Share of each picture's sampler steps, drawn at random, to learn from")
    ] = 1.0
    logprob_reduction: Annotated[
        Reduction, Field(description="Log-probability: mean over a latent's elements (DDPO), or the density's sum")
    ] = "mean"
    clip_range: Annotated[
        float | None, Field(gt=0, lt=1, description="Ratios this far from 1 are cut off; none: 1e-4 (mean), 0.2 (sum)")
    ] = None
    advantages: Annotated[
        Literal["auto", "tracker", "group"],
        Field(description="Compare with the prompt's last rewards, or with its group; auto: group where there is one"),
    ] = "auto"
    spread: Annotated[
        Literal["prompt", "rollout"], Field(description="group: deviations of each prompt, or of the whole roll-out")
    ] = "prompt"
    buffer_size: Annotated[int, Field(ge=2, le=65536, description="tracker: rewards kept of each prompt")] = 16
    min_count: Annotated[
        int, Field(ge=2, le=65536, description="tracker: with fewer of them a prompt is compared with the roll-out")
    ] = 16
    adv_clip: Annotated[float, Field(gt=0, description="Advantages are cut off at this many deviations")] = 10.0
    beta: Annotated[
        float, Field(ge=0, description="Weight of the exact KL to what the run began with; 1e-3 to 1e-1 is usual")
    ] = 0.0
    kl_reward: Annotated[
        float, Field(ge=0, description="Share of the standardised log-ratio to it, taken off advantages (Carve3D: 0.2)")
    ] = 0.0
    pathwise: Annotated[
        float,
        Field(
            ge=0,
            description="Weight of a differentiable reward's gradient through the last step; 1: the exact one; more is "
            "surer, as the policy's noise hides it (100 on the embedded benchmark)",
        ),
    ] = 0.0

    @property
    def clip_ratio(self) -> float:
        """The clip that fits the reduction, unless another was given."""
        return CLIPS[self.logprob_reduction] if self.clip_range is None else self.clip_range

    def learnt(self, actions: int) -> int:
        """How many of a picture's actions are learnt from."""
        return max(1, round(self.train_share * actions))

    def standard(
        self, history: History, prompts: list[str], rewards: Tensor, good: Tensor, units: Tensor | None = None
    ) -> Standard:
        """What the rewards are compared with, `[N]`, or `[N, T]` with units. Changes `history` of a tracker."""
        if self.advantages == "group" or (self.advantages == "auto" and self.group > 1):
            return grouped(prompts, counted(rewards, units), good, self.spread)
        return tracked(history, prompts, rewards, good, self.buffer_size, self.min_count, units)


def parts(settings: Policy, actions: int, batch: int) -> tuple[int, int]:
    """Losses of an optimizer step: of (picture, step) pairs, and of pictures for the path-wise gradient."""
    pairs = settings.rollout * settings.learnt(actions)
    each = settings.updates * batch
    return -(-pairs // each), -(-settings.rollout // each) if settings.pathwise else 0


def accumulate(settings: Policy, actions: int, batch: int, given: int) -> int:
    """The losses of an optimizer step; given: what a person says, or 0. Raises ValueError with the right number.

    More than needed, up to twice as many, are fine: smaller batches.
    """
    if settings.rollout % settings.group:
        near = settings.group * max(1, round(settings.rollout / settings.group))
        raise ValueError(f"rollout = {settings.rollout} is no multiple of group = {settings.group}: use {near}")
    prompts = settings.rollout // settings.group
    if prompts > batch and prompts % batch:
        near = settings.group * batch * max(1, round(prompts / batch))
        raise ValueError(
            f"rollout = {settings.rollout}: its {prompts} prompts are no multiple of batch = {batch}: use {near}"
        )
    if settings.updates > settings.rollout * settings.learnt(actions):
        raise ValueError(f"updates = {settings.updates}: more than a roll-out has steps to learn from: use 1")
    needed = sum(parts(settings, actions, batch))
    if given and not needed <= given < 2 * needed:
        raise ValueError(
            f"accumulate = {given}: a roll-out of {settings.rollout} pictures with {settings.learnt(actions)} actions, "
            f"in {settings.updates} updates of batches of {batch}, needs {needed}: use that, or leave accumulate out"
        )
    return given or needed


def whole(settings: Policy, steps: int, every: int) -> None:
    """ValueError unless the run, and what the guard looks at, end where roll-outs end."""
    cycle = settings.updates * settings.epochs
    if steps % cycle:
        raise ValueError(
            f"steps = {steps}: a roll-out is learnt from in {cycle} steps: use {-(-steps // cycle) * cycle}"
        )
    if every % cycle:
        raise ValueError(f"guard.every = {every}: roll-outs end every {cycle} steps: use a multiple of that")
