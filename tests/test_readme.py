"""The README's blocks are run, in order, in a copy of the checkout.

`<!-- file: NAME -->` above a block: the block is that file. `<!-- not run: REASON -->`: it is left out.
Lines that install the project or start the tests are left out; `studio` is the copy's; the demo, which takes two
minutes, is run with fewer steps.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from studio.config import from_toml
from tests.sources import FOLDERS, ROOT

BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^\n]*?) -->\n+)?^```(?P<kind>bash|sh|python|toml)\n(?P<text>.*?)^```", re.M | re.S
)
INSTALLING = re.compile(r"^(?:(?:python -m )?(?:pip install|git clone|cd) [^&\n]*(?:&& *|$))+", re.M)
DEMO = re.compile(r"^studio train$", re.M)
TESTING = re.compile(r"^(?:pytest|\.ci/run)\b.*$", re.M)


@dataclass(frozen=True)
class Block:
    """A code block, and the remark above it."""

    note: str
    kind: str
    text: str

    @property
    def file(self) -> str:
        return self.note.partition("file: ")[2] if self.note.startswith("file: ") else ""

    @property
    def left_out(self) -> str:
        return self.note.partition("not run: ")[2] if self.note.startswith("not run: ") else ""


def blocks() -> list[Block]:
    path = ROOT / "README.md"
    text = path.read_text("utf-8") if path.is_file() else ""
    return [Block(found["note"] or "", found["kind"], found["text"]) for found in BLOCK.finditer(text)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with a `studio` command."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("studio", *FOLDERS):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "assets").symlink_to(ROOT / "assets")
    command = folder / "bin" / "studio"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m studio "$@"\n')
    command.chmod(0o755)
    return folder


def environment(place: Path) -> dict[str, str]:
    path = os.pathsep.join([str(place / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(place)}


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.text.strip().splitlines()[0][:40])
def test_the_blocks_do_what_they_say(block: Block, place: Path):
    if block.left_out:
        pytest.skip(block.left_out)
    if block.file:
        (place / block.file).parent.mkdir(parents=True, exist_ok=True)
        (place / block.file).write_text(block.text)
    elif block.kind == "toml":
        (place / "block.toml").write_text(block.text)
        from_toml(place / "block.toml")
    else:
        text = DEMO.sub("studio train --steps 20", TESTING.sub("", INSTALLING.sub("", block.text)))
        line = ["bash", "-euo", "pipefail", "-c", text]
        command = [sys.executable, "-c", block.text] if block.kind == "python" else line
        done = subprocess.run(
            command,
            cwd=place,
            env=environment(place),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_remark_above_a_block_is_understood():
    assert not [block.note for block in blocks() if block.note and not block.file and not block.left_out]
