"""A blind test tells the sides only at its end, counts them right, and its interval covers the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from studio.pipelines.errors import UsageError
from studio.ui import blind, blind_count
from studio.ui.blind_pairs import Pair, Side, pairs
from tests.ui import library_runs


@pytest.mark.parametrize("n", [1, 5, 12, 20])
def test_the_interval_covers_every_true_share_often_enough(n: int):
    intervals = [blind_count.interval(hits, n) for hits in range(n + 1)]
    for share in [at / 40 for at in range(41)]:
        chance = [blind_count.at_least(k, n, share) - blind_count.at_least(k + 1, n, share) for k in range(n + 1)]
        covered = sum(p for p, (low, high) in zip(chance, intervals, strict=True) if low <= share <= high)
        assert covered >= 0.95 - 1e-6


def test_the_interval_is_the_published_one_and_symmetric():
    low, high = blind_count.interval(4, 20)  # Clopper and Pearson 1934: 0.0573, 0.4366
    assert (round(low, 4), round(high, 4)) == (0.0573, 0.4366)
    mirrored = blind_count.interval(16, 20)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-8)
    assert blind_count.interval(0, 0) == (0.0, 1.0)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_runs_with_other_triggers_are_paired_by_prompt_and_seed(runs: Path):
    one, other = library_runs.run(runs, "one"), library_runs.run(runs, "other", prompts=3, trigger="ohwx")
    found = pairs(one, Side("one"), other, Side("other"))
    assert [pair.prompt for pair in found] == ["a dog number 0", "a dog number 1"]
    assert all(p.pictures[0].is_relative_to(one.folder) and p.pictures[1].is_relative_to(other.folder) for p in found)
    beside = pairs(one, Side("one"), one, Side("one", base=True))
    assert {pair.pictures[1].name for pair in beside} == {"base-00.png", "base-01.png"}
    with pytest.raises(UsageError, match="both sides"):
        pairs(one, Side("one"), one, Side("one"))


def many(folder: Path, count: int) -> list[Pair]:
    """Pairs whose first picture is lighter than the second, at another size."""
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), "white").save(folder / "white.png")
    Image.new("RGB", (16, 16), "black").save(folder / "black.png")
    return [Pair(f"prompt {at}", "0", (folder / "white.png", folder / "black.png")) for at in range(count)]


def light(path: Path) -> bool:
    with Image.open(path) as file:
        assert getattr(file, "text", {}) == {}
        assert file.size == (512, 512)
        return file.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("seed", range(4))
def test_who_always_prefers_the_first_side_is_counted_so_wherever_it_stands(tmp_path: Path, runs: Path, seed: int):
    sides = (Side("one"), Side("other"))
    trial = blind.begin(runs, sides, many(tmp_path / "p", 9), most=9, seed=seed)
    assert sum(trial.turned) in (4, 5)
    while (asked := trial.question()) is not None:
        assert "one" not in asked.left.name + asked.right.name
        with pytest.raises(UsageError, match="all pairs"):
            trial.verdict()
        choice = "same" if asked.number == 0 else "left" if light(asked.left) else "right"
        assert light(asked.left) != light(asked.right)
        trial = blind.answer(runs, trial.key, asked.number, choice)
        assert blind.read(runs, trial.key) == trial
    counts = trial.counts()
    assert (counts.first, counts.second, counts.same) == (8, 0, 1)
    assert "one is clearly preferred" in trial.verdict()


def test_an_answer_is_given_once_and_none_after_the_end(tmp_path: Path, runs: Path):
    trial = blind.begin(runs, (Side("one"), Side("other")), many(tmp_path / "p", 3), seed=1)
    blind.answer(runs, trial.key, 0, "left")
    assert blind.answer(runs, trial.key, 0, "right").answers[0] == "left"
    told = blind.reveal(runs, trial.key)
    assert told.question() is None
    assert "1 of 3" in told.verdict()
    assert blind.answer(runs, trial.key, 1, "left").answers[1] == ""
    for key in ("", "..", "../one", "20260101-000000-abcdef"):
        with pytest.raises(UsageError):
            blind.read(runs, key)
    with pytest.raises(UsageError, match="left, right, same"):
        blind.answer(runs, trial.key, 1, "both")
