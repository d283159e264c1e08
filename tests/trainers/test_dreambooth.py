"""DreamBooth's formulas, and the reference scripts' bugs that must not come back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from studio import loop
from studio.pipelines import backbone
from studio.pipelines.adapters import lora
from studio.pipelines.data import Cache, DataStream, Pictures
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone, Batch
from studio.trainers import dreambooth
from studio.trainers.base import Loss
from tests.models import backbone as tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


class Fixed:
    """A stream of given batches, over and over."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches, self.position = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            for batch in self.batches:
                self.position += 1
                yield replace(batch, generator=torch.Generator().manual_seed(self.position))


def batch(model: Backbone, instance: int, classes: int, **changes: Any) -> Batch:
    """Random rows: the instance rows do not depend on how many class rows there are."""
    count = instance + classes
    latents = torch.randn(count, *model.latent_shape(8, 8), generator=torch.Generator().manual_seed(3))
    rows: dict[str, Any] = {
        "latents": latents,
        "prompts": ["sks cat"] * instance + ["cat"] * classes,
        "prior": torch.arange(count) >= instance,
        "weights": torch.ones(count),
        "masks": None,
        "ids": [str(i) for i in range(count)],
        "generator": torch.Generator(),
    }
    return Batch(**{**rows, **changes})


def first(model: Backbone, stream: Any, **settings: Any) -> Loss:
    """The first loss on a fresh model."""
    torch.manual_seed(0)
    adapter = model.adapter or lora.Config(rank=2).build(model)
    return next(dreambooth.losses(dreambooth.Config(**settings), model, adapter, stream, {}))


def test_a_class_half_of_weight_zero_changes_nothing_for_the_instance_half() -> None:
    model = backbone.load("toy")
    alone = first(model, Fixed([batch(model, 3, 0)]))
    both = first(model, Fixed([batch(model, 3, 3, latents=torch.cat([batch(model, 3, 0).latents] * 2))]))
    torch.testing.assert_close(both.value, alone.value)
    assert "prior" in both.numbers
    assert "prior" not in alone.numbers


def test_the_loss_is_instance_plus_weighted_prior() -> None:
    model = backbone.load("toy")
    loss = first(model, Fixed([batch(model, 2, 2)]), prior={"weight": 0.3})
    torch.testing.assert_close(loss.value, loss.numbers["instance"] + 0.3 * loss.numbers["prior"])


def test_snr_weights_stay_with_their_own_half(made: Path) -> None:
    """The SDXL script weighs B errors with 2B weights: for B = 1 that silently mixes in class timesteps."""
    model = tiny("tiny-sd-eps", made)
    rows = batch(model, 1, 1)
    loss = first(model, Fixed([rows]), snr_gamma=0.5, prior={"weight": 1.0})
    noisy = dreambooth.noised(model, replace(rows, generator=torch.Generator().manual_seed(1)), 0.0)
    errors = (model.predict(noisy.x, noisy.t, model.embed(rows.prompts)) - noisy.target).square().flatten(1).mean(1)
    weights = noisy.snr.clamp(max=0.5) / noisy.snr
    assert weights[0] != weights[1]
    torch.testing.assert_close(loss.numbers["instance"], (errors * weights)[0])
    torch.testing.assert_close(loss.numbers["prior"], (errors * weights)[1])


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr(gamma: float) -> None:
    model = backbone.load("toy")
    noisy = model.noise(torch.zeros(1000, *model.latent_shape(8, 8)), t=torch.arange(1000))
    epsilon = dreambooth.min_snr(noisy, gamma, "epsilon")
    low = noisy.snr <= gamma
    assert torch.equal(epsilon[low], torch.ones(int(low.sum())))
    torch.testing.assert_close(epsilon[~low], gamma / noisy.snr[~low])
    assert epsilon.mean() <= 1
    v = dreambooth.min_snr(noisy, gamma, "v_prediction")
    torch.testing.assert_close(v, torch.minimum(noisy.snr, torch.tensor(gamma)) / (noisy.snr + 1))
    # the DreamBooth scripts' min(SNR, g) / SNR + 1 is never below one
    assert v.max() < gamma
    assert v[-1] < 1


def test_min_snr_is_finite_at_zero_snr(made: Path) -> None:
    model = tiny("tiny-sd-v", made)
    noisy = model.noise(torch.zeros(1, *model.latent_shape(32, 32)), t=torch.tensor([999]))
    assert noisy.snr.item() == pytest.approx(0, abs=1e-6)
    for prediction in ("epsilon", "v_prediction"):
        assert torch.isfinite(dreambooth.min_snr(noisy, 5.0, prediction)).all()


def test_min_snr_is_refused_for_flow_with_the_reason(made: Path) -> None:
    model = tiny("tiny-sd3", made)
    with pytest.raises(UsageError, match="flow"):
        first(model, Fixed([batch(model, 1, 0)]), snr_gamma=5.0)


def test_sample_weights_and_masks() -> None:
    model = backbone.load("toy")
    rows = batch(model, 2, 0)
    plain = first(model, Fixed([rows])).value
    doubled = first(model, Fixed([replace(rows, weights=torch.tensor([2.0, 2.0]))])).value
    torch.testing.assert_close(doubled, 2 * plain)
    shape = (2, 1, *model.latent_shape(8, 8)[1:])
    torch.testing.assert_close(first(model, Fixed([replace(rows, masks=torch.ones(shape))])).value, plain)
    half = torch.ones(shape)
    half[..., : shape[-1] // 2] = 0
    masked = first(model, Fixed([replace(rows, masks=half)])).value
    noisy = dreambooth.noised(model, replace(rows, generator=torch.Generator().manual_seed(1)), 0.0)
    error = (model.predict(noisy.x, noisy.t, model.embed(rows.prompts)) - noisy.target).square()
    torch.testing.assert_close(masked, error[..., shape[-1] // 2 :].mean())
    assert torch.isfinite(first(model, Fixed([replace(rows, masks=torch.zeros(shape))])).value)


def test_noise_offset_shifts_whole_channels() -> None:
    model = backbone.load("toy")
    rows = batch(model, 2, 0)
    noises = [
        dreambooth.noised(model, replace(rows, generator=torch.Generator().manual_seed(1)), offset).eps
        for offset in (0.0, 0.1)
    ]
    shift = noises[1] - noises[0]
    torch.testing.assert_close(shift, shift[..., :1, :1].expand_as(shift), rtol=0, atol=1e-6)
    assert shift.abs().max() > 0


@pytest.mark.parametrize("text", [False, True])
def test_only_lora_learns_and_the_base_stays(text: bool, made: Path) -> None:
    model = tiny("tiny-sd-eps", made)
    adapter = lora.Config(rank=2, text_encoder=text).build(model)
    roots = (model.net, *model.text_encoders.values())
    frozen = [(p, p.clone()) for root in roots for p in root.parameters() if not p.requires_grad]
    config = dreambooth.Config(steps=3, lr=1e-2, precision="no")
    stream = Fixed([batch(model, 1, 1)])
    before = {key: value.clone() for key, value in adapter.state_dict().items()}
    list(loop.train(config, model, adapter, dreambooth.losses(config, model, adapter, stream, {}), {}))
    assert all(torch.equal(p, start) and p.grad is None for p, start in frozen)
    moved = [key for key, value in adapter.state_dict().items() if not torch.equal(value, before[key])]
    assert any(key.startswith("unet.") for key in moved)
    assert any(key.startswith("text_encoder.") for key in moved) == text


@pytest.mark.parametrize("name", ["toy", "tiny-sd3"])
def test_one_picture_with_fixed_noise_is_overfitted(name: str, made: Path) -> None:
    model = tiny(name, made)
    adapter = lora.Config(rank=8, targets="all").build(model)
    config = dreambooth.Config(steps=60, lr=1e-2, precision="no")
    rows = batch(model, 1, 0)

    class Same(Fixed):
        def __iter__(self) -> Iterator[Batch]:
            while True:
                yield replace(rows, generator=torch.Generator().manual_seed(1))

    losses = dreambooth.losses(config, model, adapter, Same([]), {})
    numbers = [tick.floats()["loss"] for tick in loop.train(config, model, adapter, losses, {})]
    assert numbers[-1] < 0.1 * numbers[0]


@pytest.mark.parametrize("name", ["tiny-sd-eps", "tiny-sd3"])
def test_gradient_checkpointing_changes_memory_not_numbers(name: str, made: Path) -> None:
    runs = []
    for checkpointing in (False, True):
        model = tiny(name, made)
        torch.manual_seed(0)
        adapter = lora.Config(rank=2).build(model)
        config = dreambooth.Config(steps=2, precision="no", gradient_checkpointing=checkpointing)
        losses = dreambooth.losses(config, model, adapter, Fixed([batch(model, 2, 0)]), {})
        runs.append([tick.floats() for tick in loop.train(config, model, adapter, losses, {})])
        assert model.net.is_gradient_checkpointing == checkpointing
    for plain, saved in zip(*runs, strict=True):
        assert plain == pytest.approx(saved, rel=1e-5)


def test_gradient_checkpointing_is_refused_where_there_is_none() -> None:
    model = backbone.load("toy")
    adapter = lora.Config(rank=2).build(model)
    config = dreambooth.Config(gradient_checkpointing=True, precision="no")
    with pytest.raises(UsageError, match="gradient_checkpointing"):
        loop.train(config, model, adapter, iter(()), {})


def test_latents_and_captions_stay_together_through_the_cache(tmp_path: Path) -> None:
    """The SD3 and FLUX scripts index cached latents by loader step while the loader shuffles each epoch."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        Image.new("RGB", (8, 8), (40 * i, 40 * i, 40 * i)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}")
    model = backbone.load("toy")
    data = Pictures(folder=folder).read(model)
    stream = DataStream(model, data, batch=2, seed=0, cache=Cache(tmp_path / "cache"))
    list(stream.fill())
    seen: list[tuple[int, int]] = []

    def watched() -> Iterator[Batch]:
        for rows in stream:
            for latents, prompt in zip(rows.latents, rows.prompts, strict=True):
                level = (float(latents.mean()) * 2 / 3 + 1) / 2 * 255 / 40
                seen.append((round(level), int(prompt.split()[1])))
            yield rows

    class Watched:
        position = 0

        def __iter__(self) -> Iterator[Batch]:
            return watched()

    adapter = lora.Config(rank=2).build(model)
    config = dreambooth.Config(steps=8, batch=2, precision="no")
    list(loop.train(config, model, adapter, dreambooth.losses(config, model, adapter, Watched(), {}), {}))
    brightness = sorted(set(seen))
    assert len(seen) == 16
    assert len(brightness) == 5, "every caption always came with the same picture"
