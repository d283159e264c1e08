"""The benchmark of few steps: the adapter beside the teacher and beside the model without it."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pytest

from studio import bench_reward_lcm as lcm
from studio.bench_reward_lcm import Drawn
from studio.pipelines import drawing
from studio.pipelines.adapters import files


def drawn(way: str, seed: int, lost: float) -> Drawn:
    texts = lcm.prompts()
    kinds = {"colour": [1.0 - lost] * len(texts), "size": [nan if row % 2 else 0.5 for row in range(len(texts))]}
    return Drawn(way, seed, [row % 3 / 2 - lost for row in range(len(texts))], 0.1, kinds)


def found(**lost: float) -> list[Drawn]:
    ways = {"teacher": lcm.TEACHER, "student": lcm.STUDENT, "steps": lcm.SAME_STEPS, "calls": lcm.SAME_CALLS}
    return [drawn(ways[name], seed, value) for seed in range(3) for name, value in lost.items()]


def test_few_steps_are_held_against_the_teacher_picture_by_picture() -> None:
    texts = lcm.prompts()
    assert len(set(texts)) == len(texts) >= 50
    assert {"a crocodile on a blue background", "an owl on a blue background"} <= set(texts)
    near, far = found(teacher=0.0, student=0.02), found(teacher=0.0, student=0.2)
    assert lcm.less(near, lcm.STUDENT).value == pytest.approx(-0.02)
    assert [lcm.verdict(one) for one in (near, far, near[:2], found(teacher=0.0))] == [
        "holds", "does not hold", "undecided", "no data yet",
    ]  # fmt: skip


def test_the_control_is_drawn_in_as_many_steps_and_in_as_many_calls() -> None:
    calls = {way: how.steps * (2 if how.guidance_scale > 1 else 1) for way, how in lcm.WAYS.items()}
    assert lcm.WAYS[lcm.SAME_STEPS].steps == lcm.WAYS[lcm.STUDENT].steps == 4
    assert calls[lcm.SAME_CALLS] == calls[lcm.STUDENT] == 4
    assert [lcm.WAYS[way].steps for way in lcm.FEW] == [1, 2, 4, 8, 4]
    own = drawing.read(files.header(lcm.few_step()), lcm.few_step())
    assert own == drawing.Drawing(lcm.WAYS[lcm.STUDENT].sampler, lcm.WAYS[lcm.STUDENT].steps, 1.0)
    assert all((way in lcm.FEW) == (how.sampler in drawing.FEW_STEP) for way, how in lcm.WAYS.items())


def test_the_page_says_what_the_bar_is_worth_beside_the_control(tmp_path: Path) -> None:
    lcm.write(tmp_path, found(teacher=0.0, student=0.02, steps=0.03, calls=0.3))
    said = " ".join(lcm.lines(tmp_path))
    assert "**holds**: the bar that is judged" in said
    assert "alone it is within the bar too" in said
    assert "alone it is not within the bar" in said
    assert "better than it by +0.010" in said
    assert "better than it by +0.280" in said
    assert "| by kind | colour | size |" in said
    assert "| DDIM, 4 steps, no adapter | 8 |" in said
    assert "| adapter, 4 steps | 0.980 [0.980, 0.980] | 0.500" in said
