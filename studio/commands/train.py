"""`studio train`: the flags, the TOML file and the defaults end in one config; the engine does the rest."""

from __future__ import annotations

from pathlib import Path

from studio import flags, logs, ranks, subjects
from studio.config import RunConfig, as_toml
from studio.pipelines.errors import UsageError
from studio.progress import Progress
from studio.store import Store


def main(args: list[str]) -> int:
    """Runs `studio train ARGS`."""
    if (code := ranks.begin(["train", *args])) is not None:
        return code
    config, wishes = flags.read(args)
    if ranks.rank():
        return beside(wishes)
    config = named(subjects.resolve(config), wishes)
    if wishes.dry_run:
        print(as_toml(config.resolved(config.run, config.runs), text_of(args)), end="")
        return 0
    from studio.train import train

    logs.hush()
    with Progress(config.settings.steps, "json" if wishes.json else "auto") as progress:
        train(config, progress, wishes.accept_change, text_of(args))
    return 0


def text_of(args: list[str]) -> str:
    """The TOML file that the command names, '' when it names none."""
    file = Path(args[0]) if args and not args[0].startswith("-") else Path()
    return file.read_text("utf-8-sig") if file.is_file() else ""


def beside(wishes: flags.Wishes) -> int:
    """A further process of a run on several: the first one speaks and writes for all."""
    if not wishes.dry_run:
        from studio.follower import follow

        logs.hush()
        follow()
    return 0


def named(config: RunConfig, wishes: flags.Wishes) -> RunConfig:
    """The config with the run name that --resume, --accept-change or --fresh asks for.

    Raises UsageError for two that exclude each other, and when there is nothing to resume.
    """
    store = Store(config.runs)
    if wishes.fresh and (wishes.resume or wishes.accept_change):
        raise UsageError(f"--{'resume' if wishes.resume else 'accept-change'} and --fresh exclude each other")
    if wishes.fresh:
        return config.model_copy(update={"run": store.free(config.run or store.today(config))})
    if wishes.resume or wishes.accept_change:
        name = store.name(config)
        store.open(name)
        return config.model_copy(update={"run": name})
    return config
