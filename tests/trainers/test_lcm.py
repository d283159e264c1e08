"""LCM's laws: who gets gradients, what the teacher is, what the switches mean, and pictures the model draws itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from torch import Tensor

from studio.config import RunConfig
from studio.pipelines import backbone, distillation, distillation_data, distillation_own, draws, sampling, schedules
from studio.pipelines.adapters import lora
from studio.pipelines.cache import Cache
from studio.pipelines.data_references import References
from studio.pipelines.distillation_data import Drawn, DrawnStream
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_hearing import guidance_embedding
from studio.pipelines.protocols import Adapter, Backbone, Batch, Cond
from studio.plan_rehearsal import Rehearsal
from studio.trainers import lcm
from studio.trainers.base import Loss

PROMPTS = ["a cat", "a red dog", "a dog on blue"]


def drawn(model: Backbone, batch: int = 4, seed: int = 0, **options: Any) -> DrawnStream:
    config = Drawn(pictures=6, sampler_steps=3, guidance_scale=3.0)
    return DrawnStream(model, PROMPTS, References().read(model), config, batch=batch, seed=seed, **options)


def moved(model: Backbone, **settings: Any) -> Adapter:
    """An adapter that changes the model."""
    torch.manual_seed(0)
    adapter = lora.Config(rank=2, targets="all", **settings).build(model)
    for parameter in adapter.parameters():
        parameter.data.normal_(std=0.1)
    return adapter


def first(model: Backbone, adapter: Adapter, **settings: Any) -> Loss:
    return next(lcm.losses(lcm.Config(**settings), model, adapter, drawn(model), {}))


def slope(model: Backbone, adapter: Adapter, **settings: Any) -> Tensor:
    """The gradient of the first loss."""
    found = torch.autograd.grad(first(model, adapter, **settings).value, adapter.parameters())
    return torch.cat([part.flatten() for part in found])


def still(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model says the same noise wherever it is asked."""
    eps = torch.randn(1, *model.latent_shape(8, 8), generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(model, "predict", lambda x, t, cond: eps.expand_as(x))


@pytest.mark.parametrize("jump_to", ["edge", "any"])
def test_a_model_that_always_says_the_same_noise_is_consistent(jump_to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone.load("toy")
    adapter, stream = moved(model), drawn(model)
    list(stream.fill())
    still(model, monkeypatch)
    for _, loss in zip(range(8), lcm.losses(lcm.Config(jump_to=jump_to), model, adapter, stream, {}), strict=False):
        assert float(loss.numbers["gap"]) < 2e-5


def test_and_lcms_own_jump_is_so_but_for_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """At t' = 0 the boundary condition gives the noisy latents themselves, sigma = 0.03 from clean."""
    model = backbone.load("toy")
    adapter = moved(model)
    x0 = torch.randn(50, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    times = distillation.grid(model, 50, x0.shape[1:])
    monkeypatch.setattr(distillation, "indices", lambda times, batch, source: torch.arange(50))
    still(model, monkeypatch)
    ones = torch.ones(50)
    batch = Batch(x0, ["a cat"] * 50, ones > 1, ones, None, ["x"] * 50, torch.Generator().manual_seed(0))
    ours, theirs, _ = lcm.both(lcm.Config(), model, adapter, batch, times)
    gaps = (ours - theirs).flatten(1).abs().max(1).values
    assert gaps[1:].max() < 2e-4
    assert 0.01 < gaps[0] < 0.3


@pytest.mark.parametrize("jump_to", ["origin", "edge", "any"])
@pytest.mark.parametrize("solver", ["guided", "plain", "data"])
def test_only_the_student_gets_gradients(jump_to: str, solver: str) -> None:
    model = backbone.load("toy")
    adapter, config = moved(model), lcm.Config(jump_to=jump_to, solver=solver)
    batch = next(iter(drawn(model)))
    times = distillation.grid(model, 50, batch.latents.shape[1:])
    ours, theirs, clean = lcm.both(config, model, adapter, batch, times)
    assert (ours.requires_grad, theirs.requires_grad, clean.requires_grad) == (True, False, True)
    ours.sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    learning = {id(parameter) for parameter in adapter.parameters()}
    assert all(p.grad is None for p in model.net.parameters() if id(p) not in learning)


def test_the_target_follows_the_student_and_the_teacher_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone.load("toy")
    adapter = moved(model)
    times = distillation.grid(model, 50, torch.Size((2, 4, 4)))
    points: list[Tensor] = []
    teach = distillation.teach
    monkeypatch.setattr(distillation, "teach", lambda *given: points.append(teach(*given)) or points[-1])

    def target() -> Tensor:
        return lcm.both(lcm.Config(), model, adapter, next(iter(drawn(model))), times)[1]

    before = target()
    adapter.parameters()[0].data.add_(0.5)
    after = target()
    assert torch.equal(*points)
    assert not torch.equal(before, after)


def test_guidance_of_scale_one_is_none() -> None:
    model = backbone.load("toy")
    adapter = moved(model)
    zero, plain = (first(model, adapter, **how) for how in ({"w_min": 0.0, "w_max": 0.0}, {"solver": "plain"}))
    torch.testing.assert_close(zero.value, plain.value, rtol=1e-4, atol=1e-6)
    assert not torch.isclose(first(model, adapter).value, plain.value, rtol=1e-3)


def test_guidance_can_change_nothing_where_the_prompt_is_empty() -> None:
    """What the teacher subtracts is the empty prompt's output."""
    model = backbone.load("toy")
    adapter = moved(model)
    x, t = torch.ones(2, 2, 4, 4), torch.tensor([500, 900])
    taught = distillation.teach(model, adapter, x, t, ["", ""], torch.full((2,), 9.0))
    torch.testing.assert_close(taught, distillation.teach(model, adapter, x, t, ["", ""], None))


def test_at_first_every_step_of_the_teacher_is_learned_by_itself() -> None:
    """As PCM with a phase for each timestep does it: every target is the teacher's point, and the student's is near."""
    model = backbone.load("toy")
    adapter = moved(model)
    led, phased, plain = (
        lcm.losses(lcm.Config(**how), model, adapter, drawn(model), {})
        for how in ({"lead_in": 2, "leap": 3}, {"jump_to": "edge", "phases": 50}, {"leap": 3})
    )
    values = [[next(losses).value.item() for _ in range(3)] for losses in (led, phased, plain)]
    assert values[0][:2] == values[1][:2]
    assert values[0][2] == values[2][2]
    assert values[0][2] != values[1][2]


REWARD: dict[str, Any] = {"reward": {"terms": ("jpeg-soft-bits",)}}


def test_a_reward_without_weight_is_plain_distillation_bit_for_bit() -> None:
    model = backbone.load("toy")
    adapter = moved(model)
    assert torch.equal(slope(model, adapter, beta=0.0, **REWARD), slope(model, adapter))


def test_a_rewards_gradient_comes_on_top_through_the_autoencoder() -> None:
    model = backbone.load("toy")
    adapter = moved(model)
    plain, one, two = (slope(model, adapter, beta=beta, **REWARD) for beta in (0.0, 1.0, 2.0))
    assert (one - plain).norm() > 0
    torch.testing.assert_close(two - plain, 2 * (one - plain), rtol=1e-3, atol=1e-5 * float(two.norm()))
    loss = first(model, adapter, beta=1.0, **REWARD)
    assert {"gap", "consistency", "clamped", "reward/jpeg-soft-bits"} <= loss.numbers.keys()
    assert 0 <= float(loss.numbers["clamped"]) <= 1


def test_settings_that_cannot_be_are_refused() -> None:
    model = backbone.load("toy")
    adapter = moved(model)
    for how in ({"w_min": 9.0}, {"w_max": 2.0}):
        with pytest.raises(ValueError, match="w_min = .* is more than w_max"):
            lcm.Config(**how)
    with pytest.raises(UsageError, match="free_encoders"):
        lcm.losses(lcm.Config(beta=1.0, free_encoders=True, **REWARD), model, adapter, drawn(model), {})
    with pytest.raises(UsageError, match="own_steps = 4: .* solver = data"):
        first(model, adapter, own_steps=4, solver="data")
    with pytest.raises(UsageError, match="own_steps = 9: the grid has 8 timesteps"):
        first(model, adapter, own_steps=9, grid=8)
    with pytest.raises(UsageError, match="60 phases"):
        first(model, adapter, jump_to="edge", phases=60)
    adapter.exact_off = False
    with pytest.raises(UsageError, match="LCM's teacher is the base model"):
        lcm.losses(lcm.Config(), model, adapter, drawn(model), {})
    assert first(model, adapter, solver="data").value.isfinite()


def test_own_places_are_every_step_of_every_sampler_alike() -> None:
    """1 to 4 steps: 10 places, of which 4 are pure noise at the last timestep, and all are in LCM's schedule."""
    model = backbone.load("toy")
    times = distillation.grid(model, 50, torch.Size((2, 4, 4)))
    found = distillation_own.places(times, 4, 40_000, torch.Generator().manual_seed(0))
    index, counts = found.index.unique(return_counts=True)
    assert index.tolist() == [12, 16, 24, 33, 37, 49]
    torch.testing.assert_close(counts / 4000, torch.tensor([1.0, 1, 2, 1, 1, 4]), rtol=0.06, atol=0)
    for steps in (2, 3, 4):  # the places are diffusers' timesteps
        scheduler = schedules.own_schedule(model, LCMScheduler)
        scheduler.set_timesteps(steps)
        assert set(scheduler.timesteps.tolist()) <= set(times.t[index].tolist())


def test_its_own_points_move_with_the_student_and_bring_no_gradient_of_their_own() -> None:
    """The student's steps on the way are taken as given: the gradient is that of a jump from a fixed point."""
    model = backbone.load("toy")
    adapter, config = moved(model), lcm.Config(jump_to="edge", phases=50, own_steps=4)
    times = distillation.grid(model, 50, torch.Size((2, 4, 4)))
    stream = drawn(model, batch=16)

    def pair() -> tuple[Tensor, Tensor, Tensor]:
        return lcm.both(config, model, adapter, stream.at(0), times)

    ours, theirs, _ = pair()
    again = pair()
    assert torch.equal(ours, again[0])
    assert not theirs.requires_grad
    own = distillation_own.places(times, 4, 16, stream.at(0).generator)
    noise = own.index == len(times) - 1
    adapter.parameters()[0].data.add_(0.5)
    moves = (pair()[1] - theirs).flatten(1).abs().amax(1) > 1e-6
    assert torch.equal(moves, ~noise)  # nothing is before pure noise


@pytest.mark.parametrize("jump_to", ["origin", "edge", "any"])
@pytest.mark.parametrize("own_steps", [0, 4])
def test_a_plan_can_rehearse_it(jump_to: str, own_steps: int) -> None:
    small = {"rank": 2, "targets": "all"}
    lead_in = int(jump_to == "edge")
    settings = lcm.Config(batch=2, jump_to=jump_to, lead_in=lead_in, own_steps=own_steps, adapter=small)
    config = RunConfig(trainer="lcm", model="toy", settings=settings)
    model = backbone.load("toy")
    settings.adapter.build(model)
    rehearsal = Rehearsal(config, model, torch.device("cpu"))
    assert min(rehearsal.train()) > 0
    assert rehearsal.notes == []


class Hearing(torch.nn.Module):
    """The toy's network, which can hear a guidance embedding, and remembers whether it was told one."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.config = net, type("Config", (), {"time_cond_proj_dim": 32})()


def test_a_network_that_hears_guidance_is_told_it_and_its_teacher_is_not() -> None:
    model: Any = backbone.load("toy")
    model.net.config = Hearing(model.net).config
    adapter, heard = moved(model), []
    forward = model.forward

    def listening(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        heard.append((len(x), cond.extra.get("timestep_cond")))
        return forward(x, t, cond)

    model.forward = listening
    stream = drawn(model)
    list(stream.fill())
    heard.clear()
    next(lcm.losses(lcm.Config(w_min=2.0, w_max=8.0), model, adapter, stream, {}))
    (_, teacher), (_, target), (_, student) = heard
    assert teacher is None
    assert torch.equal(target, student)
    assert student.shape == (4, 32)
    assert len(student.unique(dim=0)) == 4
    zero = guidance_embedding(torch.zeros(1), 32)
    assert not torch.isclose(student, zero).all(1).any()


def test_the_models_own_pictures_are_its_own_without_the_adapter() -> None:
    model = backbone.load("toy")
    moved(model)
    stream = drawn(model)
    assert list(stream.fill()) == [(4, 6), (6, 6)]
    batch = next(iter(drawn(model, batch=6)))
    numbers = [int(name.removeprefix("drawn ")) for name in batch.ids]
    assert sorted(numbers) == list(range(6))
    assert batch.prompts == [PROMPTS[number % 3] for number in numbers]
    base = backbone.load("toy")
    seeds = [distillation_data.digest(0, "drawn", number) for number in range(4)]
    options: dict[str, Any] = {"steps": 3, "guidance_scale": 3.0, "batch": 4}
    pictures = list(sampling.sample(base, [PROMPTS[i % 3] for i in range(4)], seeds, **options))
    for row, number in enumerate(numbers):
        if number < 4:
            made = base.decode(batch.latents[row : row + 1]).div(2).add(0.5).clamp(0, 1)[0]
            torch.testing.assert_close(made, pictures[number])


def test_the_models_own_pictures_resume_and_are_shared_and_kept(tmp_path: Any) -> None:
    model = backbone.load("toy")
    cache = Cache(tmp_path)
    stream = drawn(model, cache=cache)
    list(stream.fill())
    assert cache.misses == 2
    batches = [batch for _, batch in zip(range(5), stream, strict=False)]
    assert stream.position == 5
    again = drawn(model, cache=Cache(tmp_path))
    again.position = 3
    resumed = next(iter(again))
    assert again.cache.misses == 0
    assert torch.equal(resumed.latents, batches[3].latents)
    assert (resumed.prompts, resumed.ids) == (batches[3].prompts, batches[3].ids)
    assert torch.equal(resumed.generator.get_state(), batches[3].generator.get_state())
    halves = [next(iter(drawn(model, batch=2, share=draws.Share(rank, 2)))) for rank in (0, 1)]
    assert torch.equal(torch.cat([half.latents for half in halves]), batches[0].latents)
    assert not torch.equal(next(iter(drawn(model, seed=1))).latents, batches[0].latents)
