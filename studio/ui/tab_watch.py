"""The Watch tab: a run's folder as it grows, drawn without flicker; stop, resume, sample now; the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.context import Context

from studio.pipelines.errors import UsageError
from studio.ui import live_ask, live_log, live_previews, live_words
from studio.ui.jobs import Job, Queue, newest
from studio.ui.jobs_api import found
from studio.ui.live import Live, Readers
from studio.ui.live_numbers import EACH, drawing, named
from studio.ui.live_state import AT_WORK, Doing, buttons, doing
from studio.ui.place import Place, Where
from studio.ui.tab_queue import QUIET, Updates
from studio.ui.tab_train_parts import STARTED
from studio.ui.tab_watch_parts import EVERY, FAR, IDLE, PANELS, Parts, empty, layout
from studio.ui.words import EMPTY, shown, toast

APART = ("loss", "reward", "lr")  # numbers with a drawing of their own
STAY = ("names", "queue", "arrived", "panels", "pace")  # what a visitor has seen that is not of one run
OPEN = "() => document.getElementById('tab-watch-button')?.click()"
READERS = Readers()


class Tab(Parts):
    """The tab at work: every look reads the disk, and draws what this visitor's page does not have yet."""

    def bind(self) -> None:
        """Looks come with the clock and with every change; a reload finds the run that was watched."""
        looks: dict[str, Any] = {"inputs": self.inputs(), "outputs": self.outputs(), "concurrency_limit": 8, **QUIET}
        self.timer.tick(self.look, **looks)
        for changed in (self.run.change, self.number.input):
            changed(self.look, trigger_mode="always_last", **looks)
        self.at.input(self.turn, trigger_mode="always_last", **{**looks, "inputs": [self.at, *self.inputs()]})
        self.run.change(None, self.run, self.kept, js="(name) => name", **QUIET)

        def then(done: Any) -> None:
            done.then(self.look, **looks)

        for button, ask in (
            (self.stop, ask_stop),
            (self.resume, ask_resume),
            (self.sample, ask_sample),
            (self.back, ask_back),
        ):
            then(button.click(self.asking(ask), self.run, None, **QUIET))
        self.queue.bind(then)

    def follow(self, started: gr.State) -> None:
        """A run that another tab has started is shown here. started: its name, and what makes it another value."""
        told = started.change(self.begun, [started, self.seen], [self.run, self.kept, self.status], **QUIET)
        told.then(None, js=OPEN, **QUIET)  # only now: an empty page would say that nothing is watched

    def begun(self, started: tuple[str, str], seen: dict[str, Any] | None, request: gr.Request) -> Any:
        """The run that was just started; on a page that shows no run yet, a word until the first look at it."""
        name = started[0]
        names = [run.name for run in self.place(request).store.list()]
        told = gr.skip() if (seen or {}).get("run") else empty(EMPTY["looking"])
        return gr.update(choices=names, value=name), name, told

    def arrive(self, kept: str | None, request: gr.Request) -> Any:
        """Which run a page shows that was just opened: the one it showed before, one at work, or the newest."""
        here = self.place(request)
        names = [run.name for run in here.store.list()]
        return gr.update(choices=names, value=kept if kept in names else first(names, Queue(here.runs).jobs()))

    def turn(
        self, at: float, name: str, number: str | None, job: str | None, seen: dict[str, Any], request: gr.Request
    ) -> Any:
        """The previews of another step; at the slider's end they follow the run."""
        return self.look(name, number, job, {**seen, "at": FAR if at >= seen.get("count", 0) else int(at)}, request)

    def look(
        self, name: str | None, number: str | None, job: str | None, seen: dict[str, Any] | None, request: gr.Request
    ) -> Any:
        """What has changed on the disk since this visitor's last look; nothing else is drawn anew."""
        before, seen = dict(seen or {}), dict(seen or {})
        try:
            here = self.place(request)
            jobs = Queue(here.runs).jobs()
            out = self.queue.look(jobs, job, seen)
            name = self.choose(here, name, jobs, seen, out)
            if not name and not seen["names"]:
                out |= changed(seen, "status", EMPTY["watch"], {self.status: empty(EMPTY["watch"])})
            elif name:
                out |= self.watched(here, name, number or "", newest(jobs).get(name), seen)
            pace = EVERY if seen.get("what") in AT_WORK or any(not job.end for job in jobs) else IDLE
            out |= changed(seen, "pace", pace, {self.timer: gr.update(value=pace)})
        except Exception as error:
            said, seen = shown(error), before
            out = changed(seen, "status", said, {self.status: empty(said)})
        return {**out, self.seen: seen} if out else gr.skip()

    def choose(self, here: Place, name: str | None, jobs: Sequence[Job], seen: dict[str, Any], out: Updates) -> str:
        """The run to show; the list of runs is drawn anew where it changed."""
        names = [run.name for run in here.store.list()]
        if not (name or seen.get("arrived") or seen.get("run")):
            # `arrive` knows what the browser remembers: the first look leaves it
            seen["arrived"], seen["names"] = True, names
            return ""
        stays = seen.get("run") if seen.get("run") in names else ""  # typing a run's name once more empties the field
        chosen = name or stays or first(names, jobs) or ""
        fresh = [new for new in names if new not in seen.get("names", names)]
        if fresh and seen.get("what") not in AT_WORK:  # somebody has just started it
            chosen = fresh[0]
        if seen.get("names") != names or chosen != (name or ""):
            seen["names"] = names
            # a look that comes late leaves alone what was chosen meanwhile
            out[self.run] = gr.update(choices=names, **({"value": chosen} if chosen != (name or "") else {}))
        return chosen

    def watched(self, here: Place, name: str, number: str, job: Job | None, seen: dict[str, Any]) -> Updates:
        """What is new of one run."""
        run = found(name, here)
        if seen.get("run") != name:
            for part in [part for part in seen if part not in STAY]:
                del seen[part]
            seen["run"] = name
        with READERS.at(run.folder) as live:
            seen["what"] = what = doing(live, job)
            out = self.state(live, what, job, here.writable, seen)
            out |= self.pictures(live, seen)
            out |= self.numbers(live, number, seen)
            stamps = live.stamps()
            if seen.get("log") != stamps["log"]:
                text = live_log.text(run.folder, live.lines)
                drawn = {self.log: text, self.logs: gr.update(visible=bool(text))}
                out |= changed(seen, "log", stamps["log"], drawn)
        return out

    def state(self, live: Live, what: Doing, job: Job | None, writable: bool, seen: dict[str, Any]) -> Updates:
        """State, buttons and what should be read."""
        status, on = str(live_words.status(live, what)), buttons(live, what, writable)
        hints = hinted(live) if what == "running" else []
        why = job.reason if job is not None and (job.state == "waiting" or what == "failed") else ""
        texts = list(dict.fromkeys([*live_words.outcome(live, what), why, *hints]))
        notes = str(live_words.notes(live, [text for text in texts if text not in live.notes]))
        out = changed(seen, "status", status, {self.status: status})
        out |= changed(seen, "notes", notes, {self.notes: notes})
        sides = {self.stop: on.stop, self.resume: on.resume, self.sample: on.sample}
        drawn = {one: gr.update(interactive=able) for one, able in sides.items()}
        drawn[self.back] = gr.update(interactive=on.back, visible=on.back)
        return out | changed(seen, "buttons", on, drawn)

    def pictures(self, live: Live, seen: dict[str, Any]) -> Updates:
        """The previews beside the base model's; a slider at its end follows the run."""
        stamp, asked = live.stamps()["previews"], seen.get("at", FAR)
        if seen.get("previews") == (stamp, asked):
            return {}
        base, own = live_previews.found(live.run.folder, live.numbers.course())
        seen["count"], seen["previews"] = (count := len(own)), (stamp, asked)
        at = min(max(1, asked), max(1, count))
        shown = own[at - 1] if own else None
        pairs = [(str(path), text) for path, text in live_previews.pairs(base, shown)]
        label = f"Previews at {shown.title} ({at} of {count})" if shown else "Previews of the base model"
        slider = gr.update(maximum=max(count, 2), value=at, label=label, visible=count > 1)
        return {self.at: slider, self.gallery: gr.update(value=pairs, label=label, visible=bool(pairs))}

    def numbers(self, live: Live, number: str, seen: dict[str, Any]) -> Updates:
        """The lines, where a step was added or another number is asked for."""
        stamp, numbers = live.stamps()["numbers"], live.numbers
        out: Updates = {}
        if seen.get("numbers") != stamp:
            main, panels = numbers.main, numbers.panels()[:PANELS]
            curve = numbers.curve()
            rate = drawing({"value": numbers.points("lr")})
            over = mean[1] if (mean := numbers.mean()) else 0
            label, begun = named(f"{main} by step", curve, over), bool(curve[EACH])
            out[self.curve] = gr.update(value=drawing(curve), label=label, visible=begun)
            out[self.rate] = gr.update(value=rate, visible=bool(rate))
            for plot, (title, lines) in zip(self.panels, panels, strict=False):
                out[plot] = gr.update(value=drawing(lines), label=named(title, lines), visible=True)
            for plot in self.panels[len(panels) : seen.get("panels", PANELS)]:
                out[plot] = gr.update(value=None, visible=False)
            seen["panels"] = len(panels)
        names = [name for name in numbers.names() if name not in APART]
        number = number if number in names else next(iter(names), "")
        if seen.get("others") != names:
            seen["others"] = names
            out[self.number] = gr.update(choices=names, value=number or None)
            out[self.more] = gr.update(visible=bool(names))
        if seen.get("numbers") != stamp or seen.get("number") != number:
            line = drawing({"value": numbers.points(number)})
            out[self.other] = gr.update(value=line, label=f"{number} by step", visible=bool(number))
        seen["numbers"], seen["number"] = stamp, number
        return out

    def asking(self, ask: Callable[[Place, str], str]) -> Callable[..., None]:
        """A button's handler: what was done is told, what cannot be done is an error with a remedy."""

        def handle(name: str | None, request: gr.Request) -> None:
            try:
                said = ask(self.place(request), name or "")
            except Exception as error:
                raise gr.Error(toast(error), print_exception=False) from None
            gr.Info(said)

        return handle


def ask_stop(here: Place, name: str) -> str:
    """Stop."""
    here.may_write("stopping a run")
    return live_ask.stop(Queue(here.runs), run := found(name, here), now(here, run))


def ask_resume(here: Place, name: str) -> str:
    """Resume."""
    here.may_train()
    return live_ask.resume(Queue(here.runs), found(name, here), here.owner)


def ask_sample(here: Place, name: str) -> str:
    """Sample now."""
    here.may_train()  # in a process of its own, which a Space without a GPU of its own cannot have
    with READERS.at(found(name, here).folder) as live:
        if live.end is None and live.phase != "train" and live.step >= live.rate.total > 0:
            raise UsageError(f"the run '{name}' is past its last step: its pictures are drawn as it ends")
    return live_ask.sample(Queue(here.runs), run := found(name, here), now(here, run), here.owner)


def ask_back(here: Place, name: str) -> str:
    """Roll back."""
    here.may_train()
    return live_ask.back(Queue(here.runs), run := found(name, here), now(here, run), here.owner)


def now(here: Place, run: Any) -> Doing:
    """What a run does at this moment."""
    job = Queue(here.runs).of(run.name)
    with READERS.at(run.folder) as live:
        return doing(live, job)


def first(names: list[str], jobs: Sequence[Job]) -> str | None:
    """A run that is at work, else the newest."""
    busy = [job.run for job in jobs if job.trains and job.state in ("running", "stopping")]
    return next((name for name in [*busy, *names] if name in names), None)


def hinted(live: Live) -> list[str]:
    """What is to come where a run at work has nothing to show yet, in sentences."""
    curve = [] if live.numbers.last else [EMPTY["curve"]]
    return curve if live_previews.stamp(live.run.folder) else [*curve, EMPTY["previews"]]


def changed(seen: dict[str, Any], part: str, stamp: Any, updates: Updates) -> Updates:
    """The updates, if a part's stamp is another one than this visitor has seen."""
    if seen.get(part) == stamp:
        return {}
    seen[part] = stamp
    return updates


def build(place: Where, page: gr.Blocks | None = None) -> Tab:
    """The tab, inside the page that is being built. page: whose opening shows the run that was watched before."""
    tab = Tab(**layout(place))
    tab.bind()
    page = page or Context.root_block
    if page is not None:
        page.load(tab.arrive, tab.kept, tab.run, **QUIET)
        if started := next((one for one in page.blocks.values() if one.elem_id == STARTED), None):
            tab.follow(started)
    return tab
