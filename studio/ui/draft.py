"""What a visitor has filled in so far: a plain dict that the browser keeps, and the `RunConfig` it stands for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import store
from studio.pipelines.errors import UsageError
from studio.ui.form import TOP, Field, fields, nested, plain
from studio.ui.form_words import spoken
from studio.ui.goals import GOALS

if TYPE_CHECKING:
    from studio.config import RunConfig
    from studio.ui.place import Place

Draft = dict[str, Any]
"""trainer and goal by name, `changed`: settings' plain values that are no defaults, `wrong`: why a widget's is none.

`reason`: what was said of the goal or method, as Markdown; `view`: the ticks that change no setting, by name.
"""

FIRST = "dreambooth"
MOST = 400  # settings in a draft
SCHEME = re.compile(r"[a-z]{2,}:(?![\\/])")  # "subject:fox", "lcm:embedded" are no paths
PATHLIKE = re.compile(r"[/~.\\]|[A-Za-z]:[\\/]")
PLAIN = (bool, int, float, str, type(None))
WORDS = ("run", "prompt", "trigger", "class_word", "targets")  # free text that never names a file
LONGEST = 4000  # characters of a reason
VIEW = {"all": False, "fresh": False}  # the ticks "All settings" and "As a new run"


def fresh(trainer: str = FIRST) -> Draft:
    """A draft in which nothing is changed."""
    return {"trainer": trainer, "goal": "", "changed": {}, "wrong": {}, "reason": "", "view": {**VIEW}}


def checked(value: Any) -> Draft:
    """A draft out of a browser, which may hold anything; what is no setting's value is not taken over."""
    from studio import registry

    if not isinstance(value, Mapping) or not isinstance(value.get("changed"), Mapping):
        return fresh()
    trainer, goal = value.get("trainer"), value.get("goal")
    trainer = trainer if isinstance(trainer, str) and trainer in registry.names("trainers") else FIRST
    changed = dict(list(value["changed"].items())[:MOST])
    known = by_name(trainer, changed.get("model"))
    kept = {name: one for name, one in changed.items() if name in known and is_plain(one)}
    reason, view = value.get("reason"), value.get("view")
    ticks = view if isinstance(view, Mapping) else {}
    return {
        **fresh(trainer),
        "goal": goal if isinstance(goal, str) and goal in [one.key for one in GOALS] else "",
        "changed": kept,
        "reason": reason[:LONGEST] if isinstance(reason, str) else "",
        "view": {name: ticks.get(name) is True for name in VIEW},
    }


def is_plain(value: Any) -> bool:
    """Whether TOML can hold the value as it is."""
    return isinstance(value, PLAIN) or (isinstance(value, list) and all(isinstance(one, PLAIN) for one in value))


@lru_cache(maxsize=64)
def _known(trainer: str, model: str) -> dict[str, Field]:
    return {one.name: one for one in fields(trainer, model)}


def by_name(trainer: str, model: Any = "") -> dict[str, Field]:
    """A trainer's fields by name; with the embedded model's defaults where the model cannot be read.

    They are read once per trainer and model: what a model recommends does not change while the page runs.
    """
    try:
        return _known(trainer, model if isinstance(model, str) and model else "embedded")
    except UsageError:
        return _known(trainer, "embedded")


def known_to(draft: Draft) -> dict[str, Field]:
    """The fields of a draft's trainer by name."""
    return by_name(draft["trainer"], draft["changed"].get("model"))


def shown(draft: Draft, name: str) -> Any:
    """What the widget of a setting shows."""
    field = known_to(draft)[name]
    return field.shown(draft["changed"].get(name, field.default))


def edit(draft: Draft, name: str, value: Any) -> Draft:
    """The draft with a widget's value in it. Raises UsageError for what the setting cannot hold."""
    field = known_to(draft).get(name)
    if field is None:
        raise UsageError(f"{draft['trainer']} has no setting '{name}': reload the page")
    found = field.read(value)
    changed = {key: one for key, one in draft["changed"].items() if key != name}
    if field.differs(found):
        changed[name] = found
    wrong = {key: said for key, said in draft["wrong"].items() if key != name}
    return {**draft, "changed": changed, "wrong": wrong}


def take(draft: Draft, name: str, value: Any) -> Draft:
    """As `edit`, but what the setting cannot hold is noted in the draft, which then stands for no config."""
    try:
        return edit(draft, name, value)
    except UsageError as error:
        return {**draft, "wrong": {**draft["wrong"], name: str(error)}}


def refuse(draft: Draft, name: str, said: str) -> Draft:
    """The draft without a setting that was refused, which stands for no config until the setting is given anew."""
    changed = {key: one for key, one in draft["changed"].items() if key != name}
    return {**draft, "changed": changed, "wrong": {**draft["wrong"], name: said}}


def put(draft: Draft, values: Mapping[str, Any]) -> Draft:
    """The draft with several plain values, those of other trainers aside."""
    for name, value in values.items():
        if name in known_to(draft):
            draft = edit(draft, name, value)
    return draft


def switch(draft: Draft, trainer: str) -> tuple[Draft, list[str]]:
    """The draft for another trainer, and the settings that it cannot take over.

    A setting that all trainers share is kept; another one if it says and holds the same there.
    """
    from studio.mistakes import keys
    from studio.trainers.base import Settings

    shared = {*TOP, *keys(Settings)}
    model = draft["changed"].get("model")
    old, new = by_name(draft["trainer"], model), by_name(trainer, model)

    def same(name: str) -> bool:
        if name not in new or new[name].kind != old[name].kind or new[name].choices != old[name].choices:
            return False
        return name in shared or new[name].help == old[name].help

    kept = {name: value for name, value in draft["changed"].items() if same(name) and new[name].differs(value)}
    lost = [name for name in draft["changed"] if not same(name)]
    return {**draft, "trainer": trainer, "changed": kept, "wrong": {}}, lost


def config(draft: Draft, place: Place) -> RunConfig:
    """The config that the draft stands for. Raises UsageError, also for a path that is not the visitor's to name."""
    from studio.config import make

    values, known = dict(draft["changed"]), known_to(draft)
    for said in draft["wrong"].values():
        raise UsageError(said)
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{draft['trainer']} has no setting '{name}': press Reset settings")
        if names_path(known[name], value):
            place.permitted(str(value), name)
    check_run(str(values.get("run", "")))
    top = {name: values.pop(name) for name in TOP if name in values}
    try:
        return make(draft["trainer"], toml={**top, "runs": place.runs, "settings": nested(values)})
    except UsageError as error:
        raise UsageError(spoken(str(error), {name: field.called for name, field in known.items()})) from None


def names_path(field: Field, value: Any) -> bool:
    """Whether a value names a file or folder of this machine."""
    words = field.kind == "text" and field.name.rpartition(".")[2] in WORDS
    if words or not isinstance(value, str) or not value or SCHEME.match(value):
        return False
    if field.kind == "path" or PATHLIKE.match(value):
        return True
    return field.name in ("model", "choice.clip", "choice.dino") and Path(value).exists()


def check_run(name: str) -> None:
    """Raises UsageError for what no run can be called, with a name made of it; '' is fine."""
    if not name or store.NAME.fullmatch(name):
        return
    plain = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name))
    good = re.sub(r"-{2,}", "-", plain).strip("-._")[:60].rstrip("-._")
    instead = f"'{good}' would do" if good else "leave it empty for one of today's date"
    raise UsageError(
        f"'{name[:80]}' cannot be the name of a run: it has up to 100 letters, digits, '.', '_' and '-', the first a "
        f"letter or digit; {instead}"
    )


def of_config(config: RunConfig) -> Draft:
    """The draft that stands for a config: what differs from the defaults."""
    values = plain(config)
    draft = fresh(config.trainer)
    draft["changed"] = {"model": values["model"]}
    known = known_to(draft)
    differing = {name: none(field, values[name]) for name, field in known.items()}
    draft["changed"] = {name: value for name, value in differing.items() if known[name].differs(value)}
    return draft


def none(field: Field, value: Any) -> Any:
    """TOML's "none" as None."""
    return None if field.optional and value == "none" else value
