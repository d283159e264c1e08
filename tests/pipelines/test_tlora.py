"""T-LoRA: which columns act when, and nothing at the start; Soboleva et al. 2025, arXiv 2507.05964."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from studio.pipelines.adapters import lora, tlora, tlora_factors, tlora_masks
from studio.pipelines.adapters.tlora_layer import effective_rank, triplets
from studio.pipelines.errors import StudioError, UsageError
from studio.pipelines.protocols import Backbone
from tests import models

STARTS = [(init, source) for init in ("last", "middle", "principal") for source in ("random", "weights")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def build(model: Backbone, seed: int = 2, move: float = 0.0, **settings: Any) -> tlora.TLoRA:
    """A seeded adapter; with `move`, every weight that far from its start."""
    torch.manual_seed(seed)
    adapter = tlora.Config(**{"rank": 4, "r_min": 1, **settings}).build(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * move)
    return adapter


def latents(model: Backbone, count: int) -> Tensor:
    shape = (count, *model.latent_shape(model.pixels, model.pixels))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def predict(model: Backbone, *t: float) -> Tensor:
    """What the model says about the same noise at each t; prompts differ by sample."""
    with torch.no_grad():
        cond = model.embed([f"a red cat {i}" for i in range(len(t))])
        return model.predict(latents(model, len(t)), torch.tensor(t), cond)


def schedule(rank: int, least: int, power: float = 1.0) -> tlora_masks.Masks:
    return build(models.backbone("toy", Path()), rank=rank, r_min=least, power=power).masks


@pytest.mark.parametrize("rank", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("part", [0, 4, 2])
def test_the_schedule_is_the_papers_for_every_time(rank: int, part: int) -> None:
    least = rank // part if part else 1
    ranks = schedule(rank, least).ranks(torch.arange(1001)).tolist()
    assert ranks == [(rank - least) * (1000 - t) // 1000 + least for t in range(1001)]
    assert (ranks[0], ranks[999], ranks[1000]) == (rank, least, least)
    assert ranks == sorted(ranks, reverse=True)
    # the number the spec gives for these two, over the times of training
    if (rank, least) in ((4, 1), (64, 32)):
        assert sum(ranks[:1000]) / 1000 == pytest.approx({4: 2.0, 64: 47.5}[rank], abs=0.03)


def test_the_power_bends_the_schedule() -> None:
    left = torch.arange(0, 1001, 100)
    assert schedule(100, 1, 2.0).ranks(1000 - left).tolist() == [99 * i * i // 100 + 1 for i in range(11)]
    assert schedule(8, 4, 3.0).ranks(torch.tensor([500.0])).tolist() == [4]


@pytest.mark.parametrize(("rank", "least", "expected"), [(16, None, 8), (16, 0, 8), (1, None, 1), (6, 5, 5)])
def test_half_the_rank_is_the_least(rank: int, least: int | None, expected: int) -> None:
    assert tlora.Config(rank=rank, r_min=least).least == expected


def test_more_columns_than_there_are_are_refused() -> None:
    for name in ("r_min", "export_rank"):
        with pytest.raises(ValueError, match=f"{name} is 9, larger than the rank, 8"):
            tlora.Config(**{"rank": 8, name: 9})


@pytest.mark.parametrize(
    ("name", "init", "source"), [*(("toy", *start) for start in STARTS), ("tiny-sd-eps", *STARTS[0])]
)
def test_the_start_is_the_base_model_bit_for_bit_at_every_rank(name: str, init: str, source: str, made: Path) -> None:
    model = models.backbone(name, made)
    base = predict(model, 0, 500, 999)
    adapter = build(model, init=init, source=source, targets="all" if name == "toy" else "attention+conv")
    assert torch.equal(predict(model, 0, 500, 999), base)
    for rank in range(adapter.config.rank + 1):
        with adapter.at_rank(rank), adapter.scaled(0.7):
            assert torch.equal(predict(model, 0, 500, 999), base)


@pytest.mark.parametrize(("init", "source"), STARTS)
def test_what_it_starts_from_is_orthonormal_in_descending_order(init: str, source: str) -> None:
    model = models.backbone("toy", Path())
    weight = model.net.get_submodule("conv_in").weight.detach().flatten(1)
    adapter = build(model, init=init, source=source, targets="to_q,to_v,conv_in")
    for name in adapter.ups():
        p, s, q = (adapter.named_parameters()[f"{name}.lora_{kind}.weight"].detach() for kind in "BSA")
        p, q = p.flatten(1), q.flatten(1)
        torch.testing.assert_close(p.T @ p, torch.eye(4), rtol=0, atol=1e-5)
        torch.testing.assert_close(q @ q.T, torch.eye(4), rtol=0, atol=1e-5)
        assert s.min() >= 0
        assert torch.equal(s, s.sort(descending=True).values)
        if source == "weights" and name == "unet.conv_in":  # not the rows of U and the columns of V^T
            torch.testing.assert_close(weight @ q.T, p * s, rtol=0, atol=1e-5)


def test_which_singular_vectors() -> None:
    matrix = torch.diag(torch.arange(9.0, 0, -1))
    assert [triplets(matrix, 3, which)[1].tolist() for which in ("principal", "middle", "last")] == [
        [9, 8, 7],
        [6, 5, 4],
        [3, 2, 1],
    ]


def test_the_seed_decides_the_start() -> None:
    starts = [build(models.backbone("toy", Path()), seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not any(torch.equal(starts[0][name], starts[2][name]) for name in starts[0] if "base_A" in name)


def test_columns_past_the_active_rank_get_no_gradient() -> None:
    model = models.backbone("toy", Path())
    adapter = build(model, move=0.1)
    model.predict(latents(model, 1), torch.tensor([999]), model.embed(["a cat"])).square().sum().backward()
    for name, parameter in adapter.named_parameters().items():
        gradient = parameter.grad.movedim(1, 0) if "lora_B" in name else parameter.grad
        assert (gradient[1:] == 0).all()
        assert (gradient[0] != 0).any()  # so no whole tensor is without one: the audit needs no exception
    assert not adapter.audit_exceptions


@pytest.mark.parametrize("variant", ["full", "vanilla"])
@pytest.mark.parametrize("name", ["toy", "tiny-sd-eps", "tiny-sd3"])
def test_a_batch_is_its_samples(name: str, variant: str, made: Path) -> None:
    model = models.backbone(name, made)
    build(model, move=0.3, variant=variant)
    both = predict(model, 0.0, 999.0)
    with torch.no_grad():
        x, conds = latents(model, 2), [model.embed([f"a red cat {i}"]) for i in range(2)]
        alone = [model.predict(x[i : i + 1], torch.tensor([t]), conds[i]) for i, t in enumerate((0.0, 999.0))]
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_without_a_schedule_it_is_lora_bit_for_bit() -> None:
    torch.manual_seed(2)
    model = models.backbone("toy", Path())
    plain = lora.Config(rank=4).build(model)
    for parameter in plain.parameters():
        parameter.data += 0.1
    expected = predict(model, 0, 999)
    other = models.backbone("toy", Path())
    for parameter in build(other, variant="vanilla", r_min=4).parameters():
        parameter.data += 0.1
    assert torch.equal(predict(other, 0, 999), expected)


def test_the_layer_is_the_formula() -> None:
    """y = W x + P diag(s) M Q x - P0 diag(s0) M Q0 x, and its rank is 2 r(t) at most."""
    model = models.backbone("toy", Path())
    adapter = build(model, move=0.2, targets="attn1.to_q")
    name, eye = "unet.attn1.to_q", torch.eye(16)
    p, s, q = (adapter.named_parameters()[f"{name}.lora_{kind}.weight"].detach() for kind in "BSA")
    u0, q0 = (adapter.frozen()[f"{name}.lora_base_{kind}.weight"] for kind in "BA")
    layer = model.net.get_submodule("attn1.to_q")
    with torch.no_grad():
        for k in range(5):
            mask = (torch.arange(4) < k).float()
            expected = p @ torch.diag(s * mask) @ q - u0 @ torch.diag(mask) @ q0
            with adapter.at_rank(k):
                delta = (layer(eye) - layer.base_layer(eye)).T
            torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e-5)
            assert int((torch.linalg.svdvals(delta) > 1e-5).sum()) == 2 * k


def learnt(model: Backbone, adapter: tlora.TLoRA) -> dict[str, Tensor | None]:
    """The gradients of one pass over three times."""
    for parameter in adapter.parameters():
        parameter.grad = None
    with torch.no_grad():
        cond = model.embed(["a red cat"] * 3)
    model.predict(latents(model, 3), torch.tensor([20.0, 500.0, 980.0]), cond).square().mean().backward()
    return {name: parameter.grad for name, parameter in adapter.named_parameters().items()}


def test_factors_of_all_layers_at_once_are_those_of_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.backbone("toy", Path())
    adapter = build(model, move=0.1, targets="all")
    count, asked = len(adapter.ups()), list[int]()
    join = tlora_factors.join
    monkeypatch.setattr(tlora_factors, "join", lambda layers: asked.append(len(layers)) or join(layers))
    together, drawn = learnt(model, adapter), predict(model, 300)
    assert asked == [count, count]  # once per pass, and nothing is kept from one to the next
    adapter.factors.handles[0].remove()  # nobody says that a pass begins
    apart = learnt(model, adapter)
    assert asked[2:] == [1] * count
    assert all(torch.equal(together[name], apart[name]) for name in together)
    assert torch.equal(drawn, predict(model, 300))


def test_factors_are_written_from_the_formula() -> None:
    adapter = build(models.backbone("toy", Path()), move=0.1, targets="to_q,conv_in")
    for layer, (first, second) in zip(adapter.factors.layers, tlora_factors.join(adapter.factors.layers), strict=True):
        q, p, s, q0, u0 = (x.detach() for x in (layer.lora_A[lora.NAME].weight, layer.lora_B[lora.NAME].weight,
                           layer.lora_S, layer.lora_base_A, layer.lora_base_B))  # fmt: skip
        u = p.flatten(1) @ s.diag()
        torch.testing.assert_close(first.flatten(1), torch.cat([(q - q0).flatten(1), q0.flatten(1)]))
        torch.testing.assert_close(second.flatten(1), torch.cat([u, u - u0.flatten(1)], 1))


def test_a_layer_that_is_not_used_gets_no_gradient_and_a_failed_pass_leaves_nothing() -> None:
    model = models.backbone("toy", Path())
    adapter = build(model, move=0.1)
    (first, second), *others = tlora_factors.join(adapter.factors.layers)
    (first.square().sum() + second.square().sum()).backward()
    grads = [parameter.grad is not None for parameter in adapter.parameters()]
    assert sum(grads) == 3  # P, s and Q of the one layer
    assert others
    seen = list[int]()

    def fail(*_: object) -> None:
        seen.append(len(adapter.factors.made))
        raise RuntimeError("late")

    model.net.get_submodule("conv_out").register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="late"):
        predict(model, 5)
    assert seen == [len(others) + 1]
    assert not adapter.factors.made
    assert not adapter.factors.passing


def test_checkpointed_blocks_learn_the_same() -> None:
    model = models.backbone("embedded", Path())
    adapter = build(model, move=0.05, targets="attention")
    plain = learnt(model, adapter)
    model.net.enable_gradient_checkpointing()
    model.net.train()
    again = learnt(model, adapter)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("variant", ["full", "vanilla"])
def test_a_layer_narrower_than_the_rank_has_its_first_columns(variant: str) -> None:
    model = models.backbone("toy", Path())
    base = predict(model, 0, 500, 999)
    adapter = build(model, rank=64, r_min=8, variant=variant, targets="all")
    assert {rank for rank, _ in adapter.layers["unet"].values()} == {16}
    assert torch.equal(predict(model, 0, 500, 999), base)
    for parameter in adapter.parameters():
        parameter.data += 0.1
    with adapter.at_rank(16):
        sixteen = predict(model, 0, 500, 999)
    with adapter.as_stock():
        assert torch.equal(predict(model, 0, 500, 999), sixteen)
    assert not torch.equal(predict(model, 999), sixteen[2:])


@pytest.mark.parametrize("variant", ["full", "vanilla"])
def test_off_scaled_and_removed(variant: str, made: Path) -> None:
    model = models.backbone("tiny-sd-eps", made)
    base, fingerprint = predict(model, 100, 900), model.fingerprint()
    adapter = build(model, move=0.3, variant=variant)
    trained = predict(model, 100, 900)
    with adapter.off():
        assert torch.equal(predict(model, 100, 900), base)
    assert not torch.equal(trained, base)
    with adapter.merged(1.0):
        assert torch.equal(predict(model, 100, 900), trained)
    layer = model.net.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    x = torch.randn(2, 3, 32)
    adapter.at(torch.tensor([100, 900]))
    delta = layer(x) - layer.base_layer(x)
    for strength in (-1.0, 0.5, 2.0):
        with adapter.scaled(strength):
            torch.testing.assert_close(layer(x), layer.base_layer(x) + strength * delta)
    with pytest.raises(UsageError, match="export_rank"):
        layer.merge()
    adapter.remove()
    assert torch.equal(predict(model, 100, 900), base)
    assert model.fingerprint() == fingerprint
    assert not model.net._forward_pre_hooks
    build(model)


def test_diagnostics() -> None:
    assert effective_rank(torch.diag(torch.tensor([10.0, 9.0, 0.5, 0.1]))) == 2
    assert effective_rank(torch.zeros(4, 2)) == 0
    model = models.backbone("toy", Path())
    adapter = build(model)
    assert 1 <= adapter.numbers()["effective_rank"] <= 4
    model.predict(latents(model, 2), torch.tensor([0, 999]), model.embed(["a", "b"]))
    predict(model, 0)  # a preview says nothing of the training
    numbers = adapter.numbers()
    assert numbers["active_rank"] == 2.5
    assert numbers["largest_s"] > numbers["smallest_s"] > 0
    assert build(models.backbone("toy", Path()), variant="vanilla").numbers() == {"effective_rank": 0}


def test_what_cannot_be_masked_is_refused() -> None:
    model = models.backbone("toy", Path())
    masks = build(model).masks
    with pytest.raises(StudioError, match=r"\(2, 3\)"):
        masks.see(torch.zeros(2, 3))
    masks.see(torch.tensor([0, 999]))
    with pytest.raises(StudioError, match="3 rows in a batch of 2"):
        masks.apply(torch.ones(3, 5, 4), -1)
    assert masks.apply(torch.ones(4, 5, 4), -1)[:, 0].sum(1).tolist() == [4, 4, 1, 1]  # frames beside each other
    timeless = SimpleNamespace(**{**vars(models.backbone("toy", Path())), "net": torch.nn.ModuleList()})
    with pytest.raises(UsageError, match="given a timestep; ModuleList is not"):
        tlora_masks.Masks(timeless.net, 4, 1, 1.0, 1000)


def test_every_network_with_a_unit_of_its_own_exists() -> None:
    for name in tlora_masks.THOUSANDTHS | tlora_masks.BACKWARDS:
        assert hasattr(diffusers, name)
