"""The benchmark of rewards: curves to levels, verdicts, the page, and two small races on the toy model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from studio import bench_reward, bench_reward_config, bench_reward_findings, bench_reward_lcm, bench_reward_plot
from studio import bench_reward_text as text
from studio import bench_reward_text_race as race_text
from studio.bench_reward import Bench
from studio.bench_reward_cells import Cell, cells, guarding, minutes, trials
from studio.bench_reward_config import Before, Race, Recipe, Study, Sweep
from studio.bench_reward_curves import Curve, Point, asked, at, clock, curve, looked, reach, times
from studio.bench_reward_findings import Known, first, kept, swept
from studio.bench_reward_races import Side, beside, equal, laps, raced
from studio.bench_reward_sheet import FILE, Row, Sheet
from studio.bench_reward_summary import summary
from studio.events import Event
from studio.methods_page import NOTES
from studio.pipelines.errors import UsageError
from studio.store import Run

CONFIG = Path(__file__).parents[1] / "assets" / "configs" / "reward.toml"
TOY = """
model = "toy"
seeds = [0]
[base]
precision = "no"
adapter = { rank = 2 }
guard = { every = 0 }
sampler_steps = 2
guidance_scale = 1.0
prompts = { texts = ["a dog", "a cat"], held_out = ["a fox"] }
previews = { prompts = ["a fox"], steps = 1 }
[measure]
terms = ["jpeg-size", "jpeg-soft-bits", "embedded-subject"]
pictures = 2
batch = 2
[run.ours]
about = "AlignProp"
trainer = "alignprop"
draw = { steps = 2, guidance_scale = 1.0 }
also = [1]
[run.ours.settings]
steps = 3
batch = 2
save_every = 1
keep_last = 1
keep_steps = [1]
reward = { terms = ["-1*jpeg-soft-bits"] }
[run.theirs]
about = "DDPO"
trainer = "ddpo"
settings = { steps = 2, rollout = 2, batch = 2, save_every = 1, reward = { terms = ["-1*jpeg-size"] } }
draw = { steps = 2, guidance_scale = 1.0, eta = 1.0 }
[[race]]
experiment = "queries"
name = "size"
run = "ours"
against = "theirs"
number = "jpeg-size"
better = "lower"
"""


def known(seed: int, values: Sequence[float], cost: float = 10.0, number: str = "reward", **others: float) -> Known:
    """A run measured at steps 0, 1, 2, ..., each of which cost as much."""
    points = [Point(step, cost * step, 2 * cost * step, {number: value, **others}) for step, value in enumerate(values)]
    rows = [Row(p.step, 4, "", dict(p.numbers), 0.5, 8, {number: [[p.numbers[number]] * 4] * 2}) for p in points]
    return Known(seed, Curve(tuple(points)), Sheet(rows), 4)


RUNS = {"ours": Recipe(about="AlignProp", trainer="alignprop"), "theirs": Recipe(about="DDPO", trainer="ddpo")}
RACE = Race(experiment="queries", name="r", run="ours", against="theirs", number="reward", bar=10)


def test_the_best_level_of_a_run_that_falls_back_is_a_level_too() -> None:
    runs = {"ours": [known(0, [0, 1, 2, 3])], "theirs": [known(0, [0, 0, 0, 2, -1])]}
    (end,), (best,) = laps(RACE, runs), laps(RACE, runs, "best")
    assert (end.level, end.rose, end.already) == (-1, False, True)
    assert (best.level, best.rose, best.theirs, best.mine, best.ratio) == (2, True, 30, 20, 1.5)
    assert laps(RACE, runs | {"theirs": runs["ours"]}, "best") == laps(RACE, runs | {"theirs": runs["ours"]})


def test_a_level_is_reached_on_the_line_between_two_points() -> None:
    assert reach([0, 10, 20], [0, 1, 2], 1.5) == 15
    assert reach([0, 10, 20], [0, 1, 2], 0.0) == 0
    assert reach([0, 10, 20], [0, 1, 2], 2.1) is None
    assert reach([0, 10, 20, 30], [0, 2, 1, 3], 2.0) == 10  # the first time
    assert reach([0, 10, 20], [0, math.nan, 2], 1.0) == 10  # over what was not measured


def test_a_value_lies_on_the_line_between_two_points() -> None:
    assert at([0, 10], [0, 1], 5) == 0.5
    assert at([0, 10], [0, 1], 99) == 1
    assert at([0, 10, 20], [0, math.nan, 4], 5) == 1
    assert math.isnan(at([0], [math.nan], 0))


def test_reaching_is_monotone_in_the_level_and_the_inverse_of_at() -> None:
    x, y = [0.0, 3.0, 7.0, 20.0], [-1.0, 0.5, 0.6, 4.0]
    places = [reach(x, y, level / 10) for level in range(-10, 41)]
    assert places == sorted(place for place in places if place is not None)
    assert all(
        abs(at(x, y, place or 0) - level / 10) < 1e-9 for level, place in zip(range(-10, 41), places, strict=True)
    )


def train(step: int, time: float, **numbers: float) -> Event:
    return Event("train", step, {"loss": 1.0, **numbers}, time=time)


def test_time_is_that_of_training_alone() -> None:
    events = [
        Event("load", time=0.0), train(1, 5.0), train(2, 7.0), train(3, 9.0),
        Event("preview", 3, event="preview", time=50.0), train(4, 60.0),
        Event("load", 4, event="message", time=500.0), train(4, 510.0), train(5, 512.0),
    ]  # fmt: skip
    assert clock(events) == {1: 2, 2: 4, 3: 6, 4: 8, 5: 10}


def test_waiting_for_a_core_is_not_training() -> None:
    held = [replace(train(step, 100.0 * step), fields={"busy": 2.0 * step}) for step in (1, 2, 3)]
    assert clock(held) == {1: 2, 2: 4, 3: 6}


def test_a_process_that_began_anew_counts_its_seconds_from_0_again() -> None:
    """A run that was killed and went on, without a word between."""
    rows = [(1, 0.0, 10.0), (2, 5.0, 12.0), (3, 50.0, 4.0), (4, 60.0, 6.0)]
    events = [replace(train(step, time), fields={"busy": busy}) for step, time, busy in rows]
    assert clock(events) == {1: 2, 2: 4, 3: 6, 4: 8}


def test_queries_are_those_that_the_events_say() -> None:
    assert asked([train(1, 0, queries=16), train(2, 0, queries=16), train(3, 0, queries=32)]) == {1: 16, 2: 16, 3: 32}
    made = curve({0: {"r": 1.0}, 2: {"r": 2.0}, 9: {"r": 3.0}}, {1: 1.0, 2: 2.0}, {1: 16, 2: 32})
    assert [(p.step, p.queries, p.seconds) for p in made.points] == [(0, 0, 0), (2, 32, 2)]


def test_ratios_have_a_geometric_mean_and_an_interval_around_it() -> None:
    seen = times([10, 20, 40], [0, 1, 2])
    assert seen.value == pytest.approx(20)
    assert 0 < seen.low < 10
    assert seen.high > 40
    assert times([math.inf, math.nan, 0], [0, 1, 2]).n == 0


def test_a_race_is_to_the_level_that_the_other_ends_with() -> None:
    runs = {"ours": [known(s, [0, 4], 1) for s in range(3)], "theirs": [known(s, [0, 1, 2], 20) for s in range(3)]}
    found = laps(RACE, runs)
    assert [(one.level, one.theirs, one.mine, one.ratio) for one in found] == [(2, 40, 1, 40)] * 3
    assert raced(found, 10) == "holds"
    assert raced(found, 100) == "does not hold"
    assert raced(found[:2], 10) == "undecided"
    assert raced([], 10) == "no data yet"
    [one, *_] = equal(RACE, "seconds", runs)
    assert one.where == 2  # seconds of the shorter run
    assert (one.ours, one.theirs) == (4, 0.05)


def test_less_may_be_better() -> None:
    race = RACE.model_copy(update={"better": "lower"})
    runs = {"ours": [known(0, [5, 1], 1)], "theirs": [known(0, [5, 4, 3], 20)]}
    [found] = laps(race, runs)
    assert (found.level, found.mine, found.theirs) == (-3, 1, 40)
    assert equal(race, "queries", runs)[0].ahead > 0


def test_what_is_not_reached_does_not_hold_and_is_never_dropped() -> None:
    runs = {"ours": [known(s, [0, 1], 1) for s in range(3)], "theirs": [known(s, [0, 2], 90) for s in range(3)]}
    found = laps(RACE, runs)
    assert [one.reached for one in found] == [False] * 3
    assert raced(found, 10) == "undecided"
    assert "0 of 3 seeds reach it" in race_text.ratio(found)
    assert "not in" in race_text.row(RACE, found[0])


def test_what_the_level_was_come_to_with_is_read_where_each_is_there() -> None:
    """The run at its first checkpoint there, the other at its end; a seed that does not come there is left out."""
    ours = [known(0, [0, 1, 2, 3]), known(1, [0, 1, 1, 1])]
    ours = [replace(one, curve=with_numbers(one.curve, [0.9, 0.8, 0.7, 0.6])) for one in ours]
    theirs = [replace(known(s, [0, 2]), curve=with_numbers(known(s, [0, 2]).curve, [0.5, 0.4])) for s in (0, 1)]
    runs = {"ours": ours, "theirs": theirs}
    assert beside(RACE, "kept", runs) == [Side(0, (0.9, 0.7), (0.5, 0.4))]
    race = RACE.model_copy(update={"beside": ("kept", "elsewhere")})
    first, second, *_ = race_text.besides(race, runs, "AlignProp", "DDPO")
    assert first == "- kept at the level that DDPO ends with: AlignProp 0.7 (0.9 untrained),"
    assert second == "  DDPO 0.4 (0.5 untrained)."


def with_numbers(curve: Curve, values: Sequence[float]) -> Curve:
    """The curve with a number `kept` besides."""
    both = zip(curve.points, values, strict=True)
    return Curve(tuple(replace(point, numbers={**point.numbers, "kept": value}) for point, value in both))


def test_a_run_that_gained_nothing_sets_no_level() -> None:
    runs = {"ours": [known(s, [0, 1], 1) for s in range(3)], "theirs": [known(s, [0, -1], 90) for s in range(3)]}
    assert raced(laps(RACE, runs), 10) == "nothing gained to reach"
    assert "no gain to reach" in race_text.ratio(laps(RACE, runs))


def test_a_gain_within_the_noise_of_the_pictures_sets_no_level() -> None:
    """0.002 of a lap, after which a line from step 0 on says a thirtieth of a query."""
    ours = [known(s, [0, 1], 8) for s in range(3)]
    theirs = [known(s, [0, 0.002], 80) for s in range(3)]
    noisy = [[0.4, -0.3, 0.1, -0.2], [0.3, -0.4, 0.2, -0.084]]  # 0.002 on average
    for one in theirs:
        one.sheet.rows[1] = replace(one.sheet.rows[1], each={"reward": noisy})
    found = laps(RACE, {"ours": ours, "theirs": theirs})
    assert [one.rose for one in found] == [False] * 3
    assert raced(found, 10) == "nothing gained to reach"
    said = " ".join(race_text.racing(bench_reward_config.read(CONFIG).model_copy(update={"run": RUNS}), RACE,
                                     {"ours": ours, "theirs": theirs}))  # fmt: skip
    assert "DDPO gained nothing" in said
    assert "at equal queries (8 reward queries): AlignProp has gained +1 [+1, +1], DDPO +0.0002" in said
    assert "at equal seconds (16 s of training)" in said


def test_a_ratio_counts_at_least_one_update() -> None:
    """A gain that is real and tiny: the run is there with its first update, and no sooner."""
    ours = [known(s, [0, 1], 8) for s in range(3)]
    theirs = [known(s, [0, 0.002], 80) for s in range(3)]
    assert [(one.mine, one.ratio) for one in laps(RACE, {"ours": ours, "theirs": theirs})] == [(8, 10)] * 3
    late = [replace(one, curve=Curve((one.curve.points[0], replace(one.curve.points[1], step=4)))) for one in ours]
    assert late[0].curve.update("queries") == 2
    assert [one.mine for one in laps(RACE, {"ours": late, "theirs": theirs})] == [8] * 3


def test_one_that_starts_above_the_level_must_gain_as_much_too() -> None:
    runs = {"ours": [known(s, [5, 6, 7], 1) for s in range(3)], "theirs": [known(s, [0, 1, 2], 20) for s in range(3)]}
    assert [one.ratio for one in laps(RACE, runs)] == [40] * 3  # as if it had taken an update
    assert raced(laps(RACE, runs), 10) == "there from the start"
    assert [one.ratio for one in laps(RACE, runs, "gain")] == [20] * 3


def test_a_sweep_says_who_loses_diversity_first() -> None:
    sweep = Sweep(experiment="truncation", name="s", runs=("one", "full"), number="reward")

    def run(seed: int, shares: Sequence[float]) -> Known:
        points = (Point(n, n, n, {"reward": n, "diversity": 3 * share}) for n, share in enumerate(shares))
        return Known(seed, Curve(tuple(points)), Sheet(), 4)

    runs = {"one": [run(s, [1, 0.9, 0.7]) for s in range(3)], "full": [run(s, [1, 0.5, 0.6]) for s in range(3)]}
    assert [one.gone for one in swept(sweep, "full", runs)] == [1] * 3
    assert swept(sweep, "full", runs)[0].left == 0.5
    assert first(sweep, runs) == "full"
    assert first(sweep, {**runs, "one": [run(s, [1, 0.5, 0.5]) for s in range(3)]}) == ""


def test_a_guards_first_look_is_of_the_start() -> None:
    """Its number comes with the first look's event."""
    first = {"heldout/x": 0.4, "start/heldout/x": 0.5, "heldout/y": 9.0}
    assert looked([train(1, 0), train(2, 0, **first), train(4, 0, **{"heldout/x": 0.6})], "x") == {
        0: 0.5,
        2: 0.4,
        4: 0.6,
    }


def test_what_should_stay_may_not_fall() -> None:
    before = Before(experiment="personal", name="p", run="ours", numbers=("a", "b"), keep=("a",), bar=0.05)

    def run(seed: int, a: float, b: float) -> Known:
        points = (Point(0, 0, 0, {"a": 1.0, "b": 1.0}), Point(1, 1, 1, {"a": a, "b": b}))
        return Known(seed, Curve(points), Sheet(), 4)

    assert kept(before, {"ours": [run(s, 0.96, 1.2) for s in range(3)]}) == "holds"
    assert kept(before, {"ours": [run(s, 0.90, 1.2) for s in range(3)]}) == "does not hold"
    assert kept(before, {"ours": [run(s, 0.8 + 0.2 * s, 1.2) for s in range(3)]}) == "undecided"
    assert kept(before, {"ours": [run(s, 1.00, 0.9) for s in range(3)]}) == "does not hold"
    assert kept(before, {}) == "no data yet"


def test_the_shipped_study_is_of_runs_that_can_be() -> None:
    study = bench_reward_config.read(CONFIG)
    made = cells(study, study.runs(), study.seeds, Path("build"), CONFIG)
    assert len(study.seeds) >= 3
    assert {cell.config.trainer for cell in made} == {"alignprop", "ddpo", "rlcm"}
    assert all(cell.config.settings.save_every for cell in made)
    tried = trials(study, study.runs(), Path("build"), CONFIG)
    assert {cell.config.settings.lr for cell in tried if cell.config.trainer == "alignprop"} == {3e-3, 0.3}
    found = {(one.pathwise, one.lr) for one in (cell.config.settings for cell in tried) if hasattr(one, "pathwise")}
    assert found == {(1.0, 1e-3), (10.0, 1e-3), (100.0, 1e-3)}
    total = sum(map(minutes, [*tried, *made])) + bench_reward_lcm.MINUTES
    assert 120 < total < 400  # about three hours of two cores
    personal = next(cell for cell in made if cell.recipe == "personal")
    assert personal.before is not None
    assert personal.before.config.trainer == "dreambooth"
    assert str(personal.config.settings.start).endswith("fox-0")


def test_a_guards_looks_count_in_the_minutes_of_a_cell() -> None:
    study = bench_reward_config.read(CONFIG)
    guarded, free = (Cell(study, name, 0, Path("build"), CONFIG).config.settings for name in ("hack", "hack-free"))
    assert guarding(free) == 0
    looks = 1 + guarded.steps // guarded.guard.every
    often = guarded.model_copy(update={"guard": guarded.guard.model_copy(update={"every": guarded.steps})})
    assert guarding(guarded) == pytest.approx(guarding(often) * looks / 2)  # with every = steps: the start and the end
    dreambooth = Cell(study, "fox", 0, Path("build"), CONFIG).config.settings
    assert guarding(dreambooth) == 0


def test_a_run_may_have_seeds_of_its_own_besides_the_studys() -> None:
    study = bench_reward_config.read(CONFIG)
    made = cells(study, study.runs(), study.seeds, Path("build"), CONFIG)
    seeds = {name: [cell.seed for cell in made if cell.recipe == name] for name in study.runs()}
    assert all(seeds[name] == [*study.seeds, *study.run[name].more_seeds] for name in seeds)
    assert any(study.run[name].more_seeds for name in seeds)
    assert [cell.seed for cell in made] == sorted(cell.seed for cell in made)
    assert {cell.seed for cell in cells(study, study.runs(), [1], Path("build"), CONFIG)} == {1}
    counted = study.model_copy(update={"trial": (study.trial[0].model_copy(update={"seeds": (99, 4)}),)})
    with pytest.raises(ValueError, match=r"trial.seeds: 4 is one of the seeds that count"):
        counted.known()


def test_a_sweep_is_of_the_seeds_that_its_runs_share() -> None:
    sweep = Sweep(experiment="s", name="s", runs=("a", "b"), number="a", collapse=0.8)

    def run(seed: int) -> Known:
        return Known(seed, Curve((Point(0, 0, 0, {"a": 1.0}), Point(1, 1, 1, {"a": 2.0}))), Sheet(), 4)

    runs = {"a": [run(seed) for seed in range(5)], "b": [run(seed) for seed in range(3)]}
    assert [[one.seed for one in swept(sweep, name, runs)] for name in ("a", "b")] == [[0, 1, 2], [0, 1, 2]]
    assert len(swept(sweep, "a", {"a": runs["a"]})) == 5


def test_runs_that_are_compared_share_what_they_should() -> None:
    study = bench_reward_config.read(CONFIG)
    for race in study.race:
        ours, theirs = (
            Cell(study, name, 0, Path("build"), CONFIG).config.settings for name in (race.run, race.against)
        )
        assert ours.prompts == theirs.prompts
        assert ours.lr == theirs.lr
        if race.experiment == "rlcm":
            for name in ("rollout", "batch", "adapter", "optimizer", "group", "updates", "epochs", "beta"):
                assert getattr(ours, name) == getattr(theirs, name), name
        if race.experiment == "queries":
            assert study.run[race.run].draw == study.run[race.against].draw
            for name in ("sampler_steps", "guidance_scale", "eta", "adapter"):
                assert getattr(ours, name) == getattr(theirs, name), name


def test_a_run_that_nobody_describes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "reward.toml"
    file.write_text(TOY.replace('run = "ours"', 'run = "our"'))
    with pytest.raises(UsageError, match="did you mean 'ours'"):
        bench_reward_config.read(file)


def test_the_page_is_of_what_is_there_and_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    study = Study.model_validate(bench_reward_config.read(CONFIG).model_dump())
    runs = {
        "alignprop-size": [known(s, [3, 1], 1, "jpeg-size", diversity=0.5) for s in range(3)],
        "ddpo-size": [known(s, [3, 2], 90, "jpeg-size", diversity=0.5) for s in range(3)],
    }
    file = tmp_path / "reward.md"
    assert bench_reward_plot.write(study, runs, file.with_suffix(".png"))
    for _ in range(2):
        text.write(text.page(study, runs, (6, 36), "By a test.", "reward.png", []), file)
        said = file.read_text()
        file.write_text(said if "by hand" in said.partition(NOTES)[2] else said + "by hand\n")
    assert "**holds**: at least 10 times fewer queries" in said
    assert "90 [90, 90] times, 3 of 3 seeds reach it" in said
    assert "unfinished" in said
    assert said.count(NOTES) == 1
    assert said.endswith("by hand\n")
    assert "No data yet." in said


def test_the_head_of_the_page_says_what_became_of_every_bar() -> None:
    study = bench_reward_config.read(CONFIG)
    runs = {
        "alignprop-size": [known(s, [3, 1], 1, "jpeg-size", diversity=0.5) for s in range(3)],
        "ddpo-size": [known(s, [3, 2], 90, "jpeg-size", diversity=0.5) for s in range(3)],
    }
    said, bare = list(summary(study, runs, [])), list(summary(study, {}, []))
    assert [line.count("**holds**, 90 [90, 90]") for line in said if "AlignProp, random K" in line] == [3, 0]
    assert not any("holds" in line for line in bare)
    bars = len(study.race) + len(study.hack) + len(study.before) + 1
    assert sum("no data yet" in line for line in bare) == bars
    assert len(said) == len(bare) == bars + 1 + 6  # memory; heads of two tables, and what parts them


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
def test_a_cell_is_an_ordinary_run_and_nothing_is_done_twice(tmp_path: Path) -> None:
    """Trained, measured at every checkpoint and its start; the same command again changes nothing."""
    file = tmp_path / "reward.toml"
    file.write_text(TOY)
    study = bench_reward_config.read(file)
    bench = Bench("queries", config=file, out=tmp_path / "runs", pages=tmp_path / "pages")
    console = Console(quiet=True)
    made = cells(study, study.runs(), study.seeds, bench.out, file)
    assert not any(map(bench_reward.finished, made))
    for cell in made:
        bench_reward.one(cell, console)
    assert all(map(bench_reward.finished, made))
    ours, theirs = (Sheet.read(cell.run) for cell in made)
    assert [(row.step, row.sampler_steps) for row in ours.rows] == [(0, 2), (0, 1), (1, 2), (3, 2), (3, 1)]
    assert "embedded-subject" not in ours.rows[0].numbers  # there are no references
    assert {"jpeg-size", "jpeg-soft-bits", "diversity"} <= set(ours.rows[0].numbers)
    each = ours.rows[0].each["jpeg-soft-bits"]
    assert [len(row) for row in each] == [2]  # pictures of the one held-out prompt
    assert sum(each[0]) / 2 == pytest.approx(ours.rows[0].numbers["jpeg-soft-bits"], abs=1e-5)
    assert len({row.numbers["jpeg-soft-bits"] for row in theirs.rows}) == 3  # every checkpoint draws its own
    before = {path: path.stat().st_mtime_ns for cell in made for path in cell.run.folder.rglob("*")}
    for cell in made:
        bench_reward.one(cell, console)
    assert before == {path: path.stat().st_mtime_ns for cell in made for path in cell.run.folder.rglob("*")}
    found = bench_reward_findings.gather(made)
    assert found["ours"][0].curve.along("queries") == [0, 2, 6]
    assert found["theirs"][0].curve.along("queries") == [0, 2, 4]
    assert all(value > 0 for value in found["ours"][0].curve.along("seconds")[1:])
    bench_reward.page(bench, study, console)
    said = (bench.pages / "reward.md").read_text()
    assert "2 of 2 runs are done" in said
    assert "No GPU figure was made" in said
    (made[0].run.folder / FILE).unlink()
    assert not bench_reward.finished(made[0])
    bench_reward.page(bench, study, console)  # half measured, it would seem to end earlier
    assert "1 of 2 runs are done" in (bench.pages / "reward.md").read_text()
    assert Run(made[0].run.folder).state() == "done"
