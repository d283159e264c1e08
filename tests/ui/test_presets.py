"""A preset is a config that `studio train` reads: the same settings come back, the pictures stay the visitor's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.config import flat, from_toml
from studio.pipelines.errors import UsageError
from studio.ui import draft as drafts
from studio.ui import presets
from studio.ui.place import Place, guest, home

CHANGED = {"steps": 40, "adapter.rank": 4, "adapter.alpha": 2.0, "data.folder": "subject:fox", "run": "mine", "seed": 5}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return home(tmp_path / "runs", (tmp_path,))


def test_there_and_back(place: Place) -> None:
    draft = drafts.put(drafts.fresh("dco"), CHANGED)
    path = presets.save(place, "my fox", draft)
    assert presets.names(place) == ["my fox"]
    assert path.is_relative_to(place.runs / ".presets")
    assert presets.load(place, "my fox", draft) == {**draft, "goal": ""}
    alone = presets.load(place, "my fox")
    assert alone["changed"] == {key: value for key, value in CHANGED.items() if key not in presets.OWN}
    told = from_toml(path, {"runs": place.runs})
    assert flat(told) == flat(drafts.config(alone, place))
    presets.delete(place, "my fox")
    assert presets.names(place) == []


def test_nothing_changed_is_a_preset_too(place: Place) -> None:
    presets.save(place, "plain", drafts.fresh("sara"))
    assert presets.load(place, "plain") == drafts.fresh("sara")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 61, "a\nb", "dot."])
def test_names_stay_in_the_folder(name: str, place: Place) -> None:
    with pytest.raises(UsageError):
        presets.save(place, name, drafts.fresh())
    assert not list(place.runs.rglob("*.toml"))


def test_a_strangers_file(place: Place) -> None:
    folder = place.runs / ".presets"
    folder.mkdir(parents=True)
    mistakes = {
        "steps = 3\n": "has no setting 'steps'",
        "trainer = 'dco'\n[dco]\nstepz = 3\n": "did you mean 'steps'",
        "trainer = [\n": "not TOML",
        "model = '/etc'\n": "outside",
        "[dreambooth.prior]\nfolder = '/etc'\n": "outside",
    }
    for text, said in mistakes.items():
        (folder / "theirs.toml").write_text(text)
        with pytest.raises(UsageError, match=said):
            presets.load(place, "theirs")


def test_a_file_brings_its_name_and_pictures_and_a_preset_does_not(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "theirs.toml"
    file.write_text("run = 'theirs'\n[dreambooth]\nsteps = 3\n[dreambooth.data]\nfolder = 'subject:dog'\n")
    now = drafts.put(drafts.fresh(), {"run": "mine", "data.folder": "subject:fox", "seed": 5})
    for whole, run, folder in ((True, "theirs", "subject:dog"), (False, "mine", "subject:fox")):
        changed = presets.read(file, file.name, place, now, whole=whole)["changed"]
        assert (changed["run"], changed["data.folder"], changed["steps"]) == (run, folder, 3)
    file.write_text("trainer = [")
    with pytest.raises(UsageError, match="^theirs.toml: not TOML"):
        presets.read(file, file.name, place, now)


def test_errors(place: Place, tmp_path: Path) -> None:
    presets.save(place, "mine", drafts.fresh())
    with pytest.raises(UsageError, match="did you mean 'mine'"):
        presets.load(place, "mime")
    with pytest.raises(UsageError, match="should be at least 1"):
        presets.save(place, "wrong", drafts.edit(drafts.fresh(), "steps", 0))
    with pytest.raises(UsageError, match="signed-in"):
        presets.save(guest(tmp_path, "", writable=True, zero_gpu=False), "x", drafts.fresh())
