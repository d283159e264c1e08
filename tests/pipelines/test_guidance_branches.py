"""Laws of guidance between an adapter and its base model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio import guiding
from studio.pipelines import sampling
from studio.pipelines.adapters import lora
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance import cfg, expand
from studio.pipelines.guidance_branches import Branched
from studio.pipelines.guidance_kinds import combined, consistency, personalization, rl
from studio.pipelines.guidance_settings import Guiding
from studio.pipelines.protocols import Backbone, Cond
from studio.pipelines.toy import Toy
from tests import models

NAMES = ("toy", "tiny-sd-v", "tiny-sd3")
PROMPTS, PLAIN = ["a sks cat", "a red sks cat"], ["a cat", "a red cat"]
X = torch.randn(2, 2, 4, 6, generator=torch.Generator().manual_seed(0))
T = torch.tensor([500, 500])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


class Tuned:
    """A model with a moved LoRA; every call is noted: rows, strength of the first layer, conditioning."""

    def __init__(self, model: Backbone | None = None, **settings: Any) -> None:
        self.model = model or Toy()
        torch.manual_seed(2)
        self.adapter = lora.Config(rank=2, **settings).build(self.model)
        with torch.no_grad():
            for parameter in self.adapter.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        self.calls: list[tuple[int, float, Cond]] = []
        with torch.no_grad():
            self.cond = self.model.embed(PROMPTS)
            self.empty = self.model.embed([""])
            with self.adapter.off():
                self.base = self.model.embed([""]), self.model.embed(PLAIN)

    def strengths(self) -> list[float]:
        layers = self.adapter._wrapped.values()
        return [0.0 if layer.disable_adapters else float(layer.scaling["default"]) for layer in layers]

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert len(x) == len(t) == len(cond)
        self.calls.append((len(x), self.strengths()[0], cond))
        return self.model.predict(x, t, cond)

    def at(self, strength: float, cond: Cond, x: Tensor = X, t: Tensor = T) -> Tensor:
        with self.adapter.scaled(strength), torch.no_grad():
            return self.model.predict(x, t, expand(cond, len(x)))

    def out(self, guidance: Any, x: Tensor = X, t: Tensor = T, cond: Cond | None = None) -> Tensor:
        self.calls.clear()
        with torch.no_grad():
            return guidance(self.predict)(x, t, cond or self.cond)

    def base_cfg(self, scale: float, rescale: float = 0.0) -> Tensor:
        with self.adapter.off():
            return self.out(cfg(scale, self.base[0], rescale), cond=self.base[1])


KINDS: dict[str, Callable[[Tuned], Branched]] = {
    "consistency": lambda it: consistency(it.adapter, it.base, 5.0, 3.0),
    "personalization": lambda it: personalization(it.adapter, it.empty, 5.0, 0.25),
    "rl": lambda it: rl(it.adapter, it.base, it.empty, 5.0, 1.6),
    "combined": lambda it: combined(it.adapter, it.base, it.empty, 5.0, 0.3),
}
COST = {"consistency": [(4, 0.0), (2, 1.0)], "personalization": [(2, 0.25), (2, 1.0)]}
COST |= {"rl": [(4, 0.0), (4, 1.0)], "combined": [(4, 1.0)]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_for_each_strength(kind: str) -> None:
    it = Tuned()
    guidance = KINDS[kind](it)
    it.out(guidance)
    assert [(rows, strength) for rows, strength, _ in it.calls] == COST[kind]
    assert guidance.cost(500) == tuple(rows // 2 for rows, _ in COST[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_afterwards_the_adapter_is_as_it_was(kind: str) -> None:
    it = Tuned(alpha=1.0)
    with it.adapter.scaled(0.5):
        before, output = it.strengths(), it.at(1.0, it.cond)
        guidance = KINDS[kind](it)
        for t in (900, 100, 500):
            it.out(guidance, t=torch.full((2,), t))
        assert it.strengths() == before
        assert torch.equal(it.at(1.0, it.cond), output)
        assert {strength for _, strength, _ in it.calls} <= {0.0, 0.25 * before[0], before[0]}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_a_call_leaves_the_adapter_as_it_was(kind: str) -> None:
    it = Tuned()
    before = it.strengths()

    def broken(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        KINDS[kind](it)(broken)(X, T, it.cond)
    assert it.strengths() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 2, 4, 6), (3, 2, 8, 4), (1, 2, 2, 2)])
def test_any_batch_and_size_row_by_row(kind: str, shape: tuple[int, ...]) -> None:
    it = Tuned()
    x, count = torch.randn(shape), shape[0]
    prompts = [f"a sks cat {number}" for number in range(count)]
    with torch.no_grad(), it.adapter.off():
        it.base = it.base[0], it.model.embed([f"a cat {number}" for number in range(count)])
    cond = it.model.embed(prompts)
    t = torch.tensor([900, 500, 100])[:count]  # combined: one row is the base model's, the others the tuned one's
    whole = it.out(KINDS[kind](it), x, t, cond)
    assert whole.shape == x.shape
    for row in range(count):
        alone = Tuned()
        alone.base = it.base[0], it.base[1][row]
        torch.testing.assert_close(alone.out(KINDS[kind](alone), x[row : row + 1], t[row : row + 1], cond[row]),
                                   whole[row : row + 1], rtol=1e-5, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("kind", ["consistency", "rl", "combined"])
def test_the_base_model_never_hears_what_only_the_adapter_knows(kind: str) -> None:
    it = Tuned()
    for t in (900, 100):
        it.out(KINDS[kind](it), t=torch.full((2,), t))
        for _, strength, cond in it.calls:
            heard = cond.tokens[-2:]
            assert torch.equal(heard, (it.cond if strength else it.base[1]).tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_rescale_brings_the_contrast_of_the_conditional_prediction(kind: str, share: float) -> None:
    it, how = Tuned(), Guiding.model_validate({"kind": kind, "rescale": share})
    plain = guiding.build(Guiding.model_validate({"kind": kind}), it.model, 5.0, PLAIN)
    guided, conditional = it.out(plain), it.at(1.0, it.cond)
    if kind == "combined":
        conditional = it.at(0.0, it.base[1])  # in the middle of the schedule the base model still draws
    axes = (1, 2, 3)
    ratio = conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    wanted = guided * (share * ratio + 1 - share)
    torch.testing.assert_close(it.out(guiding.build(how, it.model, 5.0, PLAIN)), wanted, rtol=1e-4, atol=1e-5)


# ---- consistency guidance (Direct Consistency Optimization, invariants 9 and 10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("scale", "rescale"), [(5.0, 0.0), (1.0, 0.0), (7.5, 0.7)])
def test_consistency_without_weight_is_cfg_of_the_base_bit_for_bit(
    name: str, scale: float, rescale: float, folder: Path
) -> None:
    it = Tuned(models.backbone(name, folder), text_encoder=name != "toy")
    x = torch.randn(2, *it.model.latent_shape(it.model.pixels, it.model.pixels))
    with it.adapter.off():
        wanted = it.out(cfg(scale, it.base[0], rescale), x, cond=it.base[1])
    assert torch.equal(it.out(consistency(it.adapter, it.base, scale, 0.0, rescale), x), wanted)
    assert {strength for _, strength, _ in it.calls} == {0.0}
    it.adapter.remove()
    removed = cfg(scale, it.base[0], rescale)(it.model.predict)
    with torch.no_grad():
        assert torch.equal(removed(x, T, it.base[1]), wanted)  # the true base model


def test_consistency_with_both_weights_one_is_the_tuned_model() -> None:
    it = Tuned()
    out = it.out(consistency(it.adapter, it.base, 1.0, 1.0))
    torch.testing.assert_close(out, it.at(1.0, it.cond), rtol=0, atol=1e-6)


@pytest.mark.parametrize("w_con", [-2.0, 0.5, 3.0, 7.0])
def test_consistency_is_its_formula_and_linear_in_its_weight(w_con: float) -> None:
    it = Tuned()
    none, base, tuned = it.at(0, it.base[0]), it.at(0, it.base[1]), it.at(1, it.cond)
    out = it.out(consistency(it.adapter, it.base, 5.0, w_con))
    torch.testing.assert_close(out, none + 5 * (base - none) + w_con * (tuned - base), rtol=1e-5, atol=1e-5)
    zero, one = (it.out(consistency(it.adapter, it.base, 5.0, weight)) for weight in (0.0, 1.0))
    torch.testing.assert_close(out, zero + w_con * (one - zero), rtol=1e-5, atol=1e-5)


def test_consistency_of_an_adapter_at_strength_zero_with_one_prompt_is_cfg_of_the_base() -> None:
    it = Tuned()
    with it.adapter.scaled(0):
        out = it.out(consistency(it.adapter, it.base, 5.0, 3.0), cond=it.base[1])
    torch.testing.assert_close(out, it.base_cfg(5.0), rtol=1e-5, atol=1e-5)


# ---- personalization guidance


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_personalization_at_omega_one_is_cfg(scale: float) -> None:
    it = Tuned()
    assert torch.equal(it.out(personalization(it.adapter, it.empty, scale, 1.0)), it.out(cfg(scale, it.empty)))


@pytest.mark.parametrize("omega", [0.0, 0.25, 0.5, 1.0])
def test_personalization_is_its_formula(omega: float) -> None:
    it = Tuned()
    weak, tuned = it.at(omega, it.empty), it.at(1, it.cond)
    out = it.out(personalization(it.adapter, it.empty, 7.5, omega))
    torch.testing.assert_close(out, weak + 7.5 * (tuned - weak), rtol=1e-5, atol=1e-5)
    assert torch.equal(it.out(personalization(it.adapter, it.empty, 1.0, omega)), tuned)


def test_the_weak_model_has_the_weights_in_between() -> None:
    """B scaled by omega is the update scaled by omega."""
    it, half = Tuned(), Tuned()
    with torch.no_grad():
        for name, parameter in half.adapter.named_parameters().items():
            parameter.mul_(0.5 if "lora_B" in name else 1.0)
    torch.testing.assert_close(it.at(0.5, it.empty), half.at(1.0, it.empty), rtol=1e-6, atol=1e-6)


# ---- RL guidance


def test_rl_at_zero_and_one_is_exactly_cfg_of_the_base_and_of_the_tuned_model() -> None:
    it = Tuned()
    assert torch.equal(it.out(rl(it.adapter, it.base, it.empty, 5.0, 0.0, 0.4)), it.base_cfg(5.0, 0.4))
    assert torch.equal(it.out(rl(it.adapter, it.base, it.empty, 5.0, 1.0, 0.4)), it.out(cfg(5.0, it.empty, 0.4)))


@pytest.mark.parametrize("gain", [0.5, 1.6, 3.0])
def test_rl_is_affine_in_its_gain(gain: float) -> None:
    it = Tuned()
    base, tuned = it.base_cfg(5.0), it.out(cfg(5.0, it.empty))
    out = it.out(rl(it.adapter, it.base, it.empty, 5.0, gain))
    torch.testing.assert_close(out, base + gain * (tuned - base), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0, 3.0])
def test_rl_changes_nothing_where_nothing_was_learned(gain: float) -> None:
    it = Tuned()
    with torch.no_grad():
        for name, parameter in it.adapter.named_parameters().items():
            parameter.mul_(0.0 if "lora_B" in name else 1.0)
    out = it.out(rl(it.adapter, it.base, it.base[0], 5.0, gain), cond=it.base[1])
    torch.testing.assert_close(out, it.base_cfg(5.0), rtol=1e-6, atol=1e-6)


# ---- combined generation


def walked(it: Tuned, guidance: Any, cond: Cond, steps: int = 10) -> list[Any]:
    """The steps of a sampler, from fixed noise."""
    flow = it.model.prediction == "flow"
    x = sampling.initial(it.model, [1, 2])
    with torch.no_grad():
        return list((sampling.flow_euler if flow else sampling.ddim)(it.model, guidance(it.predict), x, cond, steps))


@pytest.mark.parametrize("name", NAMES)
def test_combined_at_its_ends_is_the_base_run_and_the_tuned_run(name: str, folder: Path) -> None:
    it = Tuned(models.backbone(name, folder))
    with it.adapter.off():
        base = walked(it, cfg(5.0, it.base[0]), it.base[1], 4)
    tuned = walked(it, cfg(5.0, it.empty), it.cond, 4)
    for window, wanted in ((1.0, base), (0.0, tuned)):
        run = walked(it, combined(it.adapter, it.base, it.empty, 5.0, window), it.cond, 4)
        assert torch.equal(run[-1].next, wanted[-1].next)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("early", range(1, 10))
def test_combined_leaves_the_first_share_of_the_steps_to_the_base_model(early: int, spacing: str) -> None:
    it = Tuned()
    it.model.scheduler.register_to_config(timestep_spacing=spacing)
    with it.adapter.off():
        base = walked(it, cfg(5.0, it.base[0]), it.base[1])
    it.calls.clear()
    run = walked(it, combined(it.adapter, it.base, it.empty, 5.0, early / 10, late_scale=1.0), it.cond)
    assert [strength for _, strength, _ in it.calls] == [0.0] * early + [1.0] * (10 - early)
    assert [rows for rows, _, _ in it.calls] == [4] * early + [2] * (10 - early)
    assert all(torch.equal(run[k].next, base[k].next) for k in range(early))
    assert not torch.equal(run[early].next, base[early].next)


# ---- what an adapter must be able to do


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_does_not_give_the_base_back_is_refused(kind: str) -> None:
    it = Tuned()
    it.adapter.exact_off = False
    with pytest.raises(UsageError, match=r"true base model.*\(lora\).*exact_off = false.*use cfg") as problem:
        KINDS[kind](it)
    assert "\n" not in str(problem.value)


def test_strengths_between_are_refused_where_scaling_does_not_give_them() -> None:
    it = Tuned(dora=True)
    with pytest.raises(UsageError, match=r"weights 0\.25 of the way.*linear_scale = false.*use 0 or 1"):
        KINDS["personalization"](it)
    with pytest.raises(UsageError, match="weights 0.5"):
        guiding.build(Guiding(kind="personalization"), it.model, 5.0, PLAIN)
    for omega in (0.0, 1.0):
        it.out(personalization(it.adapter, it.empty, 5.0, omega))
    for kind in ("consistency", "rl", "combined"):
        it.out(KINDS[kind](it))


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_adapter_there_is_nothing_to_compare(kind: str) -> None:
    how = Guiding.model_validate({"kind": kind})
    with pytest.raises(UsageError, match="there is none: use cfg"):
        guiding.build(how, Toy(), 5.0, PLAIN)


def test_a_conditioning_for_another_number_of_pictures_is_refused() -> None:
    it = Tuned()
    it.base = it.base[0], it.model.embed(["a", "b", "c"])
    with pytest.raises(UsageError, match="3 rows for 2 pictures"):
        it.out(KINDS["consistency"](it))


# ---- whole pictures


def pictures(it: Tuned, **how: Any) -> Tensor:
    prompts = [f"a sks cat {number}" for number in range(9)]  # more than one batch
    plain = [prompt.replace("sks ", "") for prompt in prompts]
    settings: dict[str, Any] = {"steps": 2, "guidance_scale": 3.0, "references": plain}
    drawn = guiding.draw(it.model, prompts, range(9), how=Guiding.model_validate(how), **settings)
    return torch.stack(list(drawn))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_consistency_without_weight_are_the_base_models(name: str, folder: Path) -> None:
    """Text encoders that learned too are off for the base model's prompts."""
    it = Tuned(models.backbone(name, folder), text_encoder=name != "toy")
    found, full = pictures(it, kind="consistency", w_con=0.0), pictures(it, kind="consistency")
    prompts = [f"a cat {number}" for number in range(9)]
    it.adapter.remove()
    base = torch.stack(list(sampling.sample(it.model, prompts, range(9), steps=2, guidance_scale=3.0)))
    assert torch.equal(found, base)
    assert not torch.equal(full, base)


def test_pictures_by_cfg_are_those_of_the_sampler() -> None:
    it = Tuned()
    prompts = [f"a sks cat {number}" for number in range(9)]
    assert torch.equal(pictures(it), torch.stack(list(sampling.sample(it.model, prompts, range(9), steps=2,
                                                                      guidance_scale=3.0))))  # fmt: skip


def test_the_weak_models_empty_prompt_is_said_by_weak_text_encoders(folder: Path) -> None:
    it = Tuned(models.backbone("tiny-sd-v", folder), text_encoder=True)
    guidance = guiding.build(Guiding(kind="personalization", omega=0.5), it.model, 5.0, PLAIN)
    with torch.no_grad(), it.adapter.scaled(0.5):
        weak = it.model.embed([""])
    assert isinstance(guidance, Branched)
    cond = guidance.at(500).branches[0].cond
    assert cond is not None
    assert torch.equal(cond.tokens, weak.tokens)
    assert not torch.equal(cond.tokens, it.empty.tokens)
