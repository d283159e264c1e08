"""The tasks of a comparison on this machine: a pool of processes, one GPU each where there are several."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from studio.compare_workers import Outcome, Task, devices, work
from studio.stop import Stop

LOOK = 0.3  # seconds between two looks


class Local:
    """jobs: tasks at once; gpus: of this machine. A thread waits for each process."""

    nodes = False  # all tasks see the same files at the same speed

    def __init__(self, jobs: int, gpus: int = 0) -> None:
        self.jobs, self.gpus = jobs, gpus

    def run(self, tasks: Sequence[Task], stop: Stop) -> Iterator[Outcome | None]:
        """Outcomes as they come, and None while nothing new is known.

        Once `stop()` is true every process is asked to save its state, and no other is started. KeyboardInterrupt (a
        second Ctrl-C) ends them at once.
        """
        level = 0

        def ask() -> int:
            return level or int(stop())

        free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for environment in devices(self.jobs, self.gpus):
            free.put(environment)

        def one(task: Task) -> Outcome:
            environment = free.get()
            try:
                return work(task, ask, environment)
            finally:
                free.put(environment)

        with ThreadPoolExecutor(self.jobs, "cell") as pool:
            try:
                yield from collected({pool.submit(one, task) for task in tasks})
            except BaseException:  # Ctrl-C again, or the display: no process may outlive this one
                level = 2
                raise


def collected(futures: set[Future[Outcome]]) -> Iterator[Outcome | None]:
    """What they return, as it comes."""
    while futures:
        done, futures = wait(futures, LOOK, FIRST_COMPLETED)
        yield from (future.result() for future in done)
        yield None
