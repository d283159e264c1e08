"""`studio train`: the flags, the TOML file and the defaults end in one config; the engine does the rest."""

from __future__ import annotations

from studio import flags, subjects
from studio.config import RunConfig, to_toml
from studio.pipelines.errors import UsageError
from studio.progress import Progress
from studio.store import Store


def main(args: list[str]) -> int:
    """Runs `studio train ARGS`."""
    config, wishes = flags.read(args)
    config = named(subjects.resolve(config), wishes)
    if wishes.dry_run:
        print(to_toml(config.resolved(config.run, config.runs)), end="")
        return 0
    from studio.train import train

    with Progress(config.settings.steps, "json" if wishes.json else "auto") as progress:
        train(config, progress)
    return 0


def named(config: RunConfig, wishes: flags.Wishes) -> RunConfig:
    """The config with the run name that --resume or --fresh asks for.

    Raises UsageError for both at once, and when there is nothing to resume.
    """
    store = Store(config.runs)
    if wishes.resume and wishes.fresh:
        raise UsageError("--resume and --fresh exclude each other")
    if wishes.fresh:
        return config.model_copy(update={"run": store.free(config.run or store.today(config))})
    if wishes.resume:
        name = store.name(config)
        store.open(name)
        return config.model_copy(update={"run": name})
    return config
