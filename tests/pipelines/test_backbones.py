"""Laws every model family keeps: shapes, noise identities, equality with diffusers, fingerprints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from studio.pipelines.ddpm import DDPM
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Backbone, Cond
from studio.pipelines.sd3 import SD3
from studio.pipelines.toy import Toy
from tests.models import BACKBONES, FOLDERS, backbone, tiny_sd3

EXACT = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=BACKBONES)
def model(request: pytest.FixtureRequest, folder: Path) -> Backbone:
    return backbone(request.param, folder)


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def pictures(model: Any, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, model.pixels, model.pixels, generator=seed()) * 2 - 1


@torch.no_grad()
def test_shapes_and_types(model: Any) -> None:
    assert isinstance(model, Backbone)
    latents = model.encode(pictures(model), seed())
    shape = (2, *model.latent_shape(model.pixels, model.pixels))
    noisy = model.noise(latents, seed())
    out = model.predict(noisy.x, noisy.t, model.embed(["a cat", "the dog on a red house"]))
    assert latents.shape == noisy.x.shape == noisy.target.shape == out.shape == shape
    assert noisy.t.shape == noisy.snr.shape == noisy.weight.shape == (2,)
    assert model.decode(latents).shape == (2, 3, model.pixels, model.pixels)
    assert {latents.dtype, noisy.x.dtype, out.dtype} == {torch.float32}
    assert not any(p.requires_grad for part in model.modules().values() for p in part.parameters())
    assert not any(part.training for part in model.modules().values())


def test_other_picture_sizes(model: Any) -> None:
    height, width = model.pixels + model.multiple, 2 * model.pixels
    with torch.no_grad():
        latents = model.encode(torch.zeros(1, 3, height, width), seed())
        assert latents.shape[1:] == model.latent_shape(height, width)
        if not isinstance(model, SD3):  # its position table ends at the size it was made for
            assert model.predict(latents, torch.tensor([5]), model.embed([""])).shape == latents.shape
    with pytest.raises(UsageError, match="divisible"):
        model.latent_shape(model.pixels + 1, model.pixels)


@torch.no_grad()
def test_encode_draws_from_the_moments(model: Any) -> None:
    images = pictures(model)
    mean, std = model.encode_moments(images)
    latents = model.encode(images, seed(3))
    torch.testing.assert_close(latents, mean + std * torch.randn(mean.shape, generator=seed(3)))
    assert torch.equal(latents, model.encode(images, seed(3)))
    alone = model.encode_moments(images[1:])[0]
    torch.testing.assert_close(alone[0], mean[1], rtol=1e-4, atol=1e-5)


def test_toy_decode_inverts_encode() -> None:
    toy = Toy()
    latents = torch.randn(2, 2, 4, 4, generator=seed())
    torch.testing.assert_close(toy.encode_moments(toy.decode(latents))[0], latents)


def test_same_generator_same_noise(model: Any) -> None:
    latents = torch.randn(3, *model.latent_shape(model.pixels, model.pixels), generator=seed())
    first, again, other = (model.noise(latents, seed(n)) for n in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.t, again.t)
    assert not torch.equal(first.eps, other.eps)
    given = model.noise(latents, seed(5), t=first.t, eps=first.eps)
    torch.testing.assert_close(given.x, first.x)
    torch.testing.assert_close(given.target, first.target)


def test_noise_identities(model: Any) -> None:
    latents = torch.randn(64, *model.latent_shape(model.pixels, model.pixels), generator=seed())
    n = model.noise(latents, seed(1))
    a, s = levels(model, n.t)
    assert torch.equal(n.clean, latents)
    torch.testing.assert_close(n.x, a * latents + s * n.eps, **EXACT)
    if model.prediction == "epsilon":
        assert torch.equal(n.target, n.eps)
    elif model.prediction == "v_prediction":
        torch.testing.assert_close(a * n.x - s * n.target, latents, **EXACT)
        torch.testing.assert_close(s * n.x + a * n.target, n.eps, **EXACT)
    else:  # methods/dreambooth_lora, invariant 8
        torch.testing.assert_close(n.target, n.eps - latents, **EXACT)
        torch.testing.assert_close(n.x - s * n.target, latents, **EXACT)
        torch.testing.assert_close(n.x + (1 - s) * n.target, n.eps, **EXACT)
    torch.testing.assert_close(n.snr, (a / s).square().flatten(), rtol=1e-4, atol=1e-7)
    assert torch.equal(n.weight, torch.ones(64))


def levels(model: Any, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and sigma, each `[B, 1, 1, 1]`."""
    if model.prediction == "flow":
        sigma = (t / 1000)[:, None, None, None]
        return 1 - sigma, sigma
    alpha2 = model.alphas_cumprod[t][:, None, None, None]
    return alpha2.sqrt(), (1 - alpha2).sqrt()


def test_ddpm_noise_is_diffusers_noise(model: Any) -> None:
    if not isinstance(model, DDPM):
        pytest.skip("flow matching")
    scheduler: Any = DDPMScheduler.from_config(model.scheduler.config)
    latents = torch.randn(8, *model.latent_shape(model.pixels, model.pixels), generator=seed())
    n = model.noise(latents, seed(1))
    torch.testing.assert_close(n.x, scheduler.add_noise(latents, n.eps, n.t))
    velocity = n.eps if model.prediction == "epsilon" else scheduler.get_velocity(latents, n.eps, n.t)
    torch.testing.assert_close(n.target, velocity)
    torch.testing.assert_close(n.snr, compute_snr(scheduler, n.t))
    assert model.noise(latents[:1], t=torch.tensor([len(model.alphas_cumprod) - 1])).snr.isfinite().all()


def test_flow_draws_the_schedulers_own_times(folder: Path) -> None:
    """Half of a logit-normal draw is below u = 0.5, which the shift of 3 moves to sigma = 0.75."""
    model: Any = backbone("tiny-sd3", folder)
    n = model.noise(torch.zeros(4000, 16, 1, 1), seed())
    assert set(n.t.tolist()) <= set(model.scheduler.timesteps.tolist())
    assert n.t.median() / 1000 == pytest.approx(0.75, abs=0.02)


def test_flow_preconditioned_loss_is_sigma_squared_times_plain(folder: Path) -> None:
    """methods/dreambooth_lora, invariant 9."""
    model: Any = backbone("tiny-sd3", folder)
    n = model.noise(torch.randn(4, 16, 16, 16, generator=seed()), seed(1))
    with torch.no_grad():
        said = model.predict(n.x, n.t, model.embed(["a"] * 4))
    sigma = (n.t / 1000)[:, None, None, None]
    conditioned = (n.x - sigma * said - n.clean).square().mean((1, 2, 3))
    plain = (said - n.target).square().mean((1, 2, 3))
    torch.testing.assert_close(conditioned, sigma.flatten() ** 2 * plain, rtol=1e-5, atol=1e-6)


def test_offset_moves_whole_channels_and_no_other_draw(model: Any) -> None:
    latents = torch.zeros(4, *model.latent_shape(model.pixels, model.pixels))
    plain, moved = model.noise(latents, seed(1)), model.noise(latents, seed(1), offset=0.1)
    shift = moved.eps - plain.eps
    assert torch.equal(plain.t, moved.t)
    assert shift.std((2, 3)).max() < 1e-6
    assert 0.05 < shift.mean((2, 3)).std() < 0.2


@torch.no_grad()
def test_embedding_does_not_depend_on_batch_mates(model: Any) -> None:
    prompts = ["a cat", "", "the dog of the red house on and on and on and on and on and on and on"]
    together = model.embed(prompts)
    for row, prompt in enumerate(prompts):
        alone, mine = model.embed([prompt]), together[row]
        torch.testing.assert_close(alone.tokens, mine.tokens, rtol=1e-4, atol=1e-5)
        if alone.pooled is not None:
            torch.testing.assert_close(alone.pooled, mine.pooled, rtol=1e-4, atol=1e-5)
    assert not torch.equal(together[0].tokens, together[1].tokens)


@torch.no_grad()
@pytest.mark.parametrize("name", FOLDERS)
def test_embedding_is_the_stock_pipelines(name: str, folder: Path) -> None:
    model, prompts = backbone(name, folder), ["a cat", "the dog"]
    pipe, cond = model.pipeline(), model.embed(prompts)
    if name == "tiny-sd3":
        tokens, _, pooled, _ = pipe.encode_prompt(prompts, None, None, do_classifier_free_guidance=False)
        torch.testing.assert_close(cond.pooled, pooled)
    else:
        tokens, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
    torch.testing.assert_close(cond.tokens, tokens)


@torch.no_grad()
def test_absent_text_encoders_are_zeros(folder: Path) -> None:
    tiny_sd3(folder / "no-t5", t5=False)
    model, whole = SD3(backbone("tiny-sd3", folder).pipeline()), backbone("tiny-sd3", folder)
    del model.text_encoders["text_encoder"], model.text_encoders["text_encoder_3"]
    cond, full = model.embed(["a cat"]), whole.embed(["a cat"])
    assert cond.tokens.shape == full.tokens.shape
    assert not cond.tokens[:, 16:].any()
    assert not cond.pooled[:, :16].any()
    torch.testing.assert_close(cond.pooled[:, 16:], full.pooled[:, 16:])
    from studio.pipelines.backbone import load

    stock = load(str(folder / "no-t5"))
    tokens, *_ = stock.pipeline().encode_prompt(["a cat"], None, None, do_classifier_free_guidance=False)
    torch.testing.assert_close(stock.embed(["a cat"]).tokens, tokens)


class Clock:
    """An adapter's `at`, remembering what it was told."""

    times: torch.Tensor

    def at(self, t: torch.Tensor) -> None:
        self.times = t


@torch.no_grad()
@pytest.mark.parametrize("name", BACKBONES[:4])
def test_predict_tells_the_adapter_and_answers_in_float32(name: str, folder: Path) -> None:
    model: Any = backbone(name, folder, dtype=torch.bfloat16)
    model.adapter = Clock()
    n, cond = model.noise(torch.randn(2, *model.latent_shape(8, 8)), seed()), model.embed(["a", "b"])
    assert {p.dtype for part in model.modules().values() for p in part.parameters()} == {torch.bfloat16}
    assert model.predict(n.x, n.t, cond).dtype == torch.float32
    assert torch.equal(model.adapter.times, n.t)
    model.to("cpu", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.predict(n.x, n.t, model.embed(["a", "b"])).dtype == torch.float32


@pytest.mark.parametrize("name", BACKBONES[:4])
def test_casting_spares_what_learns(name: str, folder: Path) -> None:
    model: Any = backbone(name, folder)
    learns = next(model.net.parameters()).requires_grad_()
    before = model.fingerprint()
    model.to("cpu", torch.bfloat16)
    assert learns.dtype == torch.float32
    assert {p.dtype for p in model.net.parameters() if p is not learns} == {torch.bfloat16}
    assert model.dtype == torch.bfloat16
    assert model.fingerprint() != before


@pytest.mark.parametrize("name", BACKBONES[:4])
def test_fingerprint_is_of_the_base_weights(name: str, folder: Path) -> None:
    model: Any = backbone(name, folder)
    same, wrapped = backbone(name, folder), backbone(name, folder)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q", "to_v"]), wrapped.net)
    assert model.fingerprint() == same.fingerprint() == wrapped.fingerprint()
    with torch.no_grad():
        next(same.net.parameters())[0].add_(1e-3)
    fresh: Any = backbone(name, folder)
    fresh.net = same.net
    assert fresh.fingerprint() != model.fingerprint()
    assert fresh.vae_fingerprint() == model.vae_fingerprint()
    assert fresh.text_fingerprint() == model.text_fingerprint()


@torch.no_grad()
def test_latent_scaling_is_read_from_the_autoencoder(folder: Path) -> None:
    model: Any = backbone("tiny-sd-eps", folder)
    images, before = pictures(model), model.vae_fingerprint()
    raw = model.vae.encode(images).latent_dist
    torch.testing.assert_close(model.encode_moments(images)[0], raw.mean * 0.5)
    model.vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4)
    mean, std = model.encode_moments(images)
    shift = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(mean, (raw.mean - shift) * 0.5 / 2)
    torch.testing.assert_close(std, raw.std * 0.5 / 2)
    torch.testing.assert_close(model.decode(mean), model.vae.decode(raw.mean).sample, rtol=1e-4, atol=1e-5)
    assert model.vae_fingerprint() != before


@torch.no_grad()
def test_half_precision_autoencoder_works_in_float32(folder: Path) -> None:
    model: Any = backbone("tiny-sd-eps", folder, dtype=torch.float16)
    half = model.encode_moments(pictures(model))[0]
    model.vae.float()
    whole = model.vae.encode(pictures(model)).latent_dist.mean * 0.5
    torch.testing.assert_close(half, whole)
    model.vae.half()
    model.decode(half)
    assert model.vae.dtype == torch.float16


@pytest.mark.parametrize("name", FOLDERS)
def test_pipeline_shares_the_modules(name: str, folder: Path) -> None:
    model: Any = backbone(name, folder)
    pipe = model.pipeline()
    assert getattr(pipe, model.net_name) is model.net
    assert pipe.vae is model.vae
    assert pipe.scheduler is not model.scheduler


def test_sample_prediction_is_refused() -> None:
    toy = Toy()
    scheduler = DDIMScheduler(prediction_type="sample")
    with pytest.raises(ModelError, match="prediction_type 'sample'"):
        DDPM.__init__(toy, toy.net, scheduler, toy.text_encoders, toy.tokenizers)


def test_gradients_reach_learning_weights(model: Any) -> None:
    layer = next(part for name, part in model.net.named_modules() if name.endswith("to_q"))
    layer.requires_grad_()
    n = model.noise(torch.randn(1, *model.latent_shape(model.pixels, model.pixels)), seed())
    with torch.no_grad():
        cond = model.embed(["a cat"])
    nn.functional.mse_loss(model.predict(n.x, n.t, cond), n.target).backward()
    assert layer.weight.grad.abs().sum() > 0
    layer.requires_grad_(False)
    layer.weight.grad = None


def test_cond_rows() -> None:
    cond = Cond(torch.randn(3, 2, 4), torch.randn(3, 5), {"mask": torch.ones(3, 2)})
    joined = Cond.cat([cond[0], cond[1:]])
    assert torch.equal(joined.tokens, cond.tokens)
    assert torch.equal(joined.pooled, cond.pooled)
    assert joined.extra["mask"].shape == (3, 2)
