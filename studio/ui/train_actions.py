"""What the Train tab does, without gradio: choosing pictures, proposing, checking, planning and starting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from studio.pipelines.errors import DataError, StudioError, UsageError
from studio.ui import draft as drafts
from studio.ui import goals, jobs_trust, plan_line
from studio.ui.draft import Draft
from studio.ui.form_words import label
from studio.ui.train_look import FOLDER, plain, trouble

if TYPE_CHECKING:
    from studio.config import RunConfig
    from studio.ui.place import Place
    from studio.ui.plan_line import Planner

FRESH = "As a new run"  # the checkbox below the button
SUBJECT = "subject:"


def chosen(draft: Draft, folder: str, place: Place) -> Draft:
    """The draft with another folder of pictures, absolute; '' for none. One that cannot be is noted as wrong."""
    try:
        return drafts.edit(draft, FOLDER, existing(folder.strip(), place))
    except StudioError as error:
        return drafts.refuse(draft, FOLDER, f"{error}; until then there are no pictures")


def existing(folder: str, place: Place) -> str:
    """A folder as the draft holds it. Raises UsageError for one that may not be named, DataError for a missing one."""
    if not folder:
        return ""
    if folder.startswith(SUBJECT):
        from studio import subjects

        subjects.folder(folder.removeprefix(SUBJECT))
        return folder
    path = place.permitted(folder, "the folder")
    if not path.exists():
        raise DataError(f"there is no folder {folder[:120]!a} on the machine that runs the studio: name another one")
    return str(path)


def proposed(draft: Draft, key: str, count: int | None, place: Place) -> Draft:
    """The draft for a goal, with the reason. Raises UsageError."""
    model = str(draft["changed"].get("model") or "embedded")
    earlier = goals.suggested(model)
    changed = {name: value for name, value in draft["changed"].items() if value != earlier.get(name, object())}
    gone = goals.unused(key, draft["goal"], changed)
    changed = {name: value for name, value in changed.items() if name not in gone}
    draft = {**draft, "changed": changed}
    refuse_code(changed.get("reward.terms") or (), place)
    made = goals.propose(key, count, model, changed.get("reward.terms") or ())
    moved, lost = drafts.switch(draft, made.trainer)
    wanted = {name: value for name, value in made.settings.items() if name not in changed}
    moved = drafts.put({**moved, "goal": key}, wanted)
    asked = f"It needs {goals.goal(key).asks}."
    others = "".join(f"\n- or **{plain(name)}**, if {why}" for name, why in made.others)
    reason = (
        f"**{plain(made.trainer)}**: {plain(made.reason)} {asked}{without(gone)}{dropped(lost, made.trainer)}\n{others}"
    )
    return {**moved, "reason": reason}


def reset(draft: Draft, keep: Iterable[str], place: Place) -> Draft:
    """The draft with all settings at their defaults, but for those to keep and those that its goal proposes."""
    kept = {name: draft["changed"][name] for name in keep if name in draft["changed"]}
    bare = {**draft, "changed": kept, "wrong": {}}
    wanted = proposed(bare, draft["goal"], None, place) if draft["goal"] else bare
    return wanted if wanted["trainer"] == draft["trainer"] else bare


def method(draft: Draft, trainer: str) -> Draft:
    """The draft for a method that was chosen directly; its reason: what the method says of itself."""
    from studio import registry

    moved, lost = drafts.switch(draft, trainer)
    summary = registry.find("trainers", trainer).summary
    return {**moved, "goal": "", "reason": f"{plain(summary)}{dropped(lost, trainer)}"}


def dropped(lost: list[str], trainer: str) -> str:
    """Which changes another method could not take over."""
    return f" Changes that {plain(trainer)} has no use for: {plain(', '.join(lost))}." if lost else ""


def without(names: list[str]) -> str:
    """Which settings were dropped for another goal."""
    said = ["the pictures" if name == FOLDER else label(name).partition(" (")[0] for name in names]
    return f" Dropped, for this goal does without what was given for another: {plain(', '.join(said))}." if said else ""


def check(draft: Draft, place: Place) -> tuple[str, str, str]:
    """(command, TOML, what is wrong as a sentence) of a draft; '' where there is none."""
    from studio.ui import jobs_command

    try:
        config = sound(drafts.config(draft, place), place)
        shown = jobs_command.at_home(config, place) if place.space else config
        return jobs_command.command(shown), jobs_command.toml(shown), ""
    except StudioError as error:
        return "", "", trouble(error)


def sound(config: RunConfig, place: Place) -> RunConfig:
    """The config, if its method has something to learn from. Raises UsageError, and DataError without pictures."""
    data = config.settings.data
    if data.folder is None and type(data).__name__ == "Pictures":
        raise DataError("no pictures yet: drop some above, name a folder, or take an example subject")
    existing(str(data.folder or ""), place)  # it may be gone since it was chosen
    refuse_code(jobs_trust.terms(config), place)
    reward = getattr(config.settings, "reward", None)
    if reward is None:
        return config
    terms: tuple[str, ...] = reward.terms
    if not terms and config.trainer == "lcm" and not getattr(config.settings, "beta", 0):
        return config  # plain distillation
    blind = without_gradient(terms)
    if blind and config.trainer == "alignprop":
        said = "choose the method ddpo, which learns by trying, or take the term out"
        raise UsageError(f"reward term '{blind[0]}' has no gradient, which alignprop follows: {said}")
    return config


def refuse_code(terms: Iterable[str], place: Place) -> None:
    """Raises UsageError for a term that would run code which this page may not run."""
    for term in terms:
        jobs_trust.refuse_code(term, place)


@lru_cache(maxsize=64)
def without_gradient(terms: tuple[str, ...]) -> tuple[str, ...]:
    """As `goals.without_gradient`; asked at every change of the form."""
    return tuple(goals.without_gradient(terms))


def planned(draft: Draft, place: Place, planner: Planner, beside: tuple[str, ...] = ()) -> Iterator[str]:
    """The plan beside the start button, and before it that it is being made, where it is not known yet.

    beside: as `at_work` has them. What is wrong with a draft is said elsewhere.
    """
    if not draft["changed"] and not draft["goal"] and draft["trainer"] == drafts.fresh()["trainer"]:
        yield plan_line.FIRST
        return
    try:
        config = drafts.config(draft, place)
    except StudioError:
        yield plan_line.NONE
        return
    if not planner.knows(config, beside):
        yield plan_line.AGAIN
    yield planner(config, beside)


def at_work(place: Place) -> tuple[str, ...]:
    """The jobs of this place that run, or wait to, by the names of their runs."""
    from studio.ui.jobs import Queue

    return tuple(job.run or job.name for job in Queue(place.runs).jobs() if not job.end)


def closed(place: Place) -> str:
    """Why this visitor cannot train anything, in Markdown; '' for who can."""
    try:
        place.may_train()
    except StudioError as error:
        return trouble(error)
    return ""


def standing(place: Place) -> str:
    """What was started and is not over, or why nothing can be started, for who opens the page anew; '' for nothing."""
    if said := closed(place):
        return said
    names = at_work(place)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    said = f"**{plain(', '.join(names[:3]))}**{more}"
    return f"At work or in the queue when this page was opened: {said}. Watch shows how it goes." if names else ""


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
