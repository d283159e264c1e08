"""The page draws what `studio sample` draws, one model and one drawing at a time, and can be stopped at any step."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studio import sample
from studio.pipelines.adapters import files, lora
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.guidance_settings import KINDS, Guiding
from studio.pipelines.toy import Toy
from studio.store import Store
from studio.ui import drawable, drawn, drawn_files
from studio.ui.drawing_room import Drawn, Frame, Room
from studio.ui.grids import cells, parse
from studio.ui.place import home
from studio.ui.recipe_reading import read
from studio.ui.recipes import Recipe

ABOUT = {"trigger": "sks", "class_word": "cat", "base_model": "toy"}
CAT = Recipe(prompt="a {trigger} {class_word}", model="toy", steps=4, guidance_scale=3.0)


def adapter(path: Path, seed: int = 2) -> Path:
    model = Toy()
    torch.manual_seed(seed)
    built = lora.Config(rank=2).build(model)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return files.save(model, built, path, ABOUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapter files, and a place for runs."""
    path = tmp_path_factory.mktemp("room")
    adapter(path / "cat.safetensors")
    adapter(path / "dog.safetensors", 3)
    (path / "runs").mkdir()
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: one, with two checkpoints."""
    from studio.train import train
    from tests.runs import config, pictures

    path = tmp_path_factory.mktemp("trained")
    train(config(pictures(path / "data"), path / "runs", "one", steps=4, save_every=2, previews={"every": 0}))
    return path / "runs"


@pytest.fixture
def room() -> Room:
    return Room()


def last(frames: Any) -> Frame:
    *_, end = frames
    return end


def pixels(picture: Image.Image) -> Any:
    return np.asarray(picture, np.int16)


def drawn_by(room: Room, recipe: Recipe, runs: Path) -> Any:
    return pixels(last(room.draw([recipe], runs)).done[0].image)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_draws_what_studio_sample_draws(room: Room, folder: Path, tmp_path: Path, kind: Any) -> None:
    about = {"guidance": Guiding(kind=kind), "negative": "a {trigger} dog"}
    recipe = CAT.model_copy(update={"sources": (str(folder / "cat.safetensors"),), **about})
    same = {"model": "toy", "seed": 7, "n": 1, "out": tmp_path / "x.png", "steps": 4, "guidance_scale": 3.0}
    sample.sample(recipe.sources, [recipe.prompt], strength=0.5, **about, **same)
    recipe = recipe.model_copy(update={"seed": 7, "strengths": (0.5,)})
    with Image.open(tmp_path / "x.png") as expected:
        assert np.array_equal(drawn_by(room, recipe, folder / "runs"), pixels(expected))


def test_several_sources_are_in_one_model_and_decor_is_heard(room: Room, folder: Path, tmp_path: Path) -> None:
    sources = (str(folder / "cat.safetensors"), str(folder / "dog.safetensors"))
    recipe = CAT.model_copy(update={"sources": sources, "strengths": (0.5, 1.0), "decor": "cat", "sampler": "euler"})
    how = {"strength": (0.5, 1.0), "decor": "cat", "sampler": "euler", "steps": 4, "guidance_scale": 3.0}
    sample.sample(sources, [recipe.prompt], n=1, model="toy", out=tmp_path / "x.png", **how)
    with Image.open(tmp_path / "x.png") as expected:
        assert np.array_equal(drawn_by(room, recipe, folder / "runs"), pixels(expected))


def test_the_negative_prompt_takes_the_place_of_the_empty_one(room: Room, folder: Path) -> None:
    runs, found = folder / "runs", {}
    for negative in ("", "blurry", "rain"):
        found[negative] = drawn_by(room, CAT.model_copy(update={"negative": negative}), runs)
    assert len({value.tobytes() for value in found.values()}) == 3
    alone = CAT.model_copy(update={"guidance_scale": 1.0, "prompt": "a cat"})  # no guidance, nothing to be told
    deaf = last(room.draw([alone.model_copy(update={"negative": "rain"})], runs))
    assert np.array_equal(drawn_by(room, alone, runs), pixels(deaf.done[0].image))
    assert deaf.notes == (
        "base: --negative is not heard, for guidance scale 1 asks for the prompt alone; raise --guidance-scale",
    )


def test_the_last_checkpoint_draws_as_the_exported_adapter_and_an_earlier_one_does_not(
    room: Room, trained: Path
) -> None:
    found = {
        name: drawn_by(room, CAT.model_copy(update={"sources": (name,)}), trained)
        for name in ("one", "one@4", "one@latest", "one@2", "base")
    }
    assert np.array_equal(found["one"], found["one@4"])
    assert np.array_equal(found["one"], found["one@latest"])
    assert len({value.tobytes() for value in found.values()}) == 3


def test_a_damaged_checkpoint_is_refused(room: Room, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "one", tmp_path / "two")
    path = tmp_path / "two" / "checkpoints" / "step-000002" / "meta.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ModelError, match="step-000002 cannot be drawn"):
        last(room.draw([CAT.model_copy(update={"sources": ("two@2",)})], tmp_path))
    with pytest.raises(UsageError, match="it has 2, 4"):
        last(room.draw([CAT.model_copy(update={"sources": ("two@3",)})], tmp_path))


def test_each_picture_of_a_grid_is_what_its_recipe_gives_alone(room: Room, folder: Path) -> None:
    runs, sources = folder / "runs", (str(folder / "cat.safetensors"),)
    start = CAT.model_copy(update={"sources": sources})
    recipes = cells(start, [parse("seed", "1-3"), parse("strength", "0, 1"), parse("prompt", "a cat, a dog")])
    end = last(room.draw(recipes, runs))
    assert list(end.done) != []
    assert sorted(end.done) == list(range(12))
    for number in (0, 5, 11):
        alone = drawn_by(room, recipes[number], runs)
        assert np.abs(pixels(end.done[number].image) - alone).max() <= 1  # a batch adds in another order
        assert end.done[number].recipe.seed == recipes[number].seed


def test_estimates_come_on_the_way_and_the_share_grows(room: Room, folder: Path) -> None:
    recipes = [CAT.model_copy(update={"seed": seed, "steps": 10}) for seed in range(6)]
    frames = list(room.draw(recipes, folder / "runs"))
    assert [frame.share for frame in frames] == sorted(frame.share for frame in frames)
    assert frames[-1].share == 1
    assert {len(frame.early) for frame in frames} == {0, 2, 4}
    assert sum(bool(frame.early) for frame in frames) == 8  # four before the end of each of two batches
    assert not any(frame.done for frame in frames if frame.said.startswith("0 of"))


def test_a_drawing_stops_at_the_next_step_and_the_model_is_as_it_was(room: Room, folder: Path) -> None:
    runs, sources = folder / "runs", (str(folder / "cat.safetensors"),)
    quick = CAT.model_copy(update={"sources": sources})
    before = drawn_by(room, quick, runs)
    seen: list[Frame] = []
    for frame in room.draw([quick.model_copy(update={"steps": 1000})] * 3, runs, "me"):
        seen.append(frame)
        if frame.early:
            assert room.stop("me")
    assert seen[-1].said == "stopped: 0 of 3 pictures are drawn"
    assert not room.stop("me")
    assert np.array_equal(drawn_by(room, quick, runs), before)
    assert room.model("toy").adapter is None


def test_one_drawing_at_a_time_and_leaving_one_makes_room(room: Room, folder: Path) -> None:
    runs, long = folder / "runs", [CAT.model_copy(update={"steps": 1000, "seed": seed}) for seed in range(40)]
    first = room.draw(long, runs, "a")
    while not next(first).early:
        pass
    assert not room.release()  # somebody draws
    second = room.draw([CAT], runs, "b")
    assert next(second).said.startswith("waiting")
    first.close()
    assert last(second).share == 1
    third = room.draw(long, runs, "a")
    next(third)
    assert last(room.draw([CAT], runs, "a")).share == 1  # the newer drawing of a visitor ends the older
    assert last(third).said.startswith("stopped")


def test_mistakes_reach_whoever_draws_and_leave_the_room_usable(room: Room, folder: Path) -> None:
    runs = folder / "runs"
    for recipe, words in (
        (CAT.model_copy(update={"sources": ("nobody",)}), "there is no run 'nobody'"),
        (CAT.model_copy(update={"prompt": " "}), "there is no prompt"),
        (CAT.model_copy(update={"sampler": "sde"}), "sde"),
        (CAT.model_copy(update={"sources": ("base", "one"), "strengths": (1.0, 1.0)}), "base has none"),
    ):
        with pytest.raises(UsageError, match=words):
            last(room.draw([recipe], runs))
    assert last(room.draw([CAT], runs)).share == 1


def test_the_model_leaves_the_memory_when_it_is_not_used(folder: Path) -> None:
    room = Room(idle=0.05)
    last(room.draw([CAT], folder / "runs"))
    until = time.monotonic() + 10
    while room.loaded and time.monotonic() < until:
        time.sleep(0.02)
    assert room.loaded == ""


def test_a_model_on_a_gpu_makes_way_for_a_training_and_one_in_memory_stays(
    room: Room, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = folder / "runs"
    assert not room.make_way()  # nothing is loaded
    last(room.draw([CAT], runs))
    assert not room.make_way()
    assert room.loaded == "toy"
    seen = SimpleNamespace(type="cuda")  # as a model on a GPU says
    monkeypatch.setattr(room.model("toy"), "device", seen)
    assert room.make_way()
    assert room.loaded == ""

    drawing = room.draw([CAT.model_copy(update={"steps": 1000})], runs, "me")
    while not next(drawing).early:
        pass
    model = room.model("toy")
    model.device, before = seen, model.device
    assert not room.make_way()  # somebody draws
    model.device = before
    room.stop("me")
    assert last(drawing).said.startswith("stopped")
    assert room.loaded == ""  # when it ended


def test_the_newest_pictures_stay_and_what_others_put_there_is_left_alone(tmp_path: Path) -> None:
    place = home(tmp_path, (tmp_path,))
    for number in range(6):
        drawn.keep(Drawn(CAT.model_copy(update={"seed": number}), Image.new("RGB", (2, 2))), place)
    mine = tmp_path / drawn_files.NAME / "00 mine.png"
    Image.new("RGB", (2, 2)).save(mine)
    assert drawn_files.prune(place, most=6) == 0
    assert drawn_files.prune(place, most=4) == 2
    assert [kept.caption for kept in drawn.recent(place)] == [
        drawn.caption(CAT.model_copy(update={"seed": number})) for number in (5, 4, 3, 2)
    ]
    assert mine.is_file()


def test_a_kept_picture_says_how_it_was_drawn_and_names_no_folder_of_this_machine(room: Room, folder: Path) -> None:
    place = home(folder / "runs", (folder,))
    recipe = drawable.confined(CAT.model_copy(update={"sources": ("cat.safetensors",), "steps": 0}), place)
    assert recipe.sources == (str(folder / "cat.safetensors"),)
    kept = drawn.keep(last(room.draw([recipe], place.runs)).done[0], place)
    assert str(folder).encode() not in kept.path.read_bytes()
    again = drawable.confined(read(kept.path).over(Recipe()), place)
    assert again == recipe.model_copy(update={"sampler": "auto", "steps": 25})
    with Image.open(kept.path) as picture:
        assert np.array_equal(drawn_by(room, again, place.runs), pixels(picture))
    assert drawn.recent(place)[0] == kept


def test_sources_outside_of_the_visitors_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    place = home(folder / "runs", (folder / "data",))
    for name in (str(adapter(tmp_path / "far.safetensors")), "../cat.safetensors", "/etc/passwd", str(tmp_path)):
        with pytest.raises(UsageError, match="outside of"):
            drawable.confined(CAT.model_copy(update={"sources": (name,)}), place)
    with pytest.raises(UsageError, match="outside of"):
        drawable.confined(CAT.model_copy(update={"model": str(tmp_path)}), place)


def test_runs_and_their_checkpoints_can_be_chosen(trained: Path) -> None:
    values = [value for _, value in drawable.choices(Store(trained))]
    assert values == ["one", "one@4", "one@2", "base", "lcm:embedded"]
    place = home(trained, (trained,))
    asked = CAT.model_copy(update={"sources": ("one", "one@2")})
    assert drawable.confined(asked, place).sources == asked.sources
    with pytest.raises(UsageError, match="did you mean 'one'"):
        drawable.confined(CAT.model_copy(update={"sources": ("onne",)}), place)


def test_of_old_runs_the_newest_is_offered_and_a_run_at_work_is_pinned(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("rex", "done"):
        (tmp_path / name / "checkpoints" / "step-000020").mkdir(parents=True)
        (tmp_path / name / "run.toml").write_text("")
    (tmp_path / "done" / "adapter.safetensors").write_bytes(b"")
    monkeypatch.setattr(drawable, "DETAILED", 0)
    values = {value for _, value in drawable.choices(Store(tmp_path))}
    assert values == {"rex", "done", "base", "lcm:embedded"}
    place, asked = home(tmp_path, (tmp_path,)), CAT.model_copy(update={"sources": ("rex", "done")})
    assert drawable.confined(asked, place).sources == ("rex@20", "done")  # what its picture says does not change later
    (tmp_path / "rex" / "adapter.safetensors").write_bytes(b"")
    assert drawable.confined(asked, place).sources == ("rex", "done")


def test_sheets_are_kept_with_what_is_missing_left_blank(room: Room, folder: Path, tmp_path: Path) -> None:
    place, axes = home(tmp_path / "runs", (tmp_path,)), [parse("seed", "1-2"), parse("steps", "2, 3")]
    recipes = cells(CAT, axes)
    end = last(room.draw(recipes, place.runs))
    some: list[Drawn | None] = [end.done[0], None, end.done[2], None]
    (sheet,) = drawn.keep_sheets(CAT, axes, some, place)
    assert drawn.recent(place) == [sheet]
    found = read(sheet.path)
    assert found.over(Recipe()) == CAT
    assert [axis["name"] for axis in found.axes] == ["seed", "steps"]


def test_nothing_imports_torch_before_it_is_drawn() -> None:
    names = "recipes, recipe_reading, grids, drawable, drawn, drawing_room"
    code = f"import sys; from studio.ui import {names}; print([m for m in ('torch', 'gradio') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"
