"""Every implementation computes the same attention; what `auto` takes is reproducible."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from studio.kernels import attention, bench, probing
from studio.kernels.attention import attend, probe
from studio.kernels.table import TABLE, matmul

HERE = [kind for kind in attention.KINDS if probe(kind, "cpu", torch.float32).ok]
CPU = torch.device("cpu")


def inputs(length=33, keys=45, dim=16, dtype=torch.float32, grad=True, batch=2, heads=3):
    generator = torch.Generator().manual_seed(0)
    sizes = (length, keys, keys)
    return [torch.randn(batch, heads, n, dim, generator=generator).to(dtype).requires_grad_(grad) for n in sizes]


def gradients(function, tensors):
    out = function(*tensors)
    slope = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return (out, *torch.autograd.grad(out, tensors, slope))


@pytest.fixture
def forgetful():
    """Probes and choices start empty and leave nothing."""
    probing._probe.cache_clear()
    attention._chosen.clear()
    yield
    probing._probe.cache_clear()
    attention._chosen.clear()


@pytest.fixture
def xformers(monkeypatch, forgetful):
    """Puts a package named xformers with this function in place."""

    def put(function):
        package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
        ops.memory_efficient_attention = function
        monkeypatch.setitem(sys.modules, "xformers", package)
        monkeypatch.setitem(sys.modules, "xformers.ops", ops)

    return put


def with_layout(q, k, v, attn_bias=None, p=0.0, scale=None):
    """Attention in xformers' layout [B, L, H, D] that insists on its rows of 8."""
    if attn_bias is not None:
        assert attn_bias.shape == (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
        assert attn_bias.stride(-2) % 8 == 0
    return matmul(*(t.transpose(1, 2) for t in (q, k, v)), attn_bias, scale).transpose(1, 2)


@pytest.mark.parametrize("kind", [*HERE, "auto"])
@pytest.mark.parametrize("masked", ["none", "bool", "additive", "keys"])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_implementations_agree_forward_and_backward(kind, masked, scale):
    tensors = inputs()
    seen = torch.rand(2, 1, 33, 45, generator=torch.Generator().manual_seed(1)) < 0.5
    seen[..., 0] = True
    mask = {"none": None, "bool": seen, "additive": torch.where(seen, 0.5, -1e4), "keys": seen[:, :, :1]}[masked]
    ours = gradients(lambda *x: attend(*x, mask, kind, scale), tensors)
    truth = gradients(lambda *x: matmul(*x, mask, scale), tensors)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("additive", [False, True])
def test_a_query_that_sees_nothing_gives_zeros(kind, dtype, additive):
    mask = torch.ones(33, 45, dtype=torch.bool)
    mask[5], mask[7, 10:] = False, False
    if additive:
        mask = torch.zeros(33, 45, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    out, *grads = gradients(lambda *x: attend(*x, mask, kind), inputs(dtype=dtype))
    assert (out[:, :, 5] == 0).all()
    assert (out[:, :, 7] != 0).any()
    assert (grads[0][:, :, 5] == 0).all()
    assert all(tensor.isfinite().all() for tensor in (out, *grads))


@pytest.mark.parametrize("kind", HERE)
def test_a_mask_with_a_gradient_is_refused(kind):
    with pytest.raises(ValueError, match=r"detach"):
        attend(*inputs(), torch.zeros(33, 45, requires_grad=True), kind)


@pytest.mark.parametrize("kind", HERE)
def test_upcast_scores_are_better_than_half_precision(kind):
    tensors = inputs(dtype=torch.bfloat16, grad=False, dim=64)
    q, k, v = tensors[0] * 8, tensors[1] * 8, tensors[2]
    truth = matmul(q.double(), k.double(), v.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, fine = (attend(q, k, v, None, kind, upcast=upcast) for upcast in (False, True))
    assert fine.dtype == torch.bfloat16
    assert (fine - truth).abs().max() <= (plain - truth).abs().max()
    assert (fine - truth).abs().max() <= 0.02


def test_half_precision_does_not_overflow_before_the_scale():
    q = torch.full((1, 1, 2, 64), 60.0, dtype=torch.float16)
    assert matmul(q, q, q).isfinite().all()


def test_types_follow_the_values():
    q, k, v = inputs(grad=False)
    assert attend(q, k, v.bfloat16()).dtype == torch.bfloat16


def test_missing_package_is_named_with_its_remedy(monkeypatch, forgetful):
    monkeypatch.setitem(sys.modules, "xformers", None)
    answer = probe("xformers", "cpu", torch.float32)
    assert not answer.ok
    assert "personalization-studio[xformers]" in answer.reason
    with pytest.raises(attention.Unavailable, match=r"personalization-studio\[xformers\]"):
        attend(*inputs(), choice="xformers")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="auto, sdpa, matmul, chunked, xformers"):
        attend(*inputs(), choice="flash9")


def test_xformers_gets_its_layout_and_its_mask(xformers):
    xformers(with_layout)
    assert probe("xformers", "cpu", torch.float32) == (True, "")
    mask = torch.arange(45).expand(2, 1, 1, 45) < 30
    tensors = inputs()
    ours, truth = attend(*tensors, mask, "xformers", 0.3), attend(*tensors, mask, "sdpa", 0.3)
    torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda q, k, v, attn_bias=None, scale=None: with_layout(q, k, v, attn_bias) * 1.2, "relative error"),
        (lambda q, k, v, attn_bias=None, scale=None: with_layout(q, k, v, None, 0, scale), "relative error"),
        (lambda q, k, v, attn_bias=None, scale=None: with_layout(q, k, v, attn_bias).detach(), "grad"),
        (lambda q, k, v, attn_bias=None, scale=None: with_layout(q, k, v, attn_bias) * torch.nan, "nan"),
    ],
    ids=["wrong", "ignores the mask", "no backward", "nan"],
)
def test_a_package_that_imports_is_not_believed(xformers, function, reason):
    xformers(function)
    answer = probe("xformers", "cpu", torch.float32)
    assert not answer.ok
    assert reason in answer.reason


def test_the_first_call_may_be_inside_anything(forgetful):
    """Probing inside checkpointing, autocast, no_grad or inference mode disturbs neither side."""
    tensors = inputs()
    checkpoint(lambda *x: attend(*x, choice="chunked"), *tensors, use_reentrant=False).sum().backward()
    truth = torch.autograd.grad(matmul(*tensors).sum(), tensors)
    for tensor, grad in zip(tensors, truth, strict=True):
        torch.testing.assert_close(tensor.grad, grad, rtol=1e-5, atol=1e-5)
    for context in (torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)):
        probing._probe.cache_clear()
        with context():
            assert probe("matmul", "cpu", torch.float32).ok


def test_probing_leaves_the_random_state_alone(forgetful):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    probe("chunked", "cpu", torch.float32)
    attention._fastest(*inputs(grad=False)[:2], True)
    assert torch.equal(before, torch.get_rng_state())


def test_auto_on_the_cpu_depends_on_nothing_but_type_and_lengths(forgetful):
    names = {
        (dtype, batch, grad): attention.choose(*inputs(dtype=dtype, batch=batch, grad=grad))
        for dtype in (torch.float32, torch.bfloat16)
        for batch in (1, 16)
        for grad in (False, True)
    }
    assert {name for (dtype, *_), name in names.items() if dtype == torch.float32} == {"sdpa"}
    assert {name for (dtype, *_), name in names.items() if dtype == torch.bfloat16} == {"matmul"}
    assert attention.choose(*inputs(length=1024, keys=1024, dtype=torch.bfloat16, batch=1, heads=1)) == "sdpa"
    assert attention.chosen() == {}


def test_auto_takes_the_clearly_fastest_that_answers(monkeypatch, xformers):
    xformers(with_layout)
    times = {"sdpa": 1.0, "matmul": 0.95, "chunked": 2.0, "xformers": 0.5}
    monkeypatch.setattr(attention, "seconds", lambda kind, *_: times[kind])
    q, k, _ = inputs(grad=False)
    assert attention._fastest(q, k, False) == "xformers"
    times["xformers"] = 3.0
    assert attention._fastest(q, k, False) == "sdpa"  # matmul's 5 % are noise
    monkeypatch.setattr(attention, "LARGEST", 10)
    times["matmul"] = 0.1
    assert attention._fastest(q, k, False) == "sdpa"  # its scores do not fit


def test_measured_choice_is_one_that_exists(forgetful):
    q, k, _ = inputs(grad=False)
    assert attention._fastest(q, k, True) in HERE
    assert probing.seconds("sdpa", q, k, True) > 0


def test_choices_can_be_saved_and_taken_again(forgetful):
    q, k, v = inputs(grad=False)
    key = attention.shape_class(q, k, v)
    lost = attention.shape_class(*inputs(length=5000, keys=5000, heads=1, batch=1))
    refused = attention.preset({key: "matmul", lost: "xformers"} if "xformers" not in HERE else {key: "matmul"})
    assert attention.chosen() == {key: "matmul"}
    assert set(refused) <= {lost}
    with pytest.raises(ValueError, match="flash9"):
        attention.preset({key: "flash9"})


def test_shape_classes_are_coarse():
    near, same = inputs(length=250, keys=250), inputs(length=256, keys=200)
    far = inputs(length=260, keys=250)
    assert attention.shape_class(*near) == attention.shape_class(*same) != attention.shape_class(*far)
    with torch.no_grad():
        assert attention.shape_class(*near) != attention.shape_class(*inputs(length=250, keys=250)) + "grad"
        assert attention.shape_class(*near).endswith("plain")


def test_bench_measures_every_implementation_against_sdpa():
    rows = list(bench.attention(shapes=((1, 2, 16, 8, 8),), dtypes=(torch.float32,), least=0.001))
    assert [row.implementation for row in rows] == HERE
    assert rows[0].ratio == 1
    assert all(row.forward > 0 and row.both > 0 for row in rows)
    assert set(HERE) <= set(TABLE)
