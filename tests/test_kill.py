"""Kill anywhere: killed at random moments and at file operations, a run ends with the undisturbed run's bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studio import bench_trial
from studio.bench_kills import RANDOM
from studio.events import Event
from studio.store import Run
from tests.conftest import ROOT

FAULTS = 4
DRIVER = """
import json, sys
from pathlib import Path
from studio.bench_kills import torment
kills, faults, seed, folder = sys.argv[1:]
print(json.dumps(vars(torment(int(kills), int(faults), int(seed), Path(folder)))))
"""


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> dict[str, Any]:
    """What a process of its own did: it imports once, and forks for every start."""
    kills = pytestconfig.getoption("--kills")
    folder = tmp_path_factory.mktemp("kills") / "work"
    command = [sys.executable, "-c", DRIVER, str(kills), str(FAULTS * kills // 3), "0", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks /proc which file a descriptor is")
def test_a_run_killed_anywhere_ends_with_the_same_bits(record: dict[str, Any], pytestconfig: pytest.Config) -> None:
    assert record["wrong"] == []
    kills = pytestconfig.getoption("--kills")
    assert record["disturbed"][RANDOM] == kills
    assert sum(record["disturbed"].values()) == kills + FAULTS * kills // 3
    assert record["killed"] >= kills
    assert record["announced"] > 0
    assert record["restarts"] >= kills


def test_what_the_kill_test_looks_at_is_seen_when_it_is_wrong(tmp_path: Path) -> None:
    trial = bench_trial.Trial(tmp_path / "a", bench_trial.Record(), {"numbers loss": "{}"})
    run = Run(tmp_path / "a" / bench_trial.RUN)
    run.folder.mkdir(parents=True)
    run.log(Event("train", 2, event="checkpoint", fields={"path": "checkpoints/step-000002"}))
    attempt = bench_trial.Attempt(0, [], "", [], 0.1)
    trial.keeps(attempt)
    trial.honest(attempt, set())
    trial.honest(bench_trial.Attempt(1, [], "Traceback", [], 0.1), set())
    trial.honest(bench_trial.Attempt(1, [], "studio: error: full", [], 0.1), {"full"})
    lost, other, said, code = trial.record.wrong
    assert "announced, then lost: checkpoints/step-000002" in lost
    assert "numbers loss" in other
    assert "Traceback" in said
    assert "exit code 1" in code
