"""SaRA in place: which entries learn, that nothing else moves, and that the update is what the paper writes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pytorch_optimizer import SaRA as Oracle
from torch import nn

from studio.pipelines import backbone
from studio.pipelines.adapters import sara_select
from studio.pipelines.adapters.sara import Config
from studio.pipelines.errors import UsageError
from studio.pipelines.order import nth
from studio.plan_live import Live
from tests.models import backbone as made_backbone
from tests.sara import Small, attach, output, train, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attaching_changes_no_bit(dtype: torch.dtype) -> None:
    model = backbone.load("toy", dtype=dtype)
    base, before = output(model), weights(model)
    adapter = attach(model, quantile=0.3)
    assert any((vector < 0).any() for vector in adapter.parameters())
    assert all(vector.dtype == torch.float32 for vector in adapter.parameters())
    assert torch.equal(output(model), base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    with pytest.raises(UsageError, match="already carries"):
        attach(model)


def test_a_threshold_is_strict_and_not_rounded() -> None:
    """Exactly the entries below it, a tie is none; a half-precision base is compared in float32."""
    model = backbone.load("toy")
    tie = model.net.time.weight.data.abs().flatten().sort().values[40].item()
    found = sara_select.select(sara_select.candidates(model.net, "all"), tie, None)
    below = {name: int((tensor.abs() < tie).sum()) for name, tensor in weights(model).items()}
    assert {name: len(index) for name, index in found.indices.items()} == {k: n for k, n in below.items() if n}
    assert below["time.weight"] == 40
    half = nn.Parameter(torch.tensor([2e-3], dtype=torch.bfloat16))
    for factor, count in ((0.999, 0), (1.0, 0), (1.001, 1)):  # in bfloat16 the three are one number
        assert len(sara_select.select({"x": half}, half.item() * factor, None)) == count


def test_nth_is_what_sorting_finds() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        parts = [torch.randn(300).to(dtype).abs(), torch.zeros(40, dtype=dtype), torch.rand(7).to(dtype).repeat(3)]
        order = torch.cat(parts).sort().values
        for rank in (0, 39, 40, 41, 200, 360):
            assert nth(lambda parts=parts: parts, rank) == order[rank].item()


def test_a_quantile_is_over_all_tensors_together() -> None:
    model = backbone.load("toy")
    model.net.time.weight.data *= 1e-3
    every = torch.cat([tensor.abs().flatten() for tensor in weights(model).values()])
    adapter = attach(model, quantile=0.05)
    assert sum(len(v) for v in adapter.parameters()) == int(0.05 * len(every))
    assert adapter.threshold == every.sort().values[int(0.05 * len(every))].item()
    share = len(adapter.places["unet.time.weight"].index) / sum(len(v) for v in adapter.parameters())
    assert share > 0.9  # a share of each layer would be a top-k, not a threshold


@pytest.mark.parametrize("rule", ["largest", "random"])
def test_other_selections_take_as_many(rule: Any) -> None:
    model = backbone.load("toy")
    tensors = sara_select.candidates(model.net, "all")
    small, other, again, third = (
        sara_select.select(tensors, 0.02, None, one, seed)
        for one, seed in (("smallest", 0), (rule, 0), (rule, 0), (rule, 1))
    )
    assert len(other) == len(small) > 0
    assert other.threshold == small.threshold
    assert {n: i.tolist() for n, i in other.indices.items()} == {n: i.tolist() for n, i in again.indices.items()}
    same = {n: i.tolist() for n, i in other.indices.items()} == {n: i.tolist() for n, i in third.indices.items()}
    assert same == (rule == "largest")
    if rule == "largest":
        taken = min(tensors[name].flatten()[index.long()].abs().min() for name, index in other.indices.items())
        assert int(sum((tensor.abs() >= taken).sum() for tensor in tensors.values())) == len(other)


def test_what_it_goes_into_can_be_said() -> None:
    """Any tensor, convolutions, biases and norms too; groups, and regular expressions for parameters or modules."""
    whole = {name.rpartition(".")[2] for name in attach(backbone.load("toy"), quantile=1).places}
    assert whole == {"weight", "bias"}
    found = attach(backbone.load("toy"), quantile=1, targets="attention").places
    assert {name.split(".")[1] for name in found} == {"attn1", "attn2"}
    assert list(attach(backbone.load("toy"), quantile=1, targets="conv_in").places) == [
        "unet.conv_in.weight",
        "unet.conv_in.bias",
    ]
    assert list(attach(backbone.load("toy"), quantile=1, targets=r".*time\.bias").places) == ["unet.time.bias"]
    with pytest.raises(UsageError, match="no parameter is called 'tiem'"):
        attach(backbone.load("toy"), targets="tiem")
    with pytest.raises(UsageError, match="not a regular expression"):
        attach(backbone.load("toy"), targets="(")


def test_nothing_below_the_threshold_is_said() -> None:
    model = backbone.load("toy")
    assert len(sara_select.select(sara_select.candidates(model.net, "all"), 0.0, None)) == 0
    with pytest.raises(UsageError, match="no entry is smaller than 0"):
        attach(model, threshold=0)
    assert model.adapter is None
    with pytest.raises(ValueError, match="set one of them"):
        Config(threshold=1e-3, quantile=0.1)


def test_a_quantised_network_is_refused() -> None:
    model = backbone.load("toy")
    model.net.time.weight = nn.Parameter(model.net.time.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match=r"time\.weight is quantised"):
        attach(model)


def test_gradients_are_the_dense_ones_gathered() -> None:
    """Bit for bit, in a network with checkpointing too; the frozen tensors have none."""
    model = backbone.load("toy")
    full = copy.deepcopy(model)
    full.net.requires_grad_(True)
    adapter = attach(model, quantile=0.3)
    output(full).square().mean().backward()
    output(model).square().mean().backward()
    for name, dense in full.net.named_parameters():
        place = adapter.places[f"unet.{name}"]
        assert dense.grad is not None
        assert place.vector.grad is not None
        assert torch.equal(place.vector.grad, dense.grad.flatten()[place.index.long()])
    assert all(p.grad is None and not p.requires_grad for p in model.net.parameters())


def test_gradient_checkpointing_gives_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = made_backbone("tiny-sd-eps", tmp_path_factory.mktemp("models"))
    adapter = attach(model, quantile=0.1)
    model.net.train()
    output(model).square().mean().backward()
    first = [vector.grad.clone() for vector in adapter.parameters() if vector.grad is not None]
    for vector in adapter.parameters():
        vector.grad = None
    model.net.enable_gradient_checkpointing()
    output(model).square().mean().backward()
    again = [vector.grad for vector in adapter.parameters() if vector.grad is not None]
    assert len(first) == len(again) == len(adapter.places)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(isinstance(p, nn.Parameter) for p in model.net.parameters())  # every one is back in its place


def test_tied_tensors_are_one() -> None:
    model = backbone.load("toy")
    model.net.attn1.to_v.weight = model.net.attn2.to_v.weight
    full = copy.deepcopy(model)
    full.net.requires_grad_(True)
    adapter = attach(model, quantile=1)
    assert [name for name in adapter.places if name.endswith("to_v.weight")] == ["unet.attn1.to_v.weight"]
    output(full).square().mean().backward()
    output(model).square().mean().backward()
    both = full.net.attn1.to_v.weight.grad
    assert both is not None
    torch.testing.assert_close(adapter.places["unet.attn1.to_v.weight"].vector.grad, both.flatten())


def test_no_dense_gradient_is_kept() -> None:
    """5 % of the entries: after the backward pass the other 95 % of full fine-tuning's gradients are not there."""
    model, full = backbone.load("toy"), backbone.load("toy")
    full.net.requires_grad_(True)
    adapter = attach(model, quantile=0.05)
    alive, peak = {}, {}
    for name, one in (("sara", model), ("full", full)):
        loss = output(one).square().mean()
        with Live() as live:
            loss.backward()
        alive[name], peak[name] = live.now, live.peak
    every = sum(parameter.numel() for parameter in full.net.parameters())
    ours = sum(len(vector) for vector in adapter.parameters())
    assert ours == int(0.05 * every)
    assert alive["full"] - alive["sara"] == 4 * (every - ours)
    assert peak["sara"] < 0.7 * peak["full"]


def test_gradients_add_up_over_batches() -> None:
    model = backbone.load("toy", dtype=torch.float64)
    adapter = attach(model, quantile=0.3)
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    t, cond = torch.arange(6), model.embed(["a", "b", "c", "d", "e", "f"])
    model.net(x, t, cond.tokens).square().mean().backward()
    once = [vector.grad for vector in adapter.parameters()]
    for vector in adapter.parameters():
        vector.grad = None
    for rows in (slice(0, 2), slice(2, 4), slice(4, 6)):
        (model.net(x[rows], t[rows], cond[rows].tokens).square().mean() / 3).backward()
    for vector, one in zip(adapter.parameters(), once, strict=True):
        torch.testing.assert_close(vector.grad, one, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        (torch.float32, {}),
        (torch.float32, {"progressive": 5}),
        (torch.float32, {"accumulate": 2}),
        (torch.float64, {"progressive": 5, "weight": 1e-2}),
    ],
)
def test_the_trajectory_is_the_oracles(dtype: torch.dtype, how: dict[str, Any]) -> None:
    """pytorch_optimizer's SaRA, which masks dense gradients: the same bits; with the nuclear norm to 1e-12."""
    model, other = Small(dtype), Small(dtype)
    threshold, settings = 0.03, {"lr": 2e-3, "weight_decay": 1e-2, "foreach": False}
    adapter = attach(model, threshold=threshold)
    train(model, adapter, torch.optim.AdamW(adapter.parameters(), **settings), 12, **how)
    other.net.requires_grad_(True)
    options = {"progressive_iter": how.get("progressive", -1), "lambda_rank": how.get("weight", 0.0)}
    oracle = Oracle(other.net.parameters(), threshold=threshold, **settings, **options)
    for step in range(1, 13):
        x = torch.randn(16, 66, generator=torch.Generator().manual_seed(step), dtype=dtype)
        loss = (other.net(x) - x[:, :3]).square().mean()
        for part in range(how.get("accumulate", 1)):
            (loss / how.get("accumulate", 1)).backward(retain_graph=part == 0)
        oracle.step()
        oracle.zero_grad()
    if "progressive" in how:
        assert 0.05 < adapter.numbers()["learning"] < 1
    for (name, ours), theirs in zip(model.net.named_parameters(), other.net.parameters(), strict=True):
        assert (ours - theirs).abs().max() <= (1e-12 if how.get("weight") else 0), name
    assert any(
        not torch.equal(a, b) for a, b in zip(weights(model).values(), weights(Small(dtype)).values(), strict=True)
    )
