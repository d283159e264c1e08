"""Consistency distillation: the grid, jumps along a path, the teacher's step and the distances, as published."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from studio.pipelines import (
    backbone,
    distillation,
    distillation_own,
    draws,
    schedules,
    schedules_few,
    schedules_flow,
)
from studio.pipelines.adapters import lora
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Backbone

KINDS = ("epsilon", "v_prediction", "flow")
SHAPE = torch.Size((2, 4, 4))


def model(kind: str = "epsilon", **settings: object) -> Backbone:
    """The toy with another schedule; v has zero terminal SNR."""
    made = backbone.load("toy")
    settings = {"rescale_betas_zero_snr": kind == "v_prediction", "prediction_type": kind, **settings}
    made.prediction = kind  # type: ignore[assignment]
    made.scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0)
        if kind == "flow"
        else DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, **settings
        )
    )
    return made


def grid(kind: str, count: int = 50, leap: int = 1) -> distillation.Grid:
    return distillation.grid(model(kind), count, SHAPE, leap)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def straight(times: distillation.Grid, x0: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The point of x0 and eps at t, and what a perfect network says there."""
    alpha, sigma = times.level(t)
    out = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "flow": eps - x0}[times.prediction]
    return alpha * x0 + sigma * eps, out


@pytest.fixture(params=KINDS)
def times(request: pytest.FixtureRequest) -> distillation.Grid:
    return grid(request.param)


def test_the_grid_is_pinned() -> None:
    for kind in ("epsilon", "v_prediction"):
        found = grid(kind)
        assert found.t.tolist() == list(range(19, 1000, 20))
        assert found.before.tolist() == [0, *range(19, 999, 20)]
    assert grid("epsilon", 4).t.tolist() == [249, 499, 749, 999]
    assert grid("epsilon", 50, 3).before[:5].tolist() == [0, 0, 0, 19, 39]


def test_a_flows_grid_is_its_own_samplers() -> None:
    found, steps = grid("flow"), schedules_flow.flow_euler(model("flow"), 50, SHAPE)[1]
    assert found.t.flip(0).tolist() == pytest.approx([k.t for k in steps])
    assert found.before.tolist() == [0, *found.t[:-1].tolist()]


def test_what_cannot_be_is_refused() -> None:
    for count in (0, 1001):
        with pytest.raises(UsageError, match="give 1 to 1000"):
            distillation.grid(model(), count, SHAPE)
    with pytest.raises(ModelError, match="epsilon says nothing at zero terminal SNR"):
        distillation.grid(model("epsilon", rescale_betas_zero_snr=True), 50, SHAPE)


def test_a_perfect_network_tells_picture_and_noise(times: distillation.Grid) -> None:
    x0, eps = random(50, *SHAPE), random(50, *SHAPE, seed=1)
    x, out = straight(times, x0, eps, times.t)
    clean, noise = times.estimates(x, out, times.t)
    torch.testing.assert_close(clean, x0, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(noise, eps, atol=2e-4, rtol=1e-3)


def test_jumps_of_one_path_compose(times: distillation.Grid) -> None:
    """So every self-consistency loss of a model that always says the same noise is zero."""
    x0, eps = random(16, *SHAPE), random(16, *SHAPE, seed=1)
    t, u, s = times.t[34:50], times.t[17:33], times.t[:16]
    x, out = straight(times, x0, eps, t)
    at_u = times.jump(x, out, t, u)
    torch.testing.assert_close(at_u, straight(times, x0, eps, u)[0], atol=1e-4, rtol=1e-4)
    twice = times.jump(at_u, straight(times, x0, eps, u)[1], u, s)
    torch.testing.assert_close(twice, times.jump(x, out, t, s), atol=2e-4, rtol=1e-4)


def test_a_jump_is_the_samplers_step(times: distillation.Grid) -> None:
    x, out = random(50, *SHAPE), random(50, *SHAPE, seed=1)
    found = times.jump(x, out, times.t, times.before)
    base = model(times.prediction)
    if times.prediction == "flow":
        steps = schedules_flow.flow_euler(base, 50, SHAPE)[1][::-1]
    else:
        steps = schedules.ddim(base, 50, given=times.t.flip(0).tolist())[1][::-1]
    last = 0 if times.prediction == "flow" else 1  # DDIM's last step goes to its own end, LCM's to timestep 0
    for row, k in list(enumerate(steps))[last:]:
        torch.testing.assert_close(found[row], k.A * x[row] + k.B * out[row], atol=2e-5, rtol=1e-4)


def test_the_first_steps_end_is_timestep_zero_of_the_schedule() -> None:
    found = grid("epsilon")
    alpha, sigma = found.level(found.before[:1])
    assert alpha.item() == pytest.approx(sqrt(1 - 0.00085))
    assert sigma.item() == pytest.approx(sqrt(0.00085), rel=1e-4)


def test_at_zero_terminal_snr_the_picture_is_read_off_v() -> None:
    found = grid("v_prediction")
    t, x, out = found.t[-1:], random(1, *SHAPE), random(1, *SHAPE, seed=1)
    assert found.level(t)[0].item() == 0
    clean, eps = found.estimates(x, out, t)
    assert torch.equal(clean, -out)
    assert torch.equal(eps, x)
    torch.testing.assert_close(found.origin(x, out, t), -out)
    assert found.jump(x, out, t, found.before[-1:]).isfinite().all()


def test_the_boundary_condition() -> None:
    """f(x, 0) = x to the last bit, and everywhere else f is the clean estimate, as the sampler has it."""
    skip, keep = (part.flatten() for part in distillation.boundary(torch.arange(1000)))
    assert (skip[0], keep[0]) == (1, 0)
    assert (skip[19].item(), keep[19].item()) == pytest.approx((6.9e-6, 0.9999965), rel=1e-2)
    assert skip[999].item() == pytest.approx(2.5e-9, rel=1e-2)
    ours = torch.stack([skip, keep], 1)
    torch.testing.assert_close(ours, torch.tensor([schedules_few.scalings(t) for t in range(1000)]))
    x, out, zero = random(3, *SHAPE), random(3, *SHAPE, seed=1), torch.zeros(3, dtype=torch.long)
    for kind in KINDS:
        assert torch.equal(grid(kind).origin(x, out, zero), x)


@pytest.mark.parametrize(
    ("phases", "begins"),
    [(1, [0]), (2, [0, 25]), (4, [0, 12, 25, 37]), (8, [0, 6, 12, 18, 25, 31, 37, 43])],
)
def test_phases_begin_where_the_sampler_steps(phases: int, begins: list[int]) -> None:
    assert distillation.edges(50, phases) == begins
    found = grid("epsilon")
    ends = [int(found.before[begin]) for begin in begins]
    assert ends == schedules_few.edges(found.t.tolist(), phases)
    assert ends == {1: [0], 2: [0, 499], 4: [0, 239, 499, 739], 8: ends}[phases]


def test_the_phase_is_the_indexs_never_that_of_the_step_before_it() -> None:
    found, source = grid("epsilon"), torch.Generator()
    index = torch.tensor([0, 1, 11, 12, 13, 24, 25, 36, 37, 49])
    to = distillation.destination("edge", found, index, 4, source)
    assert to.tolist() == [0, 0, 0, 239, 239, 239, 499, 499, 739, 739]
    assert found.before[12] == 239  # its target is the teacher's point itself
    assert torch.equal(distillation.destination("edge", grid("epsilon", leap=5), index, 4, source), to)


def test_at_an_edge_the_target_is_the_teachers_point(times: distillation.Grid) -> None:
    index = torch.arange(50)
    to = distillation.destination("edge", times, index, 4, torch.Generator())
    x, out = random(50, *SHAPE), random(50, *SHAPE, seed=1)
    target = times.f("edge", x, out, times.before, to)
    same = (target == x).flatten(1).all(1)
    assert same.nonzero().flatten().tolist() == [0, 12, 25, 37]


def test_one_phase_is_lcms_jump_without_its_boundary() -> None:
    """LCM leads to the picture; the edge of the only phase is the same path at timestep 0."""
    found = grid("epsilon")
    x, out, t = random(50, *SHAPE), random(50, *SHAPE, seed=1), found.t
    alpha, sigma = found.level(torch.zeros_like(t))
    edge = found.f("edge", x, out, t, torch.zeros_like(t))
    skip, keep = distillation.boundary(t)
    torch.testing.assert_close(keep * (edge - sigma * out) / alpha + skip * x, found.origin(x, out, t))


def test_any_is_uniform_up_to_the_step_before() -> None:
    found = grid("epsilon")
    index = torch.full((20_000,), 5)
    to = distillation.destination("any", found, index, 4, torch.Generator().manual_seed(0))
    counts = torch.bincount(to, minlength=100)
    assert len(counts) == 100  # 0 to 99, the step before 119
    assert counts.min() > 120
    assert counts.max() < 290
    assert distillation.destination("any", found, index * 0, 4, torch.Generator()).unique().tolist() == [0]
    flow = grid("flow")
    levels = distillation.destination("any", flow, index, 4, torch.Generator().manual_seed(0))
    assert levels.max() <= flow.before[5]
    assert levels.mean() == pytest.approx(float(flow.before[5]) / 2, rel=0.02)


def test_indices_are_uniform_and_spread_and_the_seeds() -> None:
    found = grid("epsilon")
    seen = torch.cat([distillation.indices(found, 25, torch.Generator().manual_seed(n)) for n in range(800)])
    assert torch.bincount(seen, minlength=50).float().std() < 25  # of 400 each
    batch = distillation.indices(found, 25, torch.Generator().manual_seed(3))
    assert (batch // 2).sort().values.tolist() == list(range(25))
    halves = [distillation.indices(found, 5, draws.generator(7, draws.Share(rank, 2))) for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), distillation.indices(found, 10, draws.generator(7, draws.ALONE)))


def test_the_teacher_is_the_base_model_with_lcms_guidance() -> None:
    base = model()
    prompts, x, t = ["a cat", "a red dog"], random(2, *SHAPE), torch.tensor([500, 900])
    with torch.no_grad():
        c, u = base.predict(x, t, base.embed(prompts)), base.predict(x, t, base.embed(["", ""]))
    adapter = lora.Config(rank=2, targets="all").build(base)
    for parameter in adapter.parameters():
        parameter.data.normal_()
    plain = distillation.teach(base, adapter, x, t, prompts, None)
    assert torch.equal(plain, c)
    torch.testing.assert_close(distillation.teach(base, adapter, x, t, prompts, torch.zeros(2)), plain)
    w = torch.tensor([3.0, 6.5])
    taught = distillation.teach(base, adapter, x, t, prompts, w)
    torch.testing.assert_close(taught, u + (w + 1)[:, None, None, None] * (c - u), atol=1e-4, rtol=1e-4)
    assert not taught.requires_grad
    torch.testing.assert_close(taught[:1], distillation.teach(base, adapter, x[:1], t[:1], prompts[:1], w[:1]))


def test_guidance_is_uniform_in_its_range() -> None:
    w = distillation.guidance(3.0, 5.0, 20_000, torch.Generator().manual_seed(0))
    assert (w.min() >= 3, w.max() <= 5) == (True, True)
    assert w.mean() == pytest.approx(4.0, abs=0.02)
    assert distillation.guidance(6.5, 6.5, 3, torch.Generator()).tolist() == [6.5] * 3


def test_huber_is_a_square_near_zero_and_a_length_far_away() -> None:
    c = 1e-3
    small, large = torch.tensor([1e-6, 1e-5], dtype=torch.float64), torch.tensor([1.0, 30.0])
    near = distillation.distance("huber", small, c).double()
    torch.testing.assert_close(near, (small**2 + c**2).sqrt() - c, rtol=1e-4, atol=0)
    torch.testing.assert_close(near, small**2 / (2 * c), rtol=1e-3, atol=0)
    torch.testing.assert_close(distillation.distance("huber", -large, c), large - c, rtol=1e-5, atol=0)
    assert torch.equal(distillation.distance("l2", large, c), large**2)


def test_cauchys_gradient_peaks_and_falls() -> None:
    c = 0.1
    gap = torch.linspace(0, 4, 4001, requires_grad=True)
    (slope,) = torch.autograd.grad(distillation.distance("cauchy", gap, c).sum(), gap)
    torch.testing.assert_close(slope, 2 * gap.detach() / (2 * c**2 + gap.detach() ** 2))
    assert gap[slope.argmax()].item() == pytest.approx(sqrt(2) * c, abs=1e-3)
    assert slope.max().item() == pytest.approx(1 / (sqrt(2) * c), rel=1e-3)
    assert slope[-1] < 0.1 * slope.max()
    wide = 2 * 1e3**2 * distillation.distance("cauchy", gap.detach().double(), 1e3)
    torch.testing.assert_close(wide, gap.detach() ** 2, atol=1e-4, rtol=0.1)


@pytest.mark.parametrize("kind", ["l2", "huber", "cauchy"])
def test_a_mask_says_where_the_mean_is_taken(kind: distillation.Distance) -> None:
    gap = random(3, *SHAPE)
    plain = distillation.per_sample(kind, gap, 0.1, None)
    torch.testing.assert_close(distillation.per_sample(kind, gap, 0.1, torch.ones(3, 1, 4, 4)), plain)
    half = torch.zeros(3, 1, 4, 4)
    half[..., :2] = 1
    torch.testing.assert_close(
        distillation.per_sample(kind, gap, 0.1, half), distillation.per_sample(kind, gap[..., :2], 0.1, None)
    )


def test_a_number_is_a_dropout_and_leaves_the_generators_alone() -> None:
    base = model()
    adapter = lora.Config(rank=2, dropout=0.5).build(base)
    adapter.train(True)
    for parameter in adapter.parameters():
        parameter.data.normal_()
    x, t, cond = random(2, *SHAPE), torch.tensor([500, 900]), base.embed(["a cat", "a dog"])

    def out(number: int) -> Tensor:
        before = torch.get_rng_state()
        with torch.no_grad(), distillation.same_dropout(adapter, torch.Generator().manual_seed(number)):
            found = base.predict(x, t, cond)
        assert torch.equal(torch.get_rng_state(), before)
        return found

    assert torch.equal(out(1), out(1))
    assert not torch.equal(out(1), out(2))


def test_a_network_that_knows_the_picture_comes_by_noised_pictures(times: distillation.Grid) -> None:
    """Whatever gamma is, a point is alpha x0 + sigma z with z standard normal, where every estimate of x0 is right."""
    x0, source, asked = random(4000, *SHAPE, seed=1), draws.generator(3, draws.ALONE), list[int]()
    own = distillation_own.places(times, 4, len(x0), source)

    def oracle(rows: Tensor, x: Tensor, t: Tensor) -> Tensor:
        asked.append(len(rows))
        alpha, sigma = times.level(t)
        return straight(times, x0[rows], (x - alpha * x0[rows]) / sigma, t)[1]

    x = own.walk(oracle, x0, source)
    alpha, sigma = times.level(times.t[own.index])
    z = (x - alpha * x0) / sigma
    first = own.index == len(times) - 1
    assert 0.35 < float(first.float().mean()) < 0.45
    for part in (x[first], z[~first]):
        assert abs(float(part.mean())) < 0.02
        assert abs(float(part.std()) - 1) < 0.02
    assert sum(asked) == sum(int((row != own.index).sum()) for row in own.way)
