"""What the page's HTTP interface can do with runs: plain functions of a place's runs, each with a plain answer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.events import Event
from studio.pipelines.errors import UsageError
from studio.store import NAME, Run, Store
from studio.ui.jobs import Queue
from studio.ui.place import Place

TAIL = 2**16  # bytes of a run's events that a look at its state reads
FILES = {"diffusers": "adapter.safetensors", "kohya": "adapter.kohya.safetensors"}


def start_run(settings: str | Mapping[str, Any], place: Place, fresh: bool = False) -> str:
    """Puts a run into the queue and returns its name; the same settings again go on with an unfinished run.

    settings: a config as TOML, or the same as a mapping ({"trainer": "dco", "dco": {"steps": 100}}); where it lies is
    the server's to say. fresh: a new run in any case. Raises UsageError, DataError and DiskFull in one line.
    """
    place.may_train()
    return Queue(place.runs).submit(configured(settings, place.runs), place.owner, fresh, place).run


def run_status(name: str, place: Place) -> dict[str, Any]:
    """Where a run is: state, reason, step, steps, phase, loss, saved step, jobs ahead of it, whether it has an adapter.

    state: waiting, running, stopping, done, failed, stopped, cancelled, or new and unfinished (begun elsewhere).
    Raises UsageError for an unknown run.
    """
    run, queue = found(name, place), Queue(place.runs)
    job, said = queue.of(name), tail(run)
    numbered = next((event for event in reversed(said) if event.numbers), Event(""))
    last = said[-1] if said else Event("")
    final = last.event if last.event in ("failed", "stopped") else ""
    ended = job is None or bool(job.end)
    state = "done" if ended and run.state() == "done" else job.state if job else final or run.state()
    return {
        "run": name,
        "state": state,
        "reason": (job.reason if job else "") or (str(last.get("message") or "") if final else ""),
        "step": numbered.step,
        "steps": run.summary()["steps"],
        "phase": last.phase,
        "loss": numbered.as_dict().get("numbers", {}).get("loss"),
        "saved": run.done_steps(),
        "ahead": queue.ahead(job) if job is not None and job.state == "waiting" else 0,
        "adapter": (run.folder / FILES["diffusers"]).is_file(),
    }


def stop_run(name: str, place: Place) -> str:
    """Asks a run to save its state and end, wherever it was started; returns the state it has then.

    Raises UsageError for an unknown run, and for one that is not at work.
    """
    place.may_write("stopping a run")
    run, queue = found(name, place), Queue(place.runs)
    job = queue.of(name)
    if job is not None and not job.end:
        return queue.stop(job.id).state
    said = tail(run)
    if run.state() != "unfinished" or (said and said[-1].event in ("failed", "stopped")):
        raise UsageError(f"the run '{name}' is not at work: there is nothing to stop")
    run.stop_file.touch()
    return "stopping"


def resume_run(name: str, place: Place) -> str:
    """Puts a run that was stopped or has failed into the queue again; returns its state. Raises UsageError."""
    place.may_train()
    found(name, place)
    return Queue(place.runs).resume(name, place.owner).state


def fetch_adapter(name: str, place: Place, kind: str = "diffusers") -> Path:
    """The adapter file of a finished run: diffusers (all our own too) or kohya (ComfyUI, A1111).

    Raises UsageError while there is none, with what to do.
    """
    if kind not in FILES:
        raise UsageError(f"there is no kind '{kind[:40]}' of adapter file; there are {', '.join(FILES)}")
    file = found(name, place).folder / FILES[kind]
    if file.is_file():
        return file
    now = run_status(name, place)
    advice = "start it again to finish it"
    if now["state"] in ("waiting", "running"):
        advice = "ask again when it is done"
    elif now["state"] == "done":
        advice = "fetch the diffusers file: other tools cannot read this kind of adapter"
    said = f"it is {now['state']}, step {now['step']} of {now['steps']}"
    raise UsageError(f"the run '{name}' has no {file.name}: {said}; {advice}")


def found(name: str, place: Place) -> Run:
    """A run of this place by its plain name, never by a path. Raises UsageError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"{str(name)[:80]!r} is not a run's name: letters, digits, '.', '_' and '-'")
    return Store(place.runs.absolute()).open(name)


def configured(settings: str | Mapping[str, Any], runs: Path) -> Any:
    """The config of a request. Raises UsageError, also where it would have runs written elsewhere."""
    from studio.config import layer, make

    if not isinstance(settings, (str, Mapping)):
        raise UsageError('the settings should be a JSON object, {"trainer": ..., ...}, or {"toml": "..."}')
    if isinstance(settings, str):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "config.toml")
            file.write_text(settings, "utf-8")
            try:
                values = dict(layer(file))
            except UsageError as error:
                said = str(error).replace(f"the config {file}", "the config").replace(str(file), "the config")
                raise UsageError(said) from None
    else:
        values = dict(settings)
        trainer = values.get("trainer", "dreambooth")
        if isinstance(table := values.pop(str(trainer), None), Mapping):
            values["settings"] = table
    if Path(str(values.pop("runs", runs))).absolute() != runs.absolute():
        raise UsageError("runs: where runs lie is the server's to say; leave the line out")
    return make(toml={**values, "runs": runs}, file="the config")


def tail(run: Run) -> list[Event]:
    """The last events of a run, without those of its first part where it has said much."""
    file, events = run.folder / "events.jsonl", []
    if not file.is_file():
        return []
    with file.open("rb") as log:
        log.seek(max(0, log.seek(0, 2) - TAIL))
        lines = log.read().decode("utf-8", "replace").splitlines()
    for line in lines:
        try:
            events.append(Event.read(line))
        except (ValueError, TypeError):
            continue  # the first one is cut, the last one may be half written
    return events
