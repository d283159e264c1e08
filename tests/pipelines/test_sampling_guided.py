"""Laws of networks that hear the guidance scale: the pictures are the stock pipelines', with one prediction a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from studio.pipelines import backbone as backbones
from studio.pipelines import sampling
from studio.pipelines.guidance_hearing import guidance_embedding, hearing, hears, told
from studio.pipelines.toy import Toy
from tests.models import backbone

CHANNELS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def distilled(folder: Path) -> Path:
    """A folder with a latent consistency model: a UNet that hears the guidance scale, and its scheduler."""
    pipe: Any = backbone("tiny-sd-eps", folder).pipeline()
    torch.manual_seed(1)
    net = UNet2DConditionModel.from_config(pipe.unet.config, time_cond_proj_dim=CHANNELS)
    parts = {"vae": pipe.vae, "text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer, "unet": net}
    parts |= {"safety_checker": None, "feature_extractor": None}
    scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    LatentConsistencyModelPipeline(**parts, scheduler=scheduler, requires_safety_checker=False).save_pretrained(
        folder / "lcm"
    )
    return folder / "lcm"


@pytest.mark.parametrize("dim", [256, 512, 17])
def test_the_embedding_is_the_stock_pipelines(dim: int) -> None:
    w = torch.tensor([0.0, 0.5, 3.0, 7.0, 14.0])
    wanted = StableDiffusionPipeline.get_guidance_scale_embedding(None, w, embedding_dim=dim)
    assert torch.equal(guidance_embedding(w, dim), wanted)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_consistency_models_picture_is_the_stock_pipelines(scale: float, distilled: Path) -> None:
    model: Any = backbones.load(str(distilled))
    assert hears(model) == CHANNELS
    assert sampling.by_name(model) is sampling.lcm
    pipe = LatentConsistencyModelPipeline.from_pretrained(distilled, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(11)
    settings = {"num_inference_steps": 4, "guidance_scale": scale, "output_type": "pt"}
    wanted = pipe("a red cat", generator=generator, **settings).images[0]
    (made,) = sampling.sample(model, ["a red cat"], [11], steps=4, guidance_scale=scale)
    torch.testing.assert_close(made, wanted, rtol=0, atol=2 / 255)
    ours = model.pipeline()("a red cat", generator=torch.Generator().manual_seed(11), **settings).images[0]
    torch.testing.assert_close(made, ours, rtol=0, atol=2 / 255)


def test_a_folded_models_picture_is_the_stock_pipelines(folder: Path) -> None:
    """Where the guidance is folded into the weights there is none to give: scale 1, one prediction."""
    model: Any = backbone("tiny-sd-v", folder)
    pipe = model.pipeline()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    settings = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "pt"}
    wanted = pipe("a red cat", generator=torch.Generator().manual_seed(11), **settings).images[0]
    (made,) = sampling.sample(model, ["a red cat"], [11], steps=4, sampler="lcm")
    torch.testing.assert_close(made, wanted, rtol=0, atol=2 / 255)


def test_the_scale_is_heard_once_per_picture(distilled: Path) -> None:
    """The scale changes the picture without a second prediction; it may be another one for each picture."""
    model: Any = backbones.load(str(distilled))
    rows: list[int] = []
    whole = model.forward
    model.forward = lambda x, t, cond: (rows.append(len(x)), whole(x, t, cond))[1]
    low, high = (next(sampling.sample(model, ["a"], [1], steps=2, guidance_scale=scale)) for scale in (1.0, 8.0))
    assert not torch.equal(low, high)
    assert rows == [1] * 4
    cond, x, t = model.embed(["a", "a"]), sampling.initial(model, [1, 1]), torch.tensor([999, 999])
    with torch.no_grad():
        both = model.predict(x, t, told(cond, torch.tensor([1.0, 8.0]), CHANNELS))
        for row, scale in zip(both, (1.0, 8.0), strict=True):
            alone = hearing(model, scale)(model.predict)(x[:1], t[:1], cond[0])
            torch.testing.assert_close(alone[0], row, rtol=1e-4, atol=1e-5)


def test_other_networks_are_told_nothing() -> None:
    toy = Toy()
    assert hears(toy) == 0
    assert hearing(toy, 8.0)(toy.predict) == toy.predict
    cond = toy.embed(["a"])
    assert told(cond, 8.0, 0) is cond
