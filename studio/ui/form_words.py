"""What settings are called in a form: labels with units, and which of them come first."""

from __future__ import annotations

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
