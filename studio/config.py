"""`RunConfig`: what makes a run, from defaults, the model's recommendation, a TOML file and flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator

from studio import registry
from studio.mistakes import brief, explain, keys
from studio.pipelines import assets
from studio.pipelines.confine import is_inside
from studio.pipelines.errors import UsageError
from studio.pipelines.preview_settings import FewStep, Previews, advised, as_trained
from studio.pipelines.settings import Part
from studio.toml import flatten, nones, parse, read, update, write
from studio.trainers.base import Settings

Layer = Mapping[str, Any]  # trainer, model, run, runs, seed and `settings`, nested as the config is
DRAWS: dict[str, type] = {"sampler": str, "sampler_steps": int, "guidance_scale": float}  # of a run that draws
SCHEME = re.compile(r"[a-z]{2,}:")  # "subject:fox" is no path


class RunConfig(Part):
    """A trainer with its settings, the model it starts from, the seed, and where the run is kept."""

    trainer: Annotated[str, Field(description="The method; `studio list trainers` names all")] = "dreambooth"
    model: Annotated[str, Field(description="embedded, toy, a folder, a .safetensors file or a hub id")] = "embedded"
    run: Annotated[str, Field(description="Name of the run; empty: date-subject-trainer")] = ""
    runs: Annotated[Path, Field(description="Folder of the runs")] = Path("runs")
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Seed of everything random")] = 0
    settings: Annotated[SerializeAsAny[Settings], Field(description="The trainer's settings")]

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_trainer(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        config = registry.trainer(str(values.get("trainer", "dreambooth"))).Config
        settings = values.get("settings", {})
        if isinstance(settings, Mapping):
            settings = config.model_validate(dict(settings))
        if not isinstance(settings, config):
            raise UsageError(f"settings is a {type(settings).__module__} config, not one of the trainer's")
        return {**values, "settings": settings}

    def subject(self) -> str:
        """A word for what the run learns: the class word, or the name of the data's folder."""
        data = self.settings.data
        folder = str(data.folder or "").rstrip("/").removesuffix("/train").rpartition("/")[2].rpartition(":")[2]
        return re.sub(r"[^a-z0-9]+", "-", (folder or data.class_word).lower()).strip("-") or "pictures"

    def resolved(self, run: str, runs: Path) -> RunConfig:
        """The same config under a name and in a place, every relative path made absolute."""
        model = str(Path(self.model).absolute()) if Path(self.model).exists() else self.model
        update = {"run": run, "runs": runs.absolute(), "model": model, "settings": absolute(self.settings)}
        return self.model_copy(update=update)

    def undecided(self) -> RunConfig:
        """The same config without what follows from other settings and nobody gave."""
        return self.model_copy(update={"settings": self.settings.undecided()})


def absolute(value: Any) -> Any:
    """Settings with relative paths made absolute, at any depth."""
    if isinstance(value, Part):
        changed = {name: absolute(getattr(value, name)) for name in type(value).model_fields}
        return value.model_copy(update=changed)
    is_path = isinstance(value, Path) and not SCHEME.match(str(value))
    return value.absolute() if is_path else value


def flat(config: RunConfig) -> dict[str, Any]:
    """Every value of a config by its dotted name, as TOML would hold it."""
    return dict(flatten(config))


def make(trainer: str = "", *, toml: Layer | None = None, flags: Layer | None = None, file: str = "") -> RunConfig:
    """A config out of its layers, later wins: defaults, the model's recommendation, `toml`, `flags`.

    file: what to call the TOML layer in messages. Raises UsageError, in one line, for unknown keys (with the
    nearest known name), values out of bounds and unknown trainers.
    """
    layers = [dict(toml or {}), dict(flags or {})]
    top = {key: value for layer in layers for key, value in layer.items() if key != "settings"}
    name = trainer or top.get("trainer") or "dreambooth"
    config = registry.trainer(name).Config
    advice = recommended(str(top.get("model", "embedded")), name)
    if "adapter" in advice:  # for a LoRA; another kind of adapter knows only some of it
        known = annotation(config, "adapter").model_fields
        advice = {**advice, "adapter": {key: value for key, value in advice["adapter"].items() if key in known}}
    if named := [key for key in paths(config) if inner(advice, key) is not None]:
        raise UsageError(f"the model's studio.toml sets {named[0]}, but a model may not name files; delete that line")
    advice = nones(advice, config)
    said: dict[str, Any] = {}
    for layer in layers:
        said = merge(said, nones(dict(layer.get("settings", {})), config))
    try:
        made = config.model_validate(merge(previewed(advice, annotation(config, "previews")), said))
        if few := as_trained(made, said.get("previews")):
            made = config.model_validate(merge(merge(previewed(advice, FewStep), {"previews": few}), said))
        return RunConfig(**{**top, "trainer": name, "settings": made})
    except ValidationError as error:
        raise UsageError(explain(error, RunConfig, config, name, file)) from None


def usual(config: RunConfig) -> dict[str, Any]:
    """What every value of a config would be if nobody gave it, by dotted name; previews follow how the run draws."""

    def made(**settings: Any) -> dict[str, Any]:
        return flat(make(config.trainer, flags={"model": config.model, "settings": settings}).undecided())

    plain, names = made(), [name for name in DRAWS if hasattr(config.settings, name)]
    if len(names) < len(DRAWS):
        return plain
    own = {name: getattr(config.settings, name) for name in DRAWS}
    with suppress(UsageError):  # what a flag alone cannot be, previews do not follow
        sampler, key = config.settings.previews.sampler, "settings.previews.sampler"
        drawn = made(**own, previews={"sampler": sampler}) | {key: made(**own)[key]}
        return plain | {name: value for name, value in drawn.items() if name.startswith("settings.previews.")}
    return plain


def previewed(advice: Layer, kind: type[Previews]) -> dict[str, Any]:
    """A model's advice for previews of a kind: its steps and guidance are not those of an adapter of few steps."""
    return {**advice, "previews": advised(kind, advice["previews"])} if "previews" in advice else dict(advice)


def paths(config: type[BaseModel]) -> list[str]:
    """The dotted names of the settings that are paths."""
    return [key for key in keys(config) if "Path" in str(annotation(config, key))]


def annotation(config: Any, key: str) -> Any:
    """The type of a setting by its dotted name."""
    head, _, rest = key.partition(".")
    found = config.model_fields[head].annotation
    return annotation(found, rest) if rest else found


def inner(values: Any, key: str) -> Any:
    """A value by its dotted name; None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def check_place(file: Path, runs: Path) -> None:
    """UsageError when a config would have runs written elsewhere than here or beside it: it may be a stranger's."""
    places = [Path.cwd(), file.absolute().parent, *([file.absolute().parents[1]] if file.name == "run.toml" else [])]
    if not any(is_inside(place, runs) for place in places):
        raise UsageError(f"{file}: runs = '{runs}' is neither here nor beside it; to allow it: --runs {runs}")


def check_paths(file: Path, config: RunConfig, typed: Callable[[str], str]) -> None:
    """UsageError when a config's folder or model climbs out with "..". typed: what the command line says for a key."""
    for key, value in flat(config).items():
        name = key.removeprefix("settings.")
        climbs = (name == "model" or name.endswith("folder")) and ".." in Path(str(value)).parts
        if climbs and not typed(f"--{name.replace('_', '-')}"):
            raise UsageError(
                f"{file}: {name} = '{value}' climbs out with '..', and a config may be a stranger's; write the whole "
                f"path into it, or type --{name.replace('_', '-')}"
            )


def recommended(model: str, trainer: str) -> dict[str, Any]:
    """What a model advises for a trainer: its `[settings]`, then its table of the trainer's name."""
    advice = assets.recommended(model)
    tables = [advice.get(name, {}) for name in ("settings", trainer)]
    if not all(isinstance(table, Mapping) for table in tables):
        raise UsageError(f"studio.toml of {model}: [settings] and [{trainer}] should be tables; correct or delete it")
    return merge(*tables)


def merge(below: Layer, above: Layer) -> dict[str, Any]:
    """`above` laid over `below`, table by table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def layer(path: Path | str) -> Layer:
    """A TOML file as a layer.

    Raises UsageError when it cannot be read or has a table of another trainer.
    """
    values = read(Path(path))
    if not isinstance(values.get("trainer", ""), str):
        raise UsageError(f"{path}: trainer = {brief(values['trainer'])}: should be a name; see `studio list trainers`")
    tables = [key for key, value in values.items() if isinstance(value, Mapping)]
    trainer = values.get("trainer") or (tables[0] if len(tables) == 1 else "dreambooth")
    others = [key for key in tables if key != trainer]
    if others:
        hint = registry.nearest(others[0], [trainer])
        raise UsageError(f"{path}: there is a table [{others[0]}], but trainer = '{trainer}'{hint}")
    settings = values.pop(trainer, {})
    if not isinstance(settings, Mapping):
        raise UsageError(f"{path}: {trainer} = {brief(settings)}: should be a table, [{trainer}]")
    return {**values, "trainer": trainer, "settings": settings}


def from_toml(path: Path | str, flags: Layer | None = None) -> RunConfig:
    """The config of a TOML file, with flags laid over it; UsageError as `make`."""
    return make(toml=layer(path), flags=flags, file=str(path))


def to_toml(config: RunConfig) -> str:
    """The complete config as TOML, every default included, each line with its description as comment."""
    return write(config)


def as_toml(config: RunConfig, text: str = "") -> str:
    """As `to_toml`, with comments and order of `text`, the TOML the config came from, wherever its layout allows."""
    try:
        return update_toml(text, config) if text else to_toml(config)
    except UsageError:
        return to_toml(config)


def update_toml(text: str, config: RunConfig) -> str:
    """A TOML text with the config's values in it: its comments and order stay, missing keys are added."""
    return update(parse(text, "the old text"), config)
