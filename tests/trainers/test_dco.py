"""DCO's formulas, its trial, and the reference code's bugs that must not come back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from studio import loop
from studio.loop import Tick
from studio.pipelines import backbone, consistency
from studio.pipelines.adapters import lora
from studio.pipelines.consistency_measure import RATIO, USUAL, Measure
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone, Batch
from studio.trainers import dco, dreambooth
from studio.trainers.base import Loss
from tests.models import backbone as tiny
from tests.states import differences, frozen, through_disk

NAMES = ("toy", "tiny-sd-eps", "tiny-sd-v", "tiny-sd3")
FAST: dict[str, Any] = {"precision": "no", "lr": 1e-2, "data": {"class_word": "cat"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def batch(model: Backbone, count: int, classes: int = 0, **changes: Any) -> Batch:
    """Random instance rows, then class rows."""
    rows = count + classes
    about: dict[str, Any] = {
        "latents": torch.randn(rows, *model.latent_shape(16, 16), generator=torch.Generator().manual_seed(3)),
        "prompts": ["a photo of sks cat"] * count + ["a cat"] * classes,
        "prior": torch.arange(rows) >= count,
        "weights": torch.ones(rows),
        "masks": None,
        "ids": [str(i) for i in range(rows)],
        "generator": torch.Generator().manual_seed(1),
    }
    return Batch(**about | changes)


class Endless:
    """New latents for every position, or always the same."""

    def __init__(self, rows: Batch, fixed: bool = False) -> None:
        self.rows, self.position, self.fixed = rows, 0, fixed

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.position += 1
            seeded = torch.Generator().manual_seed(0 if self.fixed else self.position)
            moved = 0.0 if self.fixed else 0.1 * torch.randn(self.rows.latents.shape, generator=seeded)
            yield replace(self.rows, latents=self.rows.latents + moved, generator=seeded)


def first(model: Backbone, rows: Batch, **settings: Any) -> Loss:
    """The first loss, with the model's adapter or a fresh one."""
    torch.manual_seed(0)
    adapter: Any = model.adapter or lora.Config(rank=2).build(model)
    config = dco.Config(**{**FAST, "beta": 100, **settings})
    return next(dco.losses(config, model, adapter, Endless(rows, fixed=True), {}))


def disturb(model: Backbone) -> None:
    """Every adapter weight moved."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.adapter.parameters():  # type: ignore[union-attr]
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


# ---- the mathematics


@pytest.mark.parametrize("beta", [1.0, 50.0, 1000.0])
def test_at_the_start_it_is_log_2_and_its_gradient_half_beta_times_the_squared_errors(beta: float) -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    error = x.square().mean(1)
    value = consistency.loss(error - error.detach(), beta).mean()
    assert abs(value.item() - math.log(2)) < 1e-12
    ours, plain = (torch.autograd.grad(y, x, retain_graph=True)[0] for y in (value, error.mean()))
    torch.testing.assert_close(ours, beta / 2 * plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gap", [-0.3, -0.01, 0.0, 0.002, 0.5])
def test_its_slope_is_beta_times_the_gate_up_in_ours_and_down_in_the_frozen(gap: float) -> None:
    beta, h = 30.0, 1e-6
    ours, theirs = torch.tensor([1 + gap, 1.0], dtype=torch.float64).unbind()

    def value(a: Tensor, b: Tensor) -> Tensor:
        return consistency.loss(a - b, beta)

    slope = (value(ours + h, theirs) - value(ours - h, theirs)) / (2 * h)
    torch.testing.assert_close(slope, beta * torch.sigmoid(beta * (ours - theirs)), rtol=1e-6, atol=1e-8)
    assert value(ours + 1e-3, theirs) > value(ours, theirs) > value(ours, theirs + 1e-3)


def test_each_sample_has_its_own_gate() -> None:
    """The reference code averages before the sigmoid: less, by Jensen, and the same for one sample only."""
    gap = torch.randn(6, dtype=torch.float64)
    assert consistency.loss(gap.mean(), 10.0) < consistency.loss(gap, 10.0).mean()
    assert torch.equal(consistency.loss(gap[:1].mean(), 10.0), consistency.loss(gap[:1], 10.0).mean())


def test_a_small_beta_is_plain_training_and_a_large_one_stays_finite() -> None:
    gap, beta = torch.randn(9, dtype=torch.float64), 1e-6
    slope = (consistency.loss(gap, beta).mean() - math.log(2)) / beta
    torch.testing.assert_close(slope, gap.mean() / 2, rtol=1e-4, atol=1e-7)
    for dtype in (torch.float32, torch.float64):
        huge = torch.tensor([1e6, -1e6], dtype=dtype, requires_grad=True)
        value = consistency.loss(huge, 1.0)
        assert value.tolist() == [1e6, 0.0]
        assert torch.autograd.grad(value.sum(), huge)[0].tolist() == [1.0, 0.0]


def test_health_is_mean_loss_mean_gate_and_share_shut() -> None:
    found = consistency.health(torch.tensor([0.0, -1.0, -0.001]), 10.0, 0.01)
    assert found["shut"] == pytest.approx(1 / 3)
    assert found["gate"] == pytest.approx((0.5 + 4.54e-5 + 0.4975) / 3, rel=1e-3)
    assert found["consistency"] == pytest.approx((math.log(2) + 4.54e-5 + 0.68816) / 3, rel=1e-3)


# ---- the two passes


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_adapter_is_the_frozen_model_to_the_bit(name: str, made: Path) -> None:
    model = tiny(name, made)
    rows = batch(model, 3, prompts=["a cat", "two cats", "a dog"])  # without the trigger: both captions are the same
    loss = first(model, rows, beta=100)
    assert loss.numbers["gap"] == 0
    assert loss.numbers["gate"] == 0.5
    assert loss.value.item() == pytest.approx(math.log(2), rel=1e-6)
    adapter: Any = model.adapter
    plain = next(dreambooth.losses(dreambooth.Config(), model, adapter, Endless(rows, fixed=True), {}))
    torch.testing.assert_close(loss.numbers["instance"], plain.value)
    parameters = adapter.parameters()
    ours, theirs = (torch.autograd.grad(one.value, parameters) for one in (loss, plain))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - 50 * other).norm() <= 1e-4 * mine.norm()


def test_a_word_that_begins_as_its_class_word_changes_nothing_yet(made: Path) -> None:
    """As a new token does that starts with its class word's row: the prompts differ, the embeddings do not."""
    model = tiny("tiny-sd-eps", made)
    rows = batch(model, 2, prompts=["the dog", "the dog on the dog"])
    apart = first(model, rows, data={"trigger": "dog", "class_word": "cat"})
    assert apart.numbers["gap"] != 0
    words = model.tokenizers["tokenizer"]
    ids = [words(word, add_special_tokens=False).input_ids for word in ("dog", "cat")]
    assert [len(one) for one in ids] == [1, 1]
    table = model.text_encoders["text_encoder"].get_input_embeddings().weight
    with torch.no_grad():
        table[ids[0]] = table[ids[1]]
    assert first(model, rows, data={"trigger": "dog", "class_word": "cat"}).numbers["gap"] == 0


@pytest.mark.parametrize("name", ["tiny-sd-eps", "tiny-sd3"])
def test_the_reference_is_the_base_model_with_its_own_text_encoders(name: str, made: Path) -> None:
    """Whatever the adapter has learnt, in the text encoders too, where the reference code leaves its LoRA on."""
    model = tiny(name, made)
    torch.manual_seed(0)
    lora.Config(rank=2, text_encoder=True).build(model)
    rows = batch(model, 2)
    still, before = frozen(model), first(model, rows)
    disturb(model)
    kept = {key: value.clone() for key, value in model.adapter.state_dict().items()}  # type: ignore[union-attr]
    after = first(model, rows)
    assert torch.equal(before.numbers["base"], after.numbers["base"])  # type: ignore[arg-type]
    assert not torch.equal(before.numbers["instance"], after.numbers["instance"])  # type: ignore[arg-type]
    assert not after.numbers["base"].requires_grad  # type: ignore[union-attr]
    after.value.backward()
    now = frozen(model)
    assert [key for key in still if not torch.equal(still[key], now[key])] == []
    assert all(torch.equal(value, kept[key]) for key, value in model.adapter.state_dict().items())  # type: ignore[union-attr]
    plain = tiny(name, made)
    lora.Config(rank=2).build(plain)
    assert torch.equal(first(plain, rows).numbers["base"], before.numbers["base"])  # type: ignore[arg-type]


def test_the_reference_hears_the_class_word_or_what_the_data_say(made: Path) -> None:
    model = tiny("tiny-sd-eps", made)
    heard: list[list[str]] = []
    embed = model.embed
    model.embed = lambda prompts: (heard.append(list(prompts)), embed(prompts))[1]  # type: ignore[method-assign]
    rows = batch(model, 3, 1, prompts=["a sks cat, red", "sks cat", "", "a cat"])
    stream = Endless(rows)
    stream.bases = {"1": "one cat", "2": "never: its caption was dropped"}  # type: ignore[attr-defined]
    adapter = lora.Config(rank=2).build(model)
    config = dco.Config(beta=100, data={"class_word": "cat"}, prior={"weight": 1.0})
    next(dco.losses(config, model, adapter, stream, {}))
    assert heard == [["a cat, red", "one cat", ""], ["a sks cat, red", "sks cat", "", "a cat"]]


def test_strengths_and_switches_are_as_they_were_after_the_reference_passes() -> None:
    """The reference code sets every adapter back to 1."""
    model = backbone.load("toy")
    rows = batch(model, 2)
    first(model, rows)
    disturb(model)
    adapter: Any = model.adapter
    noisy, cond = model.noise(rows.latents, torch.Generator().manual_seed(0)), model.embed(rows.prompts)
    with torch.no_grad(), adapter.scaled(0.5):
        before = model.predict(noisy.x, noisy.t, cond)
        for _ in range(3):
            consistency.frozen(model, adapter, noisy.x, noisy.t, rows.prompts)
        assert adapter.enabled
        assert torch.equal(model.predict(noisy.x, noisy.t, cond), before)


def test_dropout_is_off_in_both_passes_and_that_is_said() -> None:
    model = backbone.load("toy")
    adapter = lora.Config(rank=2, dropout=0.5).build(model)
    config = dco.Config(beta=100, steps=2, **FAST)
    disturb(model)
    losses = dco.losses(config, model, adapter, Endless(batch(model, 2), fixed=True), {})
    said = [tick.warnings for tick in loop.train(config, model, adapter, losses, {})]
    assert [["dropout" in text for text in texts] for texts in said] == [[True], []]
    adapter.train(True)
    torch.manual_seed(0)
    one, two = (next(dco.losses(config, model, adapter, Endless(batch(model, 2), fixed=True), {})) for _ in range(2))
    assert torch.equal(one.value, two.value)


def test_half_precision_compares_in_float32() -> None:
    model = backbone.load("toy")
    adapter = lora.Config(rank=2).build(model)
    config = dco.Config(**{**FAST, "beta": 100, "steps": 3, "precision": "bf16"})
    rows = batch(model, 2, prompts=["a cat", "a dog"])
    ticks = list(loop.train(config, model, adapter, dco.losses(config, model, adapter, Endless(rows), {}), {}))
    assert ticks[0].numbers["gap"] == 0
    assert ticks[2].numbers["gap"] != 0


# ---- weights of every kind


def test_min_snr_weighs_both_errors(made: Path) -> None:
    model = tiny("tiny-sd-eps", made)
    rows = batch(model, 1)
    first(model, rows)
    disturb(model)
    plain, weighed = (first(model, rows, snr_gamma=gamma).numbers for gamma in (None, 1e-4))
    noisy = model.noise(rows.latents, torch.Generator().manual_seed(0))
    weight = dreambooth.min_snr(noisy, 1e-4, "epsilon").item()
    assert weight < 0.1
    for name in ("instance", "base", "gap"):
        torch.testing.assert_close(weighed[name], weight * plain[name], rtol=1e-4, atol=1e-9)


def test_min_snr_is_refused_for_flow(made: Path) -> None:
    with pytest.raises(UsageError, match="flow"):
        first(tiny("tiny-sd3", made), batch(tiny("tiny-sd3", made), 1), snr_gamma=5.0)


def test_sample_weights_weigh_losses_and_masks_errors() -> None:
    model = backbone.load("toy")
    rows = batch(model, 2)
    first(model, rows)
    disturb(model)
    one, two = (first(model, replace(rows, weights=torch.tensor(w))).value for w in ([1.0, 0.0], [0.0, 1.0]))
    torch.testing.assert_close(first(model, rows).value, one + two)
    masks = torch.ones(2, 1, *rows.latents.shape[2:])
    torch.testing.assert_close(first(model, replace(rows, masks=masks)).value, first(model, rows).value)
    masks[..., : masks.shape[-1] // 2] = 0
    cut = first(model, replace(rows, masks=masks)).numbers
    assert cut["base"] != first(model, rows).numbers["base"]


def test_noise_offset_reaches_both_passes() -> None:
    model = backbone.load("toy")
    rows = batch(model, 2, prompts=["a cat", "a dog"])
    loss = first(model, rows, noise_offset=0.5)
    assert loss.numbers["gap"] == 0
    assert loss.numbers["base"] != first(model, rows).numbers["base"]


def test_class_rows_keep_the_plain_loss_at_dreambooths_weight() -> None:
    model = backbone.load("toy")
    both = batch(model, 2, 2)
    loss = first(model, both, prior={"weight": 0.3})
    noisy = dreambooth.noised(model, replace(both, generator=torch.Generator().manual_seed(0)), 0.0)
    errors = dreambooth.per_sample(model.predict(noisy.x, noisy.t, model.embed(both.prompts)), noisy.target, None)
    torch.testing.assert_close(loss.numbers["prior"], errors[2:].mean())
    torch.testing.assert_close(loss.numbers["instance"], errors[:2].mean())
    expected = loss.numbers["consistency"] + 50 * 0.3 * errors[2:].mean()
    torch.testing.assert_close(loss.value, expected)
    assert first(model, both, prior={"weight": 0.3}, floor=0.49, beta=1e6).idle == 0


# ---- shut gates


def test_a_step_with_every_gate_shut_is_idle_and_many_are_said_once() -> None:
    model = backbone.load("toy")
    torch.manual_seed(0)
    adapter = lora.Config(rank=4, targets="all").build(model)
    config = dco.Config(**{**FAST, "beta": 1e5, "steps": 80, "weight_decay": 1e-2})
    losses = dco.losses(config, model, adapter, Endless(batch(model, 2), fixed=True), {})
    weights, numbers, said = [], [], []
    for tick in loop.train(config, model, adapter, losses, {}):
        weights.append(torch.cat([value.flatten().clone() for value in adapter.state_dict().values()]))
        numbers.append(tick.numbers)
        said += [(tick.step, text) for text in tick.warnings if "every gate was shut" in text]
    idle = [step for step, one in enumerate(numbers) if one["idle"] == 1]
    assert idle
    assert all(numbers[step]["shut"] == 1 for step in idle)
    assert all(torch.equal(weights[step], weights[step - 1]) for step in idle)
    assert idle[0] < 10  # beta = 1000 and more shut a small model's gates at once, as it is known to
    assert idle == list(range(idle[0], 80))  # the same picture and noise: nothing opens a gate again
    assert [step for step, _ in said] == [idle[0] + consistency.PATIENCE]


# ---- the trial


def lesson(model: Backbone, **settings: Any) -> tuple[dco.Config, Any, Endless, dict[str, Any], Iterator[Loss]]:
    torch.manual_seed(0)
    adapter = lora.Config(rank=2).build(model)
    config, stream, memory = dco.Config(**{**FAST, **settings}), Endless(batch(model, 2)), {}  # type: ignore[var-annotated]
    return config, adapter, stream, memory, dco.losses(config, model, adapter, stream, memory)


def run(model: Backbone, **settings: Any) -> tuple[list[Tick], dict[str, Any], dict[str, Tensor]]:
    config, adapter, stream, memory, losses = lesson(model, **settings)
    ticks = list(loop.train(config, model, adapter, losses, memory, data=stream))
    return ticks, memory, {key: value.clone() for key, value in adapter.state_dict().items()}


def test_the_trial_is_plain_training() -> None:
    ticks, _, _ = run(backbone.load("toy"), steps=30, trial=29)
    model = backbone.load("toy")
    torch.manual_seed(0)
    adapter = lora.Config(rank=2).build(model)
    config = dreambooth.Config(steps=29, weight_decay=1e-4, **FAST)
    losses = dreambooth.losses(config, model, adapter, Endless(batch(model, 2)), {})
    plain = list(loop.train(config, model, adapter, losses, {}))
    assert [tick.numbers["loss"] for tick in ticks[:29]] == [tick.numbers["loss"] for tick in plain]
    assert [tick.numbers["grad_norm"] for tick in ticks[:29]] == [tick.numbers["grad_norm"] for tick in plain]


def test_beta_is_four_over_what_the_trials_last_quarter_gained() -> None:
    ticks, memory, _ = run(backbone.load("toy"), steps=60, trial=40)
    gain = -sum(tick.numbers["gap"] for tick in ticks[30:40]) / 10
    assert gain > 0
    assert memory["beta"] == pytest.approx(RATIO / gain)
    assert all("beta" not in tick.numbers for tick in ticks[:40])
    assert all("gap" not in tick.numbers for tick in ticks[:30])  # the frozen model is not asked for nothing
    assert all(tick.numbers["beta"] == memory["beta"] for tick in ticks[40:])
    assert [tick.step for tick in ticks if any(text.startswith("beta = ") for text in tick.messages)] == [40]
    assert run(backbone.load("toy"), steps=7)[0][2].numbers["gap"] != 0
    assert "beta" in run(backbone.load("toy"), steps=7)[0][2].numbers  # a third of seven is two


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "accumulate": 2}, {"optimizer": "sgd", "lr": 0.1}])
def test_after_the_trial_it_is_a_run_with_that_beta(changes: dict[str, Any]) -> None:
    """To the last bit: neither weights nor moments nor averages remember the trial."""
    ticks, memory, weights = run(backbone.load("toy"), steps=12, trial=8, **changes)
    model = backbone.load("toy")
    config, adapter, stream, own, losses = lesson(model, steps=4, beta=memory["beta"], **changes)
    batches = iter(stream)
    for _ in range(8 * config.accumulate):
        next(batches)
    alone = list(loop.train(config, model, adapter, losses, own, data=stream))
    assert [tick.numbers for tick in ticks[8:]] == [tick.numbers for tick in alone]
    assert all(torch.equal(weights[key], value) for key, value in adapter.state_dict().items())
    odd = differences(ticks[-1].state(), alone[-1].state())
    assert sorted(odd) == ["memory", "schedule"]  # only these count the steps of the trial


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_stopped_anywhere_and_resumed_equals_straight(stop: int, tmp_path: Path) -> None:
    """In the trial, at its end, and after it."""
    hard = {"steps": 8, "trial": 4, "accumulate": 2, "ema": 0.9, "schedule": "cosine", "lr": 3e-2}
    ticks, _, _ = run(backbone.load("toy"), **hard)
    end = ticks[-1].state()
    config, adapter, stream, memory, losses = lesson(model := backbone.load("toy"), **hard)
    head = list(islice(loop.train(config, model, adapter, losses, memory, data=stream), stop))
    state, position = through_disk(head[-1].state(), tmp_path), stream.position
    config, adapter, stream, memory, losses = lesson(model := backbone.load("toy"), **hard)
    stream.position = position
    tail = list(loop.train(config, model, adapter, losses, memory, data=stream, start=stop, state=state))
    assert [(t.numbers, t.messages, t.warnings) for t in head + tail] == [
        (t.numbers, t.messages, t.warnings) for t in ticks
    ]
    assert differences(tail[-1].state(), end) == []


def test_a_gain_within_its_noise_is_said_and_a_share_of_the_error_stands_in() -> None:
    clear = Measure.of(9, [-0.5, -0.6, -0.4], [1.0, 1.2, 0.8])
    assert (clear.gain, clear.error) == (pytest.approx(0.5), pytest.approx(1.0))
    assert clear.noise == pytest.approx(0.1 / math.sqrt(3))
    assert clear.beta == pytest.approx(RATIO / 0.5)
    assert clear.message.startswith("beta = 8: 9 plain steps gained 0.5 ")
    assert not clear.warning
    for gaps in ([-0.5], [0.2, 0.3], [-0.1, 0.0, 0.1], [-1.0, -0.2]):
        unclear = Measure.of(9, gaps, [0.5] * len(gaps))
        assert unclear.beta == pytest.approx(RATIO / (USUAL * 0.5))
        assert unclear.warning.startswith("beta = 160, ")
        assert not unclear.message
    ticks, memory, _ = run(backbone.load("toy"), steps=3)
    assert [tick.step for tick in ticks if any("within its noise" in text for text in tick.warnings)] == [1]
    assert memory["beta"] == pytest.approx(RATIO / (USUAL * ticks[0].numbers["base"]))


def test_with_beta_from_the_gain_it_stays_nearer_to_the_base_model_than_plain_training() -> None:
    """Its gap ends within three gains, and so do its weights within those of squared errors at equal steps."""
    moved, gaps = {}, {}
    for beta in (None, "auto"):
        model = backbone.load("toy")
        torch.manual_seed(0)
        adapter = lora.Config(rank=4).build(model)
        start = [parameter.detach().clone() for parameter in adapter.parameters()]
        rows = batch(model, 4)
        shared: dict[str, Any] = {**FAST, "steps": 100, "weight_decay": 0.0}
        memory: dict[str, Any] = {}
        if beta is None:
            config: Any = dreambooth.Config(**shared)
            losses = dreambooth.losses(config, model, adapter, Endless(rows), memory)
        else:
            config = dco.Config(**{**shared, "steps": 150, "trial": 50, "beta": beta})
            losses = dco.losses(config, model, adapter, Endless(rows), memory)
        ticks = list(loop.train(config, model, adapter, losses, memory))
        moved[beta] = torch.cat([(a - b).flatten() for a, b in zip(adapter.parameters(), start, strict=True)]).norm()
        gaps[beta] = sum(tick.numbers.get("gap", 0.0) for tick in ticks[-20:]) / 20
    gain = RATIO / memory["beta"]
    assert -3 * gain <= gaps["auto"] < 0
    assert moved["auto"] < moved[None]


# ---- wrong words


def test_an_adapter_that_changes_the_base_model_is_refused_with_the_reason() -> None:
    model = backbone.load("toy")
    adapter = lora.Config(rank=2).build(model)
    adapter.exact_off = False  # type: ignore[misc]
    with pytest.raises(UsageError, match=r"base model.*exact_off"):
        dco.losses(dco.Config(), model, adapter, Endless(batch(model, 1)), {})


@pytest.mark.parametrize("settings", [{"steps": 1}, {"steps": 5, "trial": 5}, {"steps": 5, "trial": 9}])
def test_a_trial_that_leaves_no_steps_is_refused(settings: dict[str, int]) -> None:
    model = backbone.load("toy")
    adapter = lora.Config(rank=2).build(model)
    with pytest.raises(UsageError, match="trial: .* leave none"):
        dco.losses(dco.Config(**settings), model, adapter, Endless(batch(model, 1)), {})
    dco.losses(dco.Config(beta=50, **settings), model, adapter, Endless(batch(model, 1)), {})


@pytest.mark.parametrize("beta", ["betta", "", 0, -1, math.nan, math.inf, None, [1]])
def test_a_beta_is_auto_or_a_number_above_zero(beta: Any) -> None:
    with pytest.raises(ValidationError, match="auto, or a number above 0") as caught:
        dco.Config(beta=beta)
    assert [error["loc"] for error in caught.value.errors()] == [("beta",)]


def test_beta_comes_from_the_command_line() -> None:
    from studio.flags import read

    for text, beta in (("auto", "auto"), ("83.5", 83.5)):
        config, _ = read(["dco", "--data", ".", "--beta", text])
        assert config.settings.beta == beta  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="beta"):
        read(["dco", "--data", ".", "--beta", "-3"])


def test_base_captions_that_say_nothing_are_doubted() -> None:
    adapter = lora.Config(rank=2).build(backbone.load("toy"))
    known: Mapping[str, str] = {"1": "", "2": "a cat"}
    assert "1 of 2 base captions say nothing" in consistency.doubts(adapter, known)[0]
    assert consistency.doubts(adapter, {"2": "a cat"}) == ()
