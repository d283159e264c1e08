"""Comparisons without a process: equal cost, cells and their names, tables that are paired."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from studio import (
    cli,
    compare,
    compare_cost,
    compare_files,
    compare_plot,
    compare_prices,
    compare_scoring,
    compare_table,
)
from studio.compare_cells import Cell, named, plan
from studio.compare_config import Budget, Judging, read
from studio.compare_cost import Price, counting
from studio.compare_workers import Outcome
from studio.config import make
from studio.evaluation.records import Evaluation, Made, Score, Source
from studio.pipelines import backbone
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import About
from studio.plan_rehearsal import Always, Rehearsal
from studio.store import NAME
from tests import comparisons

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A comparison's config, with parts of its text exchanged."""
    return partial(comparisons.config, tmp_path)


@pytest.mark.parametrize("equal", ["steps", "samples", "calls", "seconds"])
@pytest.mark.parametrize("each", [1.0, 0.1, 3.0, 7.5])
@pytest.mark.parametrize("amount", [10.0, 300.0, 1001.5])
def test_a_budget_is_spent_and_not_overspent(equal: Any, each: float, amount: float) -> None:
    price, unit = Price(each, each, each), 1.0 if equal == "steps" else each
    count = compare_cost.steps(Budget(equal=equal, amount=amount), price, "cell")
    assert count * unit <= amount * (1 + 1e-6)
    assert (count + 1) * unit > amount


def test_a_budget_that_pays_for_no_step_is_refused() -> None:
    with pytest.raises(UsageError, match="0 steps, as one step of one costs 8 calls"):
        compare_cost.steps(Budget(equal="calls", amount=7), Price(4, 8), "one")
    with pytest.raises(UsageError, match="nobody has counted its seconds"):
        compare_cost.steps(Budget(equal="seconds", amount=7), Price(4, 8), "one")


@pytest.mark.parametrize(
    ("settings", "samples"),
    [({}, 1), ({"batch": 2, "accumulate": 3}, 6), ({"batch": 2, "prior": {"weight": 0.5}}, 4)],
    ids=["plain", "accumulated", "prior"],
)
def test_dreambooth_calls_the_network_twice_per_picture(settings: dict[str, Any], samples: int) -> None:
    config = make("dreambooth", flags={"model": "toy", "settings": {"precision": "no", **settings}})
    assert compare_cost.samples(config) == samples
    assert compare_cost.calls(config) == 2 * samples  # forward and backward


def test_calls_without_a_gradient_cost_half() -> None:
    config = make("dreambooth", flags={"model": "toy", "settings": {"precision": "no", "batch": 3}})
    model = backbone.load("toy")
    config.settings.adapter.build(model)
    rehearsal = Rehearsal(config, model, model.device)
    rehearsal.twin = model
    batch, predict = next(iter(Always(rehearsal))), model.predict
    noisy = model.noise(batch.latents, batch.generator)
    with counting(model) as count:
        with model.adapter.off():  # type: ignore[union-attr]
            model.predict(noisy.x, noisy.t, rehearsal.cond(3))
        assert (count.forward, count.backward) == (3, 0)
        model.predict(noisy.x, noisy.t, rehearsal.cond(3)).sum().backward()
    assert (count.forward, count.backward, count.calls) == (6, 3, 9)
    assert model.predict == predict


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "mini"', 'nam = "mini"', "the top level has no setting 'nam'; did you mean 'name'?"),
        ('name = "mini"', 'name = "../mini"', "name = '../mini': a name has letters"),
        ("seeds = [0, 1]", "seeds = [1, 1]", r"seeds = \[1, 1\]: should be different"),
        ("seeds = [0, 1]", 'trainers = ["dreamboot"]', "no trainer 'dreamboot'; did you mean 'dreambooth'?"),
        ("equal =", "equl =", r"\[budget\] has no setting 'equl'; did you mean 'equal'?"),
        ("amount = 2", "amount = -2", r"\[budget\] amount = -2: should be greater than 0"),
        ("optimizer = [", "optimiser = [", r"\[grid\] optimiser: dreambooth has no such setting; did you mean 'opt"),
        ('["adamw", "nosuch"]', '"adamw"', r"\[grid\] optimizer = 'adamw': should be a list"),
        ('["adamw", "nosuch"]', '["adamw", "adamw"]', "a value is there twice"),
        ("optimizer = [", "adapter = [", r"\[grid\] adapter is a table: name one of its settings, such as adapter\."),
        ("optimizer =", "batch = [0]\noptimizer =", r"batch = 0: should be greater than or equal to 1"),
        ('precision = "no"', "steps = 4", r"\[base\] steps: the budget decides"),
        ("optimizer =", '"data.folder" = ["a"]\noptimizer =', r"\[grid\] data.folder: all cells learn from the same"),
        ('precision = "no"', 'precison = "no"', "no setting 'precison'; did you mean 'precision'?"),
        ("[evaluation]", '[evaluation]\nscorers = ["jpg"]', "there is no scorer 'jpg'; did you mean 'jpeg'?"),
        ("[evaluation]", '[evaluation]\nreferences = "../x"', "climbs out"),
        ("[grid]", "[dco]\nlr = 1\n[grid]", r"mini.toml: the top level has no setting 'dco'"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line(write: Write, tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        compare.Study.of(write((old, new)), tmp_path / "runs")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "compare needs the TOML file"),
        ("x.toml --on ry://a", "should be local, auto or ray"),
        ("x.toml --jobs -1", "--jobs = -1: should be"),
        ("x.toml", "cannot read the config x.toml"),
        ("x.toml --job 1", "did you mean '--jobs'"),
    ],
)
def test_wrong_options_are_one_line(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["compare", *words.split()]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_cells_are_every_combination_under_names_that_stay(write: Write, tmp_path: Path) -> None:
    few = plan(read(write()), tmp_path / "runs" / "mini", tmp_path / "mini.toml")
    more = ('["adamw", "nosuch"]', '["adamw", "sgd", "nosuch"]\nlr = [1e-3]'), ("seeds = [0, 1]", "seeds = [2, 1]")
    assert [cell.name for cell in few] == [
        "dreambooth-optimizer-adamw-seed-0",
        "dreambooth-optimizer-nosuch-seed-0",
        "dreambooth-optimizer-adamw-seed-1",
        "dreambooth-optimizer-nosuch-seed-1",
    ]
    wider = plan(read(write(more[0])), tmp_path / "runs" / "mini", tmp_path / "mini.toml")
    assert len({cell.name for cell in wider}) == len(wider) == 6
    assert {cell.config.settings.lr for cell in wider} == {1e-3}
    later = plan(read(write(more[1])), tmp_path / "runs" / "mini", tmp_path / "mini.toml")
    assert len({cell.name for cell in few} & {cell.name for cell in later}) == 2


def test_a_trainers_own_grid_is_its_own(write: Write, tmp_path: Path) -> None:
    own = '[dreambooth]\nema = 0.5\n[dreambooth.grid]\n"prior.weight" = [0.0, 1.0]\n[grid]'
    study = compare.Study.of(write(("[grid]", own)), tmp_path)
    assert len(study.cells) == 8
    assert {cell.config.settings.ema for cell in study.cells} == {0.5}
    study.prices = compare_prices.plain(study.cells)
    study.comparison = study.comparison.model_copy(update={"budget": Budget(equal="samples", amount=8)})
    study.budgeted()
    steps = {cell.varied["prior.weight"]: cell.steps for cell in study.cells}
    assert steps == {0.0: 8, 1.0: 4}  # the class pictures count too


def test_names_are_folders_and_differ_where_values_do() -> None:
    values = [1e-4, 1e-5, 0.1, 1, 10, "a b", "a-b", "a/b", "a.b", "", True, None, "x" * 300, "x" * 301, "../y", "äé"]
    names = [named("dreambooth", {"data.thing": value, "adapter.rank": 4}, 0) for value in values]
    assert len(set(names)) == len(values)
    assert all(NAME.fullmatch(name) for name in names)


# --- numbers ------------------------------------------------------------------------------------------------------

IDENTITY = About("identity", "e", "p", "g", needs=("references",))
PROMPT = About("prompt accuracy", "e", "p", "g", needs=("prompts",))
PLACES = [("recontext", f"a {{subject}} {place}", seed) for place in ("here", "there", "away") for seed in (1, 2)]


def evaluation(values: dict[str, list[float]], about: Sequence[About] = (IDENTITY, PROMPT)) -> Evaluation:
    """Sources with a value per place; the numbers of `about` are the same."""
    found = Evaluation([Source(label, "toy", "" if label == "base" else "a.safetensors") for label in values])
    for label, row in values.items():
        start = len(found.pictures)
        found.pictures += [Made(f"{label}/{n}.png", label, s, t, t, t, seed) for n, (s, t, seed) in enumerate(PLACES)]
        numbers, mean = tuple(range(start, start + len(row))), sum(row) / len(row)
        base = sum(values.get("base", row)) / len(row)
        found.scores += [
            Score(one, label, "", mean, mean, mean, len(row), numbers, tuple(row), None if label == "base" else base)
            for one in about
        ]
    return found


def study_of(write: Write, tmp_path: Path) -> tuple[list[Cell], dict[str, Outcome]]:
    """Four cells, the last one failed."""
    cells = compare.Study.of(write(), tmp_path).cells
    outcomes = {cell.name: Outcome(cell.name, "done", seconds=10.0) for cell in cells}
    outcomes[cells[3].name] = Outcome(cells[3].name, "failed", "it broke", 5)
    return cells, outcomes


def test_settings_are_paired_by_prompt_and_seed(write: Write, tmp_path: Path) -> None:
    cells, outcomes = study_of(write, tmp_path)
    hard = [0.1, 0.2, 0.5, 0.6, 0.8, 0.9]  # prompts differ far more than settings do
    values = {"base": [0.0] * 6, cells[0].name: hard, cells[2].name: [v + 0.02 for v in hard],
              cells[1].name: [v + 0.06 for v in hard]}  # fmt: skip
    prices = {cell.setting: Price(1, 2) for cell in cells}
    first, second = compare_table.rows(cells, outcomes, prices, {cells[0].name: 3.0}, evaluation(values))
    key = ("identity", "g", "")
    mean = sum(hard) / 6
    assert first.numbers[key].value == pytest.approx(mean + 0.01)  # over both seeds
    assert first.numbers[key].spread == pytest.approx(0.02 / math.sqrt(2))
    assert first.numbers[key].ahead is None
    ahead = second.numbers[key]
    assert (ahead.runs, ahead.ahead) == (1, pytest.approx(0.05))
    assert (ahead.ahead_low, ahead.ahead_high) == (pytest.approx(0.05), pytest.approx(0.05))  # paired: no scatter left
    assert ahead.high - ahead.low > 0.3
    assert math.isnan(ahead.spread)
    assert second.missing == {cells[3].name: "it broke"}
    assert (first.seconds, first.total, first.calls) == (3.0, 10.0, 2 * first.steps)


def test_results_name_what_failed_and_read_back(write: Write, tmp_path: Path) -> None:
    cells, outcomes = study_of(write, tmp_path)
    values = {"base": [0.1] * 6, cells[0].name: [0.5] * 6, cells[1].name: [0.7] * 6}
    found = evaluation(values)
    rows = compare_table.rows(cells, outcomes, {}, {}, found)
    text = compare_files.as_csv(rows)
    assert f"dreambooth,nosuch,{cells[3].name},it broke" in re.sub(",+", ",", text.replace('"', ""))
    assert len(text.splitlines()) == 1 + 2 * 2 + 1
    kept = json.loads(compare_files.as_json(rows, name="mini"))
    assert [row["numbers"][0]["value"] for row in kept["rows"]] == [pytest.approx(0.5), pytest.approx(0.7)]
    assert kept["rows"][0]["numbers"][0]["spread"] is None
    headlines = compare_plot.headlines(found, rows, Judging())
    assert {name: key[0] for name, key in headlines.items()} == {"identity": "identity", "prompt": "prompt accuracy"}
    lines = compare_files.table(rows, headlines)
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[1][0] == "base model"
    assert "*" in lines[3][2]
    assert compare_plot.absent(rows, Judging(identity="identty"))[0].count("did you mean 'identity'") == 1
    assert compare_plot.pareto(rows, headlines["prompt"], headlines["identity"], tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 5000


def test_merged_evaluations_keep_every_picture_with_its_number(tmp_path: Path) -> None:
    parts = {"a": evaluation({"base": [0.0] * 6, "a": [0.1] * 6}), "b": evaluation({"base": [0.0] * 6, "b": [0.2] * 6})}
    for name, part in parts.items():
        (tmp_path / name / "evaluation").mkdir(parents=True)
        (tmp_path / name / "evaluation" / "evaluation.json").write_text(part.to_json())
    whole = compare_scoring.merged([tmp_path / name / "evaluation" for name in parts], tmp_path)
    assert [source.label for source in whole.sources] == ["base", "a", "b"]
    assert len(whole.pictures) == 18
    for score in whole.scores:
        assert {whole.pictures[number].source for number in score.pictures} == {score.source}
    assert whole.pictures[-1].file == "b/evaluation/b/5.png"
