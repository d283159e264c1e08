"""Runs beside each other: only like is compared with like, and what the files say is what is shown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from studio.pipelines.errors import UsageError
from studio.ui import compare_jobs, side_by_side, side_choice, side_tables
from studio.ui.blind_pairs import neutral
from studio.ui.jobs import Queue
from tests.ui import library_runs


def scored(folder: Path, identity: float, prompt: float, encoder: str = "judges") -> Path:
    """A folder with the scores of an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"n": 16, "encoder": encoder, "group": f"cosine, {encoder}", "better": "higher"}
    rows = {
        "identity": {"value": identity, "low": identity - 0.1, "high": identity + 0.1, "base": 0.5, **row},
        "prompt-accuracy": {"value": prompt, "low": None, "high": None, "base": 0.9, **row},
        "drift": {"value": 1 - identity, "low": None, "high": None, "base": None, **row, "better": "lower"},
    }
    (folder / "scores.json").write_text(json.dumps(rows))
    return folder


def test_the_best_of_each_score_is_marked_in_its_own_direction(tmp_path: Path):
    folders = [scored(tmp_path / "a", 0.8, 0.7), scored(tmp_path / "b", 0.6, 0.9), tmp_path / "none"]
    rows = {row.name: [best for _, _, best in row.cells] for row in side_by_side.table(folders)}
    assert rows == {
        "identity": [True, False, False],
        "prompt-accuracy": [False, True, False],
        "drift (lower is better)": [True, False, False],
    }
    assert side_by_side.table(folders)[0].cells[0][:2] == ("0.800 (0.700 to 0.900)", "+0.300")


def test_numbers_of_different_judges_are_never_compared(tmp_path: Path):
    folders = [scored(tmp_path / "a", 0.8, 0.7), scored(tmp_path / "b", 0.6, 0.9, "another judge")]
    for row in side_by_side.table(folders):
        assert "not comparable" in row.warning
        assert not any(best for _, _, best in row.cells)
    assert side_by_side.shared(folders) == []


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"identity": 3}', '{"identity": {"value": null}}'])
def test_a_damaged_file_is_no_score(tmp_path: Path, text: str):
    (tmp_path / "scores.json").write_text(text)
    assert all(math.isnan(mark.value) for mark in side_by_side.marks(tmp_path).values())


def test_the_front_holds_the_runs_that_no_other_beats(tmp_path: Path):
    folders = [scored(tmp_path / n, i, p) for n, i, p in (("a", 0.8, 0.7), ("b", 0.6, 0.9), ("c", 0.5, 0.6))]
    axes = side_by_side.usual(side_by_side.shared(folders))
    assert axes == ("prompt-accuracy", "identity")
    assert side_by_side.best(folders, *axes) == "No run beats these in both: a, b."
    drawn = side_by_side.pareto(folders, *axes)
    assert drawn.startswith("<svg")
    assert drawn.count("<circle") == 3
    assert drawn.count("<rect") == 1  # one base model


def chosen(folder: Path, *rows: tuple[int, float, float]) -> Path:
    """A folder whose checkpoints were scored; the first row is recommended."""
    table = [
        {"step": s, "strength": k, "points": p, "low": p - 5, "high": None, "identity": 0.7, "prompt": 0.9}
        for s, k, p in rows
    ]
    said = {"picked": {**table[0], "reason": "step 50: <why>", "exported": False}, "table": table}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "choice.json").write_text(json.dumps(said | {"about": {"prompts": ["a {subject} on a hill"]}}))
    for step, strength, _ in rows:
        place = folder / side_choice.PICTURES / f"{step:06}-{strength:g}"
        library_runs.picture(place / "choice-00-500.png", step)
    return folder


def test_the_grid_has_each_candidate_once_and_frames_the_recommended(tmp_path: Path):
    folder = chosen(tmp_path / "a", (50, 0.8, 90.0), (50, 1.0, 80.0), (100, 1.0, 70.0))
    choice = side_choice.read(folder)
    assert (choice.steps, choice.strengths, choice.seeds()) == ([50, 100], [0.8, 1.0], ["500"])
    assert choice.at(100, 0.8) is None
    drawn = side_tables.grid(choice, tmp_path)
    assert drawn.count("<img") == 3
    assert drawn.count("recommended</strong>") == 1
    assert "step 50: <why>" in choice.said()
    assert side_tables.grid(side_choice.read(tmp_path), tmp_path) == ""


def test_what_files_say_is_never_markup(tmp_path: Path):
    evil = "<img src=x onerror=alert(1)>"
    rows = side_by_side.table([scored(tmp_path / "a", 0.5, 0.5)])
    assert "<img" not in side_tables.scores([evil], rows)
    report = tmp_path / "report.html"
    report.write_text(f'"></iframe>{evil}')
    framed = side_tables.frame(report)
    assert framed.count("<iframe") == framed.count("</iframe>") == 1
    assert "<img" not in framed
    assert 'sandbox=""' in framed


def test_previews_stand_beside_the_base_model(tmp_path: Path):
    runs = tmp_path / "runs"
    folders = [library_runs.run(runs, "one").folder, library_runs.run(runs, "two", trigger="ohwx").folder]
    drawn = side_tables.strip(folders, runs)
    assert drawn.count("<img") == 2 * 3
    assert drawn.count("data:image/jpeg") == 6
    assert neutral("a ohwx dog", ["ohwx dog", "ohwx"]) == "a {subject}"


def test_evaluations_wait_in_the_queue_and_nothing_is_queued_when_one_run_is_refused(tmp_path: Path):
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        library_runs.run(runs, name)
    library_runs.run(runs, "open", finished=False)
    with pytest.raises(UsageError, match="no adapter yet"):
        compare_jobs.evaluate(runs, ["one", "open"])
    with pytest.raises(UsageError, match="no recommended checkpoint"):
        compare_jobs.evaluate(runs, ["one"], pick=True)
    assert Queue(runs).jobs() == []
    said = compare_jobs.evaluate(runs, ["one", "two"], quick=True)
    assert "evaluation of one is waiting" in said
    assert [job.words[:2] for job in Queue(runs).jobs()] == [
        ("evaluate", str(runs / "one")), ("evaluate", str(runs / "two")),
    ]  # fmt: skip
    assert compare_jobs.states(runs, ["open"]) == ""
