"""The config of a small comparison on the toy model: two settings, of which one cannot run, with two seeds."""

from __future__ import annotations

from pathlib import Path

from tests.runs import pictures

TEXT = """
name = "mini"
seeds = [0, 1]
[budget]
equal = "steps"
amount = 2
[base]
model = "toy"
precision = "no"
[base.data]
folder = "{data}"
class_word = "cat"
[base.previews]
steps = 2
prompts = ["a {{trigger}} {{class_word}}"]
[grid]
optimizer = ["adamw", "nosuch"]
[evaluation]
sets = ["recontext"]
seeds = 2
steps = 2
quick = true
"""


def config(folder: Path, *changes: tuple[str, str], file: str = "mini.toml") -> Path:
    """The file, in a folder with three pictures; changes: parts of its text, old and new."""
    text = TEXT.format(data=pictures(folder / "pictures").as_posix())
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / file
    path.write_text(text)
    return path
