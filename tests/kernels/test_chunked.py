"""Chunked attention says what plain attention says, and never holds L x S numbers."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from studio.kernels import chunked
from studio.kernels.table import matmul


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def inputs(batch=2, heads=2, length=37, keys=45, dim=8, dtype=torch.float64, grad=True):
    generator = torch.Generator().manual_seed(0)
    sizes = (length, keys, keys)
    return [torch.randn(batch, heads, n, dim, generator=generator).to(dtype).requires_grad_(grad) for n in sizes]


def masks(q, k):
    seen = torch.rand(q.shape[0], 1, q.shape[2], k.shape[2], generator=torch.Generator().manual_seed(1)) < 0.7
    seen[..., 0] = True
    return {
        "none": None,
        "bool": seen,
        "keys": seen[:, :, :1],
        "additive": torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, -torch.inf),
        "plane": seen[0, 0],
        "queries": seen[:, :, :, :1],
    }


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Many ragged blocks at small sizes."""
    monkeypatch.setattr(chunked, "SCORES", 1)
    monkeypatch.setattr(chunked, "SMALLEST", 16)


@pytest.mark.parametrize("kind", ["none", "bool", "keys", "additive", "plane", "queries"])
@pytest.mark.parametrize(("length", "keys"), [(37, 45), (1, 33), (64, 1), (16, 16), (5, 100)])
def test_equals_plain_attention(kind, length, keys):
    q, k, v = inputs(length=length, keys=keys)
    mask = masks(q, k)[kind]
    ours, truth = chunked.attend(q, k, v, mask, 0.3), matmul(q, k, v, mask, 0.3)
    torch.testing.assert_close(ours, truth)
    slope = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), slope), torch.autograd.grad(truth, (q, k, v), slope), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["none", "bool"])
def test_gradients_by_finite_differences(monkeypatch, kind):
    monkeypatch.setattr(chunked, "SMALLEST", 4)
    q, k, v = inputs(batch=1, heads=1, length=9, keys=7, dim=2)
    mask = masks(q, k)[kind]
    assert torch.autograd.gradcheck(lambda *x: chunked.attend(*x, mask), (q, k, v))


def test_values_may_have_another_width():
    q, k, _ = inputs()
    v = torch.randn(2, 2, 45, 3, dtype=q.dtype, requires_grad=True)
    torch.testing.assert_close(chunked.attend(q, k, v), matmul(q, k, v))


def test_second_derivative_is_refused():
    q, k, v = inputs()
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(chunked.attend(q, k, v).sum(), q, create_graph=True)


def test_half_precision_is_summed_in_float32():
    q, k, v = inputs(length=64, keys=400, dtype=torch.bfloat16, grad=False)
    ours = chunked.attend(q, k, v)
    assert ours.dtype == torch.bfloat16
    # only the final rounding is left
    torch.testing.assert_close(ours, matmul(q.double(), k.double(), v.double()).bfloat16(), rtol=8e-3, atol=1e-3)


def test_large_scores_do_not_overflow():
    q, k, v = inputs(dtype=torch.float32)
    out = chunked.attend(q * 1e4, k * 1e4, v)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


def test_queries_that_see_nothing_give_zeros():
    q, k, v = inputs()
    mask = torch.ones(37, 45, dtype=torch.bool)
    mask[3] = False
    out = chunked.attend(q, k, v, mask)
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert (out[:, :, 3] == 0).all()
    assert (grads[0][:, :, 3] == 0).all()
    assert all(tensor.isfinite().all() for tensor in (out, *grads))


@pytest.mark.parametrize("kind", ["none", "keys"])
def test_memory_grows_with_length_only(monkeypatch, kind):
    monkeypatch.setattr(chunked, "SCORES", 2**15)
    q, k, v = inputs(batch=1, heads=2, length=700, keys=600, dim=16, dtype=torch.float32)
    mask = masks(q, k)[kind]
    with Largest() as largest:
        chunked.attend(q, k, v, mask).sum().backward()
    assert largest.elements <= max(2**15, q.numel())
    with Largest() as largest:
        matmul(q, k, v, mask)
    assert largest.elements >= 2 * 700 * 600


@pytest.mark.parametrize("most", [1, 100, 2**12, 2**16])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (77, 9000), (9000, 77), (9000, 9000), (3, 100000)])
def test_blocks_cover_everything_once_within_the_bound(monkeypatch, most, length, keys):
    monkeypatch.setattr(chunked, "SCORES", most)
    rows, columns = chunked._blocks(torch.empty(1, 1, length, 1), torch.empty(1, 1, keys, 1))
    for slices, size in ((rows, length), (columns, keys)):
        assert [i for s in slices for i in range(s.start, s.stop)] == list(range(size))
    height, width = (max(s.stop - s.start for s in slices) for slices in (rows, columns))
    assert height * width <= max(most, chunked.SMALLEST**2)
