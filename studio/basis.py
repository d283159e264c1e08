"""What a run was made with: its config, its pictures, its base model; and what is different now."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio import ranks, registry, start

if TYPE_CHECKING:
    from studio.config import RunConfig
    from studio.pipelines.data import Dataset
    from studio.pipelines.protocols import Backbone

# what may differ between two starts of a run: where it lies, and settings that leave the numbers alone
FREE = re.compile(r"(run|runs|settings\.(save_\w+|keep_\w+|disk_wait|free_encoders|offload|(previews|choice)(\..*)?))$")
# what a checkpoint cannot be carried over to, and why
FIXED = {
    "trainer": "what one trainer remembers is nothing to another",
    "settings.optimizer": "the checkpoint holds another optimizer's state",
    "settings.ema": "the checkpoint's average was made with the other decay, or there is none",
    "settings.adapter.rank": "the checkpoint's tensors have the other rank",
    "settings.adapter.family": "the checkpoint's tensors are another family's",
    "settings.adapter.factor": "the checkpoint's tensors have other sizes",
    "settings.adapter.freeze_a": "the checkpoint's optimizer has other parameters",
    "settings.adapter.variant": "the checkpoint's tensors are those of the other variant",
    "settings.adapter.threshold": "the checkpoint's entries were chosen otherwise",
    "settings.adapter.quantile": "the checkpoint's entries were chosen otherwise",
    "settings.adapter.selection": "the checkpoint's entries were chosen otherwise",
    "settings.adapter.targets": "the checkpoint's tensors belong to other layers",
}
FEW = 4  # names that are shown


@dataclass(frozen=True)
class Basis:
    """config: every value by its dotted name, FREE ones left out; config_hash: its sha256; data, prior, model:
    fingerprints; precision: of the frozen parts; pictures: name -> short hashes of its bytes, mask and words.
    """

    config: dict[str, Any]
    config_hash: str
    data: str
    prior: str
    model: str
    precision: str
    pictures: dict[str, list[str]]

    @classmethod
    def of(cls, config: RunConfig, model: Backbone, dataset: Dataset, prior: Dataset | None) -> Basis:
        """The basis of a run that starts now. config: resolved."""
        values = numbers(config) | {"processes": ranks.count()}  # each has its rows of a batch
        values |= {"settings.start": begun} if (begun := start.fingerprint(config.settings)) else {}
        return cls(
            config=values,
            config_hash=digest(values),
            data=dataset.fingerprint(),
            prior=prior.fingerprint() if prior else "",
            model=model.fingerprint(),
            precision=str(model.dtype).removeprefix("torch."),
            pictures={
                e.name: [e.content[:16], e.mask_content[:16], digest([e.caption, e.bucket, e.repeats, e.weight])[:16]]
                for e in dataset.examples
            },
        )

    @classmethod
    def read(cls, values: Any) -> Basis | None:
        """The basis in a checkpoint's meta or in env.json; None where an older version wrote none."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or not set(names) <= set(values):
            return None
        return cls(**{name: values[name] for name in names})

    def as_dict(self) -> dict[str, Any]:
        """What `read` reads."""
        return dataclasses.asdict(self)

    def changes(self, now: Basis) -> list[str]:
        """What is different now, one readable line each; growing `steps` is none."""
        found = differences(self.config, now.config)
        pictures = renamed(self.pictures, now.pictures)
        words = any(line.startswith("data.") for line in found)
        if self.data != now.data and not words:
            pictures = pictures or ["their order or size"]
        found += [f"pictures: {line}" for line in pictures]
        if self.prior != now.prior and not any(line.startswith("prior.") for line in found):
            found.append("class pictures: others than before")
        if self.precision != now.precision:
            found.append(f"precision of the base model: {self.precision} -> {now.precision}")
        elif self.model != now.model:
            found.append(f"base model: fingerprint {self.model[:12]} -> {now.model[:12]}")
        return found


def numbers(config: RunConfig) -> dict[str, Any]:
    """The values of a config that decide a run's numbers, by dotted name, as JSON holds them."""
    from studio.config import flat

    values = {key: value for key, value in flat(config).items() if not FREE.match(key)}
    return dict(json.loads(json.dumps(values, default=str)))


def digest(value: Any) -> str:
    """sha256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`lr: 0.0001 -> 0.5` for each setting that differs.

    Growing `steps` is no difference; what follows from other settings in both, and nobody gave, is not named.
    """
    steps = "settings.steps"
    grown = old.get(steps, 0) <= new.get(steps, 0)
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if "trainer" in keys:  # the others follow from it
        keys = ["trainer"]
    elif keys:
        derived = following(old) & following(new)
        keys = [key for key in keys if key not in derived] or keys
    return [
        f"{key.removeprefix('settings.')}: {old.get(key)} -> {new.get(key)}"
        for key in keys
        if not (key == steps and grown)
    ]


def following(config: Mapping[str, Any]) -> set[str]:
    """The settings that follow from others in a config by dotted names, and that nobody gave."""
    if "trainer" not in config:
        return set()
    kind = registry.trainer(config["trainer"]).Config
    plain = {key.removeprefix("settings."): value for key, value in config.items()}
    settings = kind.model_construct(**{key: value for key, value in plain.items() if key in kind.model_fields})
    free = settings.undecided()
    return {f"settings.{key}" for key in kind.model_fields if getattr(free, key) != getattr(settings, key)}


def fixed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Why a checkpoint of the one config is nothing to the other, or ''."""
    return next((why for key, why in FIXED.items() if old.get(key) != new.get(key)), "")


def renamed(old: Mapping[str, list[str]], new: Mapping[str, list[str]]) -> list[str]:
    """Pictures added, removed and changed, by name."""
    kinds = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [
            f"{name} ({altered(old[name], new[name])})" for name in new if old.get(name, new[name]) != new[name]
        ],
    }
    return [f"{kind} {few(sorted(names))}" for kind, names in kinds.items() if names]


def altered(old: list[str], new: list[str]) -> str:
    """What about a picture is different."""
    kinds = ("picture", "mask", "caption or weight")
    return ", ".join(kind for kind, a, b in zip(kinds, old, new, strict=True) if a != b)


def few(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"{', '.join(names[:FEW])}{more}".encode("utf-8", "replace").decode()
