"""What settings are called in a form: labels with units, and which of them come first."""

from __future__ import annotations

import re
from collections.abc import Mapping

BASIC = {  # in this order; names that a trainer does not have are passed over
    "run": "Name of the run",
    "model": "Base model",
    "data.trigger": "Trigger word",
    "data.class_word": "Class word",
    "data.masks": "Learn only where masks are white",
    "reward.terms": "Rewards",
    "prompts.texts": "Prompts to learn on",
    "prompts.held_out": "Held-out prompts",
    "steps": "Steps of training",
    "lr": "Learning rate",
    "batch": "Pictures per loss",
    "adapter.rank": "Rank",
    "data.resolution": "Side of the pictures",
    "prior.weight": "Weight of class pictures",
    "previews.prompts": "Prompts of the previews",
    "previews.every": "A preview every",
    "save_every": "A checkpoint every",
    "guard.every": "The guard looks every",
    "seed": "Seed",
}
UNITS = {
    "steps": "steps",
    "every": "steps",
    "save_every": "steps",
    "warmup": "steps",
    "keep_steps": "steps",
    "lead_in": "steps",
    "trial": "steps",
    "sampler_steps": "sampler steps",
    "base_steps": "sampler steps",
    "resolution": "pixels",
    "save_minutes": "minutes",
    "disk_wait": "minutes",
    "timeout": "seconds",
    "keep_last": "checkpoints",
    "images": "pictures",
    "pictures": "pictures",
    "rollout": "pictures",
}
SPOKEN = {"lr": "learning rate", "n": "pictures per prompt", "ema": "moving average (EMA)", "eta": "noise (eta)"}

MISTAKE = re.compile(r"(?:\[(?P<table>[\w.]+)\] )?(?P<name>\w+)(?P<given> = .+?)?: (?P<why>.*)", re.DOTALL)
BOUNDS = {
    "should be greater than or equal to": "should be at least",
    "should be less than or equal to": "should be at most",
    "should be greater than": "should be above",
    "should be less than": "should be below",
}


def unit(name: str) -> str:
    """The unit of a setting; '' for a bare number."""
    if name == "previews.steps":
        return "sampler steps"
    return UNITS.get(name.rpartition(".")[2], "")


def label(name: str) -> str:
    """A setting's name for a person, with its table before it and its unit behind it: `Adapter: rank`."""
    said = BASIC.get(name, "")
    if not said:
        *tables, leaf = name.split(".")
        words = SPOKEN.get(leaf, leaf.replace("_", " "))
        said = ": ".join([*(table.replace("_", " ") for table in tables), words])
        said = said[:1].upper() + said[1:]
    measured = unit(name)
    return f"{said} ({measured})" if measured and measured != said.lower().rpartition(": ")[2] else said


def is_spelled(name: str, shown: str) -> bool:
    """Whether a label spells a setting's dotted name, so that it need not be said again."""
    return shown.partition(" (")[0].lower().replace(": ", ".").replace(" ", "_") == name.lower()


def beside(shown: str, help_: str) -> str:
    """A help without the words that its label has said already; '' where it says nothing more."""
    head, _, rest = help_.partition("; ")
    return rest if head.lower() == shown.partition(" (")[0].rpartition(": ")[2].lower() else help_


def spoken(said: str, called: Mapping[str, str]) -> str:
    """A config's sentence about a wrong setting, `[dreambooth] lr = 20.0: ...`, with the name that the form has for it.

    called: by dotted names; a sentence about none of them stays as it is.
    """
    found = MISTAKE.fullmatch(said)
    if found is None:
        return said
    name = ".".join([*(found["table"] or "").split(".")[1:], found["name"]])
    table, _, last = name.rpartition(".")
    whole = called.get(name) or (last.isdigit() and called.get(table))  # one entry of a list
    if not whole:
        return said
    why = found["why"]
    for long, short in BOUNDS.items():
        why = why.replace(long, short)
    return f"{whole}{re.sub(r'(?<=[0-9])[.]0$', '', found['given'] or '')}: {why}"
