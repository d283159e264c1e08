"""What a run learns from stays as it was: the page changes a copy of it; and pictures can be taken out again."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from studio.pipelines.errors import DataError, UsageError
from studio.store import Run, Store
from studio.ui import data_sets, data_uploads, train_actions, train_look
from studio.ui import draft as drafts
from studio.ui.library_trash import throw
from studio.ui.place import Place, guest, home


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return home(tmp_path / "runs", (tmp_path,))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three pictures that differ, a caption and a mask."""
    found = []
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("c.png", "green"), ("a_mask.png", "white")):
        picture = Image.new("RGB", (96, 64), colour)
        picture.paste("black", (0, 0, 10, 10))
        picture.save(tmp_path / name)
        found.append(tmp_path / name)
    (tmp_path / "a.txt").write_text("a sks dog\n")
    return [*found, tmp_path / "a.txt"]


@pytest.fixture
def folder(place: Place, files: list[Path]) -> Path:
    return data_uploads.receive(place, files).folder


def draft_of(folder: Path, run: str = "rex") -> drafts.Draft:
    return drafts.put(
        drafts.fresh(), {"model": "toy", "data.folder": str(folder), "run": run, "data.class_word": "dog"}
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def begun(folder: Path, place: Place, run: str = "rex") -> Run:
    """A run that waits in the queue."""
    train_actions.start(draft_of(folder, run), place)
    return Run(place.runs / run)


def test_a_run_keeps_its_own_pictures(place: Place, folder: Path, files: list[Path]) -> None:
    begun(folder, place)
    before, draft = contents(folder), draft_of(folder)
    added = data_uploads.receive(place, [files[1].rename(files[1].with_name("d.png"))], folder)
    assert added.said == "Run rex keeps its own pictures; these are a copy."
    assert contents(added.folder).keys() == {*before, "d.png"}
    captioned, said = train_look.captioned(draft, place, {"a.png": "a sks dog"}, [["a.png", "a red sks dog"]])
    assert "1 caption written" in said
    assert "Run rex keeps" in said
    assert (Path(captioned) / "a.txt").read_text() == "a red sks dog\n"
    less, said = train_look.taken_out(draft, place, ["b.png"])
    assert "Run rex keeps" in said
    assert contents(Path(less)).keys() == before.keys() - {"b.png"}
    assert contents(folder) == before
    assert len({folder, added.folder, Path(captioned), Path(less)}) == 4
    again, said = train_look.taken_out(draft_of(Path(less)), place, ["c.png"])
    assert (again, "keeps" in said) == (less, False), "the copy is nobody's yet"


def test_whatever_became_of_the_run(place: Place, folder: Path) -> None:
    assert data_sets.users(place, folder) == []
    one, two = Store(place.runs), begun(folder, place, "two")
    one.create(drafts.config(draft_of(folder / "a.png", "one"), place))
    one.create(drafts.config(draft_of(place.uploads / "other", "three"), place))
    one.create(drafts.config(draft_of(place.uploads, "all"), place))
    (place.runs / "broken").mkdir()
    (place.runs / "broken" / "run.toml").write_text(f"[dreambooth\n'{folder}'")
    assert data_sets.users(place, folder) == ["all", "broken", "one", "two"]
    throw(place.runs, "one")
    assert data_sets.users(place, folder) == ["all", "broken", "two", "one"], "a run in the trash may come back"
    assert data_sets.kept(["a", "b", "c", "d"]) == "Runs a, b, c and 1 more keep their own pictures; these are a copy."
    assert two.config_file.exists()


def test_a_copy_that_cannot_be_changed_goes_again(place: Place, folder: Path) -> None:
    begun(folder, place)
    before = {path.name for path in place.uploads.iterdir()}
    with pytest.raises(DataError, match="not in the folder any more"):
        data_sets.take_out(place, folder, ["a.png", "gone.png"])
    assert {path.name for path in place.uploads.iterdir()} == before
    assert (folder / "a.png").exists()


def test_a_picture_goes_with_what_belongs_to_it_alone(place: Place, folder: Path) -> None:
    now, said = data_sets.take_out(place, folder, ["a.png"])
    assert now == folder
    assert said == "Taken out: a.png, and what belonged to it: a.txt, a_mask.png."
    assert contents(folder).keys() == {"b.png", "c.png"}
    (folder / "b.txt").write_text("a blue sks dog")
    (folder / "b.jpg").write_bytes((folder / "c.png").read_bytes())
    assert data_sets.take_out(place, folder, ["b.png"])[1] == "Taken out: b.png."
    assert contents(folder).keys() == {"b.jpg", "b.txt", "c.png"}, "the caption is the other one's too"


def test_what_may_be_taken_out(place: Place, folder: Path, tmp_path: Path) -> None:
    (folder / "tiny.png").write_bytes(b"no picture")
    found = train_look.answer(draft_of(folder), place, train_look.Looks())
    assert found is not None
    assert found.files == ["a.png", "b.png", "c.png", "tiny.png"], "what the data doctor leaves out too"
    data_sets.take_out(place, folder, ["tiny.png"])
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.png").write_bytes((folder / "a.png").read_bytes())
    with pytest.raises(UsageError, match="move the pictures out of it"):
        train_look.taken_out(draft_of(mine), place, ["a.png"])
    fox = drafts.put(drafts.fresh(), {"data.folder": "subject:fox"})
    with pytest.raises(UsageError, match="example subjects stay"):
        train_look.taken_out(fox, place, ["01.png"])
    with pytest.raises(UsageError, match="no picture is chosen"):
        train_look.taken_out(draft_of(folder), place, [])
    with pytest.raises(DataError, match="not in the folder"):
        train_look.taken_out(draft_of(folder), place, ["../other/a.png"])
    with pytest.raises(UsageError, match="signed-in"):
        data_sets.take_out(guest(tmp_path, "", writable=True, zero_gpu=False), folder, ["a.png"])
    assert (mine / "a.png").exists()


def test_a_folder_of_ones_own_is_captioned_in_place(place: Place, files: list[Path], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in files:
        file.rename(mine / file.name)
    begun(mine, place)
    draft = draft_of(mine)
    folder, said = train_look.captioned(draft, place, {"a.png": "a sks dog"}, [["a.png", "a red sks dog"]])
    assert (folder, "keeps" in said) == (str(mine), False)
    assert (mine / "a.txt").read_text() == "a red sks dog\n"


def test_a_space_does_not_open_all_uploads_at_once(tmp_path: Path, files: list[Path]) -> None:
    here = guest(tmp_path, "me", writable=True, zero_gpu=False)
    data_uploads.receive(here, files)
    for all_of_them in (here.uploads, here.uploads.parent):
        with pytest.raises(UsageError, match="one of the folders in it"):
            train_look.captioned(draft_of(all_of_them), here, {"a.png": ""}, [["a.png", "a cat"]])
