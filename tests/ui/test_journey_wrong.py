"""What goes wrong on the way: bad pictures, wrong values, a server that dies, two pages at once, a phone."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors import safe_open

from studio.pipelines.errors import UsageError
from studio.store import Run
from studio.ui.jobs import Queue
from studio.ui.jobs_api import fetch_adapter, resume_run, run_status, stop_run
from studio.ui.place import home
from tests import runs
from tests.ui.journey_steps import PICTURES, Visitor, held, step, until

if TYPE_CHECKING:
    from tests.ui.conftest import Server, Start

pytestmark = pytest.mark.enable_socket
PHONE = {"width": 390, "height": 844}
STEPS = 60  # of the toy model: long enough to be stopped on the way


def put(visitor: Visitor, folder: Path, name: str) -> None:
    """A run of the toy model, filled in and started."""
    visitor.open("train")
    visitor.page.locator("#train-upload input[type=file]").set_input_files(sorted(folder.glob("*.png")))
    visitor.says("#train-verdict", "3 pictures used")
    visitor.settings(model="toy", run=name, steps=STEPS, accumulate=8)  # a step takes a while
    visitor.at("#train-start").click()
    visitor.at("#tab-watch").wait_for()


def test_bad_pictures_no_pictures_and_wrong_values_start_nothing(server: Server, page: Any, tmp_path: Path) -> None:
    visitor, queue = Visitor(page, server.address), Queue(server.runs)
    visitor.open("train")
    visitor.at("#train-start").click()
    visitor.says("#train-status", "no pictures yet: drop some above")
    bad = tmp_path / "cat.png"
    bad.write_text("no picture at all")
    visitor.page.locator("#train-upload input[type=file]").set_input_files([bad])
    visitor.says("#train-refused", "cat.png")
    assert not page.locator("[data-testid=toast-body]").count(), "it is said once"
    (tmp_path / "01.txt").write_text("a sks fox " * 300)
    visitor.page.locator("#train-upload input[type=file]").set_input_files([*PICTURES[:2], tmp_path / "01.txt"])
    visitor.says("#train-verdict", "2 pictures used")
    assert visitor.at("#train-captions [data-testid=cell-0-1]").bounding_box()["height"] < 150
    visitor.at("#train-pictures img").click()
    visitor.says("#train-out", "01.png")
    visitor.at("#train-take-out").click()
    visitor.says("#train-verdict", "1 picture used")
    visitor.fill("#setting-lr", 99)
    visitor.says("#train-problem", "Learning rate (lr) = 99")
    visitor.at("#train-start").click()
    visitor.says("#train-status", "Learning rate (lr) = 99: should be at most 10")
    assert not queue.jobs()
    visitor.fill("#setting-lr", 0.01)
    visitor.says("#train-command", "--lr 0.01")
    page.reload()
    visitor.says("#train-command", "--lr 0.01")  # what was filled in is still there
    assert not visitor.faults


def test_a_server_that_dies_leaves_the_run_at_work_and_two_pages_see_the_same(
    start: Start, chromium: Any, tmp_path: Path
) -> None:
    first = start()
    run = first.runs / "one"
    with closing(chromium.new_context(viewport=PHONE)) as context:
        phone = Visitor(context.new_page(), first.address)
        phone.open("train")
        assert phone.width() <= PHONE["width"]
        put(phone, runs.pictures(tmp_path / "good"), "one")
        with held(run, 5):
            phone.state("running", "training")
            assert phone.width() <= PHONE["width"]
            phone.at("#watch-sample-now:not([disabled])").click()
            until((run / "sample-now").is_file, "a picture is asked for")
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            before = step(run)
        until(
            lambda: list(run.glob("samples/0*-00.png")), "the run goes on without its server, and draws what was asked"
        )
        with held(run, before + 1):
            second = start(runs=first.runs)
            pages = [Visitor(context.new_page(), second.address) for _ in range(2)]
            for visitor in pages:
                visitor.open("watch")
                visitor.state("running", "training")
            pages[0].at("#watch-stop").click()
            for visitor in pages:
                visitor.state("stopping")
        for visitor in pages:
            visitor.state("stopped")
        pages[1].at("#watch-resume:not([disabled])").click()
        for visitor in pages:
            visitor.state("done", f"{STEPS:,} of {STEPS:,}")
            assert not visitor.faults
    assert [event.step for event in Run(run).events() if event.numbers] == list(range(1, STEPS + 1))  # none twice
    finished(run)


def finished(run: Path) -> None:
    """What the page's HTTP interface says of a finished run, wherever it was stopped and resumed."""
    place = home(run.parent)
    until(lambda: run_status(run.name, place)["state"] == "done", "the run's process ends")
    done = run_status(run.name, place)
    assert (done["state"], done["step"], done["saved"], done["reason"]) == ("done", STEPS, STEPS, "")
    with safe_open(fetch_adapter(run.name, place), framework="np") as file:
        assert file.keys()
    with pytest.raises(UsageError, match="is finished"):
        resume_run(run.name, place)
    with pytest.raises(UsageError, match="nothing to stop"):
        stop_run(run.name, place)
