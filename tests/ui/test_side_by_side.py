"""Runs beside each other: only like is compared with like, and what the files say is what is shown."""

from __future__ import annotations

import ast
import asyncio
import json
import math
from pathlib import Path

import pytest

from studio.evaluation.meanings import meaning
from studio.pipelines.errors import UsageError
from studio.ui import compare_jobs, side_by_side, side_choice, side_tables
from studio.ui.blind_pairs import neutral, spoken
from studio.ui.jobs import Queue
from tests.sources import ROOT
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
    assert "your subject on a hill, seed 500" in drawn
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


def test_every_score_of_the_studio_has_a_line_that_says_what_it_is():
    homes = [ROOT / "pipelines" / "scorers", ROOT / "studio" / "evaluation"]
    calls = [
        call.args[0].value
        for path in (path for home in homes for path in home.glob("*.py"))
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "").lower().endswith("about")
        and call.args and isinstance(call.args[0], ast.Constant)
    ]  # fmt: skip
    assert len(calls) > 20
    built = ["identity", "identity-max", "caption-match", "caption-recall", "leak", "leak-identity", "frechet", "kid"]
    names = [*calls, *built, "hps-v2.1", "embedded-subject", "embedded-traits"]
    assert [name for name in names if not meaning(name)] == []
    row = side_by_side.Row("clip-t", [("0.3", "", False)])
    assert meaning("clip-t") in side_tables.scores(["one"], [row])
    assert meaning("somebody's own") == ""


def test_previews_stand_beside_the_base_model(tmp_path: Path):
    runs = tmp_path / "runs"
    folders = [library_runs.run(runs, "one").folder, library_runs.run(runs, "two", trigger="ohwx").folder]
    drawn = side_tables.strip(folders, runs)
    assert drawn.count("<img") == 2 * 3
    assert drawn.count("data:image/jpeg") == 6
    assert neutral("a ohwx dog", ("ohwx", "dog")) == "a {subject}"


def test_the_same_prompt_of_a_finished_and_a_stopped_run_is_one_row(tmp_path: Path):
    runs = tmp_path / "runs"
    done, stopped = library_runs.run(runs, "done", prompts=1), library_runs.run(runs, "stopped", 1, finished=False)
    text = stopped.config_file.read_text("utf-8")
    stopped.config_file.write_text(text.replace('class_word = ""', 'class_word = "dog"'), "utf-8")
    drawn = side_tables.strip([done.folder, stopped.folder], runs)
    assert (drawn.count("<img"), drawn.count('scope="row"')) == (3, 1)
    assert "a sks dog number 0" in drawn
    other = library_runs.run(runs, "other", prompts=1, trigger="ohwx")
    drawn = side_tables.strip([done.folder, other.folder], runs)
    assert drawn.count('scope="row"') == 1
    assert "a dog number 0" in drawn
    assert "{subject}" not in drawn
    assert spoken("a {subject} on a hill", ["", "x"], [("sks", "dog"), ("ohwx", "cat")]) == "your subject on a hill"
    assert neutral("tasks of a sks", ("sks", "dog")) == "tasks of a {subject}"


def test_an_evaluation_takes_the_runs_that_can_be_judged_and_says_which_were_left_out(tmp_path: Path):
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        library_runs.run(runs, name)
    began = library_runs.run(runs, "open", finished=False)
    library_runs.run(runs, "nothing", finished=False)
    (began.checkpoints / "step-000007").mkdir(parents=True)
    assert sorted(compare_jobs.offered(runs)) == ["one", "open", "two"]
    with pytest.raises(UsageError, match="open has no adapter yet"):
        compare_jobs.evaluate(runs, ["open"])
    with pytest.raises(UsageError, match="no recommended checkpoint"):
        compare_jobs.evaluate(runs, ["one"], pick=True)
    assert Queue(runs).jobs() == []
    said = compare_jobs.evaluate(runs, ["one", "open", "two"], quick=True)
    assert said.startswith("In the queue: the evaluation of one, two.")
    assert "Left out: open has no adapter yet" in said
    assert compare_jobs.missing(runs, ["one", "open"]).startswith("An evaluation leaves out open: it has no adapter")
    assert "evaluation of one waits in the queue" in compare_jobs.states(runs, ["one"])
    assert [job.words[:2] for job in Queue(runs).jobs()] == [
        ("evaluate", str(runs / "one")), ("evaluate", str(runs / "two")),
    ]  # fmt: skip
    assert compare_jobs.states(runs, ["open"]) == ""


def test_of_one_run_nothing_is_said_to_be_the_best(tmp_path: Path):
    folders = [scored(tmp_path / "a", 0.8, 0.7), scored(tmp_path / "b", 0.6, 0.9)]
    assert "bold" in side_tables.scores(["a", "b"], side_by_side.table(folders))
    assert "bold" not in side_tables.scores(["a"], side_by_side.table(folders[:1]))


def test_a_reload_brings_the_choice_back_without_the_runs_that_are_gone(tmp_path: Path):
    import gradio as gr

    from studio.ui.place import home
    from studio.ui.tab_compare import Tab

    runs = tmp_path / "runs"
    scored(library_runs.run(runs, "one").folder, 0.8, 0.7)
    scored(library_runs.run(runs, "two").folder, 0.6, 0.9)

    async def build() -> Tab:  # in a running loop: without one, gradio leaves loops of its own open
        with gr.Blocks():
            return Tab(lambda request: home(runs))

    tab = asyncio.run(build())
    kept = {"runs": ["one", "away", "two"], "quick": False, "run": "two", "across": "drift", "upwards": 3}
    back, chosen, quick, *_ = tab.arrive(kept, None)
    assert (chosen["value"], quick) == (["one", "two"], False)
    now, said, _, _, across, upwards, *_, single = tab.look(["one", "two"], None, None, None, {}, back, None)
    assert said == "away is not there any more: left out of the comparison."
    assert (across["value"], upwards["value"], single["value"]) == ("drift", "identity", "two")
    again = tab.look(["one", "two"], "drift", "identity", "two", now, back, None)
    assert all(one == gr.skip() for one in again), "nothing is drawn twice"
    _, said, *_ = tab.look(["one"], "drift", "identity", "two", now, back, None)
    assert said == ""
