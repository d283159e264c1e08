"""What the Train tab does, without gradio: looking at pictures, proposing, checking and starting."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from studio.pipelines.errors import DataError, StudioError, UsageError
from studio.ui import data_look, goals
from studio.ui import draft as drafts
from studio.ui.draft import Draft
from studio.ui.words import EMPTY, shown

if TYPE_CHECKING:
    from studio.config import RunConfig
    from studio.pipelines.data_pictures import Pictures
    from studio.ui.data_look import Look
    from studio.ui.place import Place

PAGE = 24  # pictures shown at once
KEPT = 8  # answers of the data doctor
FRESH = "As a new run"  # the checkbox below the button
HEADERS = ["picture", "caption", "from", "tokens", "cut off", "remarks"]


class Looks:
    """The data doctor's last answers, by what they depend on: the page of another ten thumbnails asks for the same."""

    def __init__(self) -> None:
        self.known: dict[str, Look] = {}
        self.lock = threading.Lock()

    def __call__(self, data: Pictures, model: str) -> tuple[str, Look]:
        """The stamp of an answer, and the answer. Raises as `data_look.look`."""
        stamp = data_look.stamp(data, model)
        with self.lock:  # one after another: a second page asks for the same folder
            if stamp not in self.known:
                self.known[stamp] = data_look.look(data, model)
                self.known = dict(list(self.known.items())[-KEPT:])
            return stamp, self.known[stamp]


@dataclass(frozen=True)
class Answer:
    """What the page shows of a folder. stamp: what it depends on; shown: (picture, caption) as they were shown."""

    stamp: str
    words: str
    rows: list[list[Any]]
    shown: dict[str, str]
    count: int | None
    pages: int
    thumbnails: list[tuple[Any, str]]


def pictures(draft: Draft, place: Place) -> tuple[Pictures, str]:
    """The data settings of a draft, subjects resolved, and its model. Raises StudioError."""
    from studio import subjects

    only = {name: value for name, value in draft["changed"].items() if name.startswith("data.") or name == "model"}
    config = drafts.config({**draft, "changed": only, "wrong": {}}, place)
    return subjects.resolve(config).settings.data, config.model


def answer(draft: Draft, place: Place, looks: Looks, page: int = 1, before: str | None = None) -> Answer | None:
    """The data doctor's answer for a draft; None where nothing has changed since the stamp `before`.

    What is wrong with the folder is the answer's words.
    """
    try:
        data, model = pictures(draft, place)
        if data.folder is None:
            return None if before == "" else Answer("", EMPTY["pictures"], [], {}, None, 1, [])
        if f"{data_look.stamp(data, model)}|{page}" == before:
            return None
        stamp, found = looks(data, model)
        return described(f"{stamp}|{page}", found, page)
    except Exception as error:  # the page has to say it, whatever it is
        said = trouble(error)
        return None if before == said else Answer(said, said, [], {}, None, 1, [])


def described(stamp: str, found: Look, page: int) -> Answer:
    """An answer as the page shows it."""
    pages = max(1, -(-len(found.pictures) // PAGE))
    first = (min(max(page, 1), pages) - 1) * PAGE
    numbers = range(first, min(first + PAGE, len(found.pictures)))
    some = [found.pictures[number] for number in numbers]
    rows = [[one.name, one.caption, one.source, one.tokens, one.cut, "; ".join(one.doubts)] for one in some]
    return Answer(
        stamp=stamp,
        words=said_of(found),
        rows=rows,
        shown={one.name: one.caption for one in some},
        count=len(found.pictures),
        pages=pages,
        thumbnails=[(found.thumbnail(number), found.pictures[number].line) for number in numbers],
    )


def said_of(found: Look) -> str:
    """Verdict, warnings, notes and what was left out, as Markdown."""
    lines = [f"**{plain(found.verdict[:1].upper() + found.verdict[1:])}** · layout {plain(found.layout)}"]
    lines += [f"- ⚠ {plain(text)}" for text in found.warnings]
    lines += [f"- {plain(text)}" for text in found.notes]
    lines += [f"- left out: {plain(name)}: {plain(why)}" for name, why in found.left_out[:20]]
    if len(found.left_out) > 20:
        lines.append(f"- left out: {len(found.left_out) - 20} more; `studio check-data` lists all")
    return "\n".join([lines[0], "", *lines[1:]])


def trouble(error: Exception) -> str:
    """An error's sentence, as Markdown."""
    return f"⚠ {plain(shown(error))}"


def plain(text: str) -> str:
    """A text in Markdown, taken as it is: file names and captions are not markup."""
    return "".join(f"\\{mark}" if mark in "\\`*_{}[]<>#|!~$&" else mark for mark in text)


def chosen(draft: Draft, folder: str, place: Place) -> Draft:
    """The draft with another folder of pictures, absolute; '' for none. Raises UsageError for one not to be named."""
    folder = folder.strip()
    if folder and not drafts.SCHEME.match(folder):
        folder = str(place.permitted(folder, "the folder"))
    return drafts.edit(draft, "data.folder", folder)


def captioned(draft: Draft, place: Place, before: dict[str, str], rows: list[list[Any]]) -> str:
    """Writes the captions that were edited; what was done, in a sentence. Raises StudioError."""
    changed = data_look.edited(before, rows)
    if not changed:
        return "No caption was changed."
    data, _ = pictures(draft, place)
    done = data_look.write(place, data, changed)
    return f"{len(done)} caption{'s' if len(done) != 1 else ''} written beside the pictures; the old ones are in a zip."


def proposed(draft: Draft, key: str, count: int | None, place: Place) -> tuple[Draft, str]:
    """The draft for a goal, and the reason, as Markdown. Raises UsageError."""
    model = str(draft["changed"].get("model") or "embedded")
    earlier = goals.suggested(model)
    changed = {name: value for name, value in draft["changed"].items() if value != earlier.get(name, object())}
    draft = {**draft, "changed": changed}
    refuse_code(changed.get("reward.terms") or (), place)
    made = goals.propose(key, count, model, changed.get("reward.terms") or ())
    moved, lost = drafts.switch(draft, made.trainer)
    wanted = {name: value for name, value in made.settings.items() if name not in changed}
    moved = drafts.put({**moved, "goal": key}, wanted)
    asked = f"It needs {goals.goal(key).asks}."
    others = "".join(f"\n- or **{plain(name)}**, if {why}" for name, why in made.others)
    return moved, f"**{plain(made.trainer)}**: {plain(made.reason)} {asked}{dropped(lost, made.trainer)}\n{others}"


def method(draft: Draft, trainer: str) -> tuple[Draft, str]:
    """The draft for a method that was chosen directly, and what the method says of itself."""
    from studio import registry

    moved, lost = drafts.switch(draft, trainer)
    summary = registry.find("trainers", trainer).summary
    return {**moved, "goal": ""}, f"{plain(summary)}{dropped(lost, trainer)}"


def dropped(lost: list[str], trainer: str) -> str:
    """Which changes another method could not take over."""
    return f" Changes that {plain(trainer)} has no use for: {plain(', '.join(lost))}." if lost else ""


def check(draft: Draft, place: Place) -> tuple[str, str, str]:
    """(command, TOML, what is wrong as a sentence) of a draft; '' where there is none."""
    from studio.ui import jobs_command

    try:
        config = sound(drafts.config(draft, place), place)
        return jobs_command.command(config), jobs_command.toml(config), ""
    except StudioError as error:
        return "", "", trouble(error)


def sound(config: RunConfig, place: Place) -> RunConfig:
    """The config, if its method has something to learn from. Raises UsageError, and DataError without pictures."""
    data = config.settings.data
    if data.folder is None and type(data).__name__ == "Pictures":
        raise DataError("no pictures yet: drop some above, name a folder, or take an example subject")
    reward = getattr(config.settings, "reward", None)
    if reward is None:
        return config
    terms: tuple[str, ...] = reward.terms
    refuse_code(terms, place)
    blind = without_gradient(terms)
    if blind and config.trainer == "alignprop":
        said = "choose the method ddpo, which learns by trying, or take the term out"
        raise UsageError(f"reward term '{blind[0]}' has no gradient, which alignprop follows: {said}")
    return config


def refuse_code(terms: Iterable[str], place: Place) -> None:
    """Raises UsageError on a Space for a term that would run a stranger's code."""
    from studio.ui import jobs_trust

    for term in terms if place.space else ():
        jobs_trust.refuse_code(term)


@lru_cache(maxsize=64)
def without_gradient(terms: tuple[str, ...]) -> tuple[str, ...]:
    """As `goals.without_gradient`; asked at every change of the form."""
    return tuple(goals.without_gradient(terms))


def planned(draft: Draft, place: Place, planner: Any) -> str:
    """The plan beside the start button; nothing where the draft is wrong, which is said elsewhere."""
    try:
        config = drafts.config(draft, place)
    except StudioError:
        return ""
    return str(planner(config))


def start(draft: Draft, place: Place, fresh: bool = False) -> tuple[str, str]:
    """Puts the run into the queue: its name, and a sentence. Raises StudioError with nothing started."""
    from studio.ui.jobs import Queue

    place.may_train()
    config = sound(drafts.config(draft, place), place)
    queue = Queue(place.runs)
    if not fresh:
        refuse_finished(config, place)
    try:
        job = queue.submit(config, place.owner, fresh, place)
    except UsageError as error:
        if "--fresh" not in str(error):
            raise
        said = str(error).replace("another --run, or --fresh", f"another name of the run, or tick '{FRESH}'")
        raise UsageError(said) from None
    ahead = queue.ahead(job)
    waits = f"{ahead} before it" if ahead else "it begins now"
    return job.run, f"**{plain(job.run)}** is {job.state}: {waits}. Watch shows it."


def refuse_finished(config: RunConfig, place: Place) -> None:
    """Raises UsageError where starting would only find the same run finished."""
    from studio import store
    from studio.ui.jobs_trust import checked

    config = checked(config, place)
    run = place.store.place(config)
    if run.config_file.exists() and run.state(config.settings.steps) == "done" and store.same(run, config):
        said = f"give more steps to go on with it, or tick '{FRESH}' to train it again"
        raise UsageError(f"the run '{run.name}' is finished, with these very settings: {said}")
