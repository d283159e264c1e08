"""Who judges an evaluation's pictures: scorers by name, the encoder of the personal measures, a captioner."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from studio import registry
from studio.evaluation.personal import Eye
from studio.evaluation.personal_words import Captioner, Reader
from studio.mistakes import message
from studio.pipelines.errors import ModelError, StudioError, UsageError
from studio.pipelines.protocols import Scorer

ALL, PERSONAL, CAPTIONS = "all", "personal", "captions"
USUAL = (PERSONAL, "clip_text", "clip_image", "dino", "vendi", "jpeg")
SMALL: dict[str, tuple[str, ...]] = {
    "embedded": (PERSONAL, CAPTIONS, "embedded", "vendi", "jpeg"),
    "toy": (PERSONAL, "jpeg"),
}
# their pictures are like nothing that other encoders were trained on
VIEW, TRAITS = {"family": "embedded"}, {"family": "traits"}  # the second sees the individual more than the colours
OWN: dict[str, dict[str, dict[str, Any]]] = {
    name: {"vendi": VIEW, "frechet": VIEW, "diversity": VIEW, PERSONAL: TRAITS} for name in ("embedded", "toy")
}
Options = Mapping[str, Mapping[str, Any]]
T = TypeVar("T")


@dataclass
class Panel:
    """Who judges, and what a person must know about those that are missing.

    eye: the encoder of the personal measures; read: an attribute judge of the embedded world; captioner, reader: of the
    caption round trip. None: not measured. missing: words that are not to be seen in a picture, by its file.
    """

    scorers: list[Scorer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    eye: Eye | None = None
    read: Callable[[Tensor], list[dict[str, str]]] | None = None
    captioner: Captioner | None = None
    captioner_id: str = ""
    reader: Reader | None = None
    missing: dict[str, list[str]] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """A sentence, once."""
        if text not in self.notes:
            self.notes.append(text)

    def attempt(self, what: str, make: Callable[[], T]) -> T | None:
        """What `make` returns; None with a note when it fails: one measure must not cost the others."""
        try:
            return make()
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a stranger's scorer, or an encoder whose files break: half a dozen types
            self.note(f"no {what}: {reason(error)}")
            return None

    def needs(self, what: str) -> list[str]:
        """Those that need something beside the pictures of one source."""
        names = [one.about.name for one in self.scorers if what in one.about.needs and one.about.per != "set"]
        return ["identity", *names] if self.eye is not None and what == "references" else names

    @property
    def personal(self) -> bool:
        """Whether anything of the personal measures is wanted."""
        return any(part is not None for part in (self.eye, self.read, self.captioner))


def reason(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, StudioError) and text else f"{type(error).__name__}: {text}"


def panel(
    names: Sequence[str] = (),
    model: str = "",
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    options: Options | None = None,
) -> Panel:
    """The scorers of these names, by default those that suit the model; options by scorer.

    "personal": identity, diversity, copies, drift and leak; "captions": the caption round trip; "all": everything.
    Raises UsageError for a name or an option that does not exist. What cannot be used becomes a note.
    """
    found, place = Panel(), device or torch.device("cpu")
    there = [entry.name for entry in registry.describe("scorers")]
    for name in (*names, *(options or {})):
        if name not in (ALL, PERSONAL, CAPTIONS, *there):
            registry.find("scorers", name)  # raises, with the nearest name
    for name in resolved(names, model):
        wishes = {**OWN.get(model, {}).get(name, {}), **(options or {}).get(name, {})}
        try:
            add(found, name, model, wishes, place, dtype)
        except ModelError as error:
            found.note(f"no {name}: {reason(error)}")
    return found


def resolved(names: Sequence[str], model: str) -> list[str]:
    """The names that are meant: those given, everything for "all", or those that suit the model."""
    there = [PERSONAL, CAPTIONS, *(entry.name for entry in registry.describe("scorers"))]
    usual = [name for name in SMALL.get(model, USUAL) if name in there]
    return there if ALL in names else list(dict.fromkeys(names)) or usual


def add(
    found: Panel, name: str, model: str, wishes: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> None:
    """One of the names, onto the panel. Raises ModelError when it cannot be had."""
    if name == PERSONAL:
        from studio.pipelines.scorers._sets import View

        found.eye = configured(name, View, wishes).open(device, dtype)
        if model == "embedded":
            found.read = attributes(device)
    elif name == CAPTIONS:
        describe(found, "embedded" if model in SMALL else "blip", wishes, device, dtype)
    else:
        try:
            module = registry.load("scorers", name)
        except UsageError as error:  # a package that is not installed costs a column, as missing weights do
            found.note(f"no {name}: {reason(error)}")
            return
        if hasattr(module, "build"):
            found.scorers += module.build(configured(name, module.Config, wishes), device, dtype)


def attributes(device: torch.device) -> Callable[[Tensor], list[dict[str, str]]]:
    """The embedded judges' answers for pictures `[B, 3, H, W]` in 0..1."""
    found = judges(device)
    return lambda pictures: found.loaded.model.read(pictures.to(device) * 2 - 1)


def judges(device: torch.device) -> Any:
    """The embedded image-text judge."""
    from studio.pipelines.assets import assets_folder
    from studio.pipelines.encoders.judges import Sight, judge

    return judge(Sight, assets_folder() / "judges", device)


def describe(found: Panel, name: str, wishes: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
    """A captioner, and a text encoder that is not the one it uses itself."""
    from studio.pipelines.encoders.clip import BASE, clip

    module = importlib.import_module(f"studio.pipelines.captioners.{name}")
    config = configured(CAPTIONS, module.Config, {"style": "comprehensive", **wishes})
    found.captioner = module.build(config, device, dtype)
    found.captioner_id = "embedded judges" if name == "embedded" else str(config.model)
    found.reader = judges(device) if name == "embedded" else clip(BASE, "", device, dtype)


def configured(name: str, config: Any, wishes: Mapping[str, Any]) -> Any:
    """A scorer's settings. Raises UsageError for an unknown or impossible one."""
    for key in wishes:
        if key not in config.model_fields:
            raise UsageError(f"the scorer {name} has no setting '{key}'{registry.nearest(key, config.model_fields)}")
    try:
        return config(**wishes)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"the scorer {name}: {'.'.join(map(str, first['loc']))}: {message(first)}") from None
