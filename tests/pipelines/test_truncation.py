"""Which steps learn: what each mode draws, with which frequencies, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from studio.pipelines.errors import UsageError
from studio.pipelines.truncation import Mask, Truncation, draw, one_of

T = 8


def masks(settings: Truncation, count: int = 2000, steps: int = T) -> list[Mask]:
    generator = torch.Generator().manual_seed(0)
    return [draw(settings, steps, generator) for _ in range(count)]


def tail(mask: Mask) -> int:
    """K of a mask that is the last K steps and nothing else."""
    assert mask == tuple(i >= len(mask) - sum(mask) for i in range(len(mask)))
    return sum(mask)


def test_random_k_reaches_every_number_of_steps_equally_often() -> None:
    found = Counter(map(tail, masks(Truncation())))
    assert set(found) == set(range(1, T + 1))
    assert all(abs(count - 2000 / T) < 4 * (2000 / T) ** 0.5 for count in found.values())


@pytest.mark.parametrize("limits", [{}, {"k_min": 3}, {"k_min": 2, "k_max": 5}, {"k_min": 8}])
@pytest.mark.parametrize("dist", ["uniform", "gaussian"])
def test_k_keeps_to_its_bounds_and_reaches_them(dist: str, limits: dict[str, int]) -> None:
    found = set(map(tail, masks(Truncation(k_dist=dist, k_mean=4, k_std=3, **limits))))
    assert found == set(range(limits.get("k_min", 1), limits.get("k_max", T) + 1))


def test_gaussian_k_is_about_its_mean() -> None:
    found = torch.tensor([tail(mask) for mask in masks(Truncation(k_dist="gaussian", k_mean=20, k_std=3), steps=50)])
    assert abs(found.double().mean() - 20) < 0.3
    assert abs(found.double().std() - 3) < 0.3


def test_a_mean_far_outside_still_draws_within() -> None:
    settings = Truncation(k_dist="gaussian", k_mean=-1000, k_std=0.1)
    assert set(map(tail, masks(settings, 20))) == {1}


def test_fixed_modes() -> None:
    assert set(masks(Truncation(mode="full"), 5)) == {(True,) * T}
    assert set(masks(Truncation(mode="last_k", k=3), 5)) == {(False,) * 5 + (True,) * 3}


@pytest.mark.parametrize(("every", "steps"), [(3, 8), (10, 50), (20, 8), (1, 4)])
def test_a_subset_is_every_so_manieth_step_from_a_drawn_one(every: int, steps: int) -> None:
    starts = set()
    for mask in masks(Truncation(mode="subset", every=every), 500, steps):
        chosen = [i for i, learns in enumerate(mask) if learns]
        assert chosen == list(range(chosen[0], steps, every))
        starts.add(chosen[0])
    assert starts == set(range(min(every, steps)))


def test_refl_is_one_step_of_the_last_quarter() -> None:
    """The published code: one of steps 30..39 of 40."""
    found = {mask.index(True) for mask in masks(Truncation(mode="refl"), 500, 40) if sum(mask) == 1}
    assert found == set(range(30, 40))
    assert {mask.index(True) for mask in masks(Truncation(mode="refl"), 20, 2)} == {1}
    assert {m.index(True) for m in masks(Truncation(mode="refl", k_min=2, k_max=3), 100, 4)} == {1, 2}


def test_it_is_a_function_of_the_generator() -> None:
    for mode in ("random_k", "subset", "refl"):
        first, second = (draw(Truncation(mode=mode), 50, torch.Generator().manual_seed(7)) for _ in range(2))
        assert first == second


def test_one_of_the_steps_that_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    found = Counter(one_of((False, True, False, True, True), generator) for _ in range(900))
    assert set(found) == {1, 3, 4}
    assert all(abs(count - 300) < 80 for count in found.values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "last_k", "k": 9}, "truncation.k: 9 steps should learn, and the sampler has 8"),
        ({"k_min": 9}, "k_min: 9"),
        ({"k_max": 20}, "k_max: 20"),
    ],
)
def test_more_steps_than_there_are_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        draw(Truncation(**settings), T, torch.Generator())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": 4}, "k does nothing where mode is random_k: set mode to last_k"),
        ({"mode": "full", "every": 5}, "every does nothing where mode is full: set mode to subset"),
        ({"mode": "refl", "detach_input": True}, "detach_input does nothing"),
        ({"mode": "full", "base_prefix": True}, "base_prefix does nothing"),
        ({"k_min": 5, "k_max": 4}, "k_max is 4, less than k_min, 5"),
        ({"mode": "last_k", "k": 2, "copies": 2}, "copies of the last step need k = 1"),
    ],
)
def test_what_would_do_nothing_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Truncation(**settings)  # type: ignore[arg-type]
