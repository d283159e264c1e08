"""An adapter merged for drawing: the same model, up to rounding; afterwards the old weights bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from studio.pipelines.adapters import lora
from studio.pipelines.errors import StudioError
from studio.pipelines.protocols import Backbone
from tests.models import backbone
from tests.states import frozen

KINDS = ({"rank": 2}, {"rank": 2, "dora": True}, {"rank": 2, "rslora": True, "targets": "all", "text_encoder": True})


def drawn(model: Backbone) -> Tensor:
    x = torch.randn((2, *model.latent_shape(model.pixels, model.pixels)), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.predict(x, torch.tensor([100, 900]), model.embed(["a cat", "a red dog"]))


def learned(name: str, made: Path, **settings: object) -> tuple[Backbone, lora.LoRA]:
    model = backbone(name, made)
    torch.manual_seed(0)
    adapter = lora.Config(**settings).build(model)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model, adapter


@pytest.mark.parametrize("settings", KINDS, ids=str)
@pytest.mark.parametrize("name", ["tiny-sd-eps", "tiny-sd3"])
def test_merged_is_the_adapter_and_then_the_old_weights(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    model, adapter = learned(name, tmp_path, **settings)
    before, on = frozen(model), drawn(model)
    for strength in (1.0, 0.5) if adapter.linear_scale else (1.0,):
        with adapter.scaled(strength):
            plain = drawn(model)
        with adapter.merged(strength):
            assert any(not torch.equal(value, before[key]) for key, value in frozen(model).items())
            torch.testing.assert_close(drawn(model), plain, rtol=1e-4, atol=1e-4)
        assert all(torch.equal(value, before[key]) for key, value in frozen(model).items())
    assert torch.equal(drawn(model), on)
    with adapter.off():
        off = drawn(model)
    with adapter.merged(0):
        assert torch.equal(drawn(model), off)


def test_it_cannot_be_switched_inside(tmp_path: Path) -> None:
    model, adapter = learned("tiny-sd-eps", tmp_path, rank=2)
    before = frozen(model)
    with adapter.merged():
        for change in (adapter.off, lambda: adapter.scaled(0.5)):
            with pytest.raises(StudioError, match="merged for drawing"), change():
                pass
    assert all(torch.equal(value, before[key]) for key, value in frozen(model).items())


def test_a_trap_inside_leaves_the_old_weights(tmp_path: Path) -> None:
    model, adapter = learned("tiny-sd-eps", tmp_path, rank=2)
    before, on = frozen(model), drawn(model)
    with pytest.raises(RuntimeError, match="trap"), adapter.merged():
        raise RuntimeError("trap")
    assert all(torch.equal(value, before[key]) for key, value in frozen(model).items())
    assert torch.equal(drawn(model), on)
