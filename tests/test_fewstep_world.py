"""The embedded base in few steps: the scenes it is taught on, its file, and what it draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, TCDScheduler
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from studio.pipelines import backbone, drawing, sampling
from studio.pipelines.adapters import files
from studio.pipelines.assets import assets_folder
from studio.pipelines.scorers import embedded
from studio.world import base, card, concepts, fewstep, scenes
from studio.world.sprites import Sprite

FILE = assets_folder() / "base" / "lcm" / "adapter.safetensors"


@pytest.fixture
def stream(tmp_path: Path) -> fewstep.Scenes:
    sprites = []
    for word in ("fox", "apple", "glasses", "octopus"):
        Image.new("RGBA", (96, 96), "red").save(tmp_path / f"{word}.png")
        sprites.append(Sprite(word, "noto", f"{word}.png", "", ""))
    latents = torch.arange(64, dtype=torch.half)[:, None, None, None].expand(64, 8, 2, 2)
    return fewstep.Scenes(scenes.Draw(sprites), latents, torch.device("cpu"))


def test_a_batch_is_its_numbers_and_its_captions_are_of_its_scenes(stream: fewstep.Scenes) -> None:
    for number, batch in zip(range(20), stream, strict=False):
        again = stream.at(number)
        assert torch.equal(batch.latents, again.latents)
        assert batch.prompts == again.prompts
        assert torch.equal(batch.generator.get_state(), again.generator.get_state())
        for row, caption in zip(batch.latents[:, 0, 0, 0].long().tolist(), batch.prompts, strict=True):
            scene = stream.draw(base.FIRST_SEED + row)
            words = {placed.sprite.concept for placed in scene.objects}
            assert set(caption.replace(",", "").split()) & {"fox", "apple", "glasses", "octopus"} <= words
    assert stream.position == 19 + 1
    pairs = [len(stream.draw(base.FIRST_SEED + int(row)).objects) for row in batch.latents[:, 0, 0, 0]]
    assert pairs.count(2) == fewstep.SIZE // 4


def test_the_card_has_a_row_for_each_number_of_steps() -> None:
    known = {
        "base": {"numbers": {"colour": 1.0, "style": 0.5}},
        "fewstep": {
            "numbers": {
                "statements: colour": 30,
                "statements: style": 10,
                "4 steps: colour": 0.9,
                "4 steps: style": 0.4,
            }
        },
    }
    text = card.few(known)
    assert "| drawn in | colour | style | all |" in text
    assert "| 25 steps without it | 100.0% | 50.0% | 87.5% |" in text
    assert "| 4 steps | 90.0% | 40.0% | 77.5% |" in text
    assert "| statements | 30 | 10 | 40 |" in text
    assert card.few({"base": known["base"]}) == []
    assert not any("fewstep" in row for row in card.table(known))


def test_the_file_says_how_it_is_drawn_and_is_small() -> None:
    header = files.header(FILE)
    assert drawing.read(header, FILE) == fewstep.DRAWN == drawing.Drawing("tcd", 4, 1.0)
    assert header["base_model"] == "embedded"
    assert FILE.stat().st_size < 8e6


@pytest.fixture(scope="module")
def drawn() -> tuple[list[str], Tensor]:
    """Held-out captions, and their pictures in 4 steps."""
    prompts = [f"{style} of a {word} on a {colour} background" for style, word, colour in wishes()]
    model = backbone.load("embedded")
    adapter = files.load(model, FILE)
    with adapter.merged():
        pictures = sampling.sample(model, prompts, range(len(prompts)), steps=4, sampler="tcd", batch=12)
    return prompts, torch.stack(list(pictures))


def wishes() -> list[tuple[str, str, str]]:
    """A style, an object and a colour for each picture."""
    phrases = [phrases[0] for _, phrases in concepts.STYLES.values()]
    words = ("fox", "banana", "cat", "rocket", "penguin", "tulip")
    colours = list(concepts.BACKGROUNDS)
    return [(phrases[i % len(phrases)], words[i % len(words)], colours[i]) for i in range(12)]


def test_the_stock_pipeline_draws_the_same_with_it(drawn: tuple[list[str], Tensor]) -> None:
    prompts, pictures = drawn
    pipe = StableDiffusionPipeline.from_pretrained(assets_folder() / "base", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(str(FILE.parent), weight_name=FILE.name)
    options = {"num_inference_steps": 4, "guidance_scale": 1.0, "eta": 0.3, "output_type": "pt"}
    made = pipe(prompts[5], generator=torch.Generator().manual_seed(5), **options).images[0]
    torch.testing.assert_close(made, pictures[5], rtol=0, atol=2 / 255)


def test_four_steps_draw_what_is_asked_for(drawn: tuple[list[str], Tensor]) -> None:
    _, pictures = drawn
    read = embedded.load().read(pictures * 2 - 1)
    right = [row["colour"] == colour for row, (_, _, colour) in zip(read, wishes(), strict=True)]
    assert sum(right) >= 11
    objects = [row["object"] == word for row, (_, word, _) in zip(read, wishes(), strict=True)]
    assert sum(objects) >= 6


def test_more_lessons_go_on_from_the_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, sprites = tmp_path / "base", [Sprite(word, "noto", "", "", "") for word in ("fox", "apple", "glasses")]
    target.mkdir()
    for part in FILE.parents[1].iterdir():
        if part.name != "lcm":
            (target / part.name).symlink_to(part)
    (target / "lcm").mkdir()
    (target / "lcm" / FILE.name).write_bytes(FILE.read_bytes())
    vae = AutoencoderKL.from_pretrained(target / "vae")
    size = vae.config.sample_size // 4
    monkeypatch.setattr(fewstep.sprites, "load", lambda *_: sprites)
    monkeypatch.setattr(base, "bank", lambda *_: torch.randn(8, vae.config.latent_channels, size, size).half())
    seen, at = list[int](), fewstep.Scenes.at
    monkeypatch.setattr(fewstep.Scenes, "at", lambda self, number: seen.append(number) or at(self, number))
    work, device = tmp_path / "work", torch.device("cpu")
    path = fewstep.train(vae, work, "small", target, 2 * fewstep.SIZE, device, warm=True)
    assert seen == [fewstep.NEW, fewstep.NEW + 1]  # scenes that it has not had
    said = [{**files.header(one), "lora_adapter_metadata": ""} for one in (path, FILE)]  # its layers: a set
    assert said[0] == said[1]
    ours, theirs = load_file(path), load_file(FILE)
    assert ours.keys() == theirs.keys()
    gaps = {name: (ours[name].float() - theirs[name].float()).abs().max() for name in ours}
    assert all(0 < gap < 2e-3 for name, gap in gaps.items() if "alpha" not in name)
    assert fewstep.train(vae, work, "small", target, 2 * fewstep.SIZE, device, warm=True) == path
    assert len(seen) == 2  # what is done is not done again
