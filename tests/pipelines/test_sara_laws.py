"""SaRA's laws: on and off, strengths, the second phase, the nuclear norm, and what would go wrong unsaid."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.pipelines import backbone
from studio.pipelines.adapters import sara
from studio.pipelines.errors import ModelError, StudioError
from studio.pipelines.nuclear import nuclear
from tests.sara import Small, attach, chosen, moved, output, train, weights


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=0.5),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.5),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.5, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=5e-3, momentum=0.9, weight_decay=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_but_the_chosen_entries_moves(name: str) -> None:
    """Whatever the optimizer; weight decay and momentum do not leak. After the second phase began, into none of
    those that it left out either."""
    model = Small()
    base, adapter = weights(model), attach(model, threshold=0.03)
    optimizer = OPTIMIZERS[name](adapter.parameters())
    train(model, adapter, optimizer, 4)
    first = weights(model)
    adapter.reselect()
    assert 0 < adapter.numbers()["learning"] < 1
    train(model, adapter, optimizer, 4)
    for parameter, tensor in weights(model).items():
        mask = chosen(adapter, parameter)
        assert torch.equal(tensor[~mask], base[parameter][~mask])
        assert not mask.any() or not torch.equal(tensor[mask], base[parameter][mask])
        if place := adapter.places.get(f"unet.{parameter}"):
            assert place.kept is not None
            still = torch.zeros_like(tensor).flatten().bool()
            still[place.index.long()[place.kept]] = True
            assert torch.equal(tensor[~still.view(tensor.shape)], first[parameter][~still.view(tensor.shape)])
            assert (first[parameter].flatten()[place.index.long()].abs() < adapter.threshold).equal(place.kept)
            assert torch.equal(place.vector[~place.kept], place.composed(place.vector)[~place.kept])
    with adapter.off():
        assert same(weights(model), base)


def test_an_average_or_an_optimizer_cannot_move_what_is_fixed() -> None:
    """Also before `settle`: an exported average holds the values at which entries were fixed."""
    model = Small()
    adapter = moved(attach(model, threshold=0.03))
    adapter.reselect()
    before = weights(model)
    for vector in adapter.parameters():
        vector.data.mul_(0.5)
    adapter.sync()
    for name, place in adapter.places.items():
        now, then = (
            all_[name.removeprefix("unet.")].flatten()[place.index.long()] for all_ in (weights(model), before)
        )
        assert place.kept is not None
        assert torch.equal(now[~place.kept], then[~place.kept])
        assert torch.equal(now[place.kept], then[place.kept] * 0.5)


def test_a_selection_that_would_be_empty_is_not_made() -> None:
    model = Small()
    adapter = attach(model, threshold=0.03)
    for vector in adapter.parameters():
        vector.data.fill_(1.0)
    assert adapter.reselect() == 1.0
    assert all(place.kept is None for place in adapter.places.values())


def test_all_entries_are_full_fine_tuning() -> None:
    model, other = Small(torch.float32), Small(torch.float32)
    adapter = attach(model, quantile=1)
    assert adapter.threshold == math.inf
    options: Any = {"lr": 1e-3, "weight_decay": 1e-2, "foreach": False}
    train(model, adapter, torch.optim.AdamW(adapter.parameters(), **options), 6)
    other.net.requires_grad_(True)
    full = torch.optim.AdamW(other.net.parameters(), **options)
    for step in range(1, 7):
        x = torch.randn(16, 66, generator=torch.Generator().manual_seed(step))
        (other.net(x) - x[:, :3]).square().mean().backward()
        full.step()
        full.zero_grad()
    assert same(weights(model), weights(other))


def test_a_half_precision_network_has_float32_masters() -> None:
    """Steps that bfloat16 would lose add up."""
    model = Small(torch.bfloat16)
    adapter = attach(model, quantile=0.2)
    before = weights(model)
    for _ in range(64):
        for vector in adapter.parameters():
            vector.data.add_(vector.data.sign() * vector.data.abs().mul(1e-3))
    adapter.sync()
    now = weights(model)
    grown = [(now[n].abs() / before[n].abs())[chosen(adapter, n) & (before[n] != 0)] for n in now]
    assert torch.cat(grown).float().sub(1.066).abs().max() < 0.01
    assert all(tensor.dtype == torch.bfloat16 for tensor in now.values())


def test_off_is_the_base_and_back_to_the_bit() -> None:
    model = backbone.load("toy")
    with torch.no_grad():
        base, before = output(model), weights(model)
        adapter = moved(attach(model, quantile=0.3))
        tuned, now = output(model), weights(model)
        assert not torch.equal(tuned, base)
        with adapter.off():
            assert not adapter.enabled
            with adapter.off(), adapter.scaled(2.0):
                assert torch.equal(output(model), base)
            assert torch.equal(output(model), base)
            assert same(weights(model), before)
        assert adapter.enabled
        assert torch.equal(output(model), tuned)
        assert same(weights(model), now)
        fingerprint = model.fingerprint()
        adapter.remove()
    assert same(weights(model), before)
    assert torch.equal(output(model), base)
    assert model.adapter is None
    assert fingerprint == backbone.load("toy").fingerprint()
    assert attach(model, quantile=0.1)


def test_strengths_interpolate_and_multiply() -> None:
    model = backbone.load("toy", dtype=torch.float64)
    base = weights(model)
    adapter = moved(attach(model, quantile=0.3))
    one = weights(model)
    for strength in (0.5, 2.0, -1.0):
        with adapter.scaled(strength):
            for name, tensor in weights(model).items():
                torch.testing.assert_close(tensor, base[name] + strength * (one[name] - base[name]), rtol=0, atol=1e-12)
    with adapter.scaled(0.5), adapter.scaled(0.5):
        quarter = weights(model)
    with adapter.scaled(0.25):
        assert same(weights(model), quarter)
    with adapter.scaled(0):
        assert same(weights(model), base)
    assert same(weights(model), one)


def test_merged_holds_the_update_without_writing_again() -> None:
    model = backbone.load("toy")
    base, adapter = weights(model), moved(attach(model, quantile=0.3))
    with torch.no_grad():
        tuned, now = output(model), weights(model)
        vector = adapter.parameters()[0]
        before = vector.detach().clone()
        vector += 1  # not yet in the network
        with adapter.merged(), torch.no_grad():
            inside = weights(model)
            vector.copy_(before)
            assert not torch.equal(output(model), tuned)
            assert same(weights(model), inside)
        assert torch.equal(output(model), tuned)
        assert same(weights(model), now)
        with adapter.merged(0.0):
            assert same(weights(model), base)
        with adapter.scaled(0.5):
            half = weights(model)
        with adapter.folded(0.5):
            assert same(weights(model), half)
            assert torch.equal(adapter.places["unet.time.weight"].values(), adapter.parameters()[2])
        assert same(weights(model), now)


def test_graphs_survive_what_happens_between_forward_and_backward() -> None:
    """The base model as a reference in between, its own gradients afterwards, other strengths: all right numbers."""
    model = backbone.load("toy", dtype=torch.float64)
    adapter = moved(attach(model, quantile=0.3))
    (expected,) = torch.autograd.grad(output(model).square().mean(), adapter.parameters()[0])
    loss = output(model).square().mean()
    with adapter.off():
        reference = output(model)
        assert not reference.requires_grad
    (found,) = torch.autograd.grad(loss, adapter.parameters()[0])
    assert torch.equal(found, expected)

    fixed = copy.deepcopy(model)
    fixed.adapter.remove()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    t, cond = torch.tensor([10]), model.embed(["a cat"])
    (right,) = torch.autograd.grad(fixed.net(x, t, cond.tokens).square().sum(), x)
    with adapter.off():
        loss = model.net(x, t, cond.tokens).square().sum()
    assert torch.equal(torch.autograd.grad(loss, x)[0], right)  # through the base model, after off() was left

    with adapter.scaled(0.5):
        loss = model.net(x, t, cond.tokens).square().sum()
    (half,) = torch.autograd.grad(loss, adapter.parameters()[0])
    with adapter.folded(0.5):
        (whole,) = torch.autograd.grad(model.net(x, t, cond.tokens).square().sum(), adapter.parameters()[0])
    torch.testing.assert_close(half, whole * 0.5, rtol=1e-12, atol=1e-15)


def test_a_backward_pass_at_the_wrong_moment_is_refused() -> None:
    model = backbone.load("toy")
    adapter = attach(model, quantile=0.3)
    loss = output(model).square().mean()
    with adapter.off(), pytest.raises(StudioError, match="leave the block first"):
        loss.backward()
    loss = output(model).square().mean()
    with torch.no_grad():
        adapter.parameters()[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_states_are_of_these_entries_only() -> None:
    model, other = Small(), Small()
    adapter = moved(attach(model, threshold=0.03))
    adapter.reselect()
    state = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    fresh = attach(other, threshold=0.03)
    fresh.load_state_dict(state)
    assert same(weights(other), weights(model))
    assert fresh.numbers() == adapter.numbers()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())
    fresh.remove()
    count = sum(map(len, adapter.parameters()))
    for settings in ({"threshold": 0.02}, {"threshold": 0.03, "selection": "largest"}):
        stranger = attach(other, **settings)
        with pytest.raises(ModelError, match="not this one"):
            stranger.load_state_dict(state)
        stranger.remove()
    assert count > 0


def test_the_nuclear_norm_and_its_gradient() -> None:
    """|P * M|_* of the values, not of their change; finite differences; gradient (U V^T)[M]."""
    model = Small()
    adapter = attach(model, threshold=0.03)
    place = adapter.places["unet.wide.weight"]
    norm = adapter.nuclear(0)
    assert norm is not None
    mask = chosen(adapter, "wide.weight")
    masked = weights(model)["wide.weight"] * mask
    u, s, vh = torch.linalg.svd(masked, full_matrices=False)
    torch.testing.assert_close(norm, s.sum())
    (gradient,) = torch.autograd.grad(norm, place.vector)
    torch.testing.assert_close(gradient, (u @ vh)[mask])
    direction = torch.randn(len(place.vector), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = torch.zeros_like(masked)
    step[mask] = direction
    difference = (nuclear(masked + 1e-6 * step) - nuclear(masked - 1e-6 * step)) / 2e-6
    torch.testing.assert_close(difference, gradient @ direction, rtol=1e-6, atol=0)


def test_the_nuclear_norm_alone_lowers_itself() -> None:
    model = Small()
    adapter = attach(model, threshold=0.03)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=1e-4)
    norms = []
    for step in range(10):
        norm = adapter.nuclear(step)
        assert norm is not None
        (norm * 0.1).backward()
        norms.append(norm.item())
        optimizer.step()
        optimizer.zero_grad()
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < norms[0]
    adapter.reselect()
    assert attach(Small(), threshold=0.03, targets="norm").nuclear(0) is None


def test_the_drawn_matrix_is_decided_by_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sara, "LARGE", 8)
    monkeypatch.setattr(sara, "MANY", 1)
    adapter = moved(attach(backbone.load("toy"), quantile=0.5))
    drawn = [norm.item() for key in range(20) if (norm := adapter.nuclear(key)) is not None]
    assert drawn == [norm.item() for key in range(20) if (norm := adapter.nuclear(key)) is not None]
    assert len(set(drawn)) > 3
