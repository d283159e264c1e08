"""A stranger's trainer, one file and an entry point, is listed, configured and trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from PIL import Image

from tests.plugins import TRAINER, install


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stranger's package installed in `site` and two pictures in `pictures`."""
    folder = tmp_path_factory.mktemp("stranger")
    install(folder / "site", "huber", TRAINER)
    (folder / "pictures").mkdir()
    for number, colour in enumerate(("red", "teal")):
        Image.new("RGB", (16, 16), colour).save(folder / "pictures" / f"{number}.png")
    return folder


def call(place: Path, root: Path, *args: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{place / 'site'}"}
    command = [sys.executable, "-m", "studio", *args]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_a_page():
    assert len([line for line in dedent(TRAINER).splitlines() if line.strip()]) <= 25


def test_it_is_listed(place: Path, root: Path):
    assert "Huber DreamBooth" in call(place, root, "list", "trainers")


def test_it_has_its_flags_and_help(place: Path, root: Path):
    assert "--delta FLOAT" in call(place, root, "train", "huber", "--help")
    assert "delta = 0.3 # Where the parabola turns" in call(
        place, root, "train", "huber", "--delta", "0.3", "--dry-run"
    )


def test_it_trains(place: Path, root: Path):
    flags = "--model toy --data pictures --steps 3 --rank 2 --previews.steps 2 --run a --json"
    events = [json.loads(line) for line in call(place, root, "train", "huber", *flags.split()).splitlines()]
    assert [event["step"] for event in events if "numbers" in event] == [1, 2, 3]
    assert all(event["numbers"]["huber"] > 0 for event in events if "numbers" in event)
    assert events[-1]["event"] == "done"
    assert (place / "runs" / "a" / "adapter.safetensors").is_file()
