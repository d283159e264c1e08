"""A picture's recipe: settings to PNG metadata and back."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio import pictures
from studio.commands.sample import read as read_command
from studio.pipelines.errors import DataError, UsageError
from studio.pipelines.guidance_settings import Guiding
from studio.ui.recipe_reading import Found, read
from studio.ui.recipes import KEY, Recipe, command, made, only_read

RECIPES = [
    Recipe(prompt="a cat"),
    Recipe(
        sources=("fox", "style@500"),
        strengths=(0.8, -0.5),
        prompt='a "{trigger}" {class_word}, żółty | rain',
        negative="blurry, text",
        seed=2**63 - 1,
        sampler="euler",
        steps=12,
        guidance_scale=7.5,
        guidance=Guiding(kind="consistency", w_con=0.0, rescale=0.25),
        decor="a, b",
        decor_strength=0.5,
        model="toy",
    ),
    Recipe(prompt="late", guidance=Guiding(kind="combined", late_scale=None, window=0.1)),
]


def png(path: Path, **about: Any) -> Path:
    return pictures.save(Image.new("RGB", (4, 4)), path / "x.png", **about)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_dropped_picture_restores_every_setting(tmp_path: Path, recipe: Recipe) -> None:
    found = read(png(tmp_path, **recipe.about()))
    other = Recipe(prompt="other", seed=3, steps=99, decor="x", guidance=Guiding(kind="rl"), negative="y")
    assert found.over(other) == recipe
    assert found.remarks == []


def test_unknown_settings_and_bad_values_are_told_and_the_rest_is_taken(tmp_path: Path) -> None:
    table = {"prompt": "a cat", "stepps": 5, "seed": -1, "steps": 7, "sampler": "eular", "guidance": {"kind": "magic"}}
    found = read(png(tmp_path, **{KEY: json.dumps(table)}))
    assert (found.values["prompt"], found.values["steps"]) == ("a cat", 7)
    assert not {"seed", "sampler", "guidance", "stepps"} & found.values.keys() - {"seed"}
    said = "\n".join(found.remarks)
    assert "'stepps'" in said
    assert "'steps'" in said
    assert "seed = -1: should be greater than or equal to 0" in said
    assert "no such sampler" in said
    assert "guidance = {'kind': 'magic'}" in said
    assert len(found.remarks) == 4


@pytest.mark.parametrize("text", ["{", "[1]", "null", '"x"', "[" * 5000])
def test_a_damaged_recipe_is_told(tmp_path: Path, text: str) -> None:
    assert any("is damaged" in line for line in read(png(tmp_path, **{KEY: text})).remarks)


def test_the_words_of_studio_sample_are_read_back(tmp_path: Path) -> None:
    about = {"prompt": "a cat | a dog", "seed": 4, "sources": "fox, style", "strength": "0.8, 0.5"}
    about |= {"guidance": "consistency w_con=2 rescale=0.5", "sampler": "lcm", "steps": 4, "guidance_scale": 1.0}
    found = read(png(tmp_path, **about))
    made_of = found.over(Recipe())
    assert (made_of.prompt, made_of.seed, made_of.sources, made_of.strengths) == (
        "a cat",
        4,
        ("fox", "style"),
        (0.8, 0.5),
    )
    assert made_of.guidance == Guiding(kind="consistency", w_con=2, rescale=0.5)
    assert (made_of.sampler, made_of.steps, made_of.guidance_scale) == ("lcm", 4, 1.0)
    assert found.remarks == ["a grid of 2 prompts: the first one is taken"]


def test_a_preview_keeps_the_sources_that_were_chosen(tmp_path: Path) -> None:
    found = read(png(tmp_path, prompt="a cat", seed=1, guidance="cfg", sampler="lcm, 4 steps, guidance 1"))
    recipe = found.over(Recipe(sources=("fox", "style"), strengths=(0.5, 0.6)))
    assert (recipe.sources, recipe.strengths, recipe.steps, recipe.sampler) == (("fox", "style"), (0.5, 0.6), 4, "lcm")


def test_parameters_of_other_tools_are_read(tmp_path: Path) -> None:
    text = "a cat <lora:fox:0.8>,\nbest\nNegative prompt: blurry, bad\nSteps: 20, Sampler: DPM++ 2M, CFG scale: 7.5, "
    text += 'Seed: 42, Size: 512x512, Lora hashes: "fox: 1a, b: 2", Model: sd'
    found = read(png(tmp_path, parameters=text))
    recipe = found.over(Recipe())
    assert (recipe.prompt, recipe.negative) == ("a cat <lora:fox:0.8>, best", "blurry, bad")
    assert (recipe.steps, recipe.guidance_scale, recipe.seed) == (20, 7.5, 42)
    said = " ".join(found.remarks)
    assert "Sampler = DPM++ 2M, Model = sd" in said
    assert "sources" in said


def test_pictures_without_a_recipe_and_files_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    (tmp_path / "text.png").write_text("no picture")
    info = PngInfo()
    for number in range(5):
        info.add_text(f"k{number}", "x" * 200_000)
    Image.new("RGB", (4, 4)).save(tmp_path / "long.png", pnginfo=info)
    for name, words in (("bare", "carries no recipe"), ("text", "cannot be read as a picture"), ("long", "too much")):
        with pytest.raises(DataError, match=words) as caught:
            read(tmp_path / f"{name}.png")
        assert "\n" not in str(caught.value)


def test_secrets_in_a_prompt_do_not_reach_the_picture(tmp_path: Path) -> None:
    secret = "hf_" + "a1" * 12
    path = png(tmp_path, **Recipe(prompt=f"a cat {secret}").about())
    assert secret not in path.read_bytes().decode("latin-1")
    assert read(path).values["prompt"] == "a cat <secret>"


@pytest.mark.parametrize("recipe", [*RECIPES, Recipe(prompt="-a cat", negative="--steps", decor="-x")])
def test_the_command_draws_with_the_same_settings(recipe: Recipe) -> None:
    options = read_command(shlex.split(command(recipe, 3))[2:])
    assert (list(options.prompt), options.seed, options.n) == ([recipe.prompt], recipe.seed, 3)
    assert options.guidance == recipe.guidance
    assert (options.sampler, options.steps, options.strength) == (recipe.sampler, recipe.steps, recipe.each)
    assert (options.sources, options.negative, options.decor) == (recipe.sources, recipe.negative, recipe.decor)


def test_the_command_names_the_folder_of_the_runs_where_it_is_another() -> None:
    recipe = Recipe(prompt="a", negative="b", sources=("one@500",))
    line = "studio sample one@500 --prompt a --seed 0 --n 1 --negative b"
    assert command(recipe) == line
    assert command(recipe, runs=Path("/my runs")) == f"{line} --runs '/my runs'"


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"steps = 1001: should be less than or equal to 1000"):
        made(Recipe(), steps=1001)
    with pytest.raises(UsageError, match="3 strengths for 2 sources"):
        made(Recipe(), sources=("a", "b"), strengths=(1, 2, 3))
    with pytest.raises(UsageError, match="there is no prompt"):
        Recipe().check()
    with pytest.raises(UsageError, match="does nothing with cfg guidance"):
        Recipe(prompt="a", guidance=Guiding(w_con=5)).check()
    assert only_read(Guiding(kind="rl", gain=3, w_con=5)) == Guiding(kind="rl", gain=3)
    assert Found(values={"seed": 5}).over(Recipe(prompt="a")) == Recipe(prompt="a", seed=5)
