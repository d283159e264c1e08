"""AlignProp: what its loss is of, what learns, what does not, and faults of public code."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from studio.pipelines import sampling
from studio.pipelines.adapters import files, lora, sara, tlora
from studio.pipelines.draws import Share
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance import cfg
from studio.trainers import rewarded
from tests import alignprop as cases
from tests.alignprop import Lesson, lesson
from tests.models import backbone
from tests.states import differences, frozen, through_disk

REWARD = "tests.alignprop:{}".format
LATE = {"mode": "last_k"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def drawn(one: Lesson) -> Tensor:
    """Pictures of the first batch, drawn by the plain sampler from the batch's own noise."""
    model, config, batch = one.model, one.config, one.stream.at(0)
    x = torch.randn(batch.latents.shape, generator=batch.generator)
    with torch.no_grad():
        predict = cfg(config.guidance_scale, model.embed([""]))(model.predict)
        for step in sampling.by_name(model)(model, predict, x, model.embed(batch.prompts), config.sampler_steps):
            x = step.next
    return rewarded.pictures(model, x)


def test_before_the_first_step_it_is_the_base_model() -> None:
    """Same pictures and same reward, to the last bit; the gradient in A is 0, in B it is not."""
    one = lesson()
    loss = one.loss()
    with one.adapter.off():
        base = cases.warmth(drawn(one), [], None)
    assert loss.numbers["reward"] == base.mean()
    loss.value.backward()
    for name, parameter in one.adapter.named_parameters().items():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) == ("lora_B" in name)


@pytest.mark.parametrize("name", ["tiny-sd-eps", "tiny-sd-v", "tiny-sd3"])
def test_nothing_frozen_gets_a_gradient_or_changes(name: str, made: Path) -> None:
    """Network, autoencoder and text encoders."""
    one = lesson(name, made, steps=1, truncation={"mode": "full"})
    still = frozen(one.model)
    list(one.ticks())
    now = frozen(one.model)
    assert [key for key, value in now.items() if not torch.equal(value, still[key])] == []
    mine = {id(parameter) for parameter in one.adapter.parameters()}
    modules = [one.model.net, *one.model.text_encoders.values(), one.model.vae]  # type: ignore[attr-defined]
    others = [p for module in modules for p in module.parameters() if id(p) not in mine]
    assert len(others) > 50
    assert all(p.grad is None for p in others)


KINDS = {
    "lora": lora.Config(rank=2),
    "dropout": lora.Config(rank=2, dropout=0.5),
    "tlora": tlora.Config(rank=4, r_min=1),
    "sara": sara.Config(quantile=0.1),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("toy", kind) for kind in KINDS), ("tiny-sd-eps", "tlora"), ("tiny-sd-v", "lora"), ("tiny-sd3", "dropout")],
)
def test_checkpointed_is_plain(name: str, kind: str, made: Path) -> None:
    """With an adapter whose rank follows the timestep, one that writes into the weights, and dropout: all bits."""
    found = [
        lesson(name, made, KINDS[kind], 0.1, truncation={"mode": "full"}, checkpointed=again, sampler_steps=3)
        for again in (True, False)
    ]
    for one in found:
        one.adapter.train(True)
    first, second = (one.gradients() for one in found)
    assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
    assert sum(float(gradient.norm()) for gradient in first) > 0


def test_dropout_must_be_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting the random state would be seen above."""
    found = []
    for _ in range(2):
        one = lesson(kind=KINDS["dropout"], learnt=0.1, truncation={"mode": "full"})
        one.adapter.train(True)
        found.append(one.gradients())
        monkeypatch.setattr(cases.alignprop, "draws_randomly", lambda net: False)
    assert not all(torch.equal(left, right) for left, right in zip(*found, strict=True))


def test_masks_by_timestep_act_in_the_second_pass() -> None:
    """Steps with other ranks: forgetting which would give another gradient, as a held rank shows."""
    one = lesson(kind=KINDS["tlora"], learnt=0.1, truncation={"mode": "full"})
    ranks: list[int] = []
    see = one.adapter.masks.see  # type: ignore[attr-defined]

    def noted(t: Tensor) -> None:
        see(t)
        ranks.append(int(one.adapter.masks.active[0]))  # type: ignore[attr-defined]

    one.adapter.masks.see = noted  # type: ignore[attr-defined]
    loss = one.loss()
    forward = list(ranks)
    loss.value.backward()
    assert len(set(forward)) > 1
    again, calls = ranks[len(forward) :], len(forward) // 4  # `predict` and the network's hook both say the time
    steps = [forward[i : i + calls] for i in range(0, len(forward), calls)]
    assert again == [rank for step in reversed(steps) for rank in step]


def test_block_checkpointing_inside(made: Path) -> None:
    """The network's own gradient checkpointing within ours, under T-LoRA."""
    plain = lesson("tiny-sd-eps", made, KINDS["tlora"], 0.1, truncation={"mode": "last_k", "k": 2})
    first = plain.gradients()
    both = lesson("tiny-sd-eps", made, KINDS["tlora"], 0.1, truncation={"mode": "last_k", "k": 2})
    both.model.net.enable_gradient_checkpointing()  # type: ignore[operator]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(first, both.gradients(), strict=True))


def test_all_processes_have_one_k() -> None:
    """And each its own pictures, which together are those of one process with twice the batch."""
    ones = [lesson(share=Share(rank, 2), sampler_steps=16) for rank in (0, 1)]
    whole = lesson(batch=4, sampler_steps=16)
    found = [[next(one.losses).numbers for _ in range(6)] for one in (*ones, whole)]
    assert [n["k"] for n in found[0]] == [n["k"] for n in found[1]] == [n["k"] for n in found[2]]
    assert len({n["k"] for n in found[0]}) > 3
    for left, right, both in zip(*found, strict=True):
        assert left["reward"] != right["reward"]
        assert float(left["reward"] + right["reward"]) / 2 == pytest.approx(float(both["reward"]), abs=1e-6)


HARD: dict[str, Any] = {
    "steps": 6,
    "accumulate": 2,
    "eta": 1.0,
    "beta": 0.5,
    "pull": 0.1,
    "ema": 0.9,
    "kind": lora.Config(rank=2, dropout=0.3),
    "reward": {"terms": [REWARD("warmth"), "0.5*jpeg-soft-bits"]},
}


@pytest.mark.parametrize("mode", ["random_k", "subset", "refl"])
def test_a_resumed_run_is_the_whole_one(mode: str, tmp_path: Path) -> None:
    """Everything random at once: K, noise of the steps, dropout, running deviations; to the last bit."""
    settings = {**HARD, "truncation": {"mode": mode, **({"every": 3} if mode == "subset" else {})}}
    straight = list(lesson(**settings).ticks())
    first = lesson(**settings)
    head = list(first.ticks(stop=lambda: first.stream.position >= 6))
    state, position = through_disk(head[-1].state(), tmp_path), first.stream.position
    torch.manual_seed(99)
    second = lesson(**settings)
    second.stream.position = position
    tail = list(second.ticks(start=head[-1].step, state=state))
    assert [(t.step, t.numbers, t.warnings) for t in head + tail] == [(t.step, t.numbers, t.warnings) for t in straight]
    assert differences(tail[-1].state(), straight[-1].state()) == []
    assert straight[-1].numbers["queries"] == 6 * 2 * 2
    assert len({tick.numbers["k"] for tick in straight}) > 1 or mode != "random_k"


def stepped(one: Lesson, rate: float) -> tuple[float, float]:
    """The reward of the first batch before and after one step of plain descent."""
    loss = one.loss()
    before = float(loss.numbers[f"reward/{REWARD('warmth')}"])
    loss.value.backward()
    with torch.no_grad():
        for parameter in one.adapter.parameters():
            assert parameter.grad is not None
            parameter -= rate * parameter.grad
    return before, float(cases.warmth(drawn(one), [], None).mean())


@pytest.mark.parametrize("target", [-1.0, 1.0])
def test_above_the_target_the_reward_falls(target: float) -> None:
    """|r - target| pulls from both sides."""
    one = lesson(truncation=LATE, reward={"terms": [REWARD("warmth")], "target": target})
    before, after = stepped(one, 1e-1)
    assert abs(before) < 1
    assert (after - before) * target > 0


def test_above_the_margin_nothing_is_learnt() -> None:
    low, high = lesson(margin=-1.0), lesson(margin=1.0)
    assert all(not gradient.any() for gradient in low.gradients())
    plain = lesson(coeff=3.0).gradients()
    assert any(gradient.any() for gradient in plain)
    assert all(torch.allclose(3 * a, b, atol=1e-6) for a, b in zip(high.gradients(), plain, strict=True))


def test_a_margin_that_every_reward_is_above_is_said() -> None:
    one = lesson(margin=-1.0, steps=6)
    ticks = list(one.ticks())
    assert [tick.numbers["above"] for tick in ticks] == [1] * 6
    assert [len(tick.warnings) for tick in ticks] == [0, 0, 0, 0, 1, 0]
    assert "margin = -1: every reward of the last 5 updates was above it" in ticks[4].warnings[0]
    ticks = list(lesson(margin=1.0, steps=6).ticks())
    assert [(tick.numbers["above"], tick.warnings) for tick in ticks] == [(0, ())] * 6


def test_a_margin_in_units_that_move_is_refused() -> None:
    with pytest.raises(ValidationError, match="own units, .* set reward.standardise to no, or leave the margin out"):
        lesson(margin=1.0, reward=HARD["reward"])
    lesson(margin=1.0, reward={**HARD["reward"], "standardise": "no"})


def test_a_reward_sees_pictures_once_in_their_range(tmp_path: Path) -> None:
    """0..1, black is 0 (public code halves the contrast), and what it sees is what a PNG of it holds."""
    cases.SEEN.clear()
    one = lesson(reward={"terms": [REWARD("shown")]})
    decode = one.model.decode
    one.model.decode = lambda latents: decode(latents) * 0 - 1  # type: ignore[method-assign]
    one.loss()
    one.model.decode = decode  # type: ignore[method-assign]
    one.loss()
    black, other = cases.SEEN
    assert float(black.max()) < 0.01
    assert 0 <= float(other.min()) < float(other.max()) <= 1
    again = lesson()
    again.stream.position = 1
    expected = drawn_at(again, 1)
    saved = (expected * 255).round() / 255
    assert torch.equal(other, expected)
    assert float((cases.warmth(saved, [], None) - cases.warmth(other, [], None)).abs().max()) < 1 / 255


def drawn_at(one: Lesson, position: int) -> Tensor:
    """As `drawn`, of another batch."""
    at = one.stream.at
    one.stream.at = lambda _: at(position)  # type: ignore[method-assign]
    return drawn(one)


def test_rows_without_a_reward_are_left_out() -> None:
    """Their NaN gradient too: what is left is the gradient of the others. Means are of them, weighed by their share."""
    mixed = lesson(batch=3, reward={"terms": [REWARD("only_dogs")]})
    loss = mixed.loss()
    assert loss.idle == 0.0
    assert loss.numbers["unscored"] == pytest.approx(1 / 3)
    found = torch.autograd.grad(loss.value, mixed.adapter.parameters())
    zero = lesson(batch=3, reward={"terms": [REWARD("dogs_else_nothing")]})
    whole = zero.loss()
    assert whole.numbers["unscored"] == 0
    assert float(loss.numbers["reward"]) == pytest.approx(float(whole.numbers["reward"]))
    told = loss.then({name: float(value) for name, value in loss.numbers.items()})  # type: ignore[misc]
    assert told.numbers["reward"] == pytest.approx(1.5 * float(whole.numbers["reward"]))
    expected = torch.autograd.grad(1.5 * whole.value, zero.adapter.parameters())
    assert any(gradient.any() for gradient in found)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, expected, strict=True))


def test_a_batch_without_any_reward_is_idle_and_said_and_has_no_number() -> None:
    one = lesson(prompts={"texts": ["a cat", "two cats"]}, reward={"terms": [REWARD("only_dogs")]}, steps=3)
    before = {name: p.detach().clone() for name, p in one.adapter.named_parameters().items()}
    ticks = list(islice(one.ticks(), 2))
    assert [tick.numbers["idle"] for tick in ticks] == [1, 1]
    assert [len(tick.warnings) for tick in ticks] == [1, 0]
    assert "no picture of a batch could be scored" in ticks[0].warnings[0]
    names = ("reward", "reward_std", f"reward/{REWARD('only_dogs')}")
    assert all(math.isnan(tick.numbers[name]) for tick in ticks for name in names)
    assert all(torch.equal(p, before[name]) for name, p in one.adapter.named_parameters().items())


def test_drift_is_from_where_the_run_began() -> None:
    """0 before the first step, whether it began with nothing or with an adapter; weights stay as they are."""
    fresh = lesson(beta=1.0)
    assert float(fresh.loss().numbers["drift"]) == 0
    memory: dict[str, Any] = {}
    old = lesson(beta=1.0, learnt=0.2, memory=memory)
    memory[rewarded.START] = {k: v.clone() for k, v in old.adapter.state_dict().items()}
    assert float(old.loss().numbers["drift"]) == 0
    with torch.no_grad():
        old.adapter.parameters()[0].add_(1.0)
    kept = {k: v.clone() for k, v in old.adapter.state_dict().items()}
    loss = old.loss()
    assert float(loss.numbers["drift"]) > 0
    loss.value.backward()
    assert all(torch.equal(v, kept[k]) for k, v in old.adapter.state_dict().items())


def test_weights_are_pulled_to_where_they_began() -> None:
    """pull |w - w_0|^2: its gradient beside the reward's is 2 pull (w - w_0)."""
    pulled, free = lesson(pull=0.5, learnt=0.1), lesson(learnt=0.1)
    assert float(pulled.loss().numbers["moved"]) == 0
    free.loss()
    with torch.no_grad():
        for one in (pulled, free):
            one.adapter.parameters()[0].add_(1.0)
    first, second = pulled.gradients(), free.gradients()
    assert torch.allclose(first[0] - second[0], torch.ones_like(first[0]), atol=1e-5)
    assert torch.allclose(first[1], second[1])


def test_the_prefix_can_be_the_base_models() -> None:
    """ImageReFL: what leads to the step that learns is drawn without the adapter."""
    cases.SEEN.clear()
    shape = {"reward": {"terms": [REWARD("shown")]}, "learnt": 0.5}
    one = lesson(truncation={**LATE, "base_prefix": True}, **shape)
    one.loss()
    lesson(truncation=LATE, **shape).loss()
    with_base, with_own = cases.SEEN
    assert not torch.equal(with_base, with_own)
    with one.adapter.off():
        calls, predict = 0, one.model.predict
    outer = one.model.predict

    def switched(*told: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            return outer(*told)
        with one.adapter.off():
            return predict(*told)

    one.model.predict = switched  # type: ignore[method-assign]
    assert torch.equal(drawn(one), with_base)


def test_several_copies_are_one_query_each() -> None:
    cases.SEEN.clear()
    one = lesson(truncation={**LATE, "copies": 3}, steps=1, reward={"terms": [REWARD("shown")]})
    (tick,) = one.ticks()
    assert len(cases.SEEN[0]) == 6
    assert tick.numbers["queries"] == 6


def test_decoding_by_parts_is_the_same() -> None:
    whole, parts = lesson(batch=3), lesson(batch=3, decode=2)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(whole.gradients(), parts.gradients(), strict=True))


def test_what_is_rewarded_can_be_jittered() -> None:
    """With the batch's own random numbers: the same again, another picture than without."""
    cases.SEEN.clear()
    for noise in (0.1, 0.1, 0.0):
        lesson(reward={"terms": [REWARD("shown")]}, jitter={"noise": noise, "crop": 1 - noise}).loss()
    assert torch.equal(cases.SEEN[0], cases.SEEN[1])
    assert not torch.equal(cases.SEEN[0], cases.SEEN[2])


def test_a_few_step_model_has_its_guidance_inside() -> None:
    """Said once, also across a restart; not where the scale is 1."""
    first = lesson(sampler="lcm", steps=2)
    assert [len(tick.warnings) for tick in first.ticks()] == [1, 0]
    assert next(lesson(sampler="lcm", guidance_scale=1).ticks()).warnings == ()
    assert next(lesson(sampler="lcm", memory=first.memory).ticks()).warnings == ()


def test_its_file_keeps_alpha(made: Path, tmp_path: Path) -> None:
    """alpha 16 at rank 4: the file gives the same network, which public code loses."""
    one = lesson("tiny-sd-eps", made, lora.Config(rank=4, alpha=16), steps=1)
    list(one.ticks())
    x, t = torch.randn(1, *one.model.latent_shape(32, 32)), torch.tensor([500])
    files.save(one.model, one.adapter, tmp_path / "a.safetensors")  # type: ignore[arg-type]
    fresh = backbone("tiny-sd-eps", made)
    with torch.no_grad():
        cond = fresh.embed(["a cat"])
        base = fresh.predict(x, t, cond)
        files.load(fresh, tmp_path / "a.safetensors")
        assert torch.equal(fresh.predict(x, t, cond), one.model.predict(x, t, cond))
        assert not torch.equal(fresh.predict(x, t, cond), base)


def test_rewards_without_a_gradient_are_refused() -> None:
    with pytest.raises(UsageError, match="has no gradient"):
        lesson(reward={"terms": ["jpeg-size"]})


def test_noise_that_a_sampler_does_not_have_is_refused(made: Path) -> None:
    with pytest.raises(UsageError, match="eta = 0.5: sampler 'lcm' has none"):
        lesson(sampler="lcm", eta=0.5)
    with pytest.raises(UsageError, match="eta = 1: sampler 'euler' has none"):
        lesson("tiny-sd3", made, eta=1.0)


def test_more_steps_than_the_sampler_has_are_refused() -> None:
    with pytest.raises(ValidationError, match="9 steps should learn, and the sampler has 4"):
        lesson(truncation={"mode": "last_k", "k": 9})


def test_the_steps_that_learn_are_logged() -> None:
    """Reward, its spread, each term, K and the share of values at the ends of the range."""
    numbers = lesson(truncation={"mode": "last_k", "k": 3}, reward=HARD["reward"]).loss().numbers
    names = {"reward", "reward_std", "unscored", "k", "clipped", "reward/jpeg-soft-bits", f"reward/{REWARD('warmth')}"}
    assert set(numbers) == names
    assert numbers["k"] == 3
    assert 0 <= float(numbers["clipped"]) <= 1
