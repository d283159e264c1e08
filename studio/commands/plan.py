"""`studio plan`: what a run will take, before it starts."""

from __future__ import annotations

import functools
import json
import sys

from studio import flags, subjects
from studio.pipelines.errors import MemoryShortage


def main(args: list[str]) -> int:
    """Runs `studio plan ARGS`, with the arguments of `studio train`; exit code 4 when the run does not fit."""
    config, wishes = flags.read(args, "plan")
    from studio import ladder, plan, plan_show
    from studio.train import trusted  # and with it the libraries of a run, which are part of what it takes

    config = trusted(subjects.resolve(config))
    made = plan.of(config)
    have = ladder.Have.here()

    cost, train = functools.cache(plan.training), made.phase("train")
    way: list[str] = []
    if train.peak > made.free:
        room = made.free - train.peak + plan.changeable(train)
        _, way, size = ladder.until_it_fits(config, have, cost, room)
        way = way if size <= room else [*way, "and even then it does not fit: a smaller resolution or model"]
    if wishes.json:
        json.dump({**made.as_dict(), "ladder": way}, sys.stdout, indent=1)
        print()
    else:
        plan_show.show(config, made, way)
    if not made.fits:
        raise MemoryShortage(plan_show.shortage(made, way))
    return 0
