"""The Watch tab without a browser: it draws what is new, nothing else, and its buttons act on the disk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from studio.pipelines.errors import UsageError
from studio.ui import live_ask, live_queue
from studio.ui.jobs import Queue
from studio.ui.live_numbers import COLOURS
from studio.ui.live_state import doing
from studio.ui.place import Place, home
from tests.ui.test_live import live, look, made, preview, said, step

gr = pytest.importorskip("gradio")


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return home(tmp_path / "runs")


@pytest.fixture
def tab(here: Place) -> Any:
    from studio.ui import tab_watch

    async def build() -> Any:  # in a running loop: without one, gradio leaves loops of its own open
        with gr.Blocks():
            return tab_watch.build(lambda request: here)

    return asyncio.run(build())


def visit(tab: Any, name: str | None, seen: dict[str, Any], at: int = 0, number: str | None = None) -> dict[Any, Any]:
    """A look of a visitor, who keeps what the page was told to keep. at: where the slider was just moved to, if so."""
    asked = (name, number, None, seen, None)
    found = tab.turn(at, *asked) if at else tab.look(*asked)
    if found == gr.skip():
        return {}
    assert set(found) <= set(tab.outputs())
    seen.clear()
    seen.update(found.pop(tab.seen))
    return found


def test_a_look_draws_what_is_new_and_nothing_else(tab: Any, here: Place):
    run, seen = made(here.runs / "a", *(step(number) for number in range(1, 9))), {}
    first = visit(tab, "a", seen)
    assert {tab.run, tab.status, tab.curve, tab.gallery, tab.log, tab.queue.table} <= set(first)
    assert visit(tab, "a", seen) == {}
    run.log(step(9))
    changed = visit(tab, "a", seen)
    assert set(changed) <= {tab.status, tab.curve, tab.rate, tab.other}
    assert (changed[tab.curve]["visible"], changed[tab.rate]["visible"]) == (True, False)  # there is no lr yet
    assert [9, pytest.approx(1 / 9), "each step"] in changed[tab.curve]["value"]["data"]
    assert tab.curve.postprocess(changed[tab.curve]["value"]) == changed[tab.curve]["value"]  # as gradio wants it
    run.log(said("warning", message="too dark"))
    assert set(visit(tab, "a", seen)) == {tab.notes, tab.log, tab.logs}
    preview(run, "base-00.png")
    assert set(visit(tab, "a", seen)) == {tab.at, tab.gallery}
    assert visit(tab, "a", {}).keys() == first.keys() | {tab.notes}  # another page, another browser: the same truth


def test_the_slider_follows_the_run_unless_somebody_looks_back(tab: Any, here: Place):
    run, seen = made(here.runs / "a", step(1)), {}
    for label in ("base", "000010", "000020"):
        preview(run, f"{label}-00.png")
    shown = visit(tab, "a", seen)
    assert shown[tab.at]["value"] == 2
    assert "step 20 (2 of 2)" in shown[tab.at]["label"]
    preview(run, "000030-00.png")
    assert visit(tab, "a", seen)[tab.at]["value"] == 3
    back = visit(tab, "a", seen, at=1)
    assert [Path(path).name for path, _ in back[tab.gallery]["value"]] == ["base-00.png", "000010-00.png"]
    preview(run, "000040-00.png")
    assert visit(tab, "a", seen)[tab.at]["value"] == 1
    visit(tab, "a", seen, at=4)  # its end: it follows again
    preview(run, "000050-00.png")
    assert visit(tab, "a", seen)[tab.at]["value"] == 5
    assert tab.at not in tab.inputs()  # a page that is late would send a step beyond the end that it does not know yet


def test_what_has_nothing_to_show_is_a_sentence_and_no_empty_box(tab: Any, here: Place):
    run, seen = made(here.runs / "a", said("message", "load", when=time.time())), {}
    shown = visit(tab, "a", seen)
    hidden = (tab.curve, tab.rate, tab.gallery, tab.other, tab.queue.job, tab.queue.sooner, tab.queue.clear)
    assert not any(shown[one]["visible"] for one in hidden)
    assert "first training step" in shown[tab.notes]
    assert "Previews appear here" in shown[tab.notes]
    assert "Train" in shown[tab.queue.table]
    run.log(step(1, at=time.time()))
    preview(run, "base-00.png")
    then = visit(tab, "a", seen)
    assert then[tab.curve]["visible"]
    assert then[tab.gallery]["visible"]
    assert not then[tab.notes]


def test_a_run_by_rewards_shows_its_panels_and_another_run_hides_them(tab: Any, here: Place):
    made(here.runs / "a", look(1), look(2))
    made(here.runs / "b", step(1))
    seen: dict[str, Any] = {}
    shown = visit(tab, "a", seen)
    titles = [shown[plot]["label"].partition(": blue")[0] for plot in tab.panels if shown[plot]["visible"]]
    assert titles == ["trained reward", "held-out clip", "diversity", "kl: distance from the start"]
    assert {row[2] for plot in tab.panels if (drawn := shown[plot]["value"]) for row in drawn["data"]} <= set(COLOURS)
    assert shown[tab.curve]["label"].startswith("reward by step")
    other = visit(tab, "b", seen)
    assert not any(other[plot]["visible"] for plot in tab.panels if plot in other)
    assert sum(plot in other for plot in tab.panels) == len(titles)


def test_another_number_is_drawn_when_it_is_asked_for(tab: Any, here: Place):
    made(here.runs / "a", step(1, loss=1.0, gap=2.0, grad_norm=3.0))
    seen: dict[str, Any] = {}
    assert visit(tab, "a", seen)[tab.number]["choices"] == ["gap", "grad_norm"]
    assert visit(tab, "a", seen, number="grad_norm")[tab.other]["value"]["data"] == [[1, 3.0, "value"]]


@pytest.mark.parametrize("name", ["../outside", "/etc", "none-such", "a/../a", "x" * 300, "<b>"])
def test_a_name_that_is_no_run_is_a_sentence(tab: Any, here: Place, name: str):
    made(here.runs / "a", step(1))
    made(here.runs.parent / "outside", step(1))
    seen: dict[str, Any] = {}
    shown = visit(tab, name, seen)
    assert "watch-empty" in shown[tab.status]
    assert "<b>" not in shown[tab.status]
    assert "Traceback" not in shown[tab.status]
    assert visit(tab, name, seen) == {}
    assert tab.curve in visit(tab, "a", seen)


def test_a_page_opens_with_what_it_showed_before_or_what_is_at_work(tab: Any, here: Place):
    assert tab.arrive(None, None)["value"] is None
    made(here.runs / "a", step(1))
    made(here.runs / "b", step(1))
    assert tab.arrive("a", None)["value"] == "a"
    assert tab.arrive("gone", None)["value"] in ("a", "b")
    seen: dict[str, Any] = {}
    assert tab.run not in visit(tab, None, seen)  # the first look leaves it to the browser's memory
    assert visit(tab, None, seen)[tab.run]["value"] in ("a", "b")
    made(here.runs / "c", said("message", "load"))
    assert visit(tab, "a", seen)[tab.run]["value"] == "c"  # just started while the other rests


def test_stop_reaches_a_run_whoever_started_it(here: Place):
    run = made(here.runs / "a", step(1))
    queue = Queue(here.runs)
    with pytest.raises(UsageError, match="nothing to stop"):
        live_ask.stop(queue, run, doing(live(run)))
    with FileLock(run.folder / ".lock"):
        live_ask.stop(queue, run, doing(live(run)))
    assert run.asks_to_stop()
    job = queue.command(("train", str(run.config_file), "--json"), run.folder)
    live_ask.stop(queue, run, "waiting")
    assert queue.get(job.id).state == "cancelled"


def test_resume_trains_even_after_something_else_was_done_with_the_run(here: Place):
    run = made(here.runs / "a", step(1), said("stopped", at=1))
    (run.checkpoints / "step-000001").mkdir(parents=True)
    queue = Queue(here.runs)
    live_ask.sample(queue, run, "stopped")
    assert [job.words[:2] for job in queue.jobs()] == [("preview", "a")]
    live_ask.resume(queue, run)
    job = queue.of("a")
    assert job is not None
    assert job.words == ("train", str(run.config_file), "--json")
    assert doing(live(run), job) == "waiting"
    live_ask.resume(queue, run)
    assert len(queue.jobs()) == 2
    queue.cancel(job.id)
    run.log(said("done", "check", at=100))
    with pytest.raises(UsageError, match="more steps"):
        live_ask.resume(queue, run)


def test_sampling_needs_weights(here: Place):
    run = made(here.runs / "a", step(1))
    with pytest.raises(UsageError, match="no checkpoint"):
        live_ask.sample(Queue(here.runs), run, "stopped")
    live_ask.sample(Queue(here.runs), run, "running")
    assert (run.folder / "sample-now").is_file()


def test_the_queue_says_a_state_once(here: Place):
    job = Queue(here.runs).command(("preview", "a"))
    assert live_queue.state(job.ends("stopped", "stopped; kept: step-000010")) == "stopped; kept: step-000010"
    assert live_queue.state(job.ends("failed", "the disk is full")) == "failed: the disk is full"
    assert live_queue.state(job) == "waiting"


def test_the_queue_is_shown_in_its_order_and_can_be_changed(tab: Any, here: Place):
    queue = Queue(here.runs)
    jobs = [queue.command(("evaluate", name)) for name in ("one", "two", "<b>three")]
    seen: dict[str, Any] = {}
    shown = visit(tab, None, seen)[tab.queue.table]
    assert shown.index("evaluate") < shown.index("waiting")
    assert "<b>" not in shown
    assert [value for _, value in live_queue.choices(queue.jobs())] == [job.id for job in jobs]
    live_queue.move(queue, jobs[2].id, -1)
    assert [job.id for job in live_queue.listed(queue.jobs())] == [jobs[0].id, jobs[2].id, jobs[1].id]
    live_queue.move(queue, jobs[0].id, -1)  # the first stays the first
    live_queue.move(queue, jobs[1].id, 1)
    assert [job.id for job in live_queue.listed(queue.jobs())] == [jobs[0].id, jobs[2].id, jobs[1].id]
    queue.cancel(jobs[0].id)
    assert tab.queue.table in visit(tab, None, seen)
    assert jobs[0].id not in [value for _, value in live_queue.choices(queue.jobs())]
    with pytest.raises(UsageError, match="only a job that waits"):
        live_queue.move(queue, jobs[0].id, 1)


def test_a_page_that_shows_no_run_yet_does_not_say_so_once_one_was_started(tab: Any, here: Place):
    made(here.runs / "a")
    chosen, kept, status = tab.begun(("a", 1), {}, None)
    assert (chosen["value"], kept) == ("a", "a")
    assert "Looking at the runs" in status
    assert tab.begun(("a", 2), {"run": "a"}, None)[2] == gr.skip()


def test_an_emptied_field_goes_on_with_the_run_that_is_watched(tab: Any, here: Place):
    for name in ("old", "new"):
        made(here.runs / name, step(1))
    seen: dict[str, Any] = {}
    visit(tab, "old", seen)
    assert visit(tab, None, seen)[tab.run]["value"] == "old"
