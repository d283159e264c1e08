"""Which checkpoint is recommended: laws of the decision, and that deciding changes nothing of the run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from studio import bench_choice, checkpoints, choice_file, choice_plot, choice_words, export, plan_choice
from studio.bench_choice import spearman
from studio.choice import Gap, Marks, Ranking, Scale
from studio.choice_exam import CLASS, held_out
from studio.choice_file import Ledger
from studio.choice_pick import pick
from studio.evaluation.personal_wishes import wishes
from studio.events import Event
from studio.pipelines.adapters import files
from studio.pipelines.encoders import judges
from studio.pipelines.errors import DataError, ModelError, UsageError
from studio.stop import Stopped
from studio.store import Run
from studio.train import train
from studio.trainers.base import Choice
from tests import runs

PROMPTS, PICTURES = 8, 16
SCALE = Scale((0.4, 0.9))


def marks(step: int, identity: Any, prompt: Any, strength: float = 1.0) -> Marks:
    """A candidate; numbers stand for as many pictures."""
    columns = (np.broadcast_to(np.asarray(values, float), PICTURES).tolist() for values in (identity, prompt))
    return Marks(step, strength, *map(tuple, columns))


def ranked(*candidates: Marks, scale: Scale = SCALE, prompts: int = PROMPTS) -> Ranking:
    return Ranking(list(candidates), scale, prompts)


def picked(*candidates: Marks, scale: Scale = SCALE) -> Marks:
    ranking = ranked(*candidates, scale=scale)
    return ranking.marks[ranking.pick()]


def course(number: int, candidates: int = 5) -> list[Marks]:
    """Checkpoints as a run leaves them: identity up to a ceiling, prompts down, prompts and seeds alike for all."""
    random = np.random.default_rng(number)
    pictures, noise = random.normal(0, 0.08, (2, PICTURES)), random.normal(0, 0.03, (candidates, 2, PICTURES))
    steps = np.arange(1, candidates + 1)
    identity = 0.45 + 0.3 * (1 - np.exp(-steps / random.uniform(0.5, 3)))
    prompt = 0.95 - random.uniform(0, 0.1) * steps
    return [
        marks(100 * step, identity[i] + pictures[0] + noise[i, 0], np.clip(prompt[i] + pictures[1] + noise[i, 1], 0, 1))
        for i, step in enumerate(steps.tolist())
    ]


@pytest.mark.parametrize("number", range(6))
def test_the_order_of_candidates_prompts_and_seeds_changes_nothing(number: int):
    given, random = course(number), np.random.default_rng(number)
    straight = ranked(*given)
    prompts, seeds = random.permutation(PROMPTS), random.permutation(PICTURES // PROMPTS)
    order = [PROMPTS * seed + prompt for seed in seeds for prompt in prompts]
    shuffled = [
        replace(one, identity=tuple(one.identity[i] for i in order), prompt=tuple(one.prompt[i] for i in order))
        for one in given
    ]
    other = ranked(*(shuffled[i] for i in random.permutation(len(given))))
    assert straight.pick() == other.pick()
    for one in range(len(given)):
        assert straight.row(one) == other.row(one)


@pytest.mark.parametrize("number", range(12))
def test_a_checkpoint_that_another_one_beats_in_both_is_never_picked(number: int):
    random = np.random.default_rng(number)
    given = course(number)
    better = given[random.integers(len(given))]
    less = [(np.array(values) - random.uniform(0.02, 0.1)).tolist() for values in (better.identity, better.prompt)]
    beaten = marks(int(random.integers(1, 700)), *less)
    assert picked(*given, beaten).order != beaten.order


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_of_equals_the_earliest_and_weakest_is_picked(strength: float):
    one = marks(300, np.linspace(0.5, 0.8, PICTURES), np.linspace(0.8, 1, PICTURES))
    equals = [replace(one, step=step, strength=x) for step in (500, 300, 400) for x in (1.2, strength, 2.0)]
    assert picked(*equals).order == (300, strength)


def test_noise_alone_picks_the_earliest_far_more_often_than_chance():
    first = 0
    for number in range(100):
        noise = np.random.default_rng(number).normal(0, 0.05, (4, 2, PICTURES))
        first += picked(*(marks(step, 0.7 + noise[step, 0], 0.8 + noise[step, 1]) for step in range(1, 4))).step == 1
    assert first >= 60


@pytest.mark.parametrize("number", range(12))
def test_where_only_the_prompts_fall_after_a_step_none_after_it_is_picked(number: int):
    given, turn = course(number, 6), 3
    peak = given[turn - 1]
    after = [
        replace(
            one, identity=peak.identity, prompt=tuple(value - 0.08 * (one.step / 100 - turn) for value in peak.prompt)
        )
        for one in given[turn:]
    ]
    assert picked(*given[:turn], *after).step <= peak.step


def test_identity_that_clearly_rises_at_no_cost_picks_the_last():
    given = [marks(step, 0.5 + 0.05 * step + np.linspace(-0.1, 0.1, PICTURES), 0.9) for step in range(1, 6)]
    assert picked(*given).step == 5


@pytest.mark.parametrize("weight", [0.0, 1.0, 4.0])
def test_the_points_are_a_mean_and_rise_in_both(weight: float):
    scale = replace(SCALE, weight=weight)
    assert scale.points(np.array([0.0, 1.0, 0.7]), np.array([0.0, 1.0, 0.7])) == pytest.approx([0, 100, 70])
    identity, prompt = np.meshgrid(np.linspace(0.45, 0.85, 9), np.linspace(0.1, 0.9, 9))
    points = scale.points(identity, prompt)
    assert (np.diff(points, axis=0) > 0).all()
    assert (np.diff(points, axis=1) > 0).all() or not weight


def test_identity_counts_as_much_as_its_weight_says():
    """Two checkpoints that trade ten points of prompt accuracy for four of identity."""
    likeness, obedience = marks(200, 0.74, 0.85), marks(100, 0.70, 0.95)
    assert picked(likeness, obedience).step == 100
    assert picked(likeness, obedience, scale=replace(SCALE, weight=3.0)).step == 200


def test_a_base_model_that_is_worth_as_much_is_named():
    final = ranked(marks(100, 0.7, 0.9))
    assert choice_words.doubt(final, 79.0) == ""
    assert "81 points, this 80" in choice_words.doubt(final, 81.0)


def test_one_picture_says_nothing_about_its_noise_so_the_earliest_is_picked():
    few = [Marks(step, 1.0, (0.4 + 0.1 * step,), (0.9,)) for step in (1, 2, 3)]
    ranking = Ranking(few, SCALE, 1)
    assert ranking.pick() == 0
    assert ranking.row(0)["low"] is None


def test_a_picture_without_a_number_counts_for_no_candidate_and_none_at_all_is_said():
    nan, given = float("nan"), course(1)
    holes = [replace(given[0], identity=(nan, *given[0].identity[1:])), *given[1:]]
    cut = [replace(one, identity=(0.5, *one.identity[1:]), prompt=(0.5, *one.prompt[1:])) for one in given]
    cut = [replace(cut[0], identity=(nan, *cut[0].identity[1:])), *cut[1:]]
    assert ranked(*holes).row(2) == ranked(*cut).row(2)
    with pytest.raises(DataError, match="no finite values"):
        ranked(marks(1, nan, 1))


def test_nothing_beats_a_member_of_the_front_in_both():
    ranking = ranked(*course(3), *course(4))
    x, y = ranking.means["identity"], ranking.means["prompt"]
    front = ranking.front()
    assert ranking.best in front
    for one in range(len(x)):
        beaten = any(x[a] >= x[one] and y[a] >= y[one] and (x[a], y[a]) != (x[one], y[one]) for a in range(len(x)))
        assert (one in front) != beaten


@pytest.mark.parametrize("number", range(12))
def test_who_follows_prompts_best_of_those_that_nothing_beats_is_tried_at_every_strength(number: int):
    ranking = ranked(*course(number), *course(number + 50))
    prompt, beaten = ranking.means["prompt"], ranking.beaten()
    leaders = ranking.leaders(2)
    assert ranking.pick() in leaders
    assert ranking.obedient in leaders
    assert ranking.obedient in ranking.front()
    assert ranking.obedient not in beaten
    assert all(prompt[one] <= prompt[ranking.obedient] for one in ranking.front() if one not in beaten)
    assert len(ranking.leaders(4)) == 4


def test_the_reason_says_what_the_identity_costs_in_prompt_accuracy():
    wave, noise = np.linspace(-0.02, 0.02, PICTURES), 0.1 * np.sin(np.arange(PICTURES) * 2.4)
    final = ranked(marks(50, 0.5, 1), marks(100, 0.8 + wave, 0.94 - wave), marks(200, 0.88 + noise, 0.90 - wave))
    assert [final.marks[one].step for one in (final.pick(), final.obedient)] == [200, 100]
    identity = final.gap("identity", 1, 2)
    said = choice_words.reason(final, final)
    assert said.endswith(f"step 100 instead: identity {choice_words.number(identity)}, prompt accuracy +4 points")
    assert identity.mean < 0
    assert "instead" not in choice_words.reason(ranked(final.marks[1]), ranked(final.marks[1]))


def test_the_plot_shows_each_candidate_once_and_nothing_above_its_front():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    given = course(3)
    weaker = [replace(one, strength=0.6) for one in course(4)[:3]]
    final = ranked(*given, *weaker)
    choice_plot.draw(axes, final, (0.4, 1.0))
    named: dict[str, Any] = {
        artist.get_gid(): artist for artist in (*axes.collections, *axes.lines) if artist.get_gid()
    }
    shown = np.concatenate([named[name].get_offsets() for name in ("checkpoints", "others")])
    every = np.stack([final.means["prompt"] * 100, final.means["identity"]], -1)
    assert sorted(map(tuple, shown.tolist())) == sorted(map(tuple, every.tolist()))
    front = np.asarray(named["front"].get_xydata())
    for one in every:
        assert (front == one).all(1).any() or (front >= one).all(1).any()
    assert not any((every >= one).all(1).sum() > 1 for one in front)


def test_the_reason_says_what_the_numbers_say():
    wave = np.linspace(-0.1, 0.1, PICTURES)
    given = [marks(200, 0.6 + wave, 0.95), marks(400, 0.8 + wave, 0.94)]
    given.append(marks(500, 0.802 + wave + 0.02 * np.sin(np.arange(PICTURES) * 2.4), 0.88))
    curve = ranked(*given)
    final = ranked(given[1], replace(given[1], strength=0.6, identity=tuple(v - 0.1 for v in given[1].identity)))
    said = choice_words.reason(curve, final)
    assert said.startswith("step 400: identity no longer rises (+0.00")
    assert "within noise), prompt accuracy falls 6 points after it; identity +0.200" in said
    assert said.endswith("at strength 0.6 identity -0.100, prompt accuracy unchanged")
    fallen = ranked(given[1], marks(500, 0.7 + wave, 0.94))
    assert choice_words.reason(fallen, fallen).startswith("step 400: identity falls (-0.100), prompt accuracy holds")
    assert "step 500: the last checkpoint" in choice_words.reason(ranked(given[2]), ranked(given[2]))


@pytest.mark.parametrize(("mean", "low", "high"), [(0.1, 0.05, 0.2), (0.1, -0.1, 0.3), (-0.1, -0.2, -0.05)])
def test_a_difference_is_clear_when_zero_is_outside(mean: float, low: float, high: float):
    assert Gap(mean, 0.1, low, high).clear == (not low <= 0 <= high)


def test_held_out_prompts_are_no_captions_and_ask_with_and_without_the_trigger():
    every = held_out(Choice(), "embedded", "sks", "fox", [])
    assert [group.trigger for group in every] == [True, False]
    assert len(every[0].prompts) == PROMPTS
    caption = every[0].prompts[0].text.format(subject="sks fox")
    fewer = held_out(Choice(), "embedded", "sks", "fox", [caption])
    assert every[0].prompts[0] not in fewer[0].prompts
    assert (
        held_out(Choice(prompts=("a {subject} at sea",)), "toy", "sks", "dog", [])[0].prompts[0].text
        == "a {subject} at sea"
    )
    with pytest.raises(DataError, match="caption"):
        held_out(Choice(prompts=("a {subject}",)), "toy", "sks", "dog", ["a sks dog"])
    assert every[1].name == CLASS


def test_the_file_gives_back_what_was_written_and_a_damaged_one_nothing(tmp_path: Path):
    one = Ledger("x", SCALE, weights={3: "a"})
    one.put(Marks(3, 0.6, (0.1, float("nan")), (1.0, 0.5)))
    one.picked = {"step": 3}
    file = tmp_path / choice_file.NAME
    file.write_text(one.to_json())
    assert Ledger.read(file).to_json() == one.to_json()
    assert one.ranking() is None
    one.forget(3, "a")
    assert one.get(3, 0.6, 1) is not None
    one.forget(3, "b")
    assert one.get(3, 0.6, 1) is None
    file.write_text("{")
    assert not Ledger.read(file).marks
    with pytest.raises(UsageError, match="no checkpoint is recommended"):
        choice_file.recommended(tmp_path)


def test_the_rank_correlation_is_of_ranks():
    values = np.array([3.0, 1.0, 2.0, 2.0, 5.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -(values**3)) == pytest.approx(-1)
    assert np.isnan(spearman(values, np.ones(5)))


def test_the_truth_is_asked_in_other_words_and_all_its_wishes_are_known():
    chosen = held_out(Choice(), "embedded", "sks", "fox", [])[0].prompts
    assert not {prompt.text for prompt in chosen} & set(bench_choice.PROMPTS)
    for text in (*bench_choice.PROMPTS, *(prompt.text for prompt in chosen)):
        stated = wishes(text.format(subject="fox"), "fox")
        assert stated["colour"] in text
        assert {name for name in ("small", "large", "left", "right") if f" {name} " in f"{text} "} <= set(
            stated.values()
        )


CALLED = {"class_word": "dog"}
SCORED = {"score": "always", "seeds": 1, "final_seeds": 2, "strengths": (0.5,)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that scores nothing."""
    return train(runs.config(data, tmp_path_factory.mktemp("plain"), data=CALLED))


@pytest.fixture(scope="module")
def scored(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, scored."""
    return train(runs.config(data, tmp_path_factory.mktemp("scored"), data=CALLED, choice=SCORED))


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """What a run holds; meta.json says the config's hash, which is equal too."""
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def test_scoring_changes_no_bit_of_the_run(plain: Path, scored: Path):
    assert runs.numbers(plain) == runs.numbers(scored)
    ours, theirs = runs.files(scored), runs.files(plain)
    for name in [name for name in ours if name.endswith("meta.json") or name.endswith("manifest.json")]:
        ours.pop(name), theirs.pop(name)
    same(ours, theirs)


def test_every_checkpoint_is_scored_and_the_recommended_one_is_marked(scored: Path):
    told = [event for event in Run(scored).events() if event.event in ("score", "choice")]
    assert [(event.event, event.step) for event in told] == [("score", 3), ("score", 6), ("choice", runs.STEPS)]
    said = json.loads((scored / choice_file.NAME).read_text())
    assert {(row["step"], row["strength"]) for row in said["table"]} >= {(3, 1.0), (6, 1.0), (runs.STEPS, 1.0)}
    assert len({row["step"] for row in said["table"] if row["strength"] == 0.5}) == 2
    best = [
        step for step, path in checkpoints.steps(scored / "checkpoints").items() if "best" in checkpoints.marks(path)
    ]
    assert best == [said["picked"]["step"]] == [choice_file.recommended(scored)["step"]]
    assert choice_file.said(scored)[0].startswith(f"recommended: step {best[0]}")
    with Image.open(scored / "choice.png") as plot:
        assert plot.width > 500
    pictures = list((scored / "choice" / "pictures").rglob("*.png"))
    assert len(pictures) == 10 * 2 * (1 + 3 + 2) == plan_choice.pictures(Run(scored).config())


def test_all_candidates_are_told_by_equally_many_pictures_and_the_table_can_be_ranked_again(scored: Path):
    ledger = Ledger.read(scored / choice_file.NAME)
    assert {row["pictures"] for row in ledger.table} == {8 * 2}
    again = ledger.ranking()
    assert again is not None
    assert [again.row(one) for one in range(len(again.marks))] == ledger.table
    assert again.marks[again.pick()].order == (ledger.picked["step"], ledger.picked["strength"])


@pytest.mark.parametrize("step", [3, runs.STEPS])
def test_stopped_while_it_scores_and_resumed_equals_straight(data: Path, tmp_path: Path, scored: Path, step: int):
    config, folder = runs.config(data, tmp_path, data=CALLED, choice=SCORED), tmp_path / "one"
    with pytest.raises(Stopped):
        train(config, runs.when("progress", "score", step, lambda: (folder / "stop").touch()))
    known, drawn, told = set(checkpoints.steps(folder / "checkpoints")) - {step}, [], []

    def report(event: Event) -> None:
        if event.event == "progress" and event.phase == "score":
            drawn.append(event.step)
            told.append(event.fields)

    assert train(config, report) == folder
    assert all(1 <= said["round"] <= said["rounds"] and said["since"] > 0 for said in told)
    assert {said["what"] for said in told} >= {"the base model", f"checkpoint {3 if step == runs.STEPS else 1} of 3"}
    assert {(said["round"], said["rounds"]) for said in told} >= {(1, 1), (6, 6)}
    assert not known & set(drawn)  # what was scored is not scored again
    assert runs.numbers(folder) == runs.numbers(scored)
    same(runs.files(folder), runs.files(scored))
    assert (folder / choice_file.NAME).read_text() == (scored / choice_file.NAME).read_text()


def test_keep_best_keeps_the_recommended_one(data: Path, tmp_path: Path):
    folder = train(
        runs.config(data, tmp_path, save_every=1, keep_last=1, free_encoders=True, data=CALLED, choice=SCORED)
    )
    assert set(checkpoints.steps(folder / "checkpoints")) >= {choice_file.recommended(folder)["step"], runs.STEPS}
    assert len(checkpoints.steps(folder / "checkpoints")) <= 3


def test_pick_exports_the_recommended_weights_at_the_recommended_strength(data: Path, tmp_path: Path, scored: Path):
    said = choice_file.recommended(scored)
    folder = train(runs.config(data, tmp_path, data=CALLED, choice=SCORED | {"pick": True}))
    header = files.header(folder / export.NAME)
    assert (int(header["step"]), float(header["strength"])) == (said["step"], said["strength"])
    learned = load_file(scored / f"checkpoints/step-{said['step']:06}" / "ema.safetensors")
    ours = sorted(value.norm().item() for value in load_file(folder / export.NAME).values())
    assert ours == pytest.approx(sorted(value.norm().item() for value in learned.values()))
    alpha = json.loads(header["lora_adapter_metadata"])["unet.lora_alpha"]
    assert alpha == pytest.approx(2 * said["strength"])
    late = Run(Path(shutil.copytree(scored, tmp_path / "late")))
    assert len(pick(late)) == 2
    assert choice_file.recommended(late.folder) == said | {"exported": True}
    again = load_file(late.folder / export.NAME)
    assert all(torch.equal(value, again[name]) for name, value in load_file(folder / export.NAME).items())


def test_nobody_who_can_score_costs_a_sentence(data: Path, tmp_path: Path, plain: Path, monkeypatch: Any):
    def absent(*_: Any) -> None:
        raise ModelError("no judges here")

    monkeypatch.setattr(judges, "judge", absent)
    folder = train(runs.config(data, tmp_path, data=CALLED, choice=SCORED))
    said = [event["message"] for event in Run(folder).events() if event.event == "warning"]
    assert "checkpoints are not scored: no judges here" in said
    assert runs.numbers(folder) == runs.numbers(plain)


@pytest.mark.parametrize("wrong", [{"prompts": ("a dog",)}, {"strengths": (0.0,)}, {"seeds": 0}, {"score": "often"}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Choice(**wrong)
