"""Pictures when somebody asks: by a run at work, which learns the same; of any other by its newest checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio import cli, previews_newest
from studio.pipelines.errors import UsageError
from studio.store import Run
from studio.train import train
from tests.runs import STEPS, config, files, pictures, when


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with previews every 3 steps, checkpoints too."""
    home = tmp_path_factory.mktemp("finished")
    return train(config(pictures(home / "data"), home / "runs"))


def test_a_run_at_work_draws_when_it_is_asked_and_learns_the_same(finished: Path, tmp_path: Path):
    asked = config(finished.parent.parent / "data", tmp_path / "runs")
    run = Run(tmp_path / "runs" / "one")
    folder = train(asked, when("", "train", 2, lambda: run.sample_file.touch()))
    more = {path.name for path in run.samples.iterdir()} - {path.name for path in (finished / "samples").iterdir()}
    assert {name.partition("-")[0] for name in more} <= {"000002", "000003"}
    assert more or any(event.event == "preview" and event.step == 2 for event in run.events())
    assert not run.sample_file.exists()
    drawn, undisturbed = files(folder), files(finished)
    assert {name: drawn[name] for name in undisturbed} == undisturbed


def test_the_newest_checkpoint_draws_what_the_run_itself_drew(finished: Path):
    run = Run(finished)
    own = {path.name: path.read_bytes() for path in run.samples.glob(f"{STEPS:06}-*.png")}
    assert own
    for name in own:
        (run.samples / name).unlink()
    before = files(finished)
    assert cli.run(["preview", "one", "--runs", str(finished.parent)]) == 0
    assert {path.name: path.read_bytes() for path in run.samples.glob(f"{STEPS:06}-*.png")} == own
    assert {name: data for name, data in files(finished).items() if name in before} == before
    assert run.state() == "done"


def test_only_one_process_works_in_a_folder(finished: Path, tmp_path: Path):
    run = Run(finished)
    with run.alone(), pytest.raises(UsageError, match="another process"):
        previews_newest.draw(run)
    empty = Run(tmp_path / "empty")
    empty.folder.mkdir()
    (empty.folder / "run.toml").write_bytes(run.config_file.read_bytes())
    with pytest.raises(UsageError, match="no whole checkpoint"):
        previews_newest.draw(empty)
