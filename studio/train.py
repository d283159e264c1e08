"""One run, from its config to an exported adapter that stock diffusers was seen to load."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache, reduce
from pathlib import Path

from studio import checkpoints, cores, ladder, plan, ranks, reward_page, secrets, start, subjects
from studio.choice_run import concluded
from studio.config import RunConfig, flat, paths
from studio.finish import finish
from studio.follower import follow
from studio.journal import Journal, Report, Stopped
from studio.pipelines.confine import is_inside, permitted
from studio.pipelines.errors import DataError, StudioError, UsageError, is_full
from studio.session import ENDED, Session
from studio.stop import listening
from studio.store import Run, Store


def train(config: RunConfig, report: Report = lambda event: None, accept_change: bool = False, text: str = "") -> Path:
    """Run `config`, or go on with it where an earlier start ended; returns the run's folder.

    accept_change: go on although config, pictures or base model are others than before, where that is possible; text:
    the TOML that the config came from, whose comments run.toml keeps.
    Raises UsageError, DataError, DiskError, ModelError before anything is written; NumericalError, MemoryShortage and
    Stopped (a KeyboardInterrupt) later, with everything that was finished kept in the folder.
    """
    cores.share()
    if ranks.rank():
        return follow() or config.runs
    ranks.join()
    config = trusted(start.resolve(subjects.resolve(config)))
    run = Store(config.runs).place(config)
    config = config.model_copy(update={"run": run.name})
    with ExitStack() as held:
        others = held.enter_context(ranks.leading())
        if run.config_file.exists():
            held.enter_context(run.alone())
            if run.stop_file.is_dir():
                raise UsageError(f"{run.stop_file} is a folder: a file of that name stops a run; remove it")
            run.stop_file.unlink(missing_ok=True)  # what an earlier stop left
            checkpoints.clear(run.checkpoints)
        journal = Journal(report, held.enter_context(listening(run.stop_file)))
        try:
            journal("message", message=f"{config.trainer} on {config.model}")

            def once(config: RunConfig, accept: bool) -> None:
                if session := Session.begin(config, journal, run, held, accept or accept_change, text):
                    work(session, others)

            if ranks.count() > 1:  # the others could not follow down the ladder
                once(config, False)
            else:
                ladder.retrying(once, config, run, journal, cache(plan.training))
        except KeyboardInterrupt as stopped:
            if journal.run is None and not run.config_file.exists():  # its end is told all the same
                with suppress(StudioError, OSError):
                    Store(config.runs).create(config, text=text)
            if run.config_file.exists() and journal.run is None:
                journal.open(run)
            journal.end("stopped", message=farewell(stopped, run))
            raise
        except BaseException as error:
            problem = explained(error, run) if journal.run is not None else error
            if journal.run is not None:
                code = getattr(problem, "exit_code", 1)
                journal.end("failed", message=str(problem), error=type(problem).__name__, exit_code=code)
            if problem is error:
                raise
            raise problem from error
        finally:
            journal.unwatch()
    return run.folder


def trusted(config: RunConfig) -> RunConfig:
    """The config, when nothing in it lies outside of STUDIO_ROOTS, or looks like a secret: runs are kept and shown."""
    places = {"runs", *(f"settings.{key}" for key in paths(type(config.settings)))}
    for key, value in flat(config).items():
        name, text = key.removeprefix("settings."), str(value)
        if secrets.looks_secret(text):
            raise UsageError(f"{name} holds what looks like a password or a token: a run would keep it; take it out")
        is_path = key in places and reduce(getattr, key.split("."), config) is not None
        if is_path or (key == "model" and Path(text).exists()):
            permitted(Path(text), name)
    return config


def work(session: Session, others: Callable[[str], None]) -> None:
    """Cache, train, preview, export, check. others: lets the other processes begin."""
    session.open()
    session.tell_data()
    session.fill()
    others(str(session.run.folder))
    with ranks.company():
        last = session.train()
    with last.averaged():
        made = session.preview(f"{last.step:06}")
        with concluded(session, last.step) as another:
            finish(session, session.preview("pick") if another else made)
    session.journal.unwatch()
    reward_page.draw(session.run.folder)
    ended = {"ended": session.memory[ENDED]} if ENDED in session.memory else {}
    session.journal("done", path=str(session.run.folder), **ended)


def farewell(stopped: KeyboardInterrupt, run: Run) -> str:
    """What was kept of a run that was stopped, and what the same command will do."""
    how = str(stopped) or ("stopped" if isinstance(stopped, Stopped) else "stopped at once")
    saved = list(checkpoints.steps(run.checkpoints).values())
    kept = f"kept: {saved[-1].name}; the same command goes on from there" if saved else "no step was saved"
    return f"{how}; {kept}"


def explained(error: BaseException, run: Run) -> BaseException:
    """What an error means that came of a run's folder being changed while it trained; any other error as it is."""
    if not isinstance(error, Exception) or isinstance(error, StudioError | MemoryError):
        return error
    if not run.config_file.exists():
        return DataError(f"{run.folder} was removed or emptied while the run trained: it ends here, unsaved")
    if not isinstance(error, OSError) or is_full(error):
        return error
    file = error.filename2 or error.filename  # of a renaming, where it should have gone
    if not file or not is_inside(run.folder, Path(str(file))):
        return error
    said = f"{file} cannot be used ({error.strerror or error})"
    return DataError(f"{said}: put it right, and the same command goes on with the run")
