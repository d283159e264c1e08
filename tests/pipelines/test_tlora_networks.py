"""T-LoRA in real networks: stock pipelines, both guidance branches, other adapters, recomputation, training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from studio.pipelines.adapters import files, lora, tlora
from studio.pipelines.protocols import Backbone, Batch
from studio.trainers import tlora as trainer
from tests import models
from tests.pipelines.test_tlora import build, latents, made, predict

__all__ = ["made"]


def seen(adapter: tlora.TLoRA) -> list[list[int]]:
    """The ranks of every pass to come."""
    found: list[list[int]] = []
    ranks = adapter.masks.ranks

    def note(times: torch.Tensor) -> torch.Tensor:
        found.append(ranks(times).tolist())
        return ranks(times)

    adapter.masks.ranks = note  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("name", ["tiny-sd-eps", "tiny-sd3"])
def test_a_stock_pipeline_has_the_schedule_in_both_guidance_branches(name: str, made: Path) -> None:
    model = models.backbone(name, made)
    adapter = build(model, move=0.3)
    pipe = model.pipeline()

    def draw() -> Any:
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "latent", "generator": generator}
        return pipe("a cat", **options).images

    found = seen(adapter)
    drawn = draw()
    expected = [3 * (1000 - float(t)) // 1000 + 1 for t in pipe.scheduler.timesteps]
    assert len(expected) == 4
    assert [set(ranks) for ranks in found] == [{rank} for rank in expected]
    assert len(set(expected)) > 1
    with adapter.as_stock():
        assert not torch.equal(draw(), drawn)


def flux() -> Any:
    """A Backbone of the smallest FLUX network, as far as an adapter looks at one."""
    torch.manual_seed(0)
    net = diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
    )
    config = SimpleNamespace(num_train_timesteps=1000)
    parts = {"net_name": "transformer", "text_encoders": {}, "scheduler": SimpleNamespace(config=config)}
    return SimpleNamespace(net=net.requires_grad_(False).eval(), adapter=None, **parts)


def test_flux_counts_in_thousandths() -> None:
    model = flux()
    adapter = build(model, rank=8, r_min=2, variant="vanilla")
    inputs = {
        "hidden_states": torch.randn(2, 4, 4),
        "encoder_hidden_states": torch.randn(2, 5, 16),
        "pooled_projections": torch.randn(2, 16),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(5, 3),
    }
    model.net(**inputs, timestep=torch.tensor([0.25, 0.999]))
    assert adapter.masks.active is not None
    assert adapter.masks.active.tolist() == [6 * 750 // 1000 + 2, 2]
    every = torch.arange(1000)
    for dtype in (torch.float32, torch.float64):
        times = adapter.masks.times(every.to(dtype) / 1000)
        assert torch.equal(adapter.masks.ranks(times), adapter.masks.ranks(every))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_another_adapter_is_not_masked(made: Path, tmp_path: Path) -> None:
    donor = models.backbone("tiny-sd-eps", made)
    torch.manual_seed(3)
    other = lora.Config(rank=4).build(donor)
    for parameter in other.parameters():
        parameter.data += 0.1
    path = files.save(donor, other, tmp_path / "other.safetensors")
    expected = predict(donor, 100, 999)
    model = models.backbone("tiny-sd-eps", made)
    build(model, move=0.3)
    pipe = model.pipeline()
    pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name="other")
    pipe.set_adapters(["other"])
    assert torch.equal(predict(model, 100, 999), expected)


@pytest.mark.parametrize("name", ["tiny-sd-eps", "tiny-sd3"])
def test_recomputation_has_the_masks_of_its_own_pass(name: str, made: Path) -> None:
    """Also with a pass at other times between forward and backward, as a preview or a reference may be."""

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = models.backbone(name, made)
        adapter = build(model, move=0.3)
        if checkpointing:
            model.net.enable_gradient_checkpointing()  # type: ignore[operator]
            model.net.train()
        cond = model.embed(["a cat", "a dog"])
        losses = [
            model.predict(latents(model, 2), torch.tensor(t), cond).square().mean() for t in ([10, 900], [999, 400])
        ]
        predict(model, 0, 0, 0)
        sum(losses).backward()  # type: ignore[union-attr]
        found = [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None]
        adapter.remove()
        if checkpointing:
            functions = {type(getattr(m, "_gradient_checkpointing_func", None)).__name__ for m in model.net.modules()}
            assert functions <= {"function", "NoneType"}
        return found

    plain, again = gradients(False), gradients(True)
    assert len(plain) == len(again)
    for one, two in zip(plain, again, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-7)


def batch(model: Backbone) -> Batch:
    """Two pictures of the subject and two of its class."""
    return Batch(
        latents=latents(model, 4),
        prompts=["a sks cat"] * 2 + ["a cat"] * 2,
        prior=torch.tensor([False, False, True, True]),
        weights=torch.ones(4),
        masks=None,
        ids=list("abcd"),
        generator=torch.Generator().manual_seed(7),
    )


def test_the_class_half_is_masked_at_its_own_times() -> None:
    model = models.backbone("toy", Path())
    config = trainer.Config(adapter={"rank": 8, "r_min": 2}, prior={"weight": 1.0})
    torch.manual_seed(0)
    adapter = config.adapter.build(model)
    times: list[torch.Tensor] = []
    model.net.register_forward_pre_hook(lambda net, args: times.append(args[1]))
    loss = next(trainer.losses(config, model, adapter, [batch(model)], {}))  # type: ignore[arg-type]
    assert adapter.masks.active is not None
    assert adapter.masks.active.tolist() == [6 * (1000 - int(t)) // 1000 + 2 for t in times[0]]
    assert len(set(times[0].tolist())) > 1
    assert float(loss.numbers["rank"]) == float(adapter.masks.active.float().mean())
    loss.value.backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())


def test_half_precision_keeps_the_small_difference() -> None:
    """The two terms are a thousand times their difference, which autocast must not lose; what learns stays float32."""
    model = models.backbone("toy", Path(), dtype=torch.bfloat16)
    adapter = build(model, move=1e-4, targets="attn1.to_q", init="principal")
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in adapter.frozen().values()} == {torch.float32}
    layer = model.net.get_submodule("attn1.to_q")
    x = torch.randn(2, 3, 16).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    variant, nothing = layer.lora_variant[lora.NAME], torch.zeros(2, 3, 16)
    q, q0 = layer.lora_A[lora.NAME].weight.double(), layer.lora_base_A.double()
    trained, frozen = adapter.ups()["unet.attn1.to_q"].double() @ q, layer.lora_base_B.double() @ q0
    exact = x.double() @ (trained - frozen).T
    assert (x.double() @ frozen.T).norm() > 1000 * exact.norm()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        change = variant.forward(layer, lora.NAME, x, nothing)
    assert (change.double() - exact).norm() < 0.02 * exact.norm()
