"""Which held-out judges fit a reward, where a person names none: on this machine already, and not trained for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from studio.pipelines import rewards
from studio.pipelines.encoders import clip
from studio.pipelines.errors import StudioError
from studio.pipelines.reward_guard_variety import cached
from studio.pipelines.scorers import aesthetic

SIGHT = ("embedded-prompt", "embedded-subject")  # by the image-text judge; all other embedded terms by the classifier
OWN = {"embedded-prompt": "sight", "embedded-attributes": "classifier"}
OTHERS = {"clip-t": "clip", "aesthetic": "aesthetic"}


def usual(trained: Sequence[str], own_world: bool, device: torch.device) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fitting terms, () where there are none, and what should be said about them."""
    names = [name.partition("(")[0] for name in trained]
    if own_world:
        used = {"sight" if name in SIGHT else "classifier" for name in names if name.startswith("embedded-")}
        for fit in (lambda one: OWN[one] not in used, lambda one: one not in names):
            if found := tuple(one for one in OWN if fit(one) and works(one, device)):
                return found, ()
    else:
        used = {"clip" if name.startswith(("clip-", "f-clip")) else name for name in names}
        there = {"clip-t": cached(clip.BASE), "aesthetic": has_aesthetic()}
        found = tuple(one for one, kind in OTHERS.items() if kind not in used and there[one] and works(one, device))
        if found:
            return found, ()
    return (), (alone(trained),)


def sized(trained: Sequence[str]) -> bool:
    """Whether the size of files is what is rewarded."""
    return any("jpeg" in name for name in trained)


def alone(trained: Sequence[str]) -> str:
    """What is said where there is no judge."""
    means = "only diversity is watched" if sized(trained) else (
        "the guard watches how the size of the pictures as JPEGs changes, since noise and plain areas change it much, "
        "and diversity"
    )  # fmt: skip
    return f"no held-out judge is on this machine: {means}; name one as guard.terms, e.g. clip-t"


def has_aesthetic() -> bool:
    """Whether LAION's predictor is on this machine, encoder and head."""
    config = aesthetic.Config()
    head = cached(config.head, config.head_revision, ("*.safetensors", "*.pth"))
    return head and cached(config.encoder, config.revision)


def works(term: str, device: torch.device) -> bool:
    """Whether a judge answers for a grey picture."""
    try:
        build([term], device)(torch.full((1, 3, 64, 64), 0.5, device=device), ["a red fox"])
    except StudioError:
        return False
    return True


def build(terms: Sequence[str], device: torch.device) -> rewards.Reward:
    """The terms as a reward of which only the single numbers are read."""
    return rewards.build(rewards.Rewards(terms=tuple(terms), standardise="no"), device, torch.float32)
