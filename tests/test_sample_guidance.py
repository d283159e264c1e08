"""Guidance and DECOR in `studio sample` and in previews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studio import cli, previews
from studio.pipelines.adapters import files, lora
from studio.pipelines.data import Pictures
from studio.pipelines.guidance_settings import KINDS, READS, Guiding
from studio.pipelines.protocols import Backbone
from studio.pipelines.toy import Toy
from studio.previews import Shot
from studio.trainers.base import Previews

ABOUT = {"trigger": "sks", "class_word": "cat", "base_model": "toy"}


def tuned(**settings: Any) -> tuple[Backbone, lora.LoRA]:
    """The toy with a moved adapter."""
    model = Toy()
    torch.manual_seed(2)
    adapter = lora.Config(rank=2, **settings).build(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model, adapter


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return files.save(*tuned(), tmp_path / "cat.safetensors", ABOUT)


def drawn(out: Path) -> Any:
    with Image.open(out) as picture:
        return np.asarray(picture.convert("RGB"), np.float32), picture.info


def sample(file: Path | str, *flags: str, prompt: str = "a red {trigger} {class_word}") -> Any:
    """The pixels and the header of one picture."""
    out = Path("picture.png")
    fixed = ["--prompt", prompt, "--n", "1", "--steps", "3", "--out", str(out), "--model", "toy"]
    assert cli.run(["sample", str(file), *fixed, *flags]) == 0
    return drawn(out)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_consistency_without_weight_draws_what_the_base_model_draws_without_the_trigger(file: Path) -> None:
    pixels, about = sample(file, "--guidance", "consistency", "--w-con", "0")
    base, _ = sample("base", prompt="a red cat")
    assert np.array_equal(pixels, base)
    assert about["guidance"] == "consistency w_con=0"


def test_every_kind_draws_its_own_picture_and_the_header_tells_it(file: Path) -> None:
    found = {kind: sample(file, "--guidance", kind) for kind in KINDS}
    assert len({pixels.tobytes() for pixels, _ in found.values()}) == len(KINDS)
    assert {kind: about["guidance"] for kind, (_, about) in found.items()} == {
        "cfg": "cfg",
        "consistency": "consistency w_con=3",
        "personalization": "personalization omega=0.5",
        "rl": "rl gain=2",
        "combined": "combined window=0.5",
    }
    assert {about["strength"] for _, about in found.values()} == {"1.0"}


def test_short_and_dotted_flags_are_the_same(file: Path) -> None:
    short, _ = sample(file, "--guidance=rl", "--gain=1.5", "--rescale", "0.5")
    dotted, about = sample(file, "--guidance.kind", "rl", "--guidance.gain", "1.5", "--guidance.rescale=0.5")
    assert np.array_equal(short, dotted)
    assert about["guidance"] == "rl gain=1.5 rescale=0.5"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--guidance consistancy", "--guidance consistancy: no such guidance; did you mean 'consistency'?"),
        ("--guidance=xyz", "there are cfg, consistency, personalization, rl, combined"),
        ("--guidance personalization --omega 2", "--guidance.omega = 2.0: should be less than or equal to 1"),
        ("--guidance combined --late-scale 0.5", "--guidance.late-scale = 0.5: should be greater than or equal to 1"),
        ("--guidance consistency --omega 0.2", "--guidance.omega does nothing with consistency guidance"),
        ("--w-con 5", "--guidance.w-con does nothing with cfg guidance"),
        ("--w-kon 5", "did you mean '--w-con'?"),
        ("--decor-strength 2", "--decor-strength = 2.0: should be from 0 to 1"),
        ("--decor , --guidance rl", ""),
    ],
)
def test_a_mistake_is_one_line(flags: str, words: str, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["sample", str(file), "--prompt", "a", "--n", "1", "--steps", "2", *flags.split()])
    err = capfd.readouterr().err
    if not words:  # nothing to remove is no mistake
        assert code == 0
        return
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_the_base_model_is_drawn_with_cfg_and_that_is_said(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    guided, _ = sample("base", "--guidance", "consistency", prompt="a cat")
    assert capfd.readouterr().err == "studio: base is drawn with cfg: consistency guidance is for adapters\n"
    plain, _ = sample("base", prompt="a cat")
    assert np.array_equal(guided, plain)


def test_an_adapter_that_cannot_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dora = files.save(*tuned(dora=True), tmp_path / "dora.safetensors", ABOUT)
    line = ["sample", str(dora), "--prompt", "a", "--n", "1", "--guidance", "personalization"]
    assert cli.run(line) == 2
    assert "linear_scale = false" in capfd.readouterr().err
    assert not (tmp_path / "grid.png").exists()


def test_words_are_removed_and_the_header_names_them(file: Path) -> None:
    plain, before = sample(file)
    found, about = sample(file, "--decor", "red, house")
    none, _ = sample(file, "--decor", "red", "--decor-strength", "0")
    assert not np.array_equal(found, plain)
    assert np.array_equal(none, plain)
    assert (about["decor"], about["decor_strength"]) == ("red, house", "1.0")
    assert "decor" not in before


def test_the_help_tells_of_guidance(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sample", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"--guidance.{name.replace('_', '-')}" in said for name in Guiding.model_fields)
    assert "--guidance = --guidance.kind" in " ".join(said.split())


def test_each_setting_counts_for_the_kinds_that_say_so() -> None:
    settings = set(Guiding.model_fields) - {"kind", "rescale"}
    assert {name for names in READS.values() for name in names} == settings
    for name in settings:
        kinds = [kind for kind in KINDS if name in READS.get(kind, ())]
        moved = {name: 1.0}
        for kind in KINDS:
            assert Guiding.model_validate({"kind": kind, **moved}).idle() == ([] if kind in kinds else [name])


class Steered(Previews):
    guidance: Guiding = Guiding(kind="consistency", w_con=0.0)


def test_previews_are_guided_and_the_base_models_are_not(tmp_path: Path) -> None:
    model, adapter = tuned()
    shot = Shot("a red sks cat", 3, "a red cat")
    settings = Steered(steps=3)
    (found,) = previews.take(model, [shot], settings)
    (stock,) = previews.take(model, [shot], previews.stock(settings))
    (base,) = previews.take(model, [shot], settings, base=True)
    (cfg,) = previews.take(model, [shot], Previews(steps=3))
    adapter.remove()
    (told,) = previews.take(model, [Shot("a red cat", 3)], Previews(steps=3))
    (alone,) = previews.take(model, [shot], Previews(steps=3))
    assert np.array_equal(found, told)
    assert np.array_equal(base, alone)
    assert np.array_equal(stock, cfg)
    assert not np.array_equal(stock, found)
    (path,) = previews.save(tmp_path, "base", [shot], [base], guidance=previews.guidance(settings, base=True).said())
    assert drawn(path)[1]["guidance"] == "cfg"


def test_previews_know_what_the_base_model_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "1_sks cat"  # a folder's name may bring the words
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    (folder / "a.txt").write_text("a sks cat on grass")
    dataset = Pictures(folder=tmp_path).look(Toy())
    own = previews.shots(Previews(prompts=("a blue {trigger} {class_word}", "a dog")), dataset)
    assert [(shot.prompt, shot.reference) for shot in own] == [("a blue sks cat", "a blue cat"), ("a dog", "a dog")]
    assert previews.shots(Previews(), dataset) == [Shot("a sks cat on grass", 0, "a cat on grass")]
