"""No network, no accelerator by accident, no files outside the test's own folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings
os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start: two of them share two cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a hundred processes would each compile the studio anew
os.environ["TOKENIZERS_PARALLELISM"] = "false"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background was told to ignore it

ROOT = Path(__file__).resolve().parents[1]
LONG = (
    "test_readme",
    "test_journey",
    "test_kill",
    "test_journey_wrong",
    "test_ranks",
    "test_space_users",
    "test_plan",
    "test_wheel",
)  # first: so both processes end together
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long `tests/test_kill.py` goes on."""
    parser.addoption("--kills", type=int, default=3, help="kills at random moments in the kill test (3)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, the longest before all."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def studio_cli(tmp_path: Path) -> Cli:
    """Runs `python -m studio ARGS` in a process of its own, in an empty folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def call(*args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "studio", *args]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call
