"""Experiments of a comparison and the page of the papers' orderings: shared cells, verdicts, resuming, cost."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console

from studio import (
    bench_cost,
    bench_methods,
    bench_records,
    bench_sizes,
    cli,
    compare,
    compare_dry,
    compare_union,
    methods_draw,
    methods_orderings,
    methods_page,
    methods_values,
)
from studio.compare_config import read
from studio.compare_show import Show
from studio.compare_workers import Outcome, Task
from studio.methods_claims import Claim, Ordering, found, interval, ordering
from studio.methods_values import BOTH, IDENTITY, TEXT, Place, Table, Values
from studio.pipelines import backbone
from studio.pipelines.adapters import files, lora
from studio.pipelines.errors import DataError, UsageError
from studio.stop import Stop

CONFIGS = Path(__file__).parents[1] / "assets" / "configs"
TEXT_FILE = """
name = "small"
seeds = [0, 1]
subjects = ["fox"]
[budget]
amount = 2
[base]
model = "toy"
precision = "no"
previews = { steps = 2, prompts = ["a {trigger} {class_word}"] }
[evaluation]
sets = ["style", "class"]
scorers = ["personal", "embedded"]
seeds = 1
steps = 2

[[experiment]]
name = "one-picture"
pictures = 1
grid = { "adapter.rank" = [1] }
[[experiment.method]]
name = "LoRA"
trainer = "dreambooth"
[[experiment.method]]
name = "broken"
trainer = "dreambooth"
settings = { optimizer = "nosuch" }

[[experiment]]
name = "consistency"
[[experiment.method]]
name = "DreamBooth"
trainer = "dreambooth"
[[experiment.draw]]
name = "DCO, w_con 1"
of = "DreamBooth"
guidance = { kind = "consistency", w_con = 1.0 }

[[experiment]]
name = "sparse"
[[experiment.method]]
name = "LoRA"
trainer = "dreambooth"
"""


def config(folder: Path, *changes: tuple[str, str]) -> Path:
    """The file; changes: parts of its text, old and new."""
    text = TEXT_FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "small.toml"
    path.write_text(text)
    return path


def study(file: Path, runs: Path) -> compare.Study:
    return compare.Study.of(file, runs)


class Here:
    """A pool that does every task in this process. names: of the tasks that were done."""

    nodes, jobs = False, 1

    def __init__(self) -> None:
        self.names: list[str] = []

    def run(self, tasks: Sequence[Task], stop: Stop) -> Iterator[Outcome | None]:
        for task in tasks:
            self.names.append(task.name)
            work = cli.run if task.module == "studio" else methods_draw.main
            code = work(list(task.words))
            yield Outcome(task.name, "done" if code == 0 else "failed", "" if code == 0 else "said above", code, 1, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("pictures = 1", "picturs = 1", r"'one-picture'\] has no setting 'picturs'; did you mean 'pictures'"),
        ("pictures = 1", "pictures = 2", "pictures = 2: should be less than or equal to 1"),
        ('name = "LoRA"', 'nam = "LoRA"', r"method .*has no setting 'nam'; did you mean 'name'"),
        ('name = "broken"', 'name = "LoRA"', "two rows are called 'LoRA'"),
        ('name = "sparse"', 'name = "consistency"', "two experiments are called 'consistency'"),
        ('"dreambooth"', '"dreamboth"', "no trainer 'dreamboth'; did you mean 'dreambooth'"),
        ('"adapter.rank"', '"adapter.rnk"', "adapter.rnk: dreambooth has no such setting; did you mean 'adapter.rank'"),
        ('"nosuch"', '"adamw", ema = 3', "experiment 'one-picture', broken: .* ema = 3: should be less than 1"),
        ('"nosuch"', '"adamw", steps = 3', "steps: the budget decides the steps"),
        ('of = "DreamBooth"', 'of = "DreamBoot"', "there is no method 'DreamBoot'; did you mean 'DreamBooth'"),
        ("w_con = 1.0", "w_cn = 1.0", "no setting 'w_cn'; did you mean 'guidance.w_con'"),
        ('"consistency", w_con', '"cfg", w_con', "w_con does nothing with cfg guidance"),
        ("amount = 2", 'amount = 2\nequal = "samples"', "experiments are of equal steps"),
        ("[budget]", 'trainers = ["dreambooth"]\n[budget]', r"trainers beside \[\[experiment\]\]"),
        ("[budget]", "[grid]\nlr = [1e-3]\n[budget]", r"grid beside \[\[experiment\]\]"),
        ('subjects = ["fox"]', "", "name its subjects"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        study(config(tmp_path, (old, new)), tmp_path / "runs")
    assert "\n" not in str(error.value)


def test_an_unknown_subject_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no subject 'fx'; did you mean 'fox'"):
        study(config(tmp_path, ('["fox"]', '["fx"]')), tmp_path / "runs")


def test_a_cell_that_experiments_share_is_one_and_keeps_its_name(tmp_path: Path) -> None:
    cells = study(config(tmp_path), tmp_path / "runs").cells
    shared = [cell for cell in cells if len(cell.uses) == 2]
    assert {cell.uses for cell in shared} == {(("consistency", "DreamBooth"), ("sparse", "LoRA"))}
    assert (len(shared), len(cells), len({cell.name for cell in cells})) == (2, 6, 6)
    assert [cell.seed for cell in cells] == [0] * 3 + [1] * 3  # everything once, then the next seed
    alone = [
        ("pictures = 1", "pictures = 0"),
        ('grid = { "adapter.rank" = [1] }', ""),
        ('name = "sparse"', 'name = "s"'),
    ]
    other = study(config(tmp_path, *alone), tmp_path / "runs").cells
    assert {cell.name for cell in shared} <= {cell.name for cell in other}
    same = [cell for cell in other if cell.name in {one.name for one in shared}]
    assert {len(cell.uses) for cell in same} == {3}
    assert {cell.config.settings.data.folder.name for cell in cells if cell.pictures} == {"01.png"}


@pytest.mark.parametrize("name", ["methods.toml", "methods_full.toml", "methods_remedies.toml"])
def test_the_orderings_speak_of_rows_that_the_shipped_configs_have(name: str) -> None:
    comparison = read(CONFIGS / name)
    spoken, one = set(), comparison.model_copy(update={"subjects": comparison.subjects[:1]})
    for experiment in comparison.experiments:
        labels = compare_union.labels(comparison, experiment.name)
        alone = experiment.model_copy(update={"subjects": experiment.subjects[:1]})
        assert compare_union.of_experiment(one, alone, 0, Path("runs"), Path(name))  # every trainer has these settings
        rows = methods_orderings.of(experiment.name, labels)
        spoken |= {experiment.name} if rows else set()
        assert {label for row in rows for claim in row.claims for label in claim.rows} <= set(labels)
    again = {one for one in methods_orderings.BY_EXPERIMENT if one.endswith("-remedies")}
    papers = set(methods_orderings.BY_EXPERIMENT) - again
    assert spoken == ({"merging"} | again if "remedies" in name else papers)
    assert len(comparison.seeds) >= (1 if "remedies" in name else 3)
    assert len(comparison.subjects) >= 5


# --- verdicts -----------------------------------------------------------------------------------------------------

PLACES = [
    Place(subject, seed, group, f"{group} {number}", 1000)
    for subject in ("fox", "dog", "owl", "cat", "bat")
    for seed in range(3)
    for group in ("recontext", "style", "class")
    for number in range(4)
]


def values(shift: float, noise: float = 0.0, seed: int = 0) -> Values:
    """A number at every place: hard and easy subjects and prompts, a shift, and noise of its own."""
    draw = random.Random(seed)
    hard = {place: len(place.subject) + PLACES.index(place) % 7 / 10 + ord(place.subject[0]) / 50 for place in PLACES}
    return {place: hard[place] + shift + draw.gauss(0, noise) for place in PLACES}


def table(**rows: Values) -> Table:
    return {label.replace("_", " "): {TEXT: row, IDENTITY: row} for label, row in rows.items()}


def test_a_verdict_is_where_the_paired_interval_lies() -> None:
    made = table(good=values(0.1, 0.05, 1), plain=values(0.0, 0.05, 2), same=values(0.0, 0.5, 3), gone={})
    better, worse = (methods_orderings.minus(TEXT, *rows) for rows in (("good", "plain"), ("plain", "good")))
    equal, absent = (methods_orderings.minus(TEXT, row, "plain") for row in ("same", "gone"))
    assert [found(claim, made).verdict for claim in (better, worse, equal, absent)] == [
        "holds", "does not hold", "undecided", "no data yet",
    ]  # fmt: skip
    seen = found(better, made)
    assert seen.subjects == (5, 5)
    assert seen.seen.n == 5 * 3 * 8  # without the set that does not call the subject
    assert seen.seen.low < 0.1 < seen.seen.high
    assert seen.seen.high - seen.seen.low < 0.1  # the subjects' own spread, more than 0.3, is paired away


def test_within_is_a_bound_below_zero() -> None:
    made = table(a=values(-0.01, 0.01, 1), b=values(-0.2, 0.01, 2), plain=values(0.0))
    near = [found(methods_orderings.minus(IDENTITY, row, "plain", above=-0.02), made).verdict for row in "ab"]
    assert near == ["holds", "does not hold"]


def test_differences_of_differences_and_sets() -> None:
    made = table(low=values(0.5), high=values(0.1), ours_low=values(0.5), ours_high=values(0.45))
    claim = Claim("w", TEXT, {"low": 1, "high": -1, "ours low": -1, "ours high": 1}, ("style",))
    differences = claim.differences(made)
    assert len(differences) == 5 * 3 * 4
    assert list(differences.values()) == pytest.approx([0.35] * 60)


def test_all_claims_of_one_way_must_hold() -> None:
    made = table(a=values(0.2, 0.01, 1), b=values(0.1, 0.01, 2), c=values(0.0, 0.01, 3), gone={})
    claims = {pair: methods_orderings.minus(TEXT, *pair) for pair in ("ab", "ba", "bc", "ac")}
    absent = methods_orderings.minus(TEXT, "gone", "a")
    assert ordering("", claims["ab"], claims["bc"]).verdict(made) == "holds"
    assert ordering("", claims["ab"], claims["ba"]).verdict(made) == "does not hold"
    assert ordering("", claims["ab"], absent).verdict(made) == "no data yet"
    assert ordering("", claims["ba"], absent).verdict(made) == "does not hold"
    assert Ordering("", ((claims["ba"],), (claims["ac"], claims["bc"]))).verdict(made) == "holds"
    assert ordering("", claims["ab"], beside=[claims["ba"]]).verdict(made) == "holds"  # shown, without a say


def test_the_interval_is_the_wider_of_runs_and_prompts() -> None:
    by_run = {place: 0.3 * (place.subject == "fox") + 0.1 * place.seed for place in PLACES}
    by_prompt = {place: 0.4 * (place.template.endswith("0")) for place in PLACES}
    for one in (by_run, by_prompt):
        seen = interval(one)
        assert seen.high - seen.low > 0.1  # neither spread is averaged away as if pictures were independent
    assert math.isnan(interval({PLACES[0]: 0.5}).low)
    assert (
        found(
            methods_orderings.minus(TEXT, "a", "b"), {"a": {TEXT: {PLACES[0]: 1.0}}, "b": {TEXT: {PLACES[0]: 0.0}}}
        ).verdict
        == "undecided"
    )


def test_both_measures_count_by_their_range() -> None:
    made: Table = {row: {TEXT: {PLACES[0]: x}, IDENTITY: {PLACES[0]: y}} for row, x, y in (("a", 1, 5), ("b", 3, 9))}
    methods_values.combine(made)
    assert {row: numbers[BOTH][PLACES[0]] for row, numbers in made.items()} == {"a": 0.0, "b": 2.0}


# --- at work ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Here, compare.Study]:
    """A comparison that has run: its file and runs, what was done, and what came of it."""
    folder, pool = tmp_path_factory.mktemp("methods"), Here()
    file = config(folder, ("seeds = [0, 1]", "seeds = [1]"))
    with Show("plain") as show:
        made = compare.compare(file, lambda: pool, show, folder / "runs")
    return file, folder / "runs", pool, made


def test_a_failed_cell_loses_no_other(done: tuple[Path, Path, Here, compare.Study]) -> None:
    _, _, pool, made = done
    failed = {cell.uses[0][1] for cell in made.cells if made.outcomes[cell.name].status == "failed"}
    assert failed == {"broken, rank 1"}
    assert (len(made.finished), made.code != 0, made.unjudged) == (2, True, {})
    tables = methods_values.tables(made)
    assert {name: set(rows) for name, rows in tables.items()} == {
        "one-picture": {"LoRA, rank 1"},
        "consistency": {"DreamBooth", "DCO, w_con 1"},
        "sparse": {"LoRA"},
    }
    for rows in tables.values():
        for numbers in rows.values():
            assert {place[:2] for place in numbers[IDENTITY]} == {("fox", 1)}
    assert tables["sparse"]["LoRA"] == tables["consistency"]["DreamBooth"]
    assert {place.set for place in tables["sparse"]["LoRA"]["drift"]} == {"class"}
    assert [name for name in pool.names if "evaluation" in name] == ["fox-1-seed-1.evaluation", "fox-seed-1.evaluation"]


def test_the_same_command_does_only_what_is_missing(done: tuple[Path, Path, Here, compare.Study]) -> None:
    file, runs, _, made = done
    pictures = {path: path.stat().st_mtime_ns for path in (runs / "small").rglob("pictures/*/*.png")}
    pool = Here()
    with Show("plain") as show:
        compare.compare(file, lambda: pool, show, runs)
    failed = [cell.name for cell in made.cells if made.outcomes[cell.name].status == "failed"]
    assert sorted(pool.names) == sorted([*failed, "consistency-seed-1.draws"])
    assert pictures == {path: path.stat().st_mtime_ns for path in (runs / "small").rglob("pictures/*/*.png")}


def test_restored_records_count_as_done_and_say_the_same(
    done: tuple[Path, Path, Here, compare.Study], tmp_path: Path
) -> None:
    file, runs, _, made = done
    bench_records.keep(runs / "small", tmp_path / "small.tar.xz")
    bench_records.restore(tmp_path / "small.tar.xz", tmp_path / "small")
    pool = Here()
    with Show("plain") as show:
        again = compare.compare(file, lambda: pool, show, tmp_path)
    failed = [cell.name for cell in made.cells if made.outcomes[cell.name].status == "failed"]
    assert sorted(pool.names) == sorted([*failed, "consistency-seed-1.draws"])  # which keeps what it has
    assert methods_values.tables(again) == methods_values.tables(made)
    assert again.unjudged == {}
    assert not list(tmp_path.glob("small/*/adapter.safetensors"))


def test_the_page_is_computed_and_keeps_what_a_person_wrote(
    done: tuple[Path, Path, Here, compare.Study], tmp_path: Path
) -> None:
    file, runs, _, _ = done
    page = bench_methods.run(file, runs, tmp_path, Console(quiet=True))
    text = page.read_text()
    assert "2 of 3 runs are done" in text
    assert "unfinished comparison" in text
    assert "| LoRA, rank 1 | 1 |" in text
    assert "**no data yet**: DCO above DreamBooth in prompt accuracy." in text
    assert "/tmp" not in text
    assert str(tmp_path) not in text
    page.write_text(text + "A remedy was tried.\n")
    again = bench_methods.run(file, runs, tmp_path, Console(quiet=True)).read_text()
    assert again == text + "A remedy was tried.\n"
    assert methods_page.NOTES in again


def test_a_run_that_was_made_otherwise_is_left_out_alone(done: tuple[Path, Path, Here, compare.Study]) -> None:
    file, runs, _, made = done
    changed = next(cell for cell in made.finished if cell.pictures)
    text = changed.run.config_file.read_text()
    changed.run.config_file.write_text(re.sub(r"(?m)^lr = .*$", "lr = 0.125", text))
    pool = Here()
    try:
        with Show("plain") as show:
            again = compare.compare(file, lambda: pool, show, runs)
    finally:
        changed.run.config_file.write_text(text)
    assert "lr: 0.125" in again.outcomes[changed.name].reason
    assert changed.name not in pool.names
    assert len(again.finished) == len(made.finished) - 1
    assert methods_values.tables(again)["one-picture"] == {}


def test_a_page_without_runs_says_so(tmp_path: Path) -> None:
    text = bench_methods.run(config(tmp_path), tmp_path / "runs", tmp_path, Console(quiet=True)).read_text()
    assert "0 of 6 runs are done" in text
    assert "**holds**:" not in text
    assert not (tmp_path / "methods.png").exists()


def test_a_dry_run_counts_training_starting_and_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare_dry.show(study(config(tmp_path), tmp_path / "runs"), 2)
    said = capsys.readouterr().out
    assert "6 cells at 2 steps each" in said
    assert "with starting (1:30) and drawing 70 pictures" in said  # 6 x (5 + 5) and, guided, 2 x 5
    assert not (tmp_path / "runs").exists()


def test_an_added_adapter_is_the_sum_and_leaves_no_trace(tmp_path: Path) -> None:
    model = backbone.load("toy")
    paths = []
    for number in (0, 1):
        adapter = lora.Config(rank=1, targets="all").build(model)
        torch.manual_seed(number)
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter)
        paths.append(files.save(model, adapter, tmp_path / f"{number}.safetensors", {}))
        adapter.remove()
    weights = list(model.net.parameters())
    before = [weight.detach().clone() for weight in weights]
    changes = []
    for path in paths:
        with methods_draw.added(model, path):
            changes.append([now.detach() - old for now, old in zip(weights, before, strict=True)])
    assert any(change.abs().max() > 0 for change in changes[0])
    with methods_draw.added(model, paths[0]):
        adapter = files.load(model, paths[1])
        with adapter.merged():
            both = [weight.detach().clone() for weight in weights]
        adapter.remove()
    for now, old, one, two in zip(both, before, *changes, strict=True):
        torch.testing.assert_close(now, old + one + two)
    assert all(torch.equal(now, old) for now, old in zip(weights, before, strict=True))
    assert model.adapter is None


def test_costs_are_ratios_to_the_first(tmp_path: Path) -> None:
    file = config(tmp_path, ('model = "toy"', 'model = "toy"\nadapter = { rank = 1 }'))
    wanted = bench_cost.configs(file, bench_cost.Case("toy", 2))
    assert next(iter(wanted)) == "DreamBooth"
    taken = bench_cost.times({"DreamBooth": wanted["DreamBooth"], "LoRA": wanted["LoRA"]}, 2, 3, tmp_path)
    assert {name: len(rounds) for name, rounds in taken.items()} == {"DreamBooth": 3, "LoRA": 3}
    shipped = bench_cost.configs(CONFIGS / "methods.toml", bench_cost.Case("toy", 2))
    assert shipped["DCO"].settings.beta == bench_cost.BETA  # what is timed is no trial
    words = shipped["ClassDiffusion"]  # its new token must be there
    assert bench_cost.times({"DreamBooth": words}, 1, 1, tmp_path / "words")["DreamBooth"][0] > 0
    twin = shipped[bench_cost.TWIN]
    assert twin.trainer == "dreambooth"
    assert twin.settings.adapter.targets == words.settings.adapter.targets
    assert twin.settings.tokens.words == words.settings.tokens.words
    both = [one.settings.model_dump() | {"adapter": 0, "tokens": 0} for one in (twin, shipped["DreamBooth"])]
    assert both[0] == both[1]
    sides = {"DreamBooth": [1.0, 2.0, 4.0], "DCO": [1.3, 2.6, 6.0], "T-LoRA": [1.2, 2.4, 4.8]}
    peaks = {"DreamBooth": bench_cost.Peak(100, 200), "DCO": bench_cost.Peak(100, 250)}
    lines = list(bench_cost.page(sides, peaks, "command"))
    assert "| DCO | 1.30 | 1.30 to 1.50 | <= 1.40: kept | 1.25 | 1.50 |" in lines
    assert "| T-LoRA | 1.20 | 1.20 to 1.20 | <= 1.15: broken |  |  |" in lines
    beside = {"ClassDiffusion": [1.05, 2.1, 4.2], bench_cost.TWIN: [1.0, 2.0, 4.0]}
    lines = list(bench_cost.page(sides | beside, peaks, "command"))
    assert f"ClassDiffusion beside {bench_cost.TWIN}: 1.05, 1.05 to 1.05, <= 1.10: kept." in lines


def test_a_cost_of_some_methods_on_another_model(tmp_path: Path) -> None:
    case = bench_cost.Case("toy", 1, 64)
    some = bench_cost.configs(CONFIGS / "methods.toml", case, ("T-LoRA",))
    assert list(some) == ["DreamBooth", "T-LoRA"]
    assert {(one.model, one.settings.batch, one.settings.data.resolution) for one in some.values()} == {("toy", 1, 64)}
    with pytest.raises(UsageError, match="no method is called TLoRA; did you mean 'T-LoRA'"):
        bench_cost.configs(CONFIGS / "methods.toml", case, ("TLoRA",))
    words = "--model toy --batch 1 --pixels 64 --steps 2 --rounds 3 --methods T-LoRA DCO"
    assert bench_cost.command(case, 2, 3, ("T-LoRA", "DCO")) == f"python -m studio.bench cost {words}"


def test_without_what_the_others_are_held_against_there_is_no_page(tmp_path: Path) -> None:
    case = bench_cost.Case(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="DreamBooth: .*nowhere"):
        bench_cost.run(CONFIGS / "methods.toml", case, 1, 1, tmp_path / "pages", Console(quiet=True), ("T-LoRA",))
    assert not (tmp_path / "pages").exists()


def test_a_model_to_measure_with_has_stable_diffusions_shapes(tmp_path: Path) -> None:
    with torch.device("meta"):
        parts = [bench_sizes.unet(), bench_sizes.autoencoder()]
    # 859,520,964 and 83,653,863: what the published weights hold
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [859_520_964, 83_653_863]
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        bench_sizes.write(tmp_path)
