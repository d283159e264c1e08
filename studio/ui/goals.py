"""From what a person wants to a method: the proposal, its reason, and what else fits when."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from studio.pipelines.errors import UsageError
from studio.registry import nearest

OURS = ("embedded", "toy")
PICTURES = ("data.folder", "data.trigger", "data.class_word", "data.prompt", "data.masks")  # of one set of pictures
FEW = 2  # pictures from which on a subject has more than one view


@dataclass(frozen=True)
class Goal:
    """Something to want. pictures: whether it is learned from pictures; asks: what the page asks for besides;
    drops: settings of another goal that it has no use for.
    """

    key: str
    title: str
    asks: str
    pictures: bool = True
    drops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A method for a goal. settings: what it sets beside its defaults; others: (method, when it is the better one)."""

    trainer: str
    reason: str
    settings: dict[str, Any] = field(default_factory=dict)
    others: tuple[tuple[str, str], ...] = ()


GOALS = (
    Goal("subject", "One subject, few pictures", "3 to 20 pictures of it, different poses and backgrounds"),
    Goal("single", "One single picture", "one sharp picture in which the subject is large"),
    Goal(
        "style",
        "A style",
        "10 or more pictures in the style, each with a caption of what it shows",
        drops=("data.class_word",),
    ),
    Goal(
        "taste", "A taste or reward", "rewards with weights, and prompts; pictures only for rewards of identity", False
    ),
    Goal(
        "few-step",
        "A few-step model",
        "nothing: it learns from the model's own pictures, or from a folder",
        False,
        (*PICTURES, "run", "steps"),
    ),
)


def goal(key: str) -> Goal:
    """The goal of a key. Raises UsageError for an unknown one."""
    for one in GOALS:
        if one.key == key:
            return one
    raise UsageError(f"there is no goal '{key}'{nearest(key, [one.key for one in GOALS])}")


def propose(key: str, pictures: int | None = None, model: str = "embedded", terms: Sequence[str] = ()) -> Proposal:
    """The method for a goal.

    pictures: how many there are, None where nobody has looked; terms: rewards as `reward.terms` has them. Raises
    UsageError for an unknown goal and for a term that is no reward.
    """
    kind = goal(key).key
    if kind == "taste":
        return taste(tuple(terms) or wish(model), asked=bool(terms))
    if kind == "subject":
        return single(pictures) if pictures is not None and pictures < FEW else SUBJECT
    return {"single": single(pictures), "style": STYLE, "few-step": FEW_STEP}[kind]


def wish(model: str) -> tuple[str, ...]:
    """The reward to begin with: one that is at hand for the model, and has a gradient."""
    return ("embedded-stated",) if model in OURS else ("hps",)


def suggested(model: str) -> dict[str, Any]:
    """What goals set by themselves, which goes when another goal is chosen."""
    return {**STYLE.settings, "reward.terms": list(wish(model))}


def unused(key: str, before: str, changed: Collection[str]) -> list[str]:
    """The changed settings that are dropped for a goal: those of another goal, or of pictures that it does not need.

    before: the goal until now, '' for none.
    """
    wanted = goal(key)
    another = before not in ("", key) or (not before and any(name in changed for name in PICTURES))
    return [name for name in changed if another and name in wanted.drops]


SUBJECT = Proposal(
    "dreambooth",
    "DreamBooth learns one subject from a few pictures; of the methods here it is the plainest, with one pass of the "
    "model per step.",
    others=(
        (
            "dco",
            "prompts must be obeyed as well as by the base model, against which it measures itself at each step",
        ),
        ("tlora", "there is only one picture, or poses and backgrounds of the pictures come back"),
        ("class_diffusion", "the subject does not combine with other things in a prompt"),
        ("sara", "the adapter should change as few weights as possible"),
    ),
)
STYLE = Proposal(
    "dco",
    "A style must change how things look and leave alone what they are: DCO moves away from the base model only as far "
    "as the pictures need. What the captions name is not taken for style.",
    {"data.prompt": "a picture in {trigger} style"},
    others=(("dreambooth", "time is short: a quarter of the steps, and one pass of the model per step, not two"),),
)
FEW_STEP = Proposal(
    "lcm",
    "LCM teaches an adapter to draw in 1 to 8 steps what the base model draws in 25, guidance included; it needs no "
    "pictures.",
    others=(("rlcm", "there is a few-step adapter already, and a reward should make its pictures better"),),
)


def single(pictures: int | None) -> Proposal:
    """From one picture."""
    said = f" There are {pictures} pictures: with several, dreambooth sees more of the subject."
    many = said if more(pictures) else ""
    return Proposal(
        "tlora",
        "T-LoRA gives noisy timesteps, where the layout is decided, less to learn with, so that the one picture's pose "
        f"and background are not copied.{many}",
        others=(("dreambooth", "there are three pictures or more"),),
    )


def more(pictures: int | None) -> bool:
    """Whether there are several pictures."""
    return pictures is not None and pictures >= FEW


def taste(terms: tuple[str, ...], asked: bool) -> Proposal:
    """By rewards: through their gradient where all have one, else by trying. Raises as `without_gradient`."""
    settings = {} if asked else {"reward.terms": list(terms)}
    blind = without_gradient(terms)
    if blind:
        said = f"{', '.join(blind)} {'has' if len(blind) == 1 else 'have'} no gradient"
        return Proposal(
            "ddpo",
            f"{said}, so it has to be learned by trying: DDPO draws pictures, scores them, and makes the better ones "
            "likelier.",
            settings,
            (("rlcm", "the run starts from a few-step adapter: roll-outs are several times cheaper"),),
        )
    have = "has a gradient" if len(terms) == 1 else "have gradients"
    return Proposal(
        "alignprop",
        f"{', '.join(terms)} {have}, and following it through the sampler needs far fewer pictures than trying does.",
        settings,
        (("ddpo", "a reward without a gradient joins them"), ("rlcm", "the run starts from a few-step adapter")),
    )


def without_gradient(terms: Sequence[str]) -> list[str]:
    """The terms whose scorer cannot say in which direction a picture gets better. No weights are read.

    Raises UsageError for a term that is no reward.
    """
    import torch
    from pydantic import ValidationError

    from studio.mistakes import explain
    from studio.pipelines import rewards

    try:
        wanted = rewards.Rewards(terms=tuple(terms))
    except ValidationError as error:
        raise UsageError(explain(error, rewards.Rewards, rewards.Rewards, "reward")) from None
    made = rewards.build(wanted, torch.device("cpu"), torch.float32)
    return [one.term.text for one in made.terms if not one.scorer.differentiable]
