"""The command that does what the page is about to do: copyable, with only what differs from the defaults."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.pipelines.confine import is_inside

if TYPE_CHECKING:
    from studio.config import RunConfig
    from studio.ui.place import Place

NONE = "none"  # as TOML has it
PLACES = ("trainer", "model", "run", "runs", "seed")  # the top level, in this order


def at_home(config: RunConfig, place: Place) -> RunConfig:
    """A Space's config for a machine of one's own: runs lie in `runs`, uploaded pictures in a folder `pictures`."""
    data = config.settings.data
    uploaded = data.folder is not None and is_inside(place.uploads, Path(data.folder))
    mine = data.model_copy(update={"folder": Path("pictures")}) if uploaded else data
    settings = config.settings.model_copy(update={"data": mine})
    return config.model_copy(update={"runs": Path("runs"), "settings": settings})


def command(config: RunConfig) -> str:
    """`studio train TRAINER --flag value ...`, quoted for a shell; it reads back as the very same config.

    Where flags cannot say it (a second prompt that begins with a hyphen), the file is written first.
    """
    from studio.config import flat

    lists = [value for value in flat(config).values() if isinstance(value, list)]
    if any(str(item).startswith("-") for value in lists for item in value[1:]):
        runs = shlex.quote(str(config.runs))
        return f"cat > config.toml <<'END'\n{toml(config)}END\nstudio train config.toml --runs {runs}"
    return shlex.join(["studio", *words(config)])


def words(config: RunConfig) -> list[str]:
    """The words of the command after `studio`; what the model recommends is a default too."""
    from studio.config import flat, usual

    given, mine = usual(config), flat(config.undecided())
    head = {"model": "embedded", "run": "", "runs": "runs", "seed": 0}
    said = ["train", config.trainer]
    for name, default in head.items():
        if mine[name] != default:
            said += flag(name, mine[name])
    for key, value in mine.items():
        if key not in PLACES and value != given.get(key):
            said += flag(key.removeprefix("settings."), value)
    return said


def flag(name: str, value: Any) -> list[str]:
    """One setting as words. name: dotted; value: as TOML would hold it."""
    from studio.flags import ALIASES

    short = {long: alias for alias, long in ALIASES.items()}
    long = name.replace("_", "-")
    if isinstance(value, bool):
        table, dot, last = long.rpartition(".")
        return [f"--{long}" if value else f"--{table}{dot}no-{last}"]
    word = f"--{short.get(long, long)}"
    if isinstance(value, list):
        return [*joined(word, str(value[0])), *map(str, value[1:])] if value else [word]
    return list(joined(word, str(value)))


def joined(word: str, text: str) -> Iterator[str]:
    """A flag and its value, in one word where the value would be taken for a flag or for none."""
    if text == NONE:
        yield from (word, "None")
    elif text.startswith("-") or not text:
        yield f"{word}={text}"
    else:
        yield from (word, text)


def toml(config: RunConfig) -> str:
    """The complete config as TOML, every default included: `studio train FILE` does the same."""
    from studio.config import to_toml

    return to_toml(config)
