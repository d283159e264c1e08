"""Jobs and their processes: one start each, ends that are judged rightly, whoever is there to see them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from studio.ui import jobs_process
from studio.ui.jobs import Queue
from studio.ui.jobs_process import RESTARTS, STARTING, Job
from studio.ui.jobs_supervisor import Supervisor, gpus_here
from tests.conftest import ROOT

PROGRAM = (sys.executable, "-S", str(ROOT / "tests" / "ui" / "jobs_stand_in.py"))
SERVER = """
import sys
from pathlib import Path
from studio.ui.jobs_supervisor import Supervisor, gpus_here
supervisor = Supervisor(Path(sys.argv[1]), program=sys.argv[3:])
for _ in range(int(sys.argv[2])):
    supervisor.tick()
"""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    """A queue, none of whose processes outlives the test."""
    found = Queue(tmp_path)
    yield found
    for job in found.read():
        if job.pid > 0:
            jobs_process.end(job, kill=True)
            jobs_process.settled(job)
    for child in jobs_process.CHILDREN.values():
        child.wait(10)


def server(queue: Queue, **how: float) -> Supervisor:
    return Supervisor(queue.runs, program=PROGRAM, **how)  # type: ignore[arg-type]


def until(true: Callable[[], object], tick: Callable[[], object] = lambda: None) -> None:
    """Waits until something is true."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not come true in 20 s"
        tick()
        time.sleep(0.02)


def starts(queue: Queue) -> list[str]:
    """What was started, in that order."""
    file = queue.runs / "starts"
    return file.read_text().splitlines() if file.is_file() else []


def trains(queue: Queue, steps: int = 9) -> Job:
    """A job that says it is a run's training."""
    folder = queue.runs / "one"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.toml").write_text(f'trainer = "dreambooth"\n[dreambooth]\nsteps = {steps}\n')
    return queue.command(("train", str(folder / "run.toml"), "--json"), folder)


def test_one_after_the_other_and_each_end_is_told(queue: Queue):
    supervisor, go = server(queue), queue.runs / "go"
    first, second, third = (queue.command(words) for words in (("wait", str(go)), ("fail",), ("well",)))
    supervisor.tick()
    supervisor.tick()
    assert [job.state for job in queue.jobs()] == ["running", "waiting", "waiting"]
    go.touch()
    until(lambda: queue.get(third.id).end, supervisor.tick)
    assert [job.state for job in queue.jobs()] == ["done", "failed", "done"]
    assert queue.get(second.id).reason == "there is nothing to do it with; bring some"
    assert queue.get(second.id).code == 2
    assert starts(queue) == [f"wait {go}", "fail", "well"]
    assert queue.get(first.id).log.read_text().count("done") == 1


def test_many_servers_never_start_a_job_twice(queue: Queue):
    for number in range(6):
        queue.command(("well", str(number)))
    command = [sys.executable, "-c", SERVER, str(queue.runs), "15", *PROGRAM]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment) as other:
        threads = [threading.Thread(target=server(queue, lanes=2).work, args=(over := threading.Event(), 0.01))]
        threads += [threading.Thread(target=server(queue, lanes=2).work, args=(over, 0.01)) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: all(job.end for job in queue.jobs()))
        over.set()
        for thread in threads:
            thread.join()
        assert other.wait(30) == 0
    assert sorted(starts(queue)) == [f"well {number}" for number in range(6)]
    assert {job.state for job in queue.jobs()} == {"done"}


def test_a_child_that_ends_without_a_word_is_told_by_its_code(queue: Queue):
    for number in range(6):
        queue.command(("quiet", str(number)))
    threads = [threading.Thread(target=server(queue, lanes=2).work, args=(over := threading.Event(), 0.001))]
    threads += [threading.Thread(target=lambda: until(over.is_set, queue.jobs)) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: all(job.end for job in queue.jobs()))
    over.set()
    for thread in threads:
        thread.join()
    assert sorted(starts(queue)) == [f"quiet {number}" for number in range(6)]


def test_no_more_at_once_than_there_are_lanes(queue: Queue):
    for number in range(4):
        queue.command(("wait", str(queue.runs / f"go{number}")))
    server(queue, lanes=3).tick()
    assert [job.state for job in queue.jobs()] == ["running", "running", "running", "waiting"]
    assert [job.lane for job in queue.jobs()] == [0, 1, 2, -1]


def test_a_job_outlives_its_server_and_the_next_one_knows_it(queue: Queue):
    go = queue.runs / "go"
    job = queue.command(("wait", str(go)))
    command = [sys.executable, "-c", SERVER, str(queue.runs), "1", *PROGRAM]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert queue.get(job.id).state == "running"
    server(queue).tick()
    go.touch()
    until(lambda: queue.get(job.id).end)
    assert len(starts(queue)) == 1
    found = queue.get(job.id)  # nobody was there to see its exit code: its last event says it
    assert (found.state, found.code) == ("done", None)


def test_what_dies_goes_on_by_itself_three_times_and_then_says_why(queue: Queue):
    job, supervisor = queue.command(("die",)), server(queue)
    supervisor.tick()
    until(lambda: queue.get(job.id).restarts == 1)
    assert "it goes on by itself (1 of 3)" in queue.get(job.id).reason
    until(lambda: queue.get(job.id).end, supervisor.tick)
    found = queue.get(job.id)
    assert len(starts(queue)) == 1 + RESTARTS
    assert found.state == "failed"
    assert "SIGKILL" in found.reason
    assert "started again 3 times without getting further" in found.reason


def test_starts_that_got_further_are_not_counted(queue: Queue):
    job = replace(trains(queue), pid=2**30, restarts=RESTARTS, saved=3)
    (queue.runs / "one" / "checkpoints" / "step-000004").mkdir()
    (queue.runs / "one" / "checkpoints" / "step-000004" / "manifest.json").touch()
    now = jobs_process.settled(job)
    assert (now.state, now.restarts, now.saved) == ("waiting", 1, 4)
    again = jobs_process.settled(replace(now, pid=2**30, restarts=RESTARTS))
    assert again.state == "failed"


def test_another_process_with_its_number_is_not_the_job(queue: Queue):
    me = psutil.Process()
    job = replace(queue.command(("well",)), pid=me.pid, born=me.create_time())
    assert jobs_process.process(job) is not None
    assert jobs_process.process(replace(job, born=job.born - 60)) is None


def test_one_whose_server_died_while_it_started_it_is_found_again_or_started(queue: Queue):
    go = queue.runs / "go"
    job = queue.command(("wait", str(go)))
    server(queue).tick()
    queue.write(replace(queue.get(job.id), pid=STARTING))
    until(lambda: starts(queue))
    server(queue).tick()
    assert queue.get(job.id).pid > 0
    assert len(starts(queue)) == 1
    lost = queue.write(replace(queue.command(("well",)), pid=STARTING))
    go.touch()
    supervisor = server(queue)
    until(lambda: queue.get(lost.id).end, supervisor.tick)
    assert len(starts(queue)) == 2


def test_a_job_that_listens_ends_by_a_signal(queue: Queue):
    job, supervisor = queue.command(("wait", "never")), server(queue)
    supervisor.tick()
    until(lambda: starts(queue))
    assert queue.stop(job.id).state == "stopping"
    until(lambda: queue.get(job.id).end, supervisor.tick)
    assert queue.get(job.id).state == "stopped"


def test_a_deaf_job_is_killed_with_what_it_has_started(queue: Queue):
    file = queue.runs / "child"
    job, supervisor = queue.command(("deaf", str(file))), server(queue, last=0.3)
    supervisor.tick()
    until(lambda: file.is_file() and file.read_text())
    queue.stop(job.id)
    supervisor.tick()
    assert queue.get(job.id).state == "stopping"
    until(lambda: queue.get(job.id).end, supervisor.tick)
    found = queue.get(job.id)
    assert (found.state, found.reason, found.code) == (
        "stopped",
        "it did not end when asked, and was killed",
        -signal.SIGKILL,
    )
    child = int(file.read_text())
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_training_is_asked_by_its_file_first_and_the_file_comes_back(queue: Queue):
    job, supervisor = trains(queue), server(queue, patience=60.0, last=60.0)
    job = queue.write(replace(job, pid=os.getpid(), born=psutil.Process().create_time()))
    queue.stop(job.id)
    stop = queue.runs / "one" / "stop"
    assert stop.is_file()
    stop.unlink()  # as a start does that has not seen it
    supervisor.tick()
    assert stop.is_file()
    assert queue.get(job.id).urged == 0
    queue.write(replace(job, end="stopped"))  # the fixture must not kill this process


def test_an_earlier_stop_does_not_stop_the_next_start(queue: Queue):
    job = trains(queue)
    stop = queue.runs / "one" / "stop"
    stop.touch()
    server(queue).tick()
    assert not stop.exists()
    until(lambda: queue.get(job.id).end)


LINES = {"done": '{"phase": "x", "event": "done"}', "failed": '{"phase": "x", "event": "failed", "message": "no"}'}
LINES["stopped"] = LINES["failed"].replace("failed", "stopped")


@pytest.mark.parametrize(
    ("code", "said", "stop", "end"),
    [
        (0, "", 0.0, "done"),
        (None, LINES["done"], 0.0, "done"),
        (None, LINES["done"] + "\nstudio: note: that was it", 9.0, "done"),
        (2, LINES["failed"], 0.0, "failed"),
        (None, LINES["failed"], 9.0, "failed"),
        (None, "studio: error: no", 0.0, "failed"),
        (130, LINES["stopped"], 0.0, "stopped"),
        (130, "studio: stopped before anything was written", 9.0, "stopped"),
        (None, LINES["stopped"], 9.0, "stopped"),
        (None, LINES["stopped"], 0.0, "again"),  # the whole machine was asked to end
        (-9, LINES["done"].replace("done", "preview"), 0.0, "again"),
        (None, "", 0.0, "again"),
        (None, "{}\n{torn", 0.0, "again"),
    ],
)
def test_how_it_ended_is_read_off_what_it_left(code: int | None, said: str, stop: float, end: str, tmp_path: Path):
    job = Job("a", ("evaluate", "x"), str(tmp_path), stop=stop)
    found, reason = jobs_process.verdict(job, code, said)
    assert found == end
    assert bool(reason) == (end != "done")
    assert reason != end, "the page says the state itself"


def test_a_removed_folder_is_a_failure_with_a_remedy_and_the_next_job_goes_on(queue: Queue):
    job = trains(queue)
    (queue.runs / "one" / "run.toml").unlink()
    following = queue.command(("well",))
    server(queue).tick()
    assert queue.get(job.id).state == "failed"
    assert "start the run again" in queue.get(job.id).reason
    until(lambda: queue.get(following.id).state == "done")


def test_a_secret_in_a_reason_is_not_kept(queue: Queue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_TOKEN", "abcdefgh12345678")
    assert "abcdefgh" not in json.dumps(vars(Job("a", (), "").ends("failed", "it said abcdefgh12345678 twice")))


def test_two_commands_never_work_in_one_run_at_once(queue: Queue):
    folder = queue.runs / "one"
    folder.mkdir()
    for number in range(2):
        queue.command(("wait", str(queue.runs / f"go{number}")), folder)
    elsewhere = queue.command(("wait", "never"))
    server(queue, lanes=3).tick()
    assert [job.state for job in queue.jobs()] == ["running", "waiting", "running"]
    assert queue.get(elsewhere.id).lane == 1


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2), ("GPU-1f, GPU-2e", 2)])
def test_the_gpus_that_are_lent_to_us_are_counted(visible: str, count: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_here() == count


def test_a_job_that_died_and_is_taken_out_has_stopped_not_never_begun(queue: Queue):
    job = queue.command(("die",))
    server(queue).tick()
    until(lambda: queue.get(job.id).state == "waiting")
    assert queue.cancel(job.id).state == "stopped"
