"""The benchmark of rewards: the guard's proof is by pictures that it has not seen, and needs something learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from studio import bench_reward_text as text
from studio.bench_reward_config import Hack
from studio.bench_reward_curves import Curve, Point
from studio.bench_reward_findings import Known
from studio.bench_reward_sheet import Row, Sheet
from studio.bench_reward_stops import held, stopped

HACK = Hack(experiment="guard", name="h", run="ours", reward="reward", held_out="held")


def cheat(seed: int, looks: Sequence[float], others: Sequence[float], ended: str, back: int) -> Known:
    """looks: the guard's numbers at steps 0, 1, ...; others: by other pictures, at the end after going back."""
    points = tuple(Point(n, n, n, {"held": value, "reward": float(n)}) for n, value in enumerate(others))
    rows = [Row(p.step, 4, "fresh", dict(p.numbers), 0.1, 8) for p in points]
    return Known(seed, Curve(points), Sheet(rows), 4, ended, {"held": dict(enumerate(looks))}, back)


def three(looks: Sequence[float], others: Sequence[float], back: int, ended: str = "fell") -> dict[str, list[Known]]:
    return {"ours": [cheat(seed, looks, others, ended, back) for seed in range(3)]}


def test_the_best_seen_is_of_all_looks_and_other_pictures() -> None:
    """The guard liked step 1 best; by other pictures step 2 was: what it went back to is short of that."""
    found = stopped(HACK, three([0.8, 1.0, 0.9, 0.5], [0.8, 0.95, 0.99, 0.95], 1))
    assert (found[0].best_step, found[0].seen, found[0].fell) == (1, 1.0, 0.5)
    assert (found[0].start, found[0].peak, found[0].peak_step, found[0].back) == (0.8, 0.99, 2, 0.95)
    assert found[0].kept == 0.95 / 0.99
    assert held(found, HACK.bar) == "does not hold"
    assert held(found, 0.05) == "holds"
    assert held(found[:2], 0.05) == "undecided"


def test_to_go_back_to_the_start_is_a_verdict_of_its_own() -> None:
    runs = three([0.9, 0.8, 0.5], [0.9, 0.8, 0.9], 0)
    assert held(stopped(HACK, runs), HACK.bar) == "goes back to the start"
    assert "3 of 3 seeds went back to step 0" in " ".join(text.cheating(HACK, runs))


def test_a_run_that_nothing_stopped_does_not_hold() -> None:
    runs = three([0.8, 1.0, 1.0], [0.8, 1.0, 1.0], 1, ended="")
    assert held(stopped(HACK, runs), HACK.bar) == "does not hold"
    assert held([], HACK.bar) == "no data yet"


def test_one_without_a_guard_stands_beside_it_where_there_is_one() -> None:
    runs = three([0.8, 1.0, 0.5], [0.8, 1.0, 1.0], 1)
    assert "without a guard" not in " ".join(text.cheating(HACK, runs))
    free = replace(runs["ours"][0], seed=0)
    beside = stopped(HACK.model_copy(update={"free": "free"}), {**runs, "free": [free]})
    assert beside[0].free == 1.0
    assert beside[1].free != beside[1].free  # there is none of this seed
