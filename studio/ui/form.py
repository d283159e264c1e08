"""The fields of a trainer's form as plain data, read off its `Config`; the page binds them to widgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from studio.pipelines.errors import UsageError
from studio.ui.form_words import BASIC, beside, is_spelled, label, unit

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from studio.config import RunConfig

Kind = Literal["int", "float", "bool", "choice", "text", "path", "list"]
KINDS: dict[Any, Kind] = {bool: "bool", int: "int", float: "float", str: "text", Path: "path"}
TOP = ("model", "run", "seed")  # of the run itself; the trainer is chosen and the folder of the runs is the page's
PREFIX = "settings."
ENDLESS = 1e6  # a bound above it is there for the machine


@dataclass(frozen=True)
class Field:
    """One setting. name: its dotted name, as flags and TOML have it; default: as TOML holds it, None for none.

    low, high: bounds, `above`, `below` where the bound itself is not allowed; choices: all there are of the kind
    "choice"; optional: may be left empty; basic: shown before all others.
    """

    name: str
    label: str
    help: str
    kind: Kind
    default: Any
    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False
    basic: bool = False
    unit: str = ""

    @property
    def bounds(self) -> str:
        """The bounds in words, of those that a person could meet; '' without any."""
        low = "" if self.low is None else f"{'above' if self.above else 'at least'} {self.low:g}"
        open_end = self.high is None or self.high >= ENDLESS
        high = "" if open_end else f"{'below' if self.below else 'at most'} {self.high:g}"
        return ", ".join(filter(None, (low, high)))

    @property
    def called(self) -> str:
        """Label and name, as a message has them."""
        return f"{self.label.partition(' (')[0]} ({self.name})"

    @property
    def hint(self) -> str:
        """Help, bounds, default and real name, without what the label says: what stands below a widget."""
        default = self.shown(self.default)
        said = {True: "on", False: "off"}[default] if self.kind == "bool" else str(default).replace("\n", ", ")
        said = f"`{said}`" if "*" in said else said  # two of them would be taken for emphasis
        said = "" if default in ("", None) else f"default {said}"
        name = "" if is_spelled(self.name, self.label) else self.name
        return " · ".join(filter(None, (beside(self.label, self.help), self.bounds, said, name)))

    def shown(self, value: Any) -> Any:
        """A plain value as a widget holds it: a list as lines, nothing as '' (None where a number is expected)."""
        if value is None:
            return None if self.kind in ("int", "float") else ""
        if self.kind == "list":
            return "\n".join(map(str, [value] if isinstance(value, str) else value))
        return value if self.kind in ("int", "float", "bool") else str(value)

    def read(self, value: Any) -> Any:
        """What a widget holds as a plain value. Raises UsageError, in one line, for what is none of the kind.

        Bounds are the config's own matter: `make` checks them, as it does for the command line.
        """
        if self.kind == "list":
            lines = value.splitlines() if isinstance(value, str) else list(value or ())
            return [text for line in lines if (text := str(line).strip())]
        if value is None or (isinstance(value, str) and not value.strip()):
            return self.nothing()
        if self.kind in ("int", "float"):
            return self.number(value)
        if self.kind == "bool":
            return value if isinstance(value, bool) else str(value).lower() == "true"
        text = str(value).strip()
        if self.kind == "choice" and text not in self.choices:
            raise UsageError(f"{self.called} is one of {', '.join(self.choices)}, not '{text[:60]}'")
        return text

    def nothing(self) -> Any:
        """The value of an empty widget. Raises UsageError where there has to be one."""
        if self.optional:
            return None
        if self.kind in ("text", "path"):
            return ""
        raise UsageError(f"{self.called} is empty: give a value; the default is {self.default}")

    def number(self, value: Any) -> int | float:
        """A number. Raises UsageError for a word, and for a fraction where whole numbers are asked for."""
        try:
            found = float(value)
            if self.kind == "float":
                return found
            whole = value if isinstance(value, int) else int(found)
        except (ValueError, OverflowError, TypeError):
            raise UsageError(f"{self.called} is a number, not '{str(value)[:60]}'") from None
        if whole != found:
            raise UsageError(f"{self.called} is a whole number, not {value}")
        return whole

    def differs(self, value: Any) -> bool:
        """Whether a plain value is another one than the default."""
        return bool(self.shown(value) != self.shown(self.default))


def fields(trainer: str, model: str = "embedded") -> tuple[Field, ...]:
    """Every setting of a trainer and of its run, basic ones first; defaults are those that the model recommends.

    Raises UsageError for an unknown trainer or model.
    """
    from studio.config import RunConfig, make

    base = make(trainer, flags={"model": model} if model else {})
    defaults = {**plain(base), "model": RunConfig.model_fields["model"].default}
    infos = [*((name, RunConfig.model_fields[name]) for name in TOP), *inner(type(base.settings))]
    found = [described(name, info, defaults[name]) for name, info in infos]
    order = {name: number for number, name in enumerate(BASIC)}
    return tuple(sorted(found, key=lambda one: (not one.basic, order.get(one.name, len(order)) if one.basic else 0)))


def plain(config: RunConfig) -> dict[str, Any]:
    """Every value of a config by its name in the form; None where there is none."""
    from studio.config import flat

    values = flat(config.undecided())
    return {name.removeprefix(PREFIX): value for name, value in values.items()}


def inner(config: Any, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted name, field) of every setting of a config, at any depth."""
    for name, info in config.model_fields.items():
        if hasattr(info.annotation, "model_fields"):
            yield from inner(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, info


def described(name: str, info: FieldInfo, default: Any) -> Field:
    """One field. A trainer may say of its own: `Field(json_schema_extra={"basic": True})`."""
    kind, choices, optional = kind_of(info.annotation)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, Mapping) else {}
    limits = dict(bounds(info))
    return Field(
        name=name,
        label=label(name),
        help=" ".join((info.description or "").split()),
        kind=kind,
        default=None if optional and default == "none" else default,
        low=limits.get("ge", limits.get("gt")),
        high=limits.get("le", limits.get("lt")),
        above="gt" in limits,
        below="lt" in limits,
        choices=choices,
        optional=optional,
        basic=bool(extra.get("basic", name in BASIC)),
        unit=unit(name),
    )


def kind_of(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """The kind of a type, its choices, and whether it may be None; what is of several kinds is a text."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    rest = [part for part in parts if part is not NoneType]
    optional = len(rest) < len(parts)
    if len(rest) != 1:
        return "text", (), optional
    origin = get_origin(rest[0])
    if origin is Literal:
        return "choice", tuple(map(str, get_args(rest[0]))), optional
    if origin in (tuple, list, set, frozenset):
        return "list", (), optional
    return KINDS.get(rest[0], "text"), (), optional


def bounds(info: FieldInfo) -> Iterator[tuple[str, float]]:
    """The bounds of a number: ge, gt, le, lt."""
    for mark in info.metadata:
        for key in ("ge", "gt", "le", "lt"):
            if (found := getattr(mark, key, None)) is not None:
                yield key, float(found)


def search(known: Iterable[Field], words: str) -> tuple[Field, ...]:
    """The fields in whose name, label or help all of the words are; those named so come first."""
    wanted = words.lower().replace("--", "").split()
    hits = [one for one in known if all(word in f"{one.name} {one.label} {one.help}".lower() for word in wanted)]

    def away(one: Field) -> bool:
        named = f"{one.name} {one.label}".lower()
        return not all(word in named or word.replace("-", "_") in named for word in wanted)

    return tuple(sorted(hits, key=away))


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to tables in tables."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *tables, leaf = name.split(".")
        place = found
        for table in tables:
            place = place.setdefault(table, {})
        place[leaf] = value
    return found
