"""`studio show RUN`: config, curve, samples and scores of a run at a glance."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from studio import choice_file, reward_reading
from studio.config import RunConfig, flat
from studio.store import Run, Store


def show(run: str, runs: Path = Path("runs")) -> None:
    """Print what a run is, how far it came and what it scored; draw its curve to `curve.png` in its folder.

    Raises UsageError when there is no such run.
    """
    found, console = Store(runs).open(run), Console()
    said = found.summary()
    what = "reward" if found.curve("reward") else "loss"
    curve = found.curve(what)
    table = Table(show_header=False, box=None)
    table.add_row("run", found.name)
    table.add_row("folder", str(found.folder))
    table.add_row("state", f"{found.state()}, step {max(curve, default=0)} of {said['steps']}")
    if why := ending(found):
        table.add_row("ended", escape(why))
    for key in ("trainer", "model", "seed"):
        table.add_row(key, str(said[key]))
    table.add_row("settings", changed(found))
    for line in learns(found):
        table.add_row("learns", line)
    if curve:
        table.add_row(what, f"first {next(iter(curve.values())):.4f}, mean of the last tenth {tail(curve):.4f}")
        table.add_row("curve", plot(found, curve, what).name)
    for name, text in listing(found).items():
        table.add_row(name, text)
    console.print(table)
    scores(found, console)
    for line in choice_file.said(found.folder):
        console.print(line, markup=False)
    for event in found.events():
        if event.event in ("warning", "failed"):
            console.print(f"{event.event}: {event.fields.get('message', '')}", style="yellow", markup=False)


def ending(run: Run) -> str:
    """Why a run is over before its last step, and which step its adapter is of; "" where it is not."""
    done = run.last("done")
    why = str(done.get("ended") or "") if done is not None else ""
    course = reward_reading.read(run.folder) if why else None
    back = f"back to step {course.back}" if course is not None and course.back is not None else ""
    return f"{why}; {back}" if back and not why.endswith(back) else why


def changed(run: Run) -> str:
    """The settings in which a run differs from its trainer's defaults; run.toml has all of them."""
    config = run.config()
    default = flat(RunConfig(trainer=config.trainer, settings=type(config.settings)()))
    mine = {key: value for key, value in flat(config).items() if key.startswith("settings.")}
    words = [f"{key.removeprefix('settings.')} {value}" for key, value in mine.items() if default.get(key) != value]
    return ", ".join(words) or "all at their defaults"


def learns(run: Run) -> list[str]:
    """What trains, a line per part of the pipeline; nothing before the training has begun."""
    from studio.audit import lines

    parts = [event.fields["parts"] for event in run.events() if event.event == "audit"]
    return lines(parts[-1]) if parts else []


def tail(curve: dict[int, float]) -> float:
    """Mean of the last tenth of the steps."""
    values = list(curve.values())[-max(1, len(curve) // 10) :]
    return sum(values) / len(values)


def listing(run: Run) -> dict[str, str]:
    """The run's files, by kind."""
    kinds = {
        "samples": "samples/*.png",
        "checkpoints": "checkpoints/step-*",
        "adapters": "*.safetensors",
        "grid": "grid.png",
    }
    found = {kind: sorted(run.folder.glob(pattern)) for kind, pattern in kinds.items()}
    return {kind: f"{len(paths)}: {', '.join(p.name for p in paths[-4:])}" for kind, paths in found.items() if paths}


def scores(run: Run, console: Console) -> None:
    """The table of `scores.json`, where there is one."""
    file = run.folder / "scores.json"
    if not file.is_file():
        return
    table = Table("score", "adapter", "95 % interval", "base", "pictures")
    for name, score in json.loads(file.read_text()).items():
        value, low, high, base = (told(score.get(key)) for key in ("value", "low", "high", "base"))
        interval = "-" if low == high == "-" else f"{low} to {high}"
        table.add_row(name, value, interval, base, str(score["n"]))
    console.print(table)


def told(value: float | None) -> str:
    """A number of a table; `-` for none."""
    return "-" if value is None else f"{value:.3f}"


def plot(run: Run, curve: dict[int, float], what: str = "loss") -> Path:
    """The loss (or reward) over the steps, with its moving mean, as `curve.png`."""
    from matplotlib.figure import Figure

    steps, values = list(curve), list(curve.values())
    window = max(1, len(values) // 20)
    smooth = [
        sum(values[max(0, i - window) : i + 1]) / len(values[max(0, i - window) : i + 1]) for i in range(len(values))
    ]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, values, color="lightsteelblue", linewidth=0.8, label=what)
    axes.plot(steps, smooth, color="navy", label=f"mean of {window + 1} steps")
    axes.set(xlabel="step", ylabel=what, title=run.name)
    axes.legend()
    path = run.folder / "curve.png"
    figure.savefig(path, dpi=120)
    return path
