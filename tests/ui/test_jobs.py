"""The queue on disk: what was put in comes out in the order that was asked for, and nothing of it is in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.pipelines.errors import UsageError
from studio.ui import jobs
from studio.ui.jobs import Queue
from studio.ui.jobs_process import Job
from studio.ui.jobs_supervisor import turns


def words(queue: Queue, state: str = "waiting") -> list[str]:
    """The first words of the jobs in a state, the next one first."""
    return [job.words[0] for job in queue.jobs() if job.state == state]


def test_what_is_put_in_waits_in_that_order_and_a_second_server_sees_it(tmp_path: Path):
    for word in "abc":
        Queue(tmp_path).command((word,))
    assert words(Queue(tmp_path)) == ["a", "b", "c"]
    assert [Queue(tmp_path).ahead(job) for job in Queue(tmp_path).jobs()] == [0, 1, 2]


def test_the_same_command_twice_is_one_job(tmp_path: Path):
    queue = Queue(tmp_path)
    assert queue.command(("evaluate", "x")) == queue.command(("evaluate", "x"))
    assert len(queue.jobs()) == 1


@settings(max_examples=8, deadline=None)  # each example writes files, and waits until they are on the disk
@given(moves=st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 9)), max_size=4))
def test_moving_puts_a_job_where_it_was_wished_and_loses_none(
    moves: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
):
    queue = Queue(tmp_path_factory.mktemp("runs"))
    for word in "abcd":
        queue.command((word,))
    expected = list("abcd")
    for number, place in moves:
        name = "abcd"[number]
        queue.move(next(job.id for job in queue.jobs() if job.words == (name,)), place)
        expected.remove(name)
        expected.insert(min(max(place, 0), 3), name)
        assert words(queue) == expected


def test_a_cancelled_job_never_begins_and_can_be_put_back_last(tmp_path: Path):
    queue = Queue(tmp_path)
    first, _ = queue.command(("a",)), queue.command(("b",))
    assert queue.cancel(first.id).state == "cancelled"
    assert queue.get(first.id).state == "cancelled"
    assert words(queue) == ["b"]
    with pytest.raises(UsageError, match="only a job that waits"):
        queue.move(first.id, 0)
    queue.resume(first.id)
    assert words(queue) == ["b", "a"]
    queue.cancel(first.id)
    queue.forget()
    assert [job.words[0] for job in queue.jobs()] == ["b"]


def test_of_every_run_the_newest_training_counts(tmp_path: Path):
    queue, folder = Queue(tmp_path), tmp_path / "one"
    first = queue.command(("train", "one"), folder)
    assert queue.cancel(first.id).state == "cancelled"
    assert jobs.newest(queue.jobs())["one"].state == "cancelled"
    second = queue.command(("train", "one", "again"), folder)
    queue.command(("evaluate", "one"), folder)
    assert jobs.newest(Queue(tmp_path).jobs()) == {"one": second} == {"one": queue.of("one")}


def test_a_full_queue_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "MOST", 2)
    queue = Queue(tmp_path)
    queue.command(("a",))
    queue.command(("b",))
    with pytest.raises(UsageError, match="cancel one"):
        queue.command(("c",))
    assert words(queue) == ["a", "b"]


def test_only_jobs_that_ended_long_ago_are_forgotten_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "KEPT", 1)
    queue = Queue(tmp_path)
    for word in "abc":
        queue.cancel(queue.command((word,)).id)
    queue.command(("d",))
    assert [job.words[0] for job in queue.jobs()] == ["c", "d"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"words": 3}', '{"words": [], "what": 1}'])
def test_a_damaged_file_is_a_failed_job_that_says_so(text: str, tmp_path: Path):
    queue = Queue(tmp_path)
    queue.command(("a",))
    (queue.folder / "b.json").write_text(text)
    (damaged,) = (job for job in queue.jobs() if job.end)
    assert (damaged.id, damaged.state) == ("b", "failed")
    assert "b.json is damaged" in damaged.reason
    assert words(queue) == ["a"]


@pytest.mark.parametrize("name", ["", "nobody", "../secret", "a/b", "."])
def test_an_unknown_job_is_one_sentence(name: str, tmp_path: Path):
    (tmp_path / "secret.json").write_text(json.dumps({"words": []}))
    Queue(tmp_path).command(("a",))
    with pytest.raises(UsageError, match="reload the page"):
        Queue(tmp_path).get(name)


def test_users_take_turns_each_in_the_order_of_their_own_queue(tmp_path: Path):
    mine, theirs = Queue(tmp_path / "mine"), Queue(tmp_path / "theirs")
    first, second = (Job(word, (word,), "", asked=asked) for word, asked in (("a", 1.0), ("b", 2.0)))
    other = Job("c", ("c",), "", asked=3.0)
    waiting = [(mine, first), (mine, second), (theirs, other)]
    assert [job.id for _, job in turns(waiting, waiting)] == ["a", "c"]
    working = [(mine, replace(first, pid=1)), (mine, second), (theirs, other)]
    assert [job.id for _, job in turns(working[1:], working)] == ["c", "b"]


def test_the_queue_does_not_load_torch_or_gradio(root: Path):
    code = (
        "import sys; from studio.ui import jobs, jobs_api, jobs_command, jobs_process, jobs_supervisor, jobs_trust;"
        "heavy = {'torch', 'gradio', 'numpy', 'diffusers'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
