"""The benchmark of rewards: a setting that is tried with a seed that does not count."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from studio import bench_reward, bench_reward_config, bench_reward_fair
from studio.bench_reward_cells import Cell, trials, winner
from studio.bench_reward_sheet import Row, Sheet
from studio.pipelines.errors import UsageError

CONFIG = Path(__file__).parents[1] / "assets" / "configs" / "reward.toml"


def measured(cell: Cell, gains: list[float], monkeypatch: pytest.MonkeyPatch, number: str = "jpeg-size") -> None:
    """A cell as if it had been trained and measured."""
    monkeypatch.setattr(Cell, "done", property(lambda self: self.run.folder.exists()))
    steps = cell.about.draw.steps
    rows = [
        Row(step, steps, "", {number: 0.0}, 0.1, 4, {number: [[5.0 - step / 20 * gain] for gain in gains]})
        for step in (0, 20)
    ]
    cell.run.folder.mkdir(parents=True)
    Sheet(rows).write(cell.run)


def test_the_larger_gain_wins_and_nobody_is_trained_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = bench_reward_config.read(CONFIG)
    low, high = trials(study, ["ddpo-colour", "rlcm-size"], tmp_path, CONFIG)
    counted = Cell(study, "ddpo-colour", 0, tmp_path, CONFIG)
    with pytest.raises(UsageError, match="must be done first"):
        bench_reward.one(counted, Console(quiet=True))
    measured(low, [0.1, 0.3], monkeypatch)
    assert winner(study.trial[0], counted) == ""
    assert "not yet" in " ".join(bench_reward_fair.tried(study, tmp_path, CONFIG))
    measured(high, [0.2, 0.4], monkeypatch)
    assert winner(study.trial[0], counted) == "ddpo-try-high"
    again = Cell(study, "ddpo-colour", 0, tmp_path, CONFIG)
    assert again.config.settings.lr == 3e-3
    assert Cell(study, "alignprop-size", 0, tmp_path, CONFIG).config.settings.lr == 1e-3
    assert "**0.003** is theirs" in " ".join(bench_reward_fair.tried(study, tmp_path, CONFIG))


def test_a_run_may_have_two_settings_by_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, name = bench_reward_config.read(CONFIG), "alignprop-colour-small"
    rates, batches = study.tried(name)
    assert (rates.setting, batches.setting) == ("lr", "batch")
    for trial in (rates, batches):
        with pytest.raises(UsageError, match=f"its {trial.setting} comes from .* must be done first"):
            bench_reward.one(Cell(study, name, 0, tmp_path, CONFIG), Console(quiet=True))
        for run, gain in zip(trial.runs, (0.1, -0.3), strict=True):  # higher is better, and rows fall by the gain
            measured(Cell(study, run, trial.seed, tmp_path, CONFIG), [gain] * 2, monkeypatch, trial.number)
    settings = Cell(study, name, 0, tmp_path, CONFIG).config.settings
    assert (settings.lr, settings.batch) == (3e-3, 4)
    said = " ".join(bench_reward_fair.tried(study, tmp_path, CONFIG))
    assert "6 or 12 steps each with seed 99" in said
    assert "that no trial names has the shared 0.001" in said
    assert "no batch of its own" not in said


def test_trials_are_only_of_what_is_asked_for() -> None:
    study = bench_reward_config.read(CONFIG)
    assert trials(study, ["rlcm-size", "hack"], Path("build"), CONFIG) == []


def test_a_seed_that_counts_is_no_seed_of_a_trial(tmp_path: Path) -> None:
    file = tmp_path / "reward.toml"
    file.write_text(CONFIG.read_text("utf-8").replace("seed = 99", "seed = 2"), "utf-8")
    with pytest.raises(UsageError, match="one of the seeds that count"):
        bench_reward_config.read(file)
