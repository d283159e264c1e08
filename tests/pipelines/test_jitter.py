"""Pictures changed a little before they are rewarded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from studio.pipelines.jitter import Jitter


def pictures() -> Tensor:
    """A ramp from left to right, 0 to 1."""
    return torch.linspace(0, 1, 16).expand(2, 3, 16, 16).clone().requires_grad_()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_by_default() -> None:
    made = pictures()
    assert Jitter()(made, seeded()) is made


@pytest.mark.parametrize("jitter", [Jitter(crop=0.5), Jitter(noise=0.3), Jitter(crop=0.8, noise=0.1)])
def test_size_range_and_gradient_stay(jitter: Jitter) -> None:
    made = pictures()
    found = jitter(made, seeded())
    assert found.shape == made.shape
    assert 0 <= float(found.detach().min()) <= float(found.detach().max()) <= 1
    assert torch.equal(found, jitter(made, seeded()))
    assert not torch.equal(found, jitter(made, seeded(1)))
    found.sum().backward()
    assert made.grad is not None
    assert made.grad.any()


def test_a_crop_shows_at_least_its_share() -> None:
    """Of a ramp the crop keeps that much of the range; every place comes up."""
    with torch.no_grad():
        found = [Jitter(crop=0.5)(pictures(), seeded(i))[0, 0, 0] for i in range(100)]
    spans = torch.tensor([float(row[-1] - row[0]) for row in found])
    assert float(spans.min()) > 0.45
    assert float(spans.max()) > 0.9
    assert float(min(row[0] for row in found)) == 0
    assert float(max(row[-1] for row in found)) == 1
