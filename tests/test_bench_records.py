"""Records of a comparison: kept in one file, laid out elsewhere, gone on with."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from studio import bench_records
from studio.events import Event
from studio.pipelines.errors import DataError
from studio.store import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A comparison with a finished run, its weights and pictures, and an evaluation."""
    place = tmp_path / "here" / "methods"
    run = Run(place / "one")
    run.folder.mkdir(parents=True)
    run.log(Event("check", 3, event="done"))
    run.config_file.write_text(f'data = "{bench_records.STUDIOS}/assets/subjects"\nruns = "{place}"\n')
    (run.folder / "adapter.safetensors").write_bytes(b"weights")
    (run.folder / "grid.png").write_bytes(b"picture")
    (run.checkpoints / "step-000003").mkdir(parents=True)
    (run.checkpoints / "step-000003" / "state.json").write_text("{}")
    (place / "evaluation").mkdir()
    (place / "evaluation" / "evaluation.json").write_text(f'["{place}/one"]')
    return place


def test_what_was_said_and_judged_comes_back_elsewhere(folder: Path, tmp_path: Path) -> None:
    file, there = tmp_path / "kept" / "methods.tar.xz", tmp_path / "there" / "methods"
    assert bench_records.keep(folder, file) == 3
    assert bench_records.restore(file, there) == 3
    assert Run(there / "one").state(3) == "done"
    assert (
        Run(there / "one").config_file.read_text().splitlines()[0]
        == f'data = "{bench_records.STUDIOS}/assets/subjects"'
    )
    assert (there / "evaluation" / "evaluation.json").read_text() == f'["{there}/one"]'
    assert sorted(path.name for path in there.rglob("*.*")) == ["evaluation.json", "events.jsonl", "run.toml"]
    with tarfile.open(file) as packed:
        texts = [(found := packed.extractfile(about)) and found.read().decode() for about in packed]
    assert not [text for text in texts if str(tmp_path) in str(text)]  # no path of this machine


def test_a_folder_whose_path_only_begins_alike_keeps_its_own(folder: Path, tmp_path: Path) -> None:
    file, there = tmp_path / "methods.tar.xz", tmp_path / "there"
    near = f"{folder}tree/fox {folder}-2 {folder}.bak"
    (folder / "one" / "run.toml").write_text(f"{near} {folder}. {folder}/one")
    bench_records.keep(folder, file)
    bench_records.restore(file, there)
    assert (there / "one" / "run.toml").read_text() == f"{near} {there}. {there}/one"


def test_what_is_there_is_left_alone(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "methods.tar.xz"
    bench_records.keep(folder, file)
    kept = (folder / "one" / "events.jsonl").read_text()
    (folder / "evaluation" / "evaluation.json").write_text("newer")
    (folder / "one" / "run.toml").unlink()
    assert bench_records.restore(file, folder) == 1
    assert (folder / "evaluation" / "evaluation.json").read_text() == "newer"
    assert (folder / "one" / "events.jsonl").read_text() == kept


@pytest.mark.parametrize("name", ["../out.json", "/out.json", "one/adapter.bin"])
def test_a_file_that_leaves_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.tar.xz"
    with tarfile.open(file, "w:xz") as packed:
        packed.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    with pytest.raises(DataError, match="is no record"):
        bench_records.restore(file, tmp_path / "there")


def test_what_is_no_file_of_records_is_said_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.tar.xz"
    for content in (b"", b"\xfd7zXZ\x00broken"):
        file.write_bytes(content)
        with pytest.raises(DataError, match="not a file of records"):
            bench_records.restore(file, tmp_path / "there")
    with pytest.raises(DataError, match="no records of runs"):
        bench_records.keep(tmp_path / "there", file)
