"""The command line: one line per mistake, the promised exit codes, nothing heavy for a small question."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from studio import cli, logs
from studio.commands import form
from studio.config import from_toml, make
from studio.events import Event
from studio.pipelines import errors, pickles
from studio.store import Store
from tests.conftest import Cli

EXIT = {
    "StudioError": 1,
    "UsageError": 2,
    "DataError": 3,
    "DiskError": 3,
    "MemoryShortage": 4,
    "NumericalError": 5,
    "ModelError": 6,
}
SMALL_QUESTIONS = [
    ["--help"],
    *(["list", kind] for kind in ("trainers", "models", "scorers", "runs")),
    ["list", "--help"],
]


@pytest.mark.parametrize("args", SMALL_QUESTIONS, ids=" ".join)
def test_small_questions_do_not_load_torch(args: list[str], root: Path, tmp_path: Path):
    code = (
        "import sys; from studio import cli; code = cli.run(sys.argv[1:]);"
        "heavy = {'torch', 'diffusers', 'transformers', 'gradio', 'numpy'} & set(sys.modules);"
        "assert code == 0, code; assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(
        command,
        env={"PYTHONPATH": str(root), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    assert cli.run([]) == cli.run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*cli.COMMANDS, *cli.EVERYWHERE))


def test_the_exit_codes_are_all_said(capsys: pytest.CaptureFixture[str]):
    raised = {error.exit_code for error in vars(errors).values() if isinstance(error, type)}
    assert errors.EXITS.keys() == raised | {0, cli.INTERRUPTED}
    cli.run(["--help"])
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {code} +{words[:20]}", out, re.MULTILINE) for code, words in errors.EXITS.items())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str]):
    assert cli.run([command, "--help"]) == 0
    assert f"usage: studio {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian", "did you mean 'train'"),
        ("train nonesuch", "there is no trainer 'nonesuch'"),
        ("train draembooth", "did you mean 'dreambooth'"),
        ("train missing.toml", "missing.toml"),
        ("train dreambooth --lrr 3", "did you mean '--lr'"),
        ("train dreambooth --lr 0", "--lr = 0.0: .*greater than 0"),
        ("train dreambooth --steps ten", "'ten'"),
        ("train dreambooth --resume --fresh", "exclude each other"),
        ("train dreambooth --resume --run never", "there is no run 'never'"),
        ("sample", "needs a run"),
        ("sample x", "needs a --prompt"),
        ("sample x --promt y", "did you mean '--prompt'"),
        ("sample x --prompt y --n 0", "--n = 0"),
        ("show", "needs the name of a run"),
        ("list trianers", "did you mean 'trainers'"),
        ("list", "trainers, models, scorers, runs"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    line: str, words: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.run(line.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("studio: error: ")
    assert err.count("\n") == 1
    assert re.search(words, err), err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "code"), EXIT.items())
def test_errors_have_their_exit_codes(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def fail(args: list[str]) -> int:
        raise getattr(errors, name)("what\nwhere")

    monkeypatch.setattr(cli, "dispatch", fail)
    assert cli.run(["train"]) == code
    assert capfd.readouterr().err == "studio: error: what where\n"


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def interrupt(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "dispatch", interrupt)
    assert cli.run(["train"]) == 130
    assert "Traceback" not in capfd.readouterr().err


def test_an_unexpected_error_is_one_line_and_its_traceback_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def fail(args: list[str]) -> int:
        return 1 // 0

    monkeypatch.setattr(cli, "dispatch", fail)
    assert cli.run(["train", "x"]) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "ZeroDivisionError" in err
    kept = Path(err.split("the traceback is in ")[1].rstrip(")\n"))
    assert "return 1 // 0" in kept.read_text()
    kept.unlink()
    for flag in ("--debug", "--traceback"):
        assert cli.run(["train", flag]) == 1
        err = capfd.readouterr().err
        assert "return 1 // 0" in err
        assert "the traceback is in" not in err


def test_in_a_run_tracebacks_and_libraries_go_to_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def fail(args: list[str]) -> int:
        logs.hush()
        logging.getLogger("diffusers.models").warning("a library's word")
        logs.to(tmp_path)
        warnings.warn_explicit("odd numbers", RuntimeWarning, "/lib/python/torch/x.py", 7)
        warnings.warn_explicit("a checkpoint is damaged", UserWarning, cli.__file__, 7)
        raise errors.NumericalError("the loss is nan")

    monkeypatch.setattr(cli, "dispatch", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.run(["train", "x"]) == 5
    assert capfd.readouterr().err.splitlines() == [
        "studio: warning: a checkpoint is damaged",
        "studio: error: the loss is nan",
    ]
    log = (tmp_path / "log.txt").read_text()
    for word in ("a library's word", "odd numbers", "is damaged", "studio train x", "Traceback", "NumericalError: the"):
        assert word in log
    assert len(re.findall(r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+: ", log)) == 4
    assert logs.current is None


def test_a_full_disk_does_not_hide_the_error(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def fail(args: list[str]) -> int:
        logs.to(Path("/nonexistent"))
        raise ValueError("what went wrong")

    def full(**_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "dispatch", fail)
    monkeypatch.setattr("tempfile.mkstemp", full)
    assert cli.run(["train"]) == 1
    assert capfd.readouterr().err == "studio: error: ValueError: what went wrong\n"


def test_pickles_are_allowed_for_one_call_only(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(cli, "dispatch", lambda args: seen.append((args, pickles.may())) or 0)
    for words in (["train", "--allow-pickle", "x"], ["train", "x"]):
        assert cli.run(words) == 0
    assert seen == [(["train", "x"], True), (["train", "x"], False)]


def test_dry_run_prints_the_complete_config_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert (
        cli.run(
            [
                "train",
                "dreambooth",
                "--data",
                "dog",
                "--model",
                "toy",
                "--rank",
                "3",
                "--seed",
                "4",
                "--dry-run",
            ]
        )
        == 0
    )
    assert not list(tmp_path.iterdir())
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    settings = {"adapter": {"rank": 3}, "data": {"folder": tmp_path / "dog"}}
    wanted = make(flags={"model": "toy", "seed": 4, "runs": tmp_path / "runs", "settings": settings})
    assert from_toml(printed) == wanted


def test_fresh_takes_a_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    Store(Path("runs")).create(make(flags={"run": "a"}))
    assert cli.run(["train", "dreambooth", "--run", "a", "--fresh", "--dry-run"]) == 0
    assert 'run = "a-2"' in capsys.readouterr().out


def test_runs_are_listed_newest_first_and_a_broken_one_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    run = Store(Path("runs")).create(make(flags={"run": "good", "model": "toy"}))
    run.log(Event("train", 7, {"loss": 1.0}))
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.toml").write_text("[")
    assert cli.run(["list", "runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["broken", "good"]
    assert "cannot be read" in lines[0]
    assert "unfinished" in lines[1]
    assert "7/500" in lines[1]


def test_the_reader_of_stdout_may_go(studio_cli: Cli, root: Path):
    command = f"set -o pipefail; {sys.executable} -m studio list models | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command],
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""


def test_python_m_studio_is_the_command(studio_cli: Cli):
    assert studio_cli("--version").stdout.startswith("studio ")


@pytest.mark.parametrize("coding", ["utf-8", "ascii"])  # tyro draws its boxes of what the terminal knows
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train dreambooth --steps ten", "--steps = 'ten': should be a whole number; see studio train --help"),
        ("train dreambooth --lr much", "--lr = 'much': should be a number; see studio train --help"),
        ("train dreambooth --lr", "--lr needs a value; see studio train --help"),
        ("sample a --n", "--n needs a value; see studio sample --help"),
        (
            "train dreambooth --precision fp17",
            "--precision = 'fp17': should be one of 'auto', 'no', 'fp16', 'bf16'; see",
        ),
        ("train dreambooth a b", "these words have no place here: a, b; see studio train --help"),
        ("sample a --steps 1 2 8", "these words have no place here: 2, 8; --steps takes one value; see studio sample"),
        ("train dreambooth --steps=4 a", "these words have no place here: a; see studio train --help"),
    ],
)
def test_mistakes_are_in_plain_words(
    line: str, said: str, coding: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), coding))
    assert cli.run(line.split()) == 2
    assert capsys.readouterr().err.startswith(f"studio: error: {said}")


def test_boxes_are_opened():
    box = "╭─ Value error ─╮\n│ Error parsing --n: bad  │\n│ ─────── │\n│ Argument helptext: │\n│ … │\n╰────╯"
    assert form.unboxed(box) == "Error parsing --n: bad"
