"""The command shown is the one that does it: read back it is the same config, and it says nothing needless."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from studio import flags
from studio.config import make
from studio.ui.jobs_command import at_home, command, toml
from studio.ui.place import guest

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("dreambooth", {}),
    "much": (
        "dreambooth",
        {
            "model": "toy",
            "run": "my-run",
            "seed": 7,
            "settings": {
                "lr": 1e-5,
                "steps": 12,
                "keep_steps": (3, 6),
                "deterministic": True,
                "adapter": {"rank": 2, "alpha": 1.5, "family": "loha"},
                "data": {"folder": "pictures of a \"cat\" & 'dog'", "trigger": "it's $HOME; `x`", "flip": True},
                "previews": {"prompts": ("-a", "a {trigger} in snow", "two\nlines"), "every": 3},
                "keep_best": False,
            },
        },
    ),
    "rewards": (
        "alignprop",
        {
            "model": "toy",
            "settings": {
                "reward": {"terms": ("0.5*embedded-wish(wish=colour=teal)", "jpeg-soft-bits"), "standardise": "no"},
                "truncation": {"mode": "refl", "k_max": 3},
            },
        },
    ),
    "few steps": ("rlcm", {"settings": {"reward": {"terms": ("jpeg-size",)}, "sampler": "tcd", "sampler_steps": 3}}),
    "few steps, drawn in others": (
        "rlcm",
        {"settings": {"reward": {"terms": ("jpeg-size",)}, "sampler_steps": 3, "previews": {"steps": 4}}},
    ),
    "few steps, drawn in many": (
        "alignprop",
        {"settings": {"reward": {"terms": ("jpeg-soft-bits",)}, "sampler": "lcm", "previews": {"sampler": "auto"}}},
    ),
    "few steps, drawn by another sampler": (
        "alignprop",
        {
            "model": "toy",
            "settings": {
                "reward": {"terms": ("jpeg-soft-bits",)},
                "sampler": "lcm",
                "sampler_steps": 2,
                "previews": {"sampler": "tcd", "guidance_scale": 2.0},
            },
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_command_reads_back_as_the_same_config(case: str):
    trainer, values = CASES[case]
    config = make(trainer, flags=values)
    said = shlex.split(command(config))
    assert said[:3] == ["studio", "train", trainer]
    assert flags.read(said[2:])[0] == config
    assert sum(word.startswith("--") for word in said) == count(values)


def count(values: Any) -> int:
    """How many settings a nested mapping has."""
    return sum(count(value) if isinstance(value, dict) else 1 for value in values.values())


def test_one_changed_setting_is_one_flag_under_its_short_name():
    config = make("dreambooth", flags={"settings": {"data": {"folder": Path("cats")}}})
    assert command(config) == "studio train dreambooth --data cats"


def test_what_no_flag_can_say_is_written_to_a_file_first(tmp_path: Path):
    config = make("dreambooth", flags={"settings": {"previews": {"prompts": ("a", "-b", "it's")}}})
    head, _, rest = command(config).partition("<<'END'\n")
    text, _, last = rest.rpartition("END\n")
    assert head == "cat > config.toml "
    (tmp_path / "config.toml").write_text(text)
    words = shlex.split(last)
    assert words[:2] == ["studio", "train"]
    assert flags.read([str(tmp_path / words[2]), *words[3:]])[0] == config


def test_the_toml_does_the_same(tmp_path: Path):
    trainer, values = CASES["much"]
    config = make(trainer, flags=values)
    (tmp_path / "config.toml").write_text(toml(config))
    assert flags.read([str(tmp_path / "config.toml"), "--runs", "runs"])[0] == config


def test_a_spaces_command_is_one_for_home(tmp_path: Path):
    place = guest(tmp_path, "ana", writable=True, zero_gpu=False)
    settings = {"data": {"folder": place.uploads / "1"}, "steps": 7}
    config = make("dreambooth", flags={"runs": place.runs, "settings": settings})
    assert command(at_home(config, place)) == "studio train dreambooth --steps 7 --data pictures"
    other = make("dreambooth", flags={"runs": place.runs, "settings": {"data": {"folder": "subject:fox"}}})
    assert command(at_home(other, place)) == "studio train dreambooth --data subject:fox"
