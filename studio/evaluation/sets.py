"""The fixed prompts an adapter is judged by: sets that come with the studio, and a person's own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from studio.mistakes import brief, message
from studio.pipelines.assets import assets_folder
from studio.pipelines.errors import UsageError
from studio.pipelines.settings import Part
from studio.registry import nearest
from studio.toml import read as read_toml

Kind = Literal["live", "object", "style"]
PLACE, CLASS = "{subject}", "class"
FIRST_SEED = 1000
ALIVE = """
animal bird fish insect person man woman boy girl child kid baby guy lady human face people actor actress dog puppy cat
kitten horse pony cow pig sheep goat rabbit bunny hamster mouse rat squirrel fox wolf bear panda koala monkey lion tiger
leopard cheetah elephant giraffe zebra deer camel bat frog toad turtle tortoise lizard snake crocodile dinosaur dragon
unicorn hedgehog penguin owl parrot eagle duck goose chicken rooster chick flamingo swan crow whale dolphin shark
octopus crab snail bee butterfly spider pet creature poodle corgi retriever terrier bulldog
"""
LIVE = frozenset(ALIVE.split())


class Prompt(Part):
    """One prompt."""

    text: Annotated[str, Field(min_length=1, description="The prompt, with {subject} where the subject is called")]
    plain: Annotated[str, Field(description="The same without the trigger; empty: {subject} is the class word")] = ""

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value


class PromptSet(Part):
    """Prompts of one kind. trigger: whether the adapter is called by its trigger word."""

    name: str
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, description="The prompts")]
    trigger: Annotated[bool, Field(description="Call the adapter by its trigger; the base model never is")] = True

    @model_validator(mode="after")
    def _calls(self) -> PromptSet:
        silent = next((prompt for prompt in self.prompts if self.trigger and PLACE not in prompt.text), None)
        if silent:
            raise ValueError(f"'{silent.text}' should say {PLACE} where the subject is called, or trigger = false")
        return self


@dataclass(frozen=True)
class Wanted:
    """One picture to be made. number: its prompt's place in its set; plain: the prompt without trigger."""

    set: str
    number: int
    seed: int
    template: str
    prompt: str
    plain: str


def kind_of(class_word: str) -> Kind:
    """Whether a class word means something alive, a thing, or (none) a style."""
    if not class_word.strip():
        return "style"
    last = class_word.lower().split()[-1]
    alive = {last, last.removesuffix("s"), last.removesuffix("es")} & LIVE
    return "live" if alive and not re.search(r"\b(toy|stuffed|plush|plushie)\b", class_word.lower()) else "object"


def shipped(model: str, kind: Kind) -> list[PromptSet]:
    """The sets for a model and a kind of subject."""
    if kind not in get_args(Kind):
        raise UsageError(f"kind = '{kind}': it is one of {', '.join(get_args(Kind))}{nearest(kind, get_args(Kind))}")
    embedded = {"live": "embedded", "object": "embedded", "style": "embedded-style"}
    return read(assets_folder() / "prompts" / f"{embedded[kind] if model == 'embedded' else kind}.toml")


def read(file: Path) -> list[PromptSet]:
    """The sets of a TOML file: a table each. Raises UsageError in one line for anything else in it."""
    sets = [one(file, name, table) for name, table in read_toml(file).items()]
    if not sets:
        raise UsageError(f"{file}: no set of prompts; a set is a table, such as [recontext], with prompts = [...]")
    return sets


def one(file: Path, name: str, table: Any) -> PromptSet:
    """One set of a file."""
    if not isinstance(table, Mapping):
        raise UsageError(f"{file}: {name} = {brief(table)}: should be a table, [{name}], with prompts = [...]")
    if not re.fullmatch(r"\w[\w-]{0,39}", name):
        raise UsageError(f"{file}: [{name[:60]}]: a set's name has letters, digits, '_' and '-', nothing else")
    refuse(f"{file}: [{name}]", table, set(PromptSet.model_fields) - {"name"})
    prompts = table.get("prompts", ())
    for row in prompts if isinstance(prompts, list) else ():
        if isinstance(row, Mapping):
            refuse(f"{file}: [{name}] prompts", row, set(Prompt.model_fields))
    if prompts == []:
        raise UsageError(f"{file}: [{name}] prompts = []: there is no prompt in it; give one, or take [{name}] out")
    try:
        return PromptSet(name=name, **table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        said = f"{place}: {message(first)}" if place else message(first)
        raise UsageError(f"{file}: [{name}] {said}") from None


def refuse(where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises UsageError for a key nobody knows, with the nearest known one."""
    for key in table:
        if key not in known:
            raise UsageError(f"{where} has no setting '{key}'{nearest(key, known)}")


def choose(sets: Sequence[PromptSet], names: Sequence[str]) -> list[PromptSet]:
    """The sets of these names, all without names. Raises UsageError for an unknown one."""
    known = {group.name: group for group in sets}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no set of prompts '{name}'{nearest(name, known)}; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(known.values())


def merged(sets: Sequence[PromptSet], own: Sequence[PromptSet]) -> list[PromptSet]:
    """A person's sets after the shipped ones; one of the same name takes its place."""
    return list({group.name: group for group in (*sets, *own)}.values())


def shortened(sets: Sequence[PromptSet], most: int) -> list[PromptSet]:
    """The first prompts of each set."""
    return [group.model_copy(update={"prompts": group.prompts[:most]}) for group in sets]


def wanted(sets: Sequence[PromptSet], seeds: Sequence[int], trigger: str, class_word: str) -> list[Wanted]:
    """Every prompt with every seed; without a trigger it is the base model that is asked, by the plain prompts.

    Raises UsageError where a prompt cannot be said without a class word.
    """
    rows = []
    for group in sets:
        for number, prompt in enumerate(group.prompts):
            if not class_word and not prompt.plain and PLACE in prompt.text:
                raise UsageError(f"'{prompt.text}' needs a class word: give --class-word, or --kind style for a style")
            plain = fill(prompt.plain or prompt.text, class_word)
            called = fill(prompt.text, f"{trigger} {class_word}") if trigger and group.trigger else plain
            rows += [Wanted(group.name, number, seed, prompt.text, called, plain) for seed in seeds]
    return rows


def fill(text: str, subject: str) -> str:
    """A prompt with the subject in its place, and `an` where the subject's first letter asks for it."""
    subject = " ".join(subject.split())
    if re.match(r"[aeiou](?!ni|se)", subject, re.IGNORECASE):  # not: a unicorn, a used car
        text = re.sub(r"\b([Aa]) (?=\{subject\})", r"\1n ", text)
    return " ".join(text.replace(PLACE, subject).split())


def seeds(count: int) -> list[int]:
    """The fixed seeds."""
    return list(range(FIRST_SEED, FIRST_SEED + count))


def fingerprint(sets: Sequence[PromptSet], seeds: Sequence[int]) -> str:
    """sha256 over prompts and seeds: numbers of two evaluations may be compared where it is the same."""
    said = [[group.model_dump(mode="json") for group in sets], list(seeds)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
