"""Comparisons at work: processes that fail, slow ones, requests to stop, and whole comparisons."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from studio import (
    cli,
    compare,
    compare_cost,
    compare_prices,
)
from studio.commands import compare as command
from studio.compare_local import Local
from studio.compare_ray import forget, on_node
from studio.compare_show import Show
from studio.compare_workers import Outcome, Tail, Task, devices, threads, why, work
from studio.evaluation.records import Evaluation, Source
from studio.pipelines.errors import UsageError
from studio.stop import Stop, Stopped
from studio.store import Run
from tests import comparisons

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A comparison's config, with parts of its text exchanged."""
    return partial(comparisons.config, tmp_path)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Task]:
    """A task whose process is a shell script in the place of Python: milliseconds instead of an import of torch."""

    def made(name: str, text: str, **limits: Any) -> Task:
        path = tmp_path / f"{name}.sh"
        shell = tmp_path / "shell"
        shell.write_text('#!/bin/sh\n. "$3"\n')  # python -m studio FILE
        shell.chmod(0o755)
        path.write_text(f"cd {tmp_path}\n{text}\n")
        monkeypatch.setattr(sys, "executable", str(shell))
        return Task(name, (str(path),), tmp_path / "cells", **limits)

    return made


def test_a_process_that_fails_is_started_again_and_its_last_reason_kept(script: Callable[..., Task]) -> None:
    again = script("again", "if [ -e tried ]; then exit 0; fi; touch tried; echo 'studio: error: memory' >&2; exit 4")
    assert work(again, lambda: 0).status == "done"
    twice = work(script("twice", "echo x >> twice; echo 'studio: error: full' >&2; exit 4", retries=2), lambda: 0)
    assert (twice.status, twice.reason, twice.code, twice.attempts) == ("failed", "full", 4, 3)
    wrong = work(script("wrong", "echo 'studio: error: no such key' >&2; exit 2", retries=5), lambda: 0)
    assert (wrong.reason, wrong.attempts) == ("no such key", 1)  # it would say the same again


def test_a_killed_process_and_a_slow_one_say_so(script: Callable[..., Task]) -> None:
    killed = work(script("killed", "kill -9 $$", retries=0), lambda: 0)
    assert (killed.status, killed.code) == ("failed", -9)
    assert "SIGKILL" in killed.reason
    slow = work(script("slow", "exec sleep 30", retries=0, timeout=0.3), lambda: 0)
    assert (slow.status, slow.reason) == ("failed", "took longer than 0.3 s")
    assert slow.seconds < 10
    assert why(-signal.SIGTERM, "studio: error: late\n") == "ended by SIGTERM (late)"
    assert why(1, "Traceback\nValueError: x\n") == "exit code 1: ValueError: x"


def test_one_failure_loses_nothing_and_a_request_to_stop_reaches_all(
    script: Callable[..., Task], tmp_path: Path
) -> None:
    tasks = [
        script("bad", "kill -9 $$", retries=0),
        script("good", 'echo \'{"phase": "train", "step": 1}\''),
        script("long", "trap 'touch saved; exit 130' TERM; touch begun; while :; do sleep 0.05; done"),
        script("later", "touch never"),
    ]
    stop, seen = Stop(), {}
    with (tmp_path / "shown").open("w") as out, Show("plain", out=out) as show:
        show.begin(tasks, {"good": 1})
        for outcome in Local(1).run(tasks, stop):
            show(outcome)
            if outcome is not None:
                seen[outcome.name] = outcome.status
            if (tmp_path / "begun").exists():
                stop.asked.set()
    assert seen == {"bad": "failed", "good": "done", "long": "stopped", "later": "stopped"}
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "never").exists()
    shown = (tmp_path / "shown").read_text()
    assert re.search(r"\[0/4\] bad: failed ended by SIGKILL", shown)
    assert "[1/4] good: done" in shown


def test_no_process_outlives_a_second_ctrl_c(script: Callable[..., Task], tmp_path: Path) -> None:
    running = Local(2).run([script("stubborn", "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done")], Stop())

    def interrupted() -> None:
        for _ in running:
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
                running.throw(KeyboardInterrupt)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_gpus_are_dealt_out_and_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [d["CUDA_VISIBLE_DEVICES"] for d in devices(3, 2)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert [d["CUDA_VISIBLE_DEVICES"] for d in devices(2, 2)] == ["3", "5"]
    assert devices(1, 1) == devices(1, 0) == [{}]
    cores = os.cpu_count() or 1
    assert threads(cores) == {"OMP_NUM_THREADS": "1"} if cores > 1 else threads(1) == {}


def test_a_tail_gives_whole_lines_once(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    tail = Tail(file)
    assert list(tail.lines()) == []
    file.write_text("one\ntw")
    assert list(tail.lines()) == ["one"]
    file.write_text("one\ntwo\n")
    assert list(tail.lines()) == ["two"]
    file.write_text("new\n")
    assert list(tail.lines()) == ["new"]


class Inside:
    """A pool in this very process: no import of torch per cell. asked: the names of what was run."""

    nodes, jobs = False, 1

    def __init__(self) -> None:
        self.asked: list[str] = []

    def run(self, tasks: Sequence[Task], stop: Stop) -> Iterator[Outcome | None]:
        for task in tasks:
            self.asked.append(task.name)
            task.log.parent.mkdir(exist_ok=True)
            with task.said.open("w") as said, task.log.open("w+") as log:
                with redirect_stdout(said), redirect_stderr(log):
                    code = cli.run(task.words)
                log.seek(0)
                reason = why(code, log.read())
            yield Outcome(task.name, "failed" if code else "done", reason if code else "", code, 1, 1.0)
            yield None


def test_a_comparison_keeps_what_succeeds_and_resumes(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, runs, pool = write(), tmp_path / "runs", Inside()
    study = compare.compare(file, lambda: pool, Show("plain"), runs)
    folder = runs / "mini"
    assert study.code == 2
    assert pool.asked == [*(cell.name for cell in study.cells), "evaluation"]
    good, bad = study.rows
    assert (len(good.cells), len(good.missing), len(bad.cells), len(bad.missing)) == (2, 0, 0, 2)
    assert all("nosuch" in reason for reason in bad.missing.values())
    assert {number.runs for number in good.numbers.values()} == {2}
    assert good.calls == 4
    assert {"results.json", "results.csv", "compare.html", "compare.toml"} <= {path.name for path in folder.iterdir()}
    assert "failed: dreambooth-optimizer-nosuch-seed-0: " in capsys.readouterr().out
    assert {Run(folder / cell.name).state(2) for cell in study.finished} == {"done"}
    assert len(list((folder / ".cache").glob("*.safetensors"))) > 0
    logged = {cell.name: (folder / cell.name / "events.jsonl").read_bytes() for cell in study.finished}

    again = Inside()
    second = compare.compare(file, lambda: again, Show("json"), runs)
    assert again.asked == list(bad.missing)  # neither finished cells nor their evaluation
    assert {name: (folder / name / "events.jsonl").read_bytes() for name in logged} == logged
    assert second.rows[0].numbers.keys() == good.numbers.keys()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], len(last["failed"])) == ("done", 2)

    other = write(("amount = 2", "amount = 1"), file="other.toml")
    with pytest.raises(UsageError, match="steps only grow"):
        compare.compare(other, lambda: again, Show("plain"), runs)


class Judge:
    """A pool that evaluates without drawing, and cannot bear one cell. asked: the names of what was run."""

    nodes, jobs = False, 1

    def __init__(self, hated: str) -> None:
        self.hated, self.asked = hated, list[str]()

    def run(self, tasks: Sequence[Task], stop: Stop) -> Iterator[Outcome | None]:
        for task in tasks:
            self.asked.append(task.name)
            if self.hated in " ".join(task.words):
                yield Outcome(task.name, "failed", "NaN pictures", 5)
                continue
            out = Path(task.words[task.words.index("--out") + 1])
            out.mkdir(parents=True)
            (out / "evaluation.json").write_text(Evaluation([Source(out.parent.name, "toy")]).to_json())
            yield Outcome(task.name, "done")


def test_a_cell_that_cannot_be_evaluated_costs_no_other(write: Write, tmp_path: Path) -> None:
    study = compare.Study.of(write(), tmp_path)
    study.outcomes = {cell.name: Outcome(cell.name, "done") for cell in study.cells}
    first, *others = (cell.name for cell in study.cells)
    pool = Judge(hated=first)
    effort = compare.Effort(pool, Show("plain"), Stop(), Task("", (), study.folder))
    found = compare.evaluate(study, effort)
    assert [source.label for source in found.sources] == others
    assert found.notes == [f"{first}.evaluation: NaN pictures"]
    assert study.code == 5
    assert pool.asked == ["evaluation", *(f"{cell.name}.evaluation" for cell in study.cells)]
    compare.evaluate(study, effort)
    assert pool.asked[-2:] == ["evaluation", f"{first}.evaluation"]  # the others' is known


def test_equal_seconds_are_timed_first(write: Write, tmp_path: Path) -> None:
    changes = ('"steps"', '"seconds"'), ("amount = 2", "amount = 0.05"), ("seeds = [0, 1]", "seeds = [0]")
    pool = Inside()
    study = compare.compare(write(*changes, ("quick = true", "skip = true")), lambda: pool, Show("plain"), tmp_path)
    assert len(pool.asked) == 3  # two short runs, one of which fails, and the cell of the other
    good, bad = study.cells
    seconds = (
        study.outcomes[good.name],
        compare_prices.timed(compare_prices.plain([good]), [good])[good.setting].seconds,
    )
    assert seconds[0].status == "done"
    assert good.steps == max(1, math.floor(0.05 / (seconds[1] or 1)))
    assert study.outcomes[bad.name].reason.startswith("could not be timed: ")


def test_a_dry_run_lists_and_writes_nothing(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(write()), "--dry-run", "--runs", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert re.match(r"dreambooth-optimizer-adamw-seed-0\s+2\s+0:00", lines[1])
    assert "4 cells at 2 steps each" in lines[-1]
    assert not (tmp_path / "runs").exists()


def test_the_example_is_a_comparison(root: Path, tmp_path: Path) -> None:
    study = compare.Study.of(root / "assets" / "configs" / "compare.toml", tmp_path)
    study.prices = compare_prices.plain(study.cells)
    study.budgeted()
    assert len(study.cells) == 8
    spent = {cell.steps * compare_cost.samples(cell.config) for cell in study.cells}
    assert len(spent) == 1


class Interrupted(Show):
    """Presses Ctrl-C once a run has taken a step."""

    pressed = False

    def __call__(self, outcome: Outcome | None) -> None:
        super().__call__(outcome)
        line = next(iter(self.lines.values()))
        if not self.pressed and line.last is not None and line.last.step:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_saves_every_cell(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(("amount = 2", "amount = 1000000"), ('["adamw", "nosuch"]', '["adamw"]'))
    with pytest.raises(Stopped):
        compare.compare(file, lambda: Local(1), Interrupted("json"), tmp_path)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said[-1]["message"] == "stopped: 0 of 2 cells are done; the same command goes on"
    kept = {row["name"]: row for row in json.loads((tmp_path / "mini" / "cells.json").read_text())}
    assert [row["status"] for row in kept.values()] == ["stopped", "stopped"]
    assert [row["attempts"] for row in kept.values()] == [1, 0]
    run = Run(tmp_path / "mini" / next(iter(kept)))
    saved = run.latest()
    assert saved is not None
    assert saved.step == max(run.curve()) > 0


def test_a_node_needs_the_shared_folder_and_hears_requests_to_stop(tmp_path: Path) -> None:
    task = Task("one", ("--version",), tmp_path / "absent")
    assert "every node shares" in on_node(task).reason
    task = replace(task, folder=tmp_path)
    (tmp_path / "stop").touch()
    assert (on_node(task).status, on_node(task).attempts) == ("stopped", 0)
    forget(tmp_path)
    assert on_node(task).status == "done"


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_runs_the_cells(write: Write, root: Path, tmp_path: Path) -> None:
    file = write(("seeds = [0, 1]", "seeds = [0]"))
    environment = {**os.environ, "PYTHONPATH": str(root)}
    # a process of its own: tests may open no sockets, Ray does
    made = subprocess.run(
        [sys.executable, "-m", "studio", "compare", str(file), "--on", "auto", "--json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert made.returncode == 2, made.stderr
    kept = json.loads((tmp_path / "runs" / "mini" / "results.json").read_text())
    good, bad = kept["rows"]
    assert good["numbers"]
    assert list(bad["missing"]) == ["dreambooth-optimizer-nosuch-seed-0"]
    assert "nosuch" in bad["missing"]["dreambooth-optimizer-nosuch-seed-0"]
    assert json.loads(made.stdout.splitlines()[-1])["event"] == "done"


def test_without_ray_one_line_says_what_to_install(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else find(name, *a))
    monkeypatch.chdir(tmp_path)
    assert cli.run(["compare", str(write()), "--on", "ray://nowhere:1"]) == 2
    assert "pip install 'personalization-studio[cluster]'" in capsys.readouterr().err
