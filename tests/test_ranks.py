"""Several processes train as one: the same numbers as one process with the larger batch; they end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from studio import ranks
from studio.pipelines.draws import ALONE
from studio.pipelines.errors import UsageError
from studio.store import Run
from tests.sources import ROOT

STEPS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five noise pictures in `photos`, and room for runs."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "photos").mkdir()
    for i in range(5):
        noise = torch.randint(256, (16, 16, 3), generator=torch.Generator().manual_seed(i))
        Image.fromarray(noise.byte().numpy()).save(folder / "photos" / f"{i}.png")
    return folder


def command(place: Path, run: str, batch: int, steps: int = STEPS) -> list[str]:
    words = f"train dreambooth --data {place / 'photos'} --model toy --precision no --lr 0.01 --data.flip"
    words += f" --previews.steps 2 --run {run} --runs {place / 'runs'} --batch {batch} --steps {steps}"
    return [*words.split(), "--class-word", "cat"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def codes(place: Path) -> dict[str, list[int]]:
    """The exit codes of every scenario's processes."""
    forever = 10**6
    events = {name: str(place / "runs" / name / "events.jsonl") for name in ("stopped", "bereft", "left")}
    jobs: dict[str, dict[str, Any]] = {
        "one": {"args": command(place, "one", 4), "ranks": 1},
        "two": {"args": command(place, "two", 2), "ranks": 2},
        "half": {"args": command(place, "parts", 2, STEPS // 2), "ranks": 2},
        "whole": {"args": command(place, "parts", 2), "ranks": 2},
        "done": {"args": command(place, "parts", 2), "ranks": 2},
        "fewer": {"args": command(place, "parts", 2, STEPS + 1), "ranks": 1},
        "wrong": {"args": command(place / "nowhere", "wrong", 2), "ranks": 2},
        "stopped": {
            "args": command(place, "stopped", 2, forever), "ranks": 2,
            "watch": events["stopped"], "signal": signal.SIGTERM, "to": 1,
        },
        "bereft": {
            "args": command(place, "bereft", 2, forever), "ranks": 2,
            "watch": events["bereft"], "signal": signal.SIGKILL, "to": 1,
        },
        "left": {
            "args": command(place, "left", 2, forever), "ranks": 2,
            "watch": events["left"], "signal": signal.SIGKILL, "to": 0,
        },
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.ranks"],
        input="".join(json.dumps(job) + "\n" for job in jobs.values()),
        capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment(),
    )  # fmt: skip
    (place / "stderr").write_text(done.stderr)
    assert done.returncode == 0, done.stderr
    return dict(zip(jobs, map(json.loads, done.stdout.splitlines()), strict=True))


def curve(place: Path, run: str) -> list[float]:
    return list(Run(place / "runs" / run).curve().values())


def test_two_processes_are_one_with_twice_the_batch(place: Path, codes: dict[str, list[int]]) -> None:
    assert codes["one"] == [0]
    assert codes["two"] == [0, 0]
    assert len(curve(place, "one")) == STEPS
    assert curve(place, "two") == pytest.approx(curve(place, "one"), rel=0, abs=1e-5)
    one, two = (load_file(place / "runs" / name / "adapter.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_two_processes_resume_exactly(place: Path, codes: dict[str, list[int]]) -> None:
    assert codes["half"] == codes["whole"] == codes["done"] == [0, 0]
    assert curve(place, "parts") == curve(place, "two")
    straight, resumed = (load_file(place / "runs" / name / "adapter.safetensors") for name in ("two", "parts"))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_another_number_of_processes_is_a_change_that_is_said(place: Path, codes: dict[str, list[int]]) -> None:
    assert codes["fewer"] == [2]
    assert "processes: 2 -> 1" in (place / "stderr").read_text()


def test_a_wrong_word_ends_all(codes: dict[str, list[int]]) -> None:
    assert codes["wrong"][0] == 3


def test_a_request_to_any_process_stops_all_with_the_state_saved(place: Path, codes: dict[str, list[int]]) -> None:
    run = Run(place / "runs" / "stopped")
    assert codes["stopped"] == [130, 0]
    last = run.last("stopped")
    saved = run.latest()
    assert last is not None
    assert saved is not None
    assert saved.step == max(run.curve())


def test_when_one_is_killed_the_other_ends_with_the_reason(place: Path, codes: dict[str, list[int]]) -> None:
    assert codes["bereft"] == [1, -signal.SIGKILL]
    failed = Run(place / "runs" / "bereft").last("failed")
    assert failed is not None
    assert "another process" in failed["message"]
    assert codes["left"] == [-signal.SIGKILL, 1]


def test_several_processes_asked_for_and_one_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert ranks.join() == ALONE
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # what accelerate's launcher sets for several
    with pytest.raises(UsageError, match="--multi_gpu"):
        ranks.join()


def test_accelerate_launch(place: Path, codes: dict[str, list[int]]) -> None:
    """As a person starts it."""
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 -m studio"
    done = subprocess.run(
        [sys.executable, "-m", *launch.split(), *command(place, "launched", 2)],
        capture_output=True, text=True, timeout=180, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert curve(place, "launched") == curve(place, "two")


@pytest.mark.parametrize(
    ("said", "environment", "asked"),
    [
        (["--num_processes", "3"], {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}, 3),
        (["--num-processes=2"], {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}, 2),
        (["--num_processes", "2"], {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no", "RANK": "0"}, 0),
        (["--num_processes", "2"], {}, 0),
    ],
)
def test_what_accelerates_launcher_was_asked_for_is_read_off_its_command_line(
    said: list[str], environment: dict[str, str], asked: int
) -> None:
    inner = "from studio import ranks; print(ranks.alone_of())"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-c", outer, *said], env=kept | environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == asked


def test_where_the_launcher_is_gone_the_processes_are_asked_to_end() -> None:
    inner = "import sys, time; from studio import ranks; ranks.end_with(int(sys.argv[1])); time.sleep(60)"
    outer = (
        "import os, subprocess, sys; "
        f"print(subprocess.Popen([sys.executable, '-c', {inner!r}, str(os.getpid())]).pid, flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout  # it returned: nobody keeps its streams open, as the process it left behind has ended
