"""Laws of classifier-free guidance."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from studio.pipelines.guidance import cfg
from studio.pipelines.protocols import Cond


def words(*values: float) -> Cond:
    return Cond(torch.tensor(values).view(-1, 1, 1), torch.tensor(values).view(-1, 1))


class Net:
    """Answers x times its conditioning, and counts its calls."""

    calls = 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor, cond: Cond) -> torch.Tensor:
        self.calls += 1
        assert len(x) == len(t) == len(cond)
        return x * cond.tokens[..., None]


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
T = torch.tensor([5, 5])


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 7.5])
def test_formula_in_one_call(scale: float) -> None:
    net = Net()
    out = cfg(scale, words(2.0))(net)(X, T, words(3.0, 5.0))
    uncond, cond = X * 2, X * torch.tensor([3.0, 5.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(out, uncond + scale * (cond - uncond))
    assert net.calls == 1


def test_scale_one_is_the_plain_prediction() -> None:
    net = Net()
    assert cfg(1.0, words(2.0))(net) is net


def test_one_empty_row_serves_every_picture() -> None:
    one = cfg(4.0, words(2.0))(Net())(X, T, words(3.0, 5.0))
    each = cfg(4.0, words(2.0, 2.0))(Net())(X, T, words(3.0, 5.0))
    assert torch.equal(one, each)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_rescale_is_diffusers(share: float) -> None:
    def net(x: torch.Tensor, t: torch.Tensor, cond: Cond) -> torch.Tensor:
        return (x * cond.tokens[..., None]).sin()

    out = cfg(6.0, words(2.0), rescale=share)(net)(X, T, words(3.0, 5.0))
    with_prompt = net(X, T, words(3.0, 5.0))
    plain = cfg(6.0, words(2.0))(net)(X, T, words(3.0, 5.0))
    torch.testing.assert_close(out, rescale_noise_cfg(plain, with_prompt, share))
    if share == 1.0:
        torch.testing.assert_close(out.std((1, 2, 3)), with_prompt.std((1, 2, 3)))
