"""What is private stays private: secrets out of the run folder, and everything personal out of a bug report."""

from __future__ import annotations

import json
import logging
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio import cli, report
from studio import train as engine
from studio.events import Event
from studio.scrub import Scrub
from studio.store import Run

TOKEN, KEY = "hf_PlantedPlantedPlanted12345", "0123456789abcdef0123456789abcdef01234567"
PRIVATE = {
    "caption": "violet balloons over grandmother's garden",
    "piece of a caption": "balloons over grandmother",
    "file name": "Märta on her 40th.png",
    "folder": "wedding of Märta",
    "home": "annasmith",
    "prompt": "zorblax riding an ostrich through vienna",
    "trigger": "zorblax",
    "class word": "bridesmaid",
    "token": TOKEN,
    "key": KEY,
    "unknown place": "hidden-cellar",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's home with pictures, and secrets in the environment."""
    home = tmp_path / "annasmith"
    folder = home / PRIVATE["folder"]
    folder.mkdir(parents=True)
    for number, name in enumerate((PRIVATE["file name"], "b.png")):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "Märta on her 40th.txt").write_text(PRIVATE["caption"], encoding="utf-8")
    for name, value in {"HOME": str(home), "USER": "annasmith", "HF_TOKEN": TOKEN, "WANDB_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def failed(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """A run of that person, ended by an exception that says too much."""

    def fail(session: object) -> None:
        logging.getLogger("diffusers").warning("trying https://anna:%s@hub", KEY)
        place = home / "hidden-cellar" / "x.bin"
        raise RuntimeError(
            f"{TOKEN} {KEY} for '{PRIVATE['prompt']}', {place}, {PRIVATE['file name']}: no balloons over grandmother"
        )

    monkeypatch.setattr(engine.Session, "fill", fail)
    words = ["--data", PRIVATE["folder"], "--trigger", "zorblax", "--class-word", "bridesmaid", "--model", "toy"]
    more = ["--previews.prompts", PRIVATE["prompt"], "--precision", "no", "--steps", "4"]
    assert cli.run(["train", "dreambooth", *words, *more]) == 1
    run = Run(next((home / "runs").glob("*/run.toml")).parent)
    out, err = capfd.readouterr()
    assert TOKEN not in out + err
    assert KEY not in out + err
    assert "RuntimeError" in err
    assert str(run.folder / "log.txt") in err
    assert "Traceback" not in err
    return run


def contents(folder: Path) -> str:
    """Every file of a folder, one after the other."""
    return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file())


def test_secrets_do_not_reach_the_run_folder(failed: Run) -> None:
    kept, log = contents(failed.folder), (failed.folder / "log.txt").read_text("utf-8")
    assert "Traceback (most recent call last)" in log
    assert "RuntimeError: <secret> <secret> for 'zorblax" in log
    assert "diffusers: trying https://<secret>@hub" in log
    assert failed.last("failed") is not None
    for secret in (TOKEN, KEY):
        assert secret not in kept


def test_a_report_holds_nothing_private(failed: Run, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in (PRIVATE["file name"], f"x/{PRIVATE['file name']}", str(home / PRIVATE["folder"] / "b.png")):
        failed.log(Event("load", 0, {}, "warning", {"message": f"{name} is small", "files": [name], name: 1}))
    checkpoint = failed.folder / "checkpoints" / "step-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "meta.json").write_text(json.dumps({"memory": PRIVATE["caption"], "state": list(range(50))}))
    assert cli.run(["report", failed.name, "--out", "r.zip"]) == 0
    said = capfd.readouterr().out
    archive = (home / "r.zip").read_bytes()
    with zipfile.ZipFile(home / "r.zip") as file:
        texts = {name: file.read(name).decode() for name in file.namelist()}
    assert set(texts) == set(report.MEMBERS)
    assert all(name in said for name in texts)
    for what, private in (PRIVATE | {"name of the run": failed.name, "home folder": str(home)}).items():
        for form in {private, private.lower(), json.dumps(private)[1:-1]}:
            assert form.encode() not in archive
            for name, text in texts.items():
                assert form.lower() not in text.lower(), f"{what} is in {name}"
    assert "RuntimeError" in texts["log.txt"]
    assert "<source/studio>/train.py" in texts["log.txt"]
    assert checkpoint.name in texts["checkpoints.json"]
    assert "<50 numbers>" in texts["checkpoints.json"]
    assert 'model = "toy"' in texts["run.toml"]
    assert "<prompt-1, 6 words>" in texts["run.toml"]
    assert [row["part"] for row in json.loads(texts["doctor.json"])][:1] == ["python"]


def test_a_report_of_pictures_that_are_gone_names_none(
    failed: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "doctor", list)
    failed.log(Event("load", 0, {}, "warning", {"message": "left out: my dear aunt.png: corrupt"}))
    (home / PRIVATE["folder"]).rename(home / "gone")
    report.write(failed, home / "r.zip")
    with zipfile.ZipFile(home / "r.zip") as file:
        events = file.read("events.jsonl").decode()
    assert "dear" not in events
    assert "<file>: corrupt" in events


def test_a_damaged_run_can_be_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "doctor", list)
    (tmp_path / "run.toml").write_text("[[[")
    (tmp_path / "env.json").write_text("[")
    (tmp_path / "events.jsonl").write_text("{\nnull\n")
    (tmp_path / "log.txt").symlink_to("/etc/hostname")
    assert report.write(Run(tmp_path), tmp_path / "r.zip")["log.txt"] == 0


def test_placeholders_are_stable_and_leave_the_rest_alone() -> None:
    scrub = Scrub()
    scrub.add("ana", "user")
    scrub.add_text("one two three four", "caption-1, 4 words")
    text = "banana ana ANA: one two three, /mnt/x/y and /mnt/x/y, /mnt/z; two three four; a/b 3/4"
    clean = scrub(text)
    assert clean == (
        "banana <user> <user>: <words of a caption>, <path-1> and <path-1>, <path-2>; <words of a caption>; a/b 3/4"
    )
    assert scrub(clean) == clean
    assert scrub.leaks(clean) == []
    assert scrub.leaks("ana") == ["ana"]


def test_thousands_of_names_are_quick_and_the_longest_counts() -> None:
    scrub, began = Scrub(), time.monotonic()
    for number in range(3000):
        scrub.add(f"IMG {number:05}.JPG", f"picture-{number}")
        scrub.add(f"img {number:05}", "stem")
    assert scrub("x img 00012.jpg, IMG 00012: IMG 000123 " * 1000).startswith("x <picture-12>, <stem>: IMG 000123 x")
    assert time.monotonic() - began < 10


def test_a_trigger_in_angles_is_no_placeholder() -> None:
    scrub = Scrub()
    scrub.add("<cat-toy>", "trigger")
    scrub.add("run", "run")
    assert scrub("a <cat-toy> in run <1>") == "a <trigger> in <run> <1>"


def test_what_an_earlier_start_was_told_is_hidden_too(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = home / "balls"
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "1.png")
    words = ["train", "dreambooth", "--data", str(folder), "--model", "toy", "--precision", "no", "--run", "changed"]
    old = ["--data.prompt", "quixotic portrait of {trigger}", "--trigger", "oldtrigword", "--steps", "2"]
    new = ["--data.prompt", "marvellous etching of {trigger}", "--trigger", "newtrigword", "--steps", "3"]
    assert cli.run([*words, *old]) == 0
    assert cli.run([*words, *new, "--accept-change"]) == 0
    run = home / "runs" / "changed"
    for damaged in (False, True):
        if damaged:
            (run / "run.toml").write_text("[[[broken")
        assert cli.run(["report", "changed", "--out", f"{damaged}.zip"]) == 0, capfd.readouterr().err
        with zipfile.ZipFile(home / f"{damaged}.zip") as file:
            text = "".join(file.read(name).decode() for name in file.namelist())
        for private in ("quixotic", "oldtrigword", "marvellous", "newtrigword"):
            assert private not in text


def test_a_place_that_cannot_be_written_is_the_users_mistake(failed: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", failed.name, "--out", f"{'x' * 250}.zip"]) == 2
    assert "cannot be written" in capfd.readouterr().err
