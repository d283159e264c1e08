"""Memory by the sampler's steps: only inputs are kept of checkpointed calls, and one step costs what one step costs."""

from __future__ import annotations

from pathlib import Path

import torch

from studio import bench_reward_memory as bench
from studio.bench_reward_memory import Kept, Live, slope, table
from tests.chains import Small, last
from tests.models import backbone

STEPS, ENDS = (2, 4, 8), (2, 5)


def test_checkpointed_grows_by_less_than_a_hundredth_and_k_1_not_at_all() -> None:
    """Of the chain alone, on the method's own tiny model."""
    small = Small()
    known = {parameter.untyped_storage().data_ptr() for parameter in small.net.parameters()}

    def kept(steps: int, k: int, checkpointed: bool) -> int:
        counter = Kept(known | {small.cond.tokens.untyped_storage().data_ptr()})
        with counter.hooks():
            end = small.end(small.chain(last(k, steps), checkpointed=checkpointed))
        assert end.requires_grad
        return sum(counter.found.values())

    plain = slope(STEPS, [kept(t, t, False) for t in STEPS])
    assert 0 < slope(STEPS, [kept(t, t, True) for t in STEPS]) < 0.01 * plain
    assert len({kept(t, 1, False) for t in STEPS}) == 1


def test_the_trainers_losses(tmp_path: Path) -> None:
    """The whole loss, with autoencoder and reward: AlignProp's ways, and RLCM by H; and the page says so."""
    found = table(backbone("tiny-sd-eps", tmp_path), ENDS, 1)
    plain, checkpointed, one, policy = ([f.kept for f in row] for row in found.values())
    peaks = [[f.peak for f in row] for row in found.values()]
    assert 0 < slope(ENDS, checkpointed) < 0.01 * slope(ENDS, plain)
    assert len(set(one)) == 1
    assert len(set(policy)) == 1
    assert slope(ENDS, peaks[1]) < 0.02 * slope(ENDS, peaks[0])
    assert slope(ENDS, peaks[3]) < 0.02 * slope(ENDS, peaks[0])
    lines = list(bench.page(found, ENDS))
    assert "| AlignProp, K = 1, plain |" in " ".join(lines)
    assert sum(line.startswith("| kept") for line in lines) == 1


def test_live_tensors_are_counted_once_and_given_back() -> None:
    with Live(set()) as live:
        made = torch.ones(1000)
        view = made.view(10, 100)
        twice = made + 1
        assert live.bytes == 8000
        del twice
        assert live.bytes == 4000
        del made
        assert live.bytes == 4000
        del view
        assert live.bytes == 0
    assert live.peak == 8000
