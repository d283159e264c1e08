"""Intervals: they hold the mean, shrink, cover the truth as often as they say, and are exact where nothing varies."""

from __future__ import annotations

import math

import pytest
import torch

from studio.evaluation import bootstrap
from studio.evaluation.bootstrap import interval


def sample(prompts: int, seeds: int, between: float, within: float, number: int) -> tuple[list[float], list[int]]:
    """Values with mean 0: each prompt has its own level, each picture its own scatter."""
    generator = torch.Generator().manual_seed(number)
    levels = between * torch.randn(prompts, 1, generator=generator)
    values = levels + within * torch.randn(prompts, seeds, generator=generator)
    return values.flatten().tolist(), [prompt for prompt in range(prompts) for _ in range(seeds)]


@pytest.mark.parametrize("shape", [(2, 1), (3, 4), (30, 4), (1, 9)], ids=str)
def test_the_interval_holds_the_mean(shape: tuple[int, int]):
    for number in range(20):
        values, prompts = sample(*shape, 1, 1, number)
        seen = interval(values, prompts)
        assert seen.value == pytest.approx(sum(values) / len(values), abs=1e-12)
        assert seen.low <= seen.value <= seen.high
        assert seen.n == len(values)


def test_more_prompts_give_a_narrower_interval():
    widths = []
    for prompts in (5, 20, 80):
        seen = [interval(*sample(prompts, 4, 1, 1, number)) for number in range(10)]
        widths.append(sum(one.high - one.low for one in seen))
    assert widths[0] > 1.5 * widths[1] > 2 * widths[2]


@pytest.mark.parametrize(("prompts", "between", "within"), [(6, 1, 0.2), (6, 0, 1), (30, 1, 1)], ids=str)
def test_it_covers_the_truth_as_often_as_it_says(prompts: int, between: float, within: float):
    count = 300
    seen = (interval(*sample(prompts, 4, between, within, number)) for number in range(count))
    covered = sum(one.low <= 0 <= one.high for one in seen) / count
    assert 0.91 <= covered <= 0.985  # 95 %, give or take three standard errors of 300 trials


def test_pictures_of_one_prompt_are_no_independent_pictures():
    values, prompts = sample(10, 16, 1, 0.1, 0)
    together, apart = interval(values, prompts), interval(values, list(range(len(values))))
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_one_prompt_is_judged_by_its_seeds_and_one_picture_not_at_all():
    assert interval([1.0, 2.0, 4.0], ["a"] * 3).low < 7 / 3
    alone = interval([1.0], ["a"])
    assert (alone.value, alone.n) == (1.0, 1)
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_equal_values_have_no_width():
    assert interval([0.0] * 12, [n // 4 for n in range(12)]) == (0.0, 0.0, 0.0, 12)
    seen = interval([0.3] * 12, [n // 4 for n in range(12)])
    assert seen.low == seen.value == seen.high == pytest.approx(0.3)


def test_what_could_not_be_scored_is_left_out():
    values, prompts = sample(6, 4, 1, 1, 0)
    holes = [float("nan") if n % 5 == 0 else value for n, value in enumerate(values)]
    kept = [(v, p) for v, p in zip(holes, prompts, strict=True) if v == v]
    assert interval(holes, prompts) == interval([v for v, _ in kept], [p for _, p in kept])
    empty = interval([float("nan")] * 3, [0, 1, 2])
    assert empty.n == 0
    assert math.isnan(empty.value)


def test_the_order_of_the_pictures_and_the_call_change_nothing():
    values, prompts = sample(6, 4, 1, 1, 0)
    assert interval(values, prompts) == interval(values, prompts)
    inside = [i for prompt in range(6) for i in reversed(range(4 * prompt, 4 * prompt + 4))]
    turned = interval([values[i] for i in inside], [prompts[i] for i in inside])
    assert turned == pytest.approx(interval(values, prompts), abs=1e-12)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (5, 2.571), (6, 2.447), (10, 2.228), (30, 2.042)])
def test_students_quantiles(freedom: int, quantile: float):
    assert bootstrap.student(freedom) == pytest.approx(quantile, abs=2e-3)


def test_a_ratio_is_as_uncertain_as_both_its_means():
    above, below = sample(8, 4, 0.1, 0.1, 1), sample(8, 4, 0.1, 0.1, 2)
    top, bottom = [0.3 + value for value in above[0]], [1 + value for value in below[0]]
    whole = bootstrap.ratio(top, above[1], bottom, below[1])
    known = bootstrap.ratio(top, above[1], [1.0] * 32, below[1])
    assert whole.value == pytest.approx(sum(top) / sum(bottom))
    assert whole.low < whole.value < whole.high
    assert known == pytest.approx(interval(top, above[1]), abs=1e-9)  # by a sure number it is the mean's own
    surer = bootstrap.ratio([0.3] * 32, above[1], bottom, below[1])
    assert surer.low < surer.value < surer.high
    assert whole.high - whole.low > max(known.high - known.low, surer.high - surer.low)


def test_a_ratio_by_what_may_be_nothing_has_no_interval():
    above, below = sample(8, 4, 0.1, 0.1, 1), sample(8, 4, 1, 1, 2)
    assert math.isnan(bootstrap.ratio(*above, [0.1 + value for value in below[0]], below[1]).high)
    assert math.isnan(bootstrap.ratio(*above, [1.0], [0]).low)


def test_ratios_cover_the_truth_as_often_as_they_say():
    count = 200
    seen = []
    for number in range(count):
        above, below = sample(12, 2, 0.2, 0.2, 2 * number), sample(12, 2, 0.2, 0.2, 2 * number + 1)
        top, bottom = [0.5 + value for value in above[0]], [1 + value for value in below[0]]
        seen.append(bootstrap.ratio(top, above[1], bottom, below[1]))
    assert 0.90 <= sum(one.low <= 0.5 <= one.high for one in seen) / count <= 0.99


def test_pictures_of_one_prompt_that_depend_on_each_other_are_not_drawn():
    assert math.isnan(interval([0.4, 0.4], ["a", "a"], seeds=False).low)
    assert interval([0.4, 0.2], ["a", "b"], seeds=False) == interval([0.4, 0.2], ["a", "b"])
