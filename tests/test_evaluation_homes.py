"""Where an evaluation goes: it replaces nothing that says more, nothing of other adapters, nothing of a person's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio import choice_file, cli
from studio.choice_file import Ledger
from studio.evaluate import Request, evaluate
from studio.evaluation import homes
from studio.evaluation.records import Evaluation
from studio.events import Event
from studio.pipelines.adapters import files
from studio.train import train
from tests.runs import config, pictures

EASY = {"steps": 2, "accumulate": 1, "batch": 1, "ema": 0.0, "save_every": 1, "previews": {"steps": 1}}
ASKED = {"steps": 1, "seeds": 2, "sets": ("attribute", "class"), "scorers": ("jpeg",)}
QUICK = ["--steps", "1", "--quick"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the toy that recommends its first checkpoint at half its strength."""
    place = tmp_path_factory.mktemp("made")
    data = {"folder": pictures(place / "data", 4), "class_word": "dog"}
    run = train(config(place / "data", place / "runs", "one", **EASY, lr=0.3, data=data))
    ledger = Ledger.read(run / choice_file.NAME)
    ledger.picked = {"step": 1, "strength": 0.5, "reason": "step 1: a test"}
    (run / choice_file.NAME).write_text(ledger.to_json())
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it in `runs`, below the folder in which everything happens."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path / "runs/one"))


def request(**values: Any) -> Request:
    return Request(**{**ASKED, **values})


def content(folder: Path) -> dict[str, bytes]:
    """Every file but pictures and logs."""
    kept = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".png", ".txt", ".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def test_out_leaves_the_run_as_it_is(run: Path, tmp_path: Path):
    before = content(run)
    evaluate(["one"], request(out=tmp_path / "out"))
    assert content(run) == before
    assert {"evaluation.json", "scores.json", "report.html", "README.md"} <= content(tmp_path / "out").keys()
    evaluate(["one"], request())
    after = content(run)
    assert after.keys() - before.keys() >= {"evaluation/evaluation.json", "scores.json", "report.html", "README.md"}
    assert "jpeg size" in files.header(run / files.NAME)["scores"]


@pytest.mark.parametrize(
    ("less", "folder"),
    [
        ({"quick": True}, "evaluation-quick"),
        ({"sets": ("class",)}, "evaluation-part"),
        ({"seeds": 1}, "evaluation-part"),
        ({"scorers": ("vendi",)}, "evaluation-part"),
    ],
    ids=str,
)
def test_a_rough_look_keeps_the_full_one(run: Path, less: dict[str, Any], folder: str):
    told: list[Event] = []
    evaluate(["one"], request())
    before = content(run)
    evaluate(["one"], request(**less), told.append)
    after = content(run)
    assert {name: after[name] for name in before} == before
    new = {name.partition("/")[0] for name in after.keys() - before.keys()}
    assert new == {folder}
    assert {"evaluation.json", "report.html", "README.md", "scores.json"} <= content(run / folder).keys()
    assert any("is kept" in event.get("message", "") and folder in event.get("message", "") for event in told)


def test_a_fuller_look_takes_the_place_of_a_rough_one(run: Path):
    evaluate(["one"], request(seeds=1))
    evaluate(["one"], request())
    assert Evaluation.read(run / "evaluation/evaluation.json").settings["seeds"] == [1000, 1001]
    assert not list(run.glob("evaluation-*"))


def test_files_of_other_names_or_places_have_folders_of_their_own(run: Path, tmp_path: Path):
    places = ["a.safetensors", "b.safetensors", "sub/a.safetensors"]
    (tmp_path / "sub").mkdir()
    wanted, seen = request(sets=("class",), seeds=1), {}
    for place in places:
        (tmp_path / place).write_bytes((run / files.NAME).read_bytes())
        evaluate([place], wanted)
        found = content(tmp_path / "evaluation")
        assert {name: found[name] for name in seen} == seen
        seen = found
    assert {name.partition("/")[0] for name in seen} == {"a", "b", "a-2"}
    evaluate(["a.safetensors"], wanted)  # again, in its own folder
    assert content(tmp_path / "evaluation").keys() == seen.keys()
    evaluate(places[:2], wanted)
    assert (tmp_path / "evaluation/a+b/evaluation.json").is_file()
    assert str(tmp_path) not in (tmp_path / "evaluation/a/evaluation.json").read_text()


def test_nobodys_readme_is_written_over(run: Path, tmp_path: Path):
    told: list[Event] = []
    alone = tmp_path / "a.safetensors"
    alone.write_bytes((run / files.NAME).read_bytes())
    places = (("one", run, None), (str(alone), tmp_path / "evaluation/a", None), ("one", tmp_path, tmp_path))
    for source, home, out in places:
        home.mkdir(parents=True, exist_ok=True)
        (home / "README.md").write_text("mine")
        for _ in range(2):
            evaluate([source], request(sets=("class",), seeds=1, out=out), told.append)
        assert (home / "README.md").read_text() == "mine"
        assert homes.MARK in (home / "model-card.md").read_text()
        assert not (home / "model-card-2.md").exists()
        (home / "model-card.md").write_text("mine too")
        assert homes.card(home).name == "model-card-2.md"
    assert any("README.md is not by the studio and is kept" in event.get("message", "") for event in told)


def wrong() -> Iterator[tuple[list[str], int, str]]:
    """(words, exit code, what the one line says)."""
    yield ["one", "FILE"], 2, "is a file"
    yield ["FILE"], 2, "--pick chooses among a run's checkpoints"
    yield ["one", "--scorers", "nonsense"], 2, "nonsense"
    yield ["one", "--sets", "nonsense"], 2, "nonsense"
    yield ["one", "--references", "nowhere"], 3, "nowhere"
    yield ["one", "--seeds", "0"], 2, "--seeds"
    yield ["one", "two"], 2, "there is no run 'two'"


@pytest.mark.parametrize(
    ("words", "code", "said"), wrong(), ids=lambda value: "-".join(value) if isinstance(value, list) else ""
)
def test_nothing_is_picked_before_everything_is_checked(
    run: Path, tmp_path: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
):  # fmt: skip
    alone = tmp_path / "a.safetensors"
    alone.write_bytes((run / files.NAME).read_bytes())
    before = content(run)
    named = [str(alone) if word == "FILE" else word for word in words]
    assert cli.run(["evaluate", *named, "--pick", *QUICK]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert content(run) == before


def test_a_checkpoint_that_is_gone_cannot_be_picked(run: Path, capsys: pytest.CaptureFixture[str]):
    ledger = Ledger.read(run / choice_file.NAME)
    ledger.picked["step"] = 77
    (run / choice_file.NAME).write_text(ledger.to_json())
    before = content(run)
    assert cli.run(["evaluate", "one", "--pick", *QUICK]) == 2
    assert "step 77" in capsys.readouterr().err
    assert content(run) == before


def test_what_is_picked_is_said_and_evaluated(run: Path, capsys: pytest.CaptureFixture[str]):
    words = ["evaluate", "one", "--scorers", "jpeg", "--sets", "class", *QUICK]
    assert cli.run([*words, "--pick", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any(event.get("message") == "one: its adapter is step 1 at strength 0.5 now" for event in events)
    header = files.header(run / files.NAME)
    assert (header["step"], float(header["strength"])) == ("1", 0.5)
    assert "scores" not in header  # of a rough look
    told = Evaluation.read(run / "evaluation/evaluation.json").settings
    assert told["adapters"] == {"one": {"step": "1", "strength": "0.5"}}
    assert told["command"].startswith("studio evaluate one --sets class")


def test_a_run_and_a_file_of_one_class_share_a_base(run: Path, tmp_path: Path):
    alone = tmp_path / "a.safetensors"
    alone.write_bytes((run / files.NAME).read_bytes())
    found = evaluate([str(alone), "one"], request(scorers=(), sets=("class",), seeds=1, out=tmp_path / "out"))
    assert [source.label for source in found.sources] == ["base", "one", "a"]
    assert sorted(path.name for path in (tmp_path / "out/pictures").iterdir()) == ["a", "base", "one"]
    ours, theirs = (found.score("jpeg size", label, "class") for label in ("one", "a"))
    assert ours is not None
    assert theirs is not None
    assert (ours.values, ours.base, ours.change) == (theirs.values, theirs.base, theirs.change)
    base = found.score("identity", "base", "class")
    assert base is not None  # of the run: the file has nothing that it could be held against
    assert found.score("identity", "a", "class") is None
