"""`studio evaluate`: from words to files, on the toy; and that the embedded model's own judges see what it draws."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio import cli, show
from studio.evaluate import Request, evaluate
from studio.evaluation.records import Evaluation
from studio.events import Event
from studio.pipelines import assets, backbone
from studio.pipelines.adapters import files, lora
from studio.pipelines.errors import DataError
from studio.train import train
from tests.runs import config, pictures

EASY = {"steps": 2, "accumulate": 1, "batch": 1, "ema": 0.0, "save_every": 0, "previews": {"steps": 1}}
ASKED = {"steps": 2, "seeds": 2, "sets": ("attribute", "class"), "scorers": ("personal", "jpeg"), "quick": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the toy, at a learning rate that can be seen."""
    place = tmp_path_factory.mktemp("runs")
    data = {"folder": pictures(place / "data", 4), "class_word": "dog"}
    return train(config(place / "data", place / "runs", "one", **EASY, lr=0.3, data=data))


def request(run: Path, **values: Any) -> Request:
    return Request(**{**ASKED, "runs": run.parent, **values})


@pytest.fixture(scope="module")
def found(run: Path) -> Evaluation:
    """The evaluation of the run."""
    return evaluate(["one"], request(run))


def test_it_leaves_everything_a_person_needs(run: Path, found: Evaluation):
    folder = run / "evaluation"
    assert (run / "report.html").is_file()
    assert (run / "README.md").is_file()
    read = Evaluation.read(folder / "evaluation.json")
    assert [source.label for source in read.sources] == ["base", "one"]
    assert read.to_json() == found.to_json() == (folder / "evaluation.json").read_text()
    assert {score.set for score in read.scores} == {"", "attribute", "class"}
    assert all((folder / made.file).is_file() for made in read.pictures)
    names = {score.about.name for score in read.scores}
    assert {"identity", "identity-max", "diversity", "copies", "drift", "leak"} <= names
    assert read.settings["seeds"] == [1000, 1001]
    assert len(read.settings["prompts"]) == 64
    assert read.config["trainer"] == "dreambooth"


def test_what_is_printed_adds_up(found: Evaluation):
    several = [score for score in found.scores if score.base is not None]
    assert {"copy-similarity", "copies", "identity", "diversity"} <= {score.about.name for score in several}
    for score in several:
        assert score.base is not None
        assert score.change == pytest.approx(score.value - score.base, abs=1e-6)
        other = found.score(score.about.name, "base", score.set)
        assert other is not None
        assert score.base == other.value
    assert len([pair for pair in found.pairs if found.pictures[pair.picture].source == "one"]) == 8


def test_base_and_adapter_have_the_same_prompts_and_seeds(found: Evaluation):
    asked = {
        label: [(one.set, one.template, one.seed) for one in found.pictures if one.source == label]
        for label in ("base", "one")
    }
    assert asked["base"] == asked["one"]
    for made in found.pictures:
        assert ("sks" in made.prompt) == (made.source == "one" and made.set != "class")


def test_scores_are_what_studio_show_reads(run: Path, found: Evaluation, capsys: pytest.CaptureFixture[str]):
    scores = json.loads((run / "scores.json").read_text())
    assert {"value", "low", "high", "n", "encoder", "base"} <= set(scores["identity"])
    score = found.score("identity", "one")
    assert score is not None
    assert scores["identity"]["value"] == pytest.approx(score.value, abs=1e-5)
    assert len(scores["identity"]["pictures"]) == score.n
    assert all((run / file).is_file() for file in scores["identity"]["pictures"])
    show.show("one", run.parent)
    assert "identity" in capsys.readouterr().out


def test_the_same_again_draws_nothing_and_says_the_same(run: Path, found: Evaluation):
    told: list[Event] = []
    again = evaluate(["one"], request(run), told.append)
    assert again.to_json() == found.to_json()
    counts = [event.get("done") for event in told if event.phase == "draw" and event.event == "progress"]
    assert counts == [8, 8]  # base and adapter are there from the first time
    assert told[-1].event == "done"


def test_a_stopped_evaluation_goes_on(run: Path, found: Evaluation, tmp_path: Path):
    told: list[Event] = []

    def stop(event: Event) -> None:
        told.append(event)
        if event.event == "progress" and event.get("done") == 5:
            raise KeyboardInterrupt

    wanted = request(run, out=tmp_path / "out", batch=2, scorers=("jpeg",))
    with pytest.raises(KeyboardInterrupt):
        evaluate(["one"], wanted, stop)
    assert told[-1].event == "stopped"
    assert "5 pictures are kept" in told[-1].fields["message"]
    again = evaluate(["one"], wanted)
    for name in {score.about.name for score in again.scores}:
        for source in ("base", "one"):
            assert again.score(name, source) == found.score(name, source)


def test_an_adapter_at_strength_zero_is_the_base_model(run: Path, tmp_path: Path):
    found = evaluate(["one"], request(run, strengths=(0.0, 1.0), out=tmp_path, sets=("class",)))
    assert [source.label for source in found.sources] == ["base", "one @ 0", "one"]
    for score in found.scores:
        if score.source == "one @ 0" and score.base is not None:
            assert (score.change, score.change_low, score.change_high) == (0.0, 0.0, 0.0)
    drift = {label: found.score("drift", label, "class") for label in ("one @ 0", "one")}
    assert drift["one @ 0"] is not None
    assert drift["one"] is not None
    assert drift["one @ 0"].values == (0.0,) * len(drift["one @ 0"].values)
    assert drift["one"].value > 0


def test_two_runs_share_a_base_model(run: Path, tmp_path: Path):
    file = tmp_path / "other.safetensors"
    file.write_bytes((run / "adapter.safetensors").read_bytes())
    near = pictures(tmp_path / "near", 2)
    wanted = request(run, out=tmp_path / "out", references=near, data=near, sets=("class",), seeds=1)
    found = evaluate(["one", str(file)], wanted)
    assert [source.label for source in found.sources] == ["base", "one", "other"]
    one, other = (found.score("identity", label, "class") for label in ("one", "other"))
    assert one is not None
    assert other is not None
    assert one.values == other.values
    assert one.base == other.base


def test_an_encoder_that_is_missing_costs_its_column(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    nowhere = f"clip_image.encoder={tmp_path / 'nowhere'}"
    words = ["--sets", "class", "--seeds", "1", "--steps", "1", "--scorers", "clip_image,jpeg", "--option", nowhere]
    code = cli.run(["evaluate", "one", "--runs", str(run.parent), "--out", str(tmp_path / "out"), *words])
    said = capsys.readouterr()
    assert code == 0
    assert "jpeg" in said.out
    assert "clip-i" not in said.out
    notes = [line for line in said.err.splitlines() if "nowhere" in line]
    assert len(notes) == 1
    assert notes[0].startswith("studio: note: no ")
    assert notes[0].removeprefix("studio: note: ") in Evaluation.read(tmp_path / "out/evaluation.json").notes


def test_json_is_one_event_per_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--sets", "class", "--seeds", "1", "--steps", "1", "--scorers", "jpeg", "--json"]
    assert cli.run(["evaluate", "one", "--runs", str(run.parent), "--out", str(tmp_path), *words]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["total"] for event in events if event["phase"] == "draw" and event.get("done") == event.get("total")]
    assert events[-1]["event"] == "done"
    assert Path(events[-1]["path"]).is_file()


def wrong() -> Iterator[tuple[list[str], int, str]]:
    """(further words, exit code, what the one line says)."""
    yield ["--sets", "recontexts"], 2, "did you mean 'recontext'"
    yield ["--scorers", "jpge"], 2, "did you mean 'jpeg'"
    yield ["--kind", "lively"], 2, "did you mean 'live'"
    yield ["--seeds", "0"], 2, "--seeds = 0"
    yield ["--strength", "nan"], 2, "finite"
    yield ["--sed", "0"], 2, "did you mean"
    yield ["--option", "jpeg"], 2, "SCORER.SETTING=VALUE"
    yield ["--option", "jpeg.qualty=3"], 2, "did you mean 'quality'"
    yield ["--prompts", "nowhere.toml"], 2, "nowhere.toml"
    yield ["--references", "nowhere"], 3, "nowhere"
    yield ["--data", "nowhere"], 3, "nowhere"
    yield ["--references", "masked"], 3, "and its mask 20x16"


@pytest.mark.parametrize(
    ("words", "code", "said"), wrong(), ids=lambda value: "-".join(value) if isinstance(value, list) else ""
)
def test_wrong_input_is_one_line_and_writes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], code: int, said: str,
):  # fmt: skip
    (tmp_path / "masked/masks").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (20, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "masked/a.png")
    Image.new("L", (20, 16)).save(tmp_path / "masked/masks/a.png")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert cli.run(["evaluate", "one", "--runs", str(run.parent), "--out", str(out), *words]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "error" in line]) == 1
    assert said in lines[-1]
    assert not out.exists()


def test_what_is_no_run_is_said(run: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["evaluate", "ones", "--runs", str(run.parent)]) == 2
    assert "did you mean 'one'" in capsys.readouterr().err
    assert cli.run(["evaluate", "--runs", str(run.parent)]) == 2
    assert cli.run(["evaluate", "base", "--runs", str(run.parent)]) == 2


def test_a_bare_file_needs_references_only_for_what_they_are_asked_for(run: Path, tmp_path: Path):
    file = tmp_path / "alone.safetensors"
    file.write_bytes((run / "adapter.safetensors").read_bytes())
    wanted = request(run, out=tmp_path / "out", sets=("class",))
    with pytest.raises(DataError, match="--references"):
        evaluate([str(file)], wanted)
    usual = evaluate([str(file)], replace(wanted, scorers=()))
    assert {"diversity", "drift", "jpeg size"} <= {score.about.name for score in usual.scores}
    assert usual.score("identity", "alone", "class") is None
    assert [note for note in usual.notes if "alone: no identity without pictures" in note and "--references" in note]
    one = Image.open(run.parent.parent / "data/0.png")
    (tmp_path / "near").mkdir()
    one.save(tmp_path / "near/copy.png")
    found = evaluate([str(file)], replace(wanted, references=tmp_path / "near", scorers=("personal",)))
    assert any("one reference alone" in note for note in found.notes)
    assert found.score("identity", "alone", "class") is not None


def test_own_prompts_are_asked(run: Path, tmp_path: Path):
    own = tmp_path / "own.toml"
    own.write_text('[moon]\nprompts = ["a {subject} on the moon", "a {subject} on mars"]\n')
    found = evaluate(["one"], request(run, prompts=own, sets=("moon",), scorers=("jpeg",), out=tmp_path / "out"))
    assert [one.prompt for one in found.pictures if one.source == "one"][::2] == [
        "a sks dog on the moon", "a sks dog on mars",
    ]  # fmt: skip


def test_the_embedded_model_is_judged_by_its_own_judges(tmp_path: Path):
    if not (assets.model_path("embedded") / "model_index.json").is_file():
        pytest.skip("the embedded base is not built yet")
    model = backbone.load("embedded")
    adapter = lora.Config(rank=1).build(model)
    words = {"trigger": "sks", "class_word": "fox", "base_model": "embedded"}
    file = files.save(model, adapter, tmp_path / "new.safetensors", words)
    near = assets.assets_folder() / "subjects/fox"
    wanted = Request(
        sets=("recontext", "class"), quick=True, seeds=1, steps=4, out=tmp_path / "out",
        references=near / "reference", data=near / "train",
    )  # fmt: skip
    found = evaluate([str(file)], wanted)
    names = {score.about.name for score in found.scores}
    assert {"identity", "prompt-accuracy", "copies", "drift", "caption-match", "embedded-prompt"} <= names
    for made in found.pictures:
        assert made.plain.startswith("a fox")
    drift = found.score("drift", "new", "class")
    assert drift is not None
    assert drift.value == 0  # a new adapter changes nothing
    identity = found.score("identity", "base")
    assert identity is not None
    assert math.isfinite(identity.value)
    assert not [note for note in found.notes if note.startswith("no ")]
