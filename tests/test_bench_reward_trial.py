"""The benchmark of rewards: a setting that is tried with a seed that does not count."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from studio import bench_reward, bench_reward_config, bench_reward_fair
from studio.bench_reward_cells import Cell, trials, tries, winner
from studio.bench_reward_config import Study
from studio.bench_reward_sheet import Row, Sheet
from studio.pipelines.errors import UsageError

CONFIG = Path(__file__).parents[1] / "assets" / "configs" / "reward.toml"


def measured(cell: Cell, gains: list[float], monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    """A cell as if it had been trained and measured."""
    monkeypatch.setattr(Cell, "done", property(lambda self: self.run.folder.exists()))
    steps = cell.about.draw.steps
    rows = [
        Row(step, steps, "", {number: 0.0}, 0.1, 4, {number: [[5.0 - step / 20 * gain] for gain in gains]})
        for step in (0, 20)
    ]
    cell.run.folder.mkdir(parents=True, exist_ok=True)
    Sheet(rows).write(cell.run)


TUNED = "alignprop-colour-tuned"


def chosen(study: Study, out: Path) -> str:
    """The winner of AlignProp's trial."""
    (trial,) = study.tried(TUNED)
    return winner(trial, study, out, CONFIG)


def test_the_larger_gain_wins_and_nobody_is_trained_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = bench_reward_config.read(CONFIG)
    tried, number = trials(study, [TUNED, "ddpo-size"], tmp_path, CONFIG), study.tried(TUNED)[0].number
    for cell in tried:
        assert chosen(study, tmp_path) == ""
        assert "not yet" in " ".join(bench_reward_fair.tried(study, tmp_path, CONFIG))
        with pytest.raises(UsageError, match="its optimizer and lr .* must come from .*, which are not all done"):
            bench_reward.one(Cell(study, TUNED, 0, tmp_path, CONFIG), Console(quiet=True))
        gain = 0.1 if cell.recipe == "alignprop-try-sgd" else 0.2  # higher is better, and rows fall by the gain
        measured(cell, [gain, 2 * gain], monkeypatch, number)
    assert chosen(study, tmp_path) == "alignprop-try-sgd"
    assert Cell(study, "alignprop-size", 0, tmp_path, CONFIG).config.settings.lr == 1e-3


def test_a_run_has_all_settings_of_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = bench_reward_config.read(CONFIG)
    (trial,) = study.tried(TUNED)
    for cell in tries(trial, study, tmp_path, CONFIG):
        measured(cell, [-0.3 if cell.recipe == "alignprop-try-past" else 0.1] * 2, monkeypatch, trial.number)
    settings = Cell(study, TUNED, 0, tmp_path, CONFIG).config.settings
    assert (settings.optimizer, settings.lr, settings.eta, settings.truncation.detach_input) == ("sgd", 0.3, 1.0, True)
    said = " ".join(bench_reward_fair.tried(study, tmp_path, CONFIG))
    assert "12 steps each with seeds 97, 98, 99, which count nowhere else" in said
    assert "**optimizer sgd, lr 0.3, eta 1, truncation mode random_k, detach_input true**: +0.3" in said
    assert "that no trial names has the shared 0.001" in said


def test_what_gains_most_over_all_seeds_of_a_trial_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = bench_reward_config.read(CONFIG)
    (trial,) = study.tried(TUNED)
    first, *rest = tries(trial, study, tmp_path, CONFIG)
    measured(first, [-9.0], monkeypatch, trial.number)  # by far the best, with one seed
    for cell in rest:
        measured(cell, [9.0 if cell.recipe == first.recipe else -0.1], monkeypatch, trial.number)
    assert chosen(study, tmp_path) in trial.runs[1:]


def test_trials_are_only_of_what_is_asked_for() -> None:
    study = bench_reward_config.read(CONFIG)
    assert trials(study, ["rlcm-size", "hack"], Path("build"), CONFIG) == []


def test_a_seed_that_counts_is_no_seed_of_a_trial(tmp_path: Path) -> None:
    file = tmp_path / "reward.toml"
    file.write_text(CONFIG.read_text("utf-8").replace("seeds = [97, 98, 99]", "seeds = [97, 98, 2]"), "utf-8")
    with pytest.raises(UsageError, match="one of the seeds that count"):
        bench_reward_config.read(file)
