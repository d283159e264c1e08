"""The Sample tab's fields and recipes say the same; the tab draws, restores and refuses in sentences."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from studio import pictures
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import KINDS, Guiding
from studio.ui.drawn import caption
from studio.ui.place import home
from studio.ui.recipe_reading import read
from studio.ui.recipes import Recipe
from studio.ui.sample_form import FIELDS, fields, recipe_of, wish
from studio.ui.words import line, toast

CAT = Recipe(prompt="a cat", model="toy", steps=2, guidance_scale=2.0)
ASKER: Any = SimpleNamespace(session_hash="me")


@pytest.mark.parametrize(
    "recipe",
    [
        CAT,
        Recipe(sources=("a", "b"), strengths=(0.5, -1), prompt="x", seed=2**63 - 1, decor="y", decor_strength=0.0),
        *(Recipe(prompt="x", guidance=Guiding(kind=kind, rescale=0.5)) for kind in KINDS),
        Recipe(prompt="x", guidance=Guiding(kind="consistency", w_con=0.0), sampler="euler", negative="z"),
    ],
)
def test_fields_filled_from_a_recipe_mean_that_recipe(recipe: Recipe) -> None:
    assert recipe_of(fields(recipe)) == recipe
    assert fields(recipe, []).keys() | {"n"} == set(FIELDS)


def test_numbers_of_another_kind_of_guidance_do_not_count() -> None:
    values = fields(CAT) | {"kind": "rl", "w_con": 99, "gain": 3}
    assert recipe_of(values).guidance == Guiding(kind="rl", gain=3)


def test_pictures_count_their_seeds_up_and_a_grid_takes_their_place() -> None:
    values = fields(CAT) | {"n": 3, "seed": "5"}
    assert [one.seed for one in wish(values).recipes] == [5, 6, 7]
    found = wish(values | {"x": "steps", "x_values": "1-4"})
    assert [one.steps for one in found.recipes] == [1, 2, 3, 4]
    assert {one.seed for one in found.recipes} == {5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sources": []}, "no source is chosen"),
        ({"strengths": "1, 2"}, "2 strengths for 1 source:"),
        ({"strengths": "much"}, "give numbers parted by commas"),
        ({"seed": "1.5"}, "^seed = 1.5: should be a whole number$"),
        ({"prompt": ""}, "there is no prompt"),
        ({"n": 1000}, "pictures = 1000"),
        ({"n": 0}, "pictures = 0"),
        ({"strengths": "1e30"}, "^strength of source 1 = 1e\\+30: should be less"),
        ({"guidance_scale": 200}, "^guidance scale = 200: should be less"),
        ({"x": "steps", "x_values": "3"}, "two values or more"),
        ({"kind": "personalization", "omega": 3}, "guidance: omega = 3"),
    ],
)
def test_a_mistake_is_a_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        wish(fields(CAT) | change)
    assert "\n" not in str(caught.value)


@pytest.fixture
def tab(tmp_path: Path) -> Any:
    place = home(tmp_path / "runs", (tmp_path,))

    async def build() -> Any:  # in a running loop: without one, gradio leaves loops of its own open
        import gradio as gr

        from studio.ui import tab_sample

        with gr.Blocks():
            return tab_sample.build(lambda request: place)

    return asyncio.run(build())


@pytest.mark.parametrize("kind", KINDS)
def test_a_guidance_is_chosen_and_nothing_else_need_be_filled_in(tab: Any, kind: str) -> None:
    stands = {name: tab.fields[name].value for name in Guiding.model_fields}
    assert None not in stands.values(), "a browser makes it 0"
    assert recipe_of(fields(CAT) | stands | {"kind": kind}).guidance == Guiding(kind=kind)


def asked(**change: Any) -> list[Any]:
    values = fields(CAT, []) | {"n": 1} | change
    return [values[name] for name in FIELDS]


def test_the_tab_draws_keeps_and_restores(tab: Any, tmp_path: Path) -> None:
    import gradio as gr

    from studio.ui import tab_sample

    *_, end = tab.draw(ASKER, *asked(x="seed", x_values="1-2", negative="rain"))
    files = end[4]
    assert end[1] == "2 pictures drawn"
    assert len(files) == 3  # their sheet and two pictures in the order in which they were drawn
    assert [read(Path(file)).values["seed"] for file in files] == [0, 1, 2]
    ways = tab.choose(files, SimpleNamespace(index=0), ASKER)[2].splitlines()
    assert ways[0].startswith("# the grid's 2 pictures, a command each")
    assert ["--seed 1 " in ways[1], "--seed 2 " in ways[2]] == [True, True]
    assert [way.rpartition(" ")[2] for way in ways[1:]] == ["grid-01.png", "grid-02.png"]
    assert tab_sample.unfolded(*asked(x="seed")) == gr.update(open=True)
    assert tab_sample.unfolded(*asked()) == gr.skip()
    said, *filled = tab.restore(files[0], *asked(prompt="another"))
    now = dict(zip(FIELDS, filled, strict=True))
    assert said == "The picture's settings are back, and those of its grid (seed)."
    assert (now["prompt"], now["negative"], now["x"], now["x_values"], now["y"]) == (
        "a cat",
        "rain",
        "seed",
        "1, 2",
        "",
    )
    told, files_again, *values = tab.arrive({"prompt": "draft", "gone": 1}, ASKER)
    assert told == ""
    assert [path for path, _ in files_again["value"]] == files
    assert values[1 + FIELDS.index("prompt")] == "draft"


def test_the_tab_says_what_is_wrong_and_can_be_used_again(tab: Any, tmp_path: Path) -> None:
    for change in ({"prompt": ""}, {"sources": ["nobody"]}, {"sources": ["/etc/hostname"]}, {"sampler": "sde"}):
        *_, end = tab.draw(ASKER, *asked(**change))
        assert end[1].startswith("**")
        assert "\n" not in end[1]
        assert end[5]["interactive"] is True
    path = pictures.save(Image.new("RGB", (2, 2)), tmp_path / "x.png", **{"studio.recipe": '{"magic": 1, "steps": 3}'})
    said, emptied, *filled = tab.dropped(str(path), *asked())
    assert "'magic': no setting of this version" in said
    assert (emptied, dict(zip(FIELDS, filled, strict=True))["steps"]) == (None, 3)
    Image.new("RGB", (2, 2)).save(path)
    said, emptied, *_ = tab.dropped(str(path), *asked())
    assert said.startswith("**x.png: carries no recipe")
    assert emptied is None


def test_a_message_begins_with_a_capital_but_names_stay_as_they_are() -> None:
    assert line("there is no prompt") == "There is no prompt."
    for said in ("evil.toml: cannot be read", "rex@999: has no such checkpoint", "d1 has no adapter yet"):
        assert line(said) == f"{said}."
    assert line("") == "."
    assert toast(UsageError("'<img src=x>' is no name")) == "'&lt;img src=x&gt;' is no name."


def test_what_stands_under_a_picture_says_what_a_grid_changes() -> None:
    bare = Recipe(prompt="x", sources=("fox",))
    assert caption(bare) == "seed 0: fox"
    changes = {"seed": 1, "strengths": (0.5,), "guidance_scale": 2.0, "steps": 8, "sampler": "euler"}
    changes["guidance"] = Guiding(kind="rl")
    said = {caption(bare.model_copy(update={name: value})) for name, value in changes.items()}
    assert len(said | {caption(bare)}) == len(changes) + 1
