"""Adapters that draw in few steps: their sampler in previews, files, samples, evaluations and stock pipelines."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from studio import cli, export, guiding, pictures, previews, scores
from studio.choice_exam import Exam
from studio.config import make
from studio.evaluate import Request, evaluate
from studio.evaluation import model_card_use
from studio.evaluation.gallery import How
from studio.evaluation.records import Evaluation, Source
from studio.evaluation.sets import Prompt, PromptSet
from studio.mistakes import nearest
from studio.pipelines import drawing, sampling, sampling_kinds
from studio.pipelines.adapters import files, lora, sara, stacking, tlora, tokens
from studio.pipelines.drawing import FEW, Drawing
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.guidance_settings import Guiding
from studio.pipelines.preview_settings import FewStep, Previews, advised, as_trained
from studio.pipelines.protocols import Backbone
from studio.pipelines.toy import Toy
from studio.previews import Shot
from studio.sample import Column, draw
from studio.sample import Source as Named
from studio.sample_how import How as Manner
from studio.train import train
from tests import models, runs
from tests.runs import config

ABOUT = {"trigger": "sks", "class_word": "cat", "base_model": "toy"}
SHOT = Shot("a red sks cat", 3, "a red cat")


def moved(model: Backbone, seed: int = 2, kind: Any = lora, size: float = 0.3, **settings: Any) -> Any:
    """An adapter in the model, moved by random numbers."""
    torch.manual_seed(seed)
    adapter = kind.Config(**({} if kind is sara else {"rank": 2}) | settings).build(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * size)
    return adapter


def saved(path: Path, own: Drawing | None = None, about: dict[str, str] = ABOUT, **how: Any) -> Path:
    """A file of the toy, made for a sampler."""
    model = Toy()
    return files.save(model, moved(model, **how), path, about | (own.header if own else {}))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sample(*words: str, prompt: str = "a red {trigger} {class_word}") -> Any:
    """The pixels and the header of one picture of `studio sample`."""
    fixed = ["--prompt", prompt, "--n", "1", "--out", "one.png", "--model", "toy"]
    assert cli.run(["sample", *words, *fixed]) == 0
    return seen(Path("one.png"))


def seen(path: Path) -> Any:
    """The pixels and the header of a picture."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.float32), picture.info


def drawn(model: Backbone, **how: Any) -> Any:
    """One picture of the plain sampler."""
    found = sampling.sample(model, [SHOT.prompt], [SHOT.seed], **how)
    return np.asarray(pictures.image(next(iter(found))))


def take(model: Backbone, wanted: Previews, base: bool = False) -> Any:
    return np.asarray(next(iter(previews.take(model, [SHOT], wanted, base))))


def test_every_name_is_a_samplers_and_the_other_way_round():
    assert {*drawing.SAMPLERS} == {"auto", *sampling_kinds.LATENT, *sampling_kinds.FLOW}
    assert set(drawing.FEW_STEP) == set(sampling.FEW)


def test_a_header_gives_back_what_was_written_and_says_nothing_of_the_usual():
    for own in (FEW, Drawing("tcd", 8, 1.5), Drawing("ddim", 50, 7.0)):
        assert drawing.read(own.header, Path("a")) == own
    assert Drawing().header == {}
    assert drawing.read({}, Path("a")) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{", "damaged"),
        ("[1]", "damaged"),
        ('{"sampler": "lcm", "steps": 4}', "damaged"),
        ('{"sampler": "lcm", "steps": 0, "guidance_scale": 1}', "damaged"),
        ('{"sampler": "lcm", "steps": 4.5, "guidance_scale": 1}', "damaged"),
        ('{"sampler": "lcm", "steps": 4, "guidance_scale": NaN}', "damaged"),
        ('{"sampler": "lcm", "steps": 4, "guidance_scale": "1"}', "damaged"),
        ('{"sampler": ["lcm"], "steps": 4, "guidance_scale": 1}', "damaged"),
        ('{"sampler": "newer", "steps": 4, "guidance_scale": 1}', "newer"),
    ],
)
def test_a_damaged_header_is_one_line(said: str, words: str):
    with pytest.raises(ModelError, match=words) as problem:
        drawing.read({drawing.KEY: said}, Path("file.safetensors"))
    assert str(problem.value).startswith("file.safetensors: ")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("own", "told", "expected"),
    [
        (None, {}, Drawing()),
        (FEW, {}, FEW),
        (FEW, {"steps": 8}, Drawing("lcm", 8, 1.0)),
        (FEW, {"sampler": "tcd"}, Drawing("tcd", 4, 1.0)),
        (FEW, {"sampler": "ddim"}, Drawing("ddim", 25, 5.0)),
        (None, {"sampler": "lcm"}, FEW),
        (None, {"sampler": "euler", "steps": 7}, Drawing("euler", 7, 5.0)),
        (Drawing("ddim", 50, 7.0), {"guidance_scale": 2.0}, Drawing("ddim", 50, 2.0)),
    ],
)
def test_what_is_said_comes_before_what_the_file_says_before_the_usual(own: Any, told: Any, expected: Drawing):
    assert drawing.wished(own, drawing.USUAL, **told) == expected
    assert bool(drawing.differing("a", own, expected)) == (own is not None and own != expected)


def test_few_step_previews_are_drawn_so_and_the_base_model_as_it_wants_to_be():
    model = Toy()
    adapter = moved(model)
    wanted = FewStep(base_steps=3, base_guidance_scale=2.0)
    assert np.array_equal(take(model, wanted), drawn(model, sampler="lcm", steps=4, guidance_scale=1.0))
    assert not np.array_equal(take(model, wanted), take(model, Previews(steps=4, guidance_scale=1.0)))
    with adapter.off():
        own = drawn(model, steps=3, guidance_scale=2.0)
    assert np.array_equal(take(model, wanted, base=True), own)
    assert previews.heads(wanted) == ("base: auto, 3 steps, guidance 2", "adapter: lcm, 4 steps, guidance 1")
    assert previews.heads(Previews()) == ("base", "adapter")
    assert previews.about(wanted) == {"guidance": "cfg", "sampler": "lcm, 4 steps, guidance 1"}
    assert previews.about(wanted, base=True) == {"guidance": "cfg"}


def test_another_sampler_that_is_none_of_few_steps_is_the_base_models_too():
    wanted = Previews(sampler="euler", steps=3)
    model = Toy()
    adapter = moved(model)
    with adapter.off():
        own = drawn(model, sampler="euler", steps=3, guidance_scale=5.0)
    assert np.array_equal(take(model, wanted, base=True), own)
    assert wanted.of_base() == wanted


def test_a_sampler_that_is_not_the_models_is_refused_with_the_base_models_pictures():
    with pytest.raises(UsageError, match="sampler 'sde': this model's are auto, ddim"):
        take(Toy(), Previews(sampler="sde"), base=True)
    flags = {"model": "toy", "settings": {"previews": {"sampler": "lmc"}}}
    with pytest.raises(UsageError, match=r"sampler = 'lmc': .*did you mean 'lcm'\?"):
        make("dreambooth", flags=flags)


def test_what_a_model_advises_is_the_base_models_own_beside_few_steps():
    advice = {"steps": 12, "guidance_scale": 4.0, "n": 2}
    assert advised(Previews, advice) == advice
    assert advised(FewStep, advice) == {"base_steps": 12, "base_guidance_scale": 4.0, "n": 2}
    assert FewStep(**advised(FewStep, advice)).drawing == FEW


@pytest.mark.parametrize(
    ("trainer", "settings", "expected"),
    [
        ("rlcm", {"sampler_steps": 3}, Drawing("lcm", 3, 1.0)),
        ("rlcm", {"sampler": "tcd", "sampler_steps": 2, "guidance_scale": 8.0}, Drawing("tcd", 2, 8.0)),
        ("rlcm", {"previews": {"steps": 6}}, Drawing("lcm", 6, 1.0)),
        ("alignprop", {"sampler": "lcm", "sampler_steps": 2, "guidance_scale": 1.0}, Drawing("lcm", 2, 1.0)),
        ("alignprop", {"sampler": "lcm", "previews": {"sampler": "tcd"}}, Drawing("tcd", 12, 4.0)),
        ("alignprop", {"sampler": "ddim", "sampler_steps": 7}, Drawing("auto", 12, 4.0)),
    ],
)
def test_what_learns_in_few_steps_is_drawn_as_it_learns_unless_somebody_says_otherwise(
    trainer: str, settings: dict[str, object], expected: Drawing
):
    found = make(trainer, flags={"model": "embedded", "settings": settings}).settings.previews
    assert found.drawing == expected
    assert found.base_drawing.sampler == "auto"
    assert (found.base_drawing.steps, found.base_drawing.guidance_scale) == (12, 4.0) or not expected.few_step


def test_a_trainer_whose_sampler_is_something_else_has_its_own_previews():
    assert as_trained(SimpleNamespace(sampler="lcm"), {}) == {}
    assert as_trained(SimpleNamespace(sampler=3, sampler_steps=2, guidance_scale=1.0), {}) == {}


@pytest.mark.parametrize("sampler", ["auto", "ddim", "euler", "lcm", "tcd"])
def test_a_stock_pipeline_with_diffusers_scheduler_draws_the_same_picture(sampler: str, tmp_path: Path):
    """Our picture, sampler and all, by diffusers alone; another sampler's picture is refused."""
    model = models.backbone("tiny-sd-eps", tmp_path)
    file = files.save(model, moved(model, targets="all", size=0.1), tmp_path / files.NAME, {})
    wanted = Previews(sampler=sampler, steps=4, guidance_scale=1.5)
    (expected,) = previews.take(model, [SHOT], wanted)
    source = str(tmp_path / "tiny-sd-eps")
    found = export.check(source, model, file, SHOT, wanted, expected)
    named = {"auto": "", "ddim": " with DDIMScheduler", "euler": " with EulerDiscreteScheduler"}
    assert found.by == "StableDiffusionPipeline" + named.get(sampler, f" with {sampler.upper()}Scheduler")
    other = np.asarray(expected, np.float32)
    (wrong,) = previews.take(model, [SHOT], Previews(sampler="euler" if sampler == "lcm" else "lcm", steps=4))
    assert np.abs(other - np.asarray(wrong, np.float32)).mean() > 3 * found.tolerance
    with pytest.raises(ModelError, match="draws another picture"):
        export.check(source, model, file, SHOT, wanted, wrong)


def test_what_diffusers_has_not_is_checked_with_the_models_own():
    assert previews.stock(FewStep()) == FewStep()
    assert previews.stock(FewStep(sampler="pcm", base_steps=7)).drawing == Drawing("auto", 7, 5.0)
    assert previews.stock(FewStep(), flow=True).sampler == "auto"
    assert previews.stock(Previews(sampler="euler"), flow=True).sampler == "euler"


def test_a_file_is_drawn_as_its_header_says_unless_told_otherwise(capfd: pytest.CaptureFixture[str]):
    few, plain = saved(Path("few.safetensors"), FEW), saved(Path("plain.safetensors"))
    found, about = sample(str(few))
    assert capfd.readouterr().err == ""
    assert (about["sampler"], about["steps"], about["guidance_scale"]) == ("lcm", "4", "1.0")
    same, _ = sample(str(plain), "--sampler", "lcm", "--steps", "4", "--guidance-scale", "1")
    assert np.array_equal(found, same)
    assert np.array_equal(found, sample(str(plain), "--sampler=lcm")[0])
    capfd.readouterr()
    told, about = sample(str(few), "--sampler", "ddim")
    assert capfd.readouterr().err == (
        "studio: few: made for lcm, 4 steps, guidance 1; drawn with ddim, 25 steps, guidance 5\n"
    )
    assert about["sampler"] == "ddim"
    assert np.array_equal(told, sample(str(plain), "--sampler", "ddim")[0])
    assert not np.array_equal(told, found)


def test_each_column_is_drawn_as_it_wants_to_be(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    few, plain = saved(Path("few.safetensors"), FEW), pictures.grid
    shown: dict[str, Any] = {}

    def grid(columns: Any, captions: Any) -> Any:
        shown.update(columns)
        return plain(columns, captions)

    monkeypatch.setattr(pictures, "grid", grid)
    _, about = sample(str(few), "base", prompt="a red cat")
    assert about["drawn"] == "few: lcm, 4 steps, guidance 1; base: auto, 25 steps, guidance 5"
    assert "sampler" not in about
    said = "studio: not all columns are drawn alike: "
    assert capsys.readouterr().err == f"{said}{about['drawn']}\n"
    columns = dict(shown)
    for label, source in (("few", str(few)), ("base", "base")):
        alone, _ = sample(source, prompt="a red cat")
        assert np.array_equal(np.asarray(columns[label][0], np.float32), alone)


def test_together_is_the_sum_of_the_updates_from_the_true_base(tmp_path: Path):
    """W0 + 0.8 D1 + D2, whichever is on top, and the model is afterwards what it was."""
    dog = saved(tmp_path / "dog.safetensors", seed=1)
    few = saved(tmp_path / "few.safetensors", FEW, seed=5, targets="all", dora=True, size=0.05)
    model = Toy()
    before, print_of = stacking.weights(model), model.fingerprint()
    values = {name: weight.detach().clone() for name, weight in before.items()}
    total = dict(values)
    for path, strength in ((dog, 0.8), (few, 1.0)):
        for name, change in stacking.update(model, path, strength, before).items():
            total[name] = total[name] + change
    with stacking.beneath(model, [(few, 1.0)]):
        adapter = files.load(model, dog)
        with adapter.scaled(0.8):
            found = drawn(model, **vars(FEW))
        adapter.remove()
    assert all(torch.equal(values[name], weight) for name, weight in stacking.weights(model).items())
    assert Toy().fingerprint() == print_of
    other = Toy()
    for name, weight in stacking.weights(other).items():
        weight.data = total[name]
    expected = drawn(other, **vars(FEW))
    assert np.abs(found.astype(float) - expected).max() <= 1
    cells, about = sample(str(dog), str(few), "--strength", "0.8", "1.0")
    assert (about["sampler"], about["strength"]) == ("lcm", "0.8, 1.0")
    swapped, _ = sample(str(few), str(dog), "--strength", "1.0", "0.8")
    assert np.abs(cells - sample(str(dog))[0]).max() > 1
    assert cells.shape == swapped.shape


def test_of_plain_updates_the_order_does_not_matter():
    dog = saved(Path("dog.safetensors"), seed=1, size=0.1)
    few = saved(Path("few.safetensors"), FEW, seed=5, size=0.1)
    one, _ = sample(str(dog), str(few), "--strength", "0.8", "1")
    other, _ = sample(str(few), str(dog), "--strength", "1", "0.8")
    assert np.abs(one - other).max() <= 1
    none, _ = sample(str(dog), str(few), "--strength", "0.8", "0")
    alone, _ = sample(str(dog), "--strength", "0.8", "--sampler", "lcm")
    assert np.array_equal(none, alone)


def test_together_is_what_a_stock_pipeline_draws_with_both(tmp_path: Path):
    """`set_adapters` with the two weights, and diffusers' LCMScheduler."""
    model = models.backbone("tiny-sd-eps", tmp_path)
    found = []
    for seed, name in ((1, "dog"), (2, "few")):
        adapter = moved(model, seed, targets="all", size=0.1)
        found.append(files.save(model, adapter, tmp_path / f"{name}.safetensors", {}))
        adapter.remove()
    sources = [Named(path.stem, path, "", {"trigger": "", "class_word": ""}) for path in found]
    (ours,) = draw(model, Column(tuple(sources), (0.8, 1.0), FEW), [SHOT.prompt], [SHOT.seed], Manner())
    pipe = models.backbone("tiny-sd-eps", tmp_path).pipeline()
    export.reschedule(pipe, model, "lcm")
    with warnings.catch_warnings():  # peft warns of every second adapter
        warnings.simplefilter("ignore")
        for path in found:
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=path.stem)
    pictures_of = []
    for strengths in ([0.8, 1.0], [0.0, 1.0]):
        pipe.set_adapters(["dog", "few"], strengths)
        generator = torch.Generator().manual_seed(SHOT.seed)
        call = {"num_inference_steps": 4, "guidance_scale": 1.0, "generator": generator}
        pictures_of.append(np.asarray(pipe(SHOT.prompt, **call).images[0], np.float32))
    both, one = pictures_of
    assert np.abs(np.asarray(ours, np.float32) - both).mean() < 1
    assert np.abs(both - one).mean() > 3


def test_what_no_weights_can_hold_goes_on_top():
    few = saved(Path("few.safetensors"), FEW)
    masked = saved(Path("masked.safetensors"), kind=tlora)
    in_place = saved(Path("sara.safetensors"), kind=sara, size=0.05, threshold=0.1)
    assert stacking.ordered([few, masked]) == [1, 0]
    assert stacking.ordered([in_place, few]) == [1, 0]
    assert stacking.ordered([few, in_place]) == [0, 1]
    with pytest.raises(UsageError, match="of T-LoRA and new words only one"):
        stacking.ordered([masked, masked])
    with pytest.raises(UsageError, match="files of SaRA alone"):
        stacking.ordered([in_place, in_place])
    model = Toy()
    changes = stacking.update(model, in_place, 1.0, stacking.weights(model))
    assert changes
    pairs = (model.net.parameters(), Toy().net.parameters())
    assert all(torch.equal(one, other) for one, other in zip(*pairs, strict=True))


def test_what_cannot_be_together_is_refused_before_anything_is_drawn(capfd: pytest.CaptureFixture[str]):
    few = str(saved(Path("few.safetensors"), FEW))
    tcd = str(saved(Path("tcd.safetensors"), Drawing("tcd", 4, 1.0)))
    other = str(saved(Path("other.safetensors"), about={**ABOUT, "base_model": "embedded"}))
    fixed = ["--prompt", "a", "--n", "1"]
    for words, said in (
        ([few, tcd, "--strength", "1", "1"], "few is made for lcm, tcd for tcd: they cannot be drawn together"),
        ([few, "--strength", "1", "1"], "2 numbers for 1 source;"),
        ([few, "base", "--strength", "1", "1"], "base has none"),
        ([few, other, "--strength", "1", "1"], "adapters of toy and of embedded cannot be drawn together"),
        ([few, "--sampler", "lmc"], "no such sampler; did you mean 'lcm'?"),
        ([few, "--sampler", "sde"], "this model's are auto, ddim"),
        ([few, "--steps", "-1"], "--steps = -1"),
        ([few, "--guidance-scale", "0.5"], "should be 1 or more"),
    ):
        assert cli.run(["sample", *words, *fixed]) == 2
        err = capfd.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert not Path("grid.png").exists()
    _, about = sample(few, tcd, "--strength", "1", "1", "--sampler", "tcd")
    assert about["sampler"] == "tcd"


@pytest.mark.parametrize("sampler", ["auto", "lcm"])
def test_rl_and_combined_guidance_end_at_the_base_model_and_at_the_adapter(sampler: str):
    model = Toy()
    adapter = moved(model)

    def guided(**settings: Any) -> Any:
        how = Guiding(**settings)
        found = guiding.draw(
            model, [SHOT.prompt], [3], steps=4, guidance_scale=1.0, how=how, references=["a cat"], sampler=sampler
        )
        return np.asarray(pictures.image(next(iter(found))))

    tuned = guided()
    with adapter.off():
        base = drawn_of(model, "a cat", sampler)
    assert np.array_equal(guided(kind="rl", gain=0.0), base)
    assert np.array_equal(guided(kind="rl", gain=1.0), tuned)
    assert np.array_equal(guided(kind="combined", window=1.0), base)
    assert np.array_equal(guided(kind="combined", window=0.0), tuned)
    others = [guided(kind="rl", gain=2.0), guided(kind="combined", window=0.5)]
    assert all(not np.array_equal(one, end) for one in others for end in (base, tuned))


def drawn_of(model: Backbone, prompt: str, sampler: str) -> Any:
    found = sampling.sample(model, [prompt], [3], steps=4, guidance_scale=1.0, sampler=sampler)
    return np.asarray(pictures.image(next(iter(found))))


def test_guidance_that_draws_the_base_model_in_few_steps_is_doubted_unless_it_is_taught(
    capfd: pytest.CaptureFixture[str],
):
    wordless = {"base_model": "toy"}
    few = str(saved(Path("few.safetensors"), FEW, wordless, seed=5, size=0.1))
    reward = str(saved(Path("reward.safetensors"), None, wordless, size=0.1))
    words = ["--guidance", "rl", "--gain"]
    end, _ = sample(few, *words, "1")
    assert "rl guidance draws the base model in 4 steps too" in capfd.readouterr().err
    assert np.array_equal(end, sample(few)[0])
    capfd.readouterr()
    found, _ = sample(reward, few, "--strength", "1", "1", *words, "2", prompt="a red {trigger}")
    assert capfd.readouterr().err == ""
    base, _ = sample(reward, few, "--strength", "1", "1", *words, "0", prompt="a red {trigger}")
    below, _ = sample(reward, few, "--strength", "0", "1", prompt="a red {trigger}")
    assert np.abs(base - below).max() <= 1
    assert np.abs(found - base).max() > 1


def test_an_evaluation_draws_each_as_it_wants_and_says_so(tmp_path: Path):
    few = saved(tmp_path / "few.safetensors", FEW)
    wanted = Request(sets=("class",), seeds=1, scorers=("jpeg",), quick=True, out=tmp_path / "out", model="toy")
    found = evaluate([str(few)], wanted)
    own = {"sampler": "auto", "steps": 20, "guidance_scale": 5.0}
    assert found.settings["drawn"] == {"base": own, "few": {"sampler": "lcm", "steps": 4, "guidance_scale": 1.0}}
    assert any("few: lcm, 4 steps, guidance 1" in note for note in found.notes)
    plain = evaluate([str(saved(tmp_path / "few2.safetensors"))], replace(wanted, out=tmp_path / "plain"))
    assert "drawn" not in plain.settings
    for source, same in (("base", True), ("few", False)):
        for file in [one.file for one in found.pictures if one.source == source]:
            ours, _ = seen(tmp_path / "out" / file)
            usual, _ = seen(tmp_path / "plain" / file.replace("/few/", "/few2/"))
            assert np.array_equal(ours, usual) == same
    told = replace(wanted, sampler="ddim", steps=3, out=tmp_path / "told")
    again = evaluate([str(few)], told)
    assert "drawn" not in again.settings
    assert again.settings["sampler"] == "ddim"
    assert any("few: made for lcm, 4 steps, guidance 1; drawn with ddim, 3 steps" in note for note in again.notes)


def test_beside_few_steps_alone_the_base_models_own_numbers_hold():
    few, usual = How.of(FEW), How.of(Drawing("auto", 20, 4.0))
    request = Request(steps=8)
    assert request.of_base("toy", [few]).drawing == Drawing("auto", 20, 5.0)
    assert request.of_base("toy", [few, usual]).drawing == Drawing("auto", 8, 5.0)
    assert Request(sampler="lcm").of_base("toy", [few]).drawing.sampler == "auto"
    with pytest.raises(UsageError, match="did you mean 'lcm'"):
        Request(sampler="lcn").check()


def test_the_model_card_says_scheduler_steps_and_guidance():
    source = Source("few", "stabilityai/stable-diffusion-2-1", "adapter.safetensors")
    own = {"sampler": "auto", "steps": 25, "guidance_scale": 4.0}
    told = Evaluation(
        settings={**own, "drawn": {"base": own, "few": {"sampler": "tcd", "steps": 4, "guidance_scale": 1.0}}}
    )
    said = model_card_use.loading(source, told)
    assert "It draws in few steps: tcd, 4 steps, guidance 1 (diffusers' `TCDScheduler`)" in said
    program = said.split("```python\n")[1].removesuffix("```")
    compile(program, "card", "exec")
    assert "from diffusers import TCDScheduler" in program
    assert "pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config, clip_sample=False)" in program
    assert "num_inference_steps=4, guidance_scale=1, eta=0.3" in program
    plain = model_card_use.loading(source, Evaluation(settings=own))
    assert "Scheduler" not in plain
    assert "num_inference_steps=25, guidance_scale=4)" in plain


def test_an_exam_draws_the_base_model_in_its_own_way():
    model = Toy()
    adapter = moved(model)
    asked = [PromptSet(name="choice", prompts=(Prompt(text="a {subject}"),))]
    own, few = How.of(Drawing("auto", 3, 2.0)), How.of(FEW)
    exam = Exam(model, "toy", cast(Any, None), asked, few, None, "sks", "cat", plain=own)
    for step, expected in ((0, own), (5, few)):
        list(exam.draw(step, 1.0, 1))
        assert exam.gallery.how == expected
        (picture,) = exam.gallery.result().pictures
        with adapter.off() if not step else adapter.merged(1.0):
            words = "a sks cat" if step else "a cat"
            plain = next(iter(sampling.sample(model, [words], [exam.first], **vars(expected.drawing))))
        assert picture is not None
        assert torch.equal(picture, plain.mul(255).round().byte())


def test_scores_draw_the_adapter_in_few_steps_and_the_base_model_as_ever():
    model = Toy()
    moved(model)
    usual, few, base, again = (
        torch.stack(list(scores.draw(model, ["a cat"], [1], *how)))
        for how in ((False,), (False, FEW), (True, FEW), (True,))
    )
    assert torch.equal(base, again)
    assert not torch.equal(usual, few)
    (expected,) = sampling.sample(model, ["a cat"], [1], **vars(FEW))
    assert torch.equal(few[0], expected)
    (other,) = scores.draw(model, ["a cat"], [1], False, Drawing("auto", 3, 2.0))
    assert torch.equal(usual[0], other)  # the same numbers for all runs that are no few-step runs


def test_mistakes_that_need_no_torch_are_told_without_it(tmp_path: Path):
    program = (
        "import sys; from studio import cli; code = cli.run(sys.argv[1:]); "
        "print(code, 'torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    for words, said in (
        (["nowhere.safetensors", "--prompt", "a"], "no run 'nowhere.safetensors'"),
        (["base", "--prompt", "a", "--out", "a.jpg"], "ends in .png"),
        (["base", "--prompt", "a", "--sampler", "dimm"], "did you mean 'ddim'"),
        (["base", "--prompt", "a", "--w-con", "5"], "does nothing with cfg"),
    ):
        command = [sys.executable, "-c", program, "sample", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stdout == "2 False False\n"
        assert said in done.stderr


def test_words_to_remove_that_no_prompt_has_are_doubted(capfd: pytest.CaptureFixture[str]):
    file = str(saved(Path("a.safetensors")))
    sample(file, "--steps", "2", "--decor", "red")
    assert capfd.readouterr().err == ""
    sample(file, "--steps", "2", "--decor", "Red, house")
    assert capfd.readouterr().err == (
        "studio: --decor: no prompt says 'house'; what the prompts share with it is removed all the same\n"
    )


def test_a_setting_of_another_adapter_is_no_near_miss_of_this_ones():
    known = [
        "adapter",
        "adapter.rank",
        "adapter.r_min",
        "adapter.targets",
        "adapter.init",
        "data.folder",
        "data.trigger",
    ]
    assert nearest("adapter.dora", known) == ""
    assert nearest("adapter.rnak", known) == "adapter.rank"
    assert nearest("adapter.r-mn", known) == "adapter.r_min"
    assert nearest("adaptor.rank", known) == "adapter.rank"
    assert nearest("trigge", known) == "data.trigger"
    assert nearest("adapter.dropout", [*known, "data.caption_dropout"]) == ""
    assert nearest("adapter.trigger", known) == "data.trigger"
    assert nearest("adapter.dora", []) == ""


def test_a_dora_where_the_adapter_has_none_is_told_without_a_silly_hint():
    for trainer in ("tlora", "sara"):
        with pytest.raises(UsageError) as problem:
            make(trainer, flags={"model": "toy", "settings": {"adapter": {"dora": True}}})
        assert str(problem.value) == f"[{trainer}.adapter] has no setting 'dora'"


def test_sara_refuses_eight_bits_before_anything_is_loaded():
    with pytest.raises(UsageError, match="quantize = 'int8': SaRA trains the weights themselves"):
        make("sara", flags={"model": "toy", "settings": {"quantize": "int8"}})


def test_a_rank_larger_than_a_layer_is_said():
    model = Toy()
    adapter = tlora.Config(rank=64, targets="all").build(model)
    (said,) = adapter.notes
    assert "layers are narrower than adapter.rank = 64: each has as many columns as its width, 16 at the least" in said
    adapter.remove()
    assert tlora.Config(rank=16, targets="attention").build(model).notes == ()


def test_a_word_to_start_from_that_the_tokenizer_has_not_is_said(tmp_path: Path):
    model = models.backbone("tiny-sd-eps", tmp_path)
    for word, known in (("cat", True), ("red cat", True), ("kjasdh", False)):
        adapter = tokens.Config(words=("<s1>",), init=(word,)).build(model)
        assert (adapter.notes == ()) == known
        if not known:
            assert "tokens.init: 'kjasdh' is no word of the tokenizer's, but 6 pieces of one" in adapter.notes[0]
        adapter.remove()


def test_the_header_is_json_that_others_can_read(tmp_path: Path):
    file = saved(tmp_path / "few.safetensors", FEW)
    assert json.loads(files.header(file)[drawing.KEY]) == {"sampler": "lcm", "steps": 4, "guidance_scale": 1.0}


def test_a_run_of_few_steps_is_drawn_and_exported_as_such(tmp_path: Path):
    """From the config to the file: previews, the check in a fresh model, the header that `studio sample` reads."""
    few = {"sampler": "lcm", "steps": 3, "guidance_scale": 1.0, "base_steps": 2, "every": 0}
    easy = {"steps": 2, "accumulate": 1, "batch": 1, "ema": 0.0, "save_every": 0, "lr": 0.3, "previews": few}
    folder = train(config(runs.pictures(tmp_path / "data"), tmp_path / "runs", "one", **easy))
    header = files.header(folder / files.NAME)
    assert drawing.read(header, folder) == Drawing("lcm", 3, 1.0)
    about = [seen(path)[1] for path in sorted((folder / "samples").glob("*-00.png"))]
    assert {one.get("sampler", "") for one in about} == {"lcm, 3 steps, guidance 1", ""}
    _, said = sample("one", "--runs", str(tmp_path / "runs"))
    assert (said["sampler"], said["steps"]) == ("lcm", "3")
    plain = train(config(tmp_path / "data", tmp_path / "runs", "two", **easy | {"previews": {"steps": 2, "every": 0}}))
    assert drawing.KEY not in files.header(plain / files.NAME)
    pairs = zip(sorted(folder.glob("samples/base-*.png")), sorted(plain.glob("samples/base-*.png")), strict=True)
    assert all(np.array_equal(seen(one)[0], seen(two)[0]) for one, two in pairs)
