"""A reward's gradient through a sampler: the recursion of the method's note, exactly, on a random UNet in float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.pipelines import chain_draw, sampling
from studio.pipelines.chain import levels
from studio.pipelines.guidance import cfg
from studio.pipelines.protocols import Batch, Cond, Step
from studio.pipelines.schedules import Coefficients
from studio.pipelines.truncation import Truncation
from tests.chains import Small, apart, last

T = 8
SCATTERED = (False, True, False, False, True, True, False, True)


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


def unrolled(small: Small, k: int, prefix: str = "graph") -> Tensor:
    """The textbook loop, written from the formulas: clean latents after detaching before the last k steps."""
    scheduler = small.model.scheduler
    scheduler.set_timesteps(T)
    alphas, times = scheduler.alphas_cumprod.double(), scheduler.timesteps.tolist()
    x = small.x
    for number, t in enumerate(times):
        a, after = alphas[t], alphas[t - 1000 // T] if t >= 1000 // T else scheduler.final_alpha_cumprod.double()
        out = small.predict(x, torch.full((2,), t), small.cond)
        clean = (x - (1 - a).sqrt() * out) / a.sqrt()
        x = after.sqrt() * clean + (1 - after).sqrt() * out
        x = x.detach() if number < T - k else x
    return x


@pytest.mark.parametrize("how", [{}, {"detach_input": True}], ids=["through", "detached"])
@pytest.mark.parametrize("learns", [last(1), last(T), SCATTERED])
def test_checkpointed_is_plain_to_the_last_bit(small: Small, learns: tuple[bool, ...], how: dict[str, Any]) -> None:
    assert torch.equal(small.of(learns, checkpointed=True, **how), small.of(learns, checkpointed=False, **how))


def test_no_prefix_is_detaching_and_the_picture_does_not_depend_on_k(small: Small) -> None:
    """Against a chain whose every call has a graph and whose state is cut off: to the last bit."""
    pictures = []
    for k in (1, 4, T):
        chain = small.chain(last(k), checkpointed=False)
        x = small.x
        for number, one in enumerate(chain.schedule[1]):
            x = sampling.step(one, small.predict, x, small.cond).next
            x = x.detach() if number < T - k else x
        assert torch.equal(small.of(last(k), checkpointed=False), small.gradient(small.reward(x)))
        pictures.append(small.end(chain))
        assert torch.equal(pictures[-1], x)
    assert all(torch.equal(one, pictures[0]) for one in pictures)


@pytest.mark.parametrize("k", [1, T])
def test_it_is_the_textbook_loop(small: Small, k: int) -> None:
    assert apart(small.of(last(k)), small.gradient(small.reward(unrolled(small, k)))) < 1e-12


def test_the_last_step_alone_is_one_product(small: Small) -> None:
    """dL/dw = B G^T g."""
    steps = list(small.chain(last(1)).walk(small.x, small.cond, torch.zeros_like))
    end = steps[-1].next.detach().requires_grad_()
    (g,) = torch.autograd.grad(small.reward(end), end)
    x, t = steps[-1].x.detach(), steps[-1].t
    out = small.predict(x, t, small.cond)
    found = torch.autograd.grad(out, small.weights, steps[-1].B * g)
    assert apart(small.of(last(1)), torch.cat([part.flatten() for part in found])) < 1e-12


def by_hand(small: Small, learns: tuple[bool, ...]) -> Tensor:
    """The reverse loop: weights += m B G^T g, then g = (A + m B J)^T g."""
    steps = [
        Step(*(getattr(s, n).detach() if isinstance(getattr(s, n), Tensor) else getattr(s, n) for n in FIELDS))
        for s in small.chain((False,) * (T - 1) + (True,)).walk(small.x, small.cond, torch.zeros_like)
    ]
    end = steps[-1].next.clone().requires_grad_()
    (g,) = torch.autograd.grad(small.reward(end), end)
    total = torch.zeros(sum(w.numel() for w in small.weights), dtype=torch.float64)
    for step, does in reversed(list(zip(steps, learns, strict=True))):
        back = step.A * g
        if does:
            x = step.x.clone().requires_grad_()
            *into, jacobian = torch.autograd.grad(small.predict(x, step.t, small.cond), [*small.weights, x], step.B * g)
            total += torch.cat([part.flatten() for part in into])
            back = back + jacobian
        g = back
    return total


FIELDS = ("x", "t", "out", "A", "B", "S", "mean", "next", "clean")


@pytest.mark.parametrize("learns", [last(T), SCATTERED])
def test_it_is_the_recursion_by_hand(small: Small, learns: tuple[bool, ...]) -> None:
    assert apart(small.of(learns), by_hand(small, learns)) < 1e-12


def test_a_detached_chain_is_the_sum_of_its_single_steps(small: Small) -> None:
    single = [small.of(tuple(i == n for i in range(T))) for n, does in enumerate(SCATTERED) if does]
    assert apart(small.of(SCATTERED, detach_input=True), torch.stack(single).sum(0)) < 1e-12
    assert apart(small.of(SCATTERED), torch.stack(single).sum(0)) > 1e-3


def test_the_linear_path_is_a_ratio_of_signals(small: Small) -> None:
    """The product of all A is sqrt(abar_final / abar(t_0))."""
    scale, steps = small.schedule(T)
    product = scale
    for k in steps:
        product *= k.A
    final, alphas = small.model.scheduler.final_alpha_cumprod, small.model.scheduler.alphas_cumprod.double()
    assert product == pytest.approx(float((final / alphas[int(steps[0].t)]).sqrt()), rel=1e-12)


def test_both_branches_of_guidance_are_in_the_graph(small: Small) -> None:
    """The gradient reaches the prompt's embedding and the empty prompt's, w and 1 - w strong."""
    words, empty = small.cond.tokens.clone().requires_grad_(), small.empty.tokens.clone().requires_grad_()
    predict = cfg(3.0, Cond(empty))(small.plain)
    chain = small.chain(last(1), predict=predict)
    end = list(chain.walk(small.x, Cond(words), torch.zeros_like))[-1]
    found = torch.autograd.grad(small.reward(end.next), [words, empty])
    assert all(float(gradient.norm()) > 0 for gradient in found)
    direct = small.plain(end.x, end.t, Cond(empty.expand(2, -1, -1)))
    g = torch.autograd.grad(small.reward(held := end.next.detach().requires_grad_()), held)[0]
    (alone,) = torch.autograd.grad(direct, empty, (1 - 3.0) * end.B * g)
    assert apart(found[1], alone) < 1e-10


def test_noise_is_a_constant_of_the_graph(small: Small) -> None:
    """eta > 0, stored noises: a finite difference in one weight is the gradient there."""
    stored = [small.draw(2, 4, 8, 8) for _ in range(T)]

    def value(checkpointed: bool = True) -> Tensor:
        left = iter(stored)
        chain = small.chain(last(T), eta=1.0, checkpointed=checkpointed)
        return small.reward(small.end(chain, lambda like: next(left)))

    weight = small.weights[0]
    (found,) = torch.autograd.grad(value(), weight)
    assert torch.equal(found, torch.autograd.grad(value(False), weight)[0])
    place = int(found.abs().argmax())
    step, sides = 1e-5, []
    with torch.no_grad():
        for sign in (1, -1):
            weight.view(-1)[place] += sign * step
            sides.append(float(value()))
            weight.view(-1)[place] -= sign * step
    assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(float(found.view(-1)[place]), rel=1e-5)


def batch(small: Small, seed: int = 0) -> Batch:
    nothing = torch.zeros(2)
    return Batch(small.x, ["", ""], nothing.bool(), nothing, None, ["", ""], torch.Generator().manual_seed(seed))


def begun() -> Tensor:
    """The noise that `batch` begins with."""
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def drawn(small: Small, settings: Truncation, learns: tuple[bool, ...]) -> chain_draw.Drawn:
    return chain_draw.draw(small.chain(learns), settings, batch(small), small.cond, "epsilon")


def test_one_copy_is_draft_1(small: Small) -> None:
    """And the first rows of several copies are it too; each copy starts from other noise."""
    one = drawn(small, Truncation(mode="last_k"), last(1)).latents
    chain = small.chain(last(1))
    x = begun()
    assert torch.equal(one, list(chain.walk(x, small.cond, torch.zeros_like))[-1].next)
    three = drawn(small, Truncation(mode="last_k", copies=3), last(1)).latents
    assert len(three) == 6
    assert torch.equal(three[:2], one)
    assert torch.equal(small.gradient(small.reward(three[:2])), small.gradient(small.reward(one)))
    assert not torch.equal(three[2:4], three[4:])


def test_the_copies_expectation_is_the_analytic_gradient(small: Small) -> None:
    """For a prediction w x + v and a linear reward it is B <goal, sqrt(a) clean>; z and -z make it exact."""
    w = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    chain = small.chain(last(1), predict=lambda x, t, cond: w * x + 0.1)
    k = chain.schedule[1][-1]
    a = float(small.model.scheduler.alphas_cumprod.double()[int(k.t)])
    z = small.draw(2, 4, 8, 8)
    clean = small.x.clone().requires_grad_()
    ends = [chain.last_again(clean, small.cond, lambda like, s=s: s * z, "epsilon") for s in (1, -1)]
    value = sum((end * small.goal).sum() for end in ends) / 2
    found, into = torch.autograd.grad(value, [w, clean], allow_unused=True)  # type: ignore[arg-type]
    assert into is None
    assert float(found) == pytest.approx(k.B * a**0.5 * float((small.goal * small.x).sum()), rel=1e-10)


def test_refl_is_one_jump_from_the_step_that_learns(small: Small) -> None:
    learns = tuple(i == 6 for i in range(T))
    seen = drawn(small, Truncation(mode="refl"), learns).latents
    x = begun()
    with torch.no_grad():
        step = next(itertools.islice(small.chain(last(1)).walk(x, small.cond, torch.zeros_like), 6, None))
    a = small.model.scheduler.alphas_cumprod.double()[int(step.t[0])]
    out = small.predict(step.x, step.t, small.cond)
    clean = (step.x - (1 - a).sqrt() * out) / a.sqrt()
    assert apart(seen, clean.detach()) < 1e-12
    assert apart(small.gradient(small.reward(seen)), small.gradient(small.reward(clean))) < 1e-12


def test_calls_are_counted(small: Small) -> None:
    """Each step is one call; the backward pass makes those that learn again, and no other; ReFL goes no further."""
    calls: list[int] = []

    def counted(*told: Any) -> Tensor:
        calls.append(int(told[1][0]))
        return small.predict(*told)

    chain = small.chain(last(3), predict=counted)
    end = small.end(chain)
    assert len(calls) == T
    small.gradient(small.reward(end))
    assert calls[T:] == calls[T - 3 : T][::-1]
    calls.clear()
    chain_draw.draw(
        small.chain(tuple(i == 5 for i in range(T)), predict=counted), REFL, batch(small), small.cond, "flow"
    )
    assert len(calls) == 6


REFL = Truncation(mode="refl")


def test_drift_is_of_a_given_state(small: Small) -> None:
    """Its gradient is 2 mean (e - e_ref) de/dw at the state, nothing through it."""

    def frozen(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        with torch.no_grad():
            return small.predict(x, t, cond) + 0.1

    for at in (T - 3, T - 1):
        found = chain_draw.draw(
            small.chain(last(3)), Truncation(), batch(small), small.cond, "epsilon", (frozen, at)
        ).drift
        assert found is not None
        assert float(found.detach()) == pytest.approx(0.01)
        x = begun()
        step = list(small.chain(last(3)).walk(x, small.cond, torch.zeros_like))[at]
        out = small.predict(step.x.detach(), step.t, small.cond)
        assert apart(small.gradient(found), small.gradient((out * -0.2).mean())) < 1e-9


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_levels_are_those_of_the_state(prediction: str) -> None:
    """x = signal clean + noise z, from the clean estimate's factors alone."""
    a = 0.3
    signal, sigma = (0.6, 0.4) if prediction == "flow" else (a**0.5, (1 - a) ** 0.5)
    C, D = {"epsilon": (1 / signal, -sigma / signal), "v_prediction": (signal, -sigma), "flow": (1.0, -sigma)}[
        prediction
    ]
    assert levels(Coefficients(1, 0, 0, 0, C, D), prediction) == pytest.approx((signal, sigma))  # type: ignore[arg-type]
