"""The negative prompt takes the empty prompt's place in every kind of guidance; RUN@STEP is a source like any other."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from studio import cli, guiding, sample
from studio.pipelines.adapters import lora
from studio.pipelines.drawing import Drawing
from studio.pipelines.guidance_settings import Guiding
from studio.pipelines.protocols import Backbone, Cond
from studio.pipelines.toy import Toy
from studio.sample import Column, Source
from studio.sample_how import How
from tests import models

KINDS = [Guiding(), Guiding(rescale=0.5), Guiding(kind="consistency"), Guiding(kind="consistency", w_con=0.0)]
KINDS += [Guiding(kind="personalization", omega=share) for share in (0.0, 0.5, 1.0)]
KINDS += [Guiding(kind="rl", gain=gain) for gain in (0.0, 1.0, 2.0)]
KINDS += [
    Guiding(kind="combined", window=share, late_scale=late)
    for share, late in product((0.0, 0.5, 1.0), (None, 1.0, 4.0))
]
X, T = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(5)), (900, 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def tuned() -> Backbone:
    """The toy with a moved adapter."""
    model = Toy()
    torch.manual_seed(2)
    adapter = lora.Config(rank=2).build(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def outputs(model: Backbone, how: Guiding, scale: float, *negative: str) -> tuple[list[Tensor], list[Cond]]:
    """A guided prediction at an early and at a late step, and the conditionings that the network was told."""
    heard: list[Cond] = []
    with torch.no_grad():
        pair: Any = {"negative": (negative[0], negative[-1])} if negative else {}
        guide = guiding.build(how, model, scale, ["a cat", "a dog"], **pair)
        predict = guide(lambda x, t, cond: (heard.append(cond), model.predict(x, t, cond))[1])
        cond = model.embed(["a sks cat", "a sks dog"])
        return [predict(X, torch.full((2,), t), cond) for t in T], heard


@pytest.mark.parametrize("how", KINDS, ids=Guiding.said)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_kind_hears_the_negative_prompt_exactly_where_it_says_so(tuned: Backbone, how: Guiding, scale: float) -> None:
    plain, _ = outputs(tuned, how, scale)
    empty, _ = outputs(tuned, how, scale, "")
    told, _ = outputs(tuned, how, scale, "a house in rain")
    assert all(map(torch.equal, plain, empty))
    assert any(not torch.equal(*pair) for pair in zip(plain, told, strict=True)) == how.hears_negative(scale)


@pytest.mark.parametrize("how", KINDS, ids=Guiding.said)
def test_each_model_is_told_its_own_words_in_the_empty_prompts_place(tuned: Backbone, how: Guiding) -> None:
    with torch.no_grad():
        empty, mine, base = (tuned.embed([text] * 2).tokens for text in ("", "a sks house", "a house"))
    before, after = outputs(tuned, how, 3.0)[1], outputs(tuned, how, 3.0, "a sks house", "a house")[1]
    for old, new in zip(before, after, strict=True):
        assert len(old) == len(new)
        for was, now in zip(old.tokens.split(2), new.tokens.split(2), strict=True):
            if torch.equal(was, empty):
                assert torch.equal(now, mine) or torch.equal(now, base)
            else:
                assert torch.equal(now, was)
    found = {name for cond in after for row in cond.tokens.split(2) for name, text in (("mine", mine), ("base", base))
             if torch.equal(row, text)}  # fmt: skip
    only = {"cfg": {"mine"}, "personalization": {"mine"}, "consistency": {"base"}}
    assert found <= only.get(how.kind, {"mine", "base"})


@pytest.mark.parametrize("name", ["tiny-sd-eps", "tiny-sd-v", "tiny-sd3"])
def test_the_picture_is_the_stock_pipelines_with_the_same_negative_prompt(name: str, folder: Path) -> None:
    model: Any = models.backbone(name, folder)
    pipe = model.pipeline()
    pipe.set_progress_bar_config(disable=True)
    found = {}
    for negative in ("", "a blurry house"):
        (made,) = guiding.draw(model, ["a red cat"], [11], steps=4, guidance_scale=4.0, negative=(negative, negative))
        generator = torch.Generator().manual_seed(11)
        settings = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "pt", "generator": generator}
        wanted = pipe("a red cat", negative_prompt=negative, **settings).images[0]
        torch.testing.assert_close(made, wanted.float(), rtol=0, atol=2 / 255)
        found[negative] = made
    assert (found[""] - found["a blurry house"]).abs().max() > 4 / 255


def test_it_is_filled_and_without_effect_is_told() -> None:
    source = Source("cat", Path("cat.safetensors"), "toy", {"trigger": "sks", "class_word": "cat"})
    few = Column((source,), (1.0,), Drawing("lcm", 4, 1.0))
    usual = Column((source,), (1.0,), Drawing())
    assert few.told("a {trigger} {class_word}  asleep") == ("a sks cat asleep", "a cat asleep")
    negative = How(negative="rain")
    (line,) = few.doubts(negative)
    assert (
        line == "cat: --negative is not heard, for guidance scale 1 asks for the prompt alone; raise --guidance-scale"
    )
    (line,) = usual.doubts(negative, heard=True)
    assert line == "cat: --negative is not heard, for its network has the guidance inside"
    assert [*usual.doubts(negative), *few.doubts(How(negative=" ")), *usual.doubts(How(), heard=True)] == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: one, with two checkpoints."""
    from studio.train import train
    from tests.runs import config, pictures

    path = tmp_path_factory.mktemp("trained")
    train(config(pictures(path / "data"), path / "runs", "one", steps=4, save_every=2, previews={"every": 0}))
    return path / "runs"


def drawn(runs: Path, out: Path, *words: str) -> Any:
    """The pixels and the header of `studio sample`."""
    fixed = ["--prompt", "a {trigger} cat", "--n", "1", "--steps", "3", "--runs", str(runs), "--out", str(out)]
    assert cli.run(["sample", *words, *fixed]) == 0
    with Image.open(out) as picture:
        return np.asarray(picture.convert("RGB"), np.int16), picture.info


def test_the_command_takes_a_negative_prompt_and_the_picture_says_it(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    plain, before = drawn(runs, out, "one")
    empty, _ = drawn(runs, out, "one", "--negative", "")
    told, about = drawn(runs, out, "one", "--negative", "rain")
    assert np.array_equal(plain, empty)
    assert not np.array_equal(plain, told)
    assert (about["negative"], "negative" in before) == ("rain", False)


def test_checkpoints_are_sources_alone_and_together(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    names = ("one", "one@4", "one@latest", "one@2", f"{runs / 'one'}@2")
    whole, exact, latest, early, by_path = (drawn(runs, out, name)[0] for name in names)
    assert np.array_equal(whole, exact)
    assert np.array_equal(whole, latest)
    assert np.array_equal(early, by_path)
    assert not np.array_equal(whole, early)
    both, about = drawn(runs, out, "one@2", "one@4", "--strength", "0.5", "0")
    half, _ = drawn(runs, out, "one@2", "--strength", "0.5")
    assert np.abs(both - half).max() <= 1
    assert about["sources"] == "one@2, one@4"
    found = sample.find("one@2", "", runs)
    assert (found.label, found.model) == ("one@2", "toy")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one@3", "one@3: the run has no checkpoint of that step; it has 2, 4"),
        ("onne@2", "there is no run 'onne'"),
        ("one@", "there is no run 'one@'"),
        ("base@2", "there is no run 'base'"),
    ],
)
def test_a_mistake_is_one_line(runs: Path, name: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sample", name, "--prompt", "a", "--runs", str(runs)]) == 2
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_the_base_model_is_told_the_class_and_what_nobody_knows_is_said(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cat = Source("cat", tmp_path / "cat.safetensors", "toy", {"trigger": "sks", "class_word": "cat"})
    base = sample.find("base", "toy", runs)
    beside = sample.columns([base, cat], How())[0]
    assert beside.told("a {trigger} {class_word} asleep")[0] == "a cat asleep"
    assert [*beside.blanks(["a {trigger} {class_word}"])] == []
    alone, _ = drawn(runs, tmp_path / "x.png", "base", "--model", "toy", "--prompt", "a {class_word} dog")
    assert (
        capfd.readouterr().err == "studio: base: no class word is known, {class_word} is left out; write it instead\n"
    )
