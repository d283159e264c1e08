"""The tasks of a comparison on a Ray cluster: one Ray task each, their files in a folder that every node can write."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studio.compare_workers import Outcome, Task, work
from studio.pipelines.errors import UsageError
from studio.stop import Stop

LOOK = 0.5  # seconds between two looks
LOST = 2  # times that Ray starts a task again whose node was lost
STOP, NOW = "stop", "stop-now"  # files in the comparison's folder: Ctrl-C does not reach other machines


def on_node(task: Task) -> Outcome:
    """A task, on the node where Ray runs it; Ray has set which GPU it sees."""
    if not task.folder.is_dir():
        said = f"{task.folder} is not there on this node: a cluster needs a folder of runs that every node shares"
        return Outcome(task.name, "failed", said, 2)
    return work(task, lambda: 2 if (task.folder / NOW).exists() else int((task.folder / STOP).exists()))


class Ray:
    """address: `auto` (the cluster RAY_ADDRESS names, one on this machine, else a new one here with `jobs` CPUs) or
    ray://HOST:PORT. jobs: tasks at once in a new one.
    """

    nodes = True

    def __init__(self, address: str, jobs: int) -> None:
        self.ray = connect(address, jobs)
        self.gpus = 1 if self.ray.cluster_resources().get("GPU", 0) >= 1 else 0
        self.jobs = int(self.ray.cluster_resources().get("GPU" if self.gpus else "CPU", 1)) or 1

    def run(self, tasks: Sequence[Task], stop: Stop) -> Iterator[Outcome | None]:
        """Outcomes as they come, and None while nothing new is known; a lost node costs its tasks a new start."""
        do = self.ray.remote(on_node).options(num_cpus=1, num_gpus=self.gpus, max_retries=LOST)
        waiting: dict[Any, Task] = {do.remote(task): task for task in tasks}
        try:
            while waiting:
                done, _ = self.ray.wait(list(waiting), num_returns=1, timeout=LOOK)
                for reference in done:
                    yield self.result(reference, waiting.pop(reference))
                if waiting and stop():
                    (next(iter(waiting.values())).folder / STOP).touch()
                yield None
        except BaseException:
            for folder in {task.folder for task in waiting.values()}:
                (folder / NOW).touch()
            self.ray.wait(list(waiting), num_returns=len(waiting) or 1, timeout=10)
            raise

    def result(self, reference: Any, task: Task) -> Outcome:
        """What a task returned; where Ray lost it, why."""
        try:
            outcome: Outcome = self.ray.get(reference)
            return outcome
        except self.ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Outcome(task.name, "failed", f"Ray: {lines[-1] if lines else type(error).__name__}", 1)


def connect(address: str, jobs: int) -> Any:
    """The module `ray`, connected. Raises UsageError in one line where it is not installed or nobody answers."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"--on {address} needs Ray: pip install 'personalization-studio[cluster]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default 15: on a busy machine the cells would stand still
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=address, **options)
    except ConnectionError as error:
        if address != "auto" or os.environ.get("RAY_ADDRESS"):
            where = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
            raise UsageError(f"no Ray cluster answers at {where}: {' '.join(str(error).split())[:160]}") from None
        ray.init(num_cpus=jobs, include_dashboard=False, **options)
    return ray


def forget(folder: Path) -> None:
    """Take away what an earlier stop left."""
    for name in (STOP, NOW):
        (folder / name).unlink(missing_ok=True)
