"""The server of the page: its address, its files, its queue's thread, until somebody stops it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from studio.disk import make
from studio.pipelines.confine import HOME
from studio.pipelines.errors import UsageError
from studio.ui import stubs
from studio.ui.guard import Guard, Rules
from studio.ui.place import Where
from studio.ui.safety import PAUSE, TRIES, Door, check_address, is_local, private

WAITING = 64  # events of the page that wait at once; later ones are told that it is busy
AT_ONCE = 8  # of one kind
ASLEEP = 0.02  # seconds between two looks for events; a thousand a second, as gradio has it, take 7 % of a core
UNTOLD = dict.fromkeys(("docs_url", "redoc_url", "openapi_url"))  # what the web framework tells of itself, to anybody
ASK = (
    f"Name and password, as the line of the file that --auth names. After {TRIES} wrong ones the right one has to wait "
    f"for {PAUSE:g} seconds."
)
GRADIO = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SHARE": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Service:
    """What to serve.

    where: from a request to its place; base: the folder of all runs; roots: folders that runs, pictures and models may
    lie in; users: names and passwords that are asked for; port: None for the first that is free from 7860 on;
    upload: MiB of one upload; lanes: runs at once; notes: sentences for everybody; code: whether rewards may be Python
    functions and judges over HTTP.
    """

    where: Where
    base: Path
    roots: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int | None = None
    users: Mapping[str, str] = field(default_factory=dict)
    upload: int = 1024
    lanes: int = 1
    notes: tuple[str, ...] = ()
    space: bool = False
    sign_in: bool = False
    browser: bool = False
    code: bool = False

    @property
    def cache(self) -> Path:
        """Copies of what the page shows and of what was uploaded; nobody else on the machine may look in."""
        return self.base / ".cache" / "page"


def serve(service: Service) -> None:
    """Serves until interrupted or told to end. Raises UsageError for an address that is not safe, or taken."""
    check_address(service.host, service.port or 7860, bool(service.users) or service.space)
    prepare(service)
    with stubs.left_out():
        from gradio import http_server

        from studio.ui import page

        built = page.build(service.where, service.notes, service.sign_in)
    from studio.ui import draft as drafts
    from studio.ui.drawing_room import ROOM
    from studio.ui.jobs_supervisor import Supervisor

    http_server.watchfn_spaces = stay  # on a Space it opens a port of its own, or dies of a package that is not there
    built.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
    built._queue.sleep_when_free = built._queue.progress_update_sleep_when_free = ASLEEP
    with until_told() as over, Supervisor(service.base, service.lanes, before=ROOM.make_way).at_work():
        try:
            _, address, _ = built.launch(**how(service))
        except OSError as error:
            port = service.port or "7860 or later"
            raise UsageError(f"the page could not open port {port}: it is taken; give another one, --port") from error
        print(f"studio: the page is at {address} (Ctrl+C closes it; runs at work go on)", file=sys.stderr, flush=True)
        try:
            drafts.known_to(drafts.fresh())  # imports what the first visitor's form would wait for
            over.wait()
        finally:
            with suppress(OSError):
                built.close(verbose=False)
    print("studio: the page is closed; runs at work go on, and `studio ui` shows them again", file=sys.stderr)


def prepare(service: Service) -> None:
    """Folders and the environment, before gradio is imported: it reads its own there."""
    make(service.base)
    os.environ |= GRADIO | {"GRADIO_TEMP_DIR": str(private(service.cache))}
    os.environ["STUDIO_CODE"] = str(int(service.code))
    os.environ.setdefault("STUDIO_ROOTS", os.pathsep.join(str(root) for root in service.roots))


def how(service: Service) -> dict[str, Any]:
    """What gradio is told: nothing that it would guess from the environment is left to it."""
    from starlette.middleware import Middleware

    from studio.ui.theme import CSS, theme

    rules = Rules(service.cache, service.upload << 20, is_local(service.host) and not service.space, service.space)
    return {
        "server_name": service.host,
        "server_port": service.port,
        "prevent_thread_lock": True,
        "quiet": True,
        "share": False,
        "inbrowser": service.browser,
        "auth": Door(service.users) if service.users else None,
        "auth_message": ASK if service.users else None,
        "show_error": False,
        "allowed_paths": [str(path) for path in dict.fromkeys((*service.roots, service.base, HOME))],
        "max_file_size": f"{service.upload}mb",
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": ["api", "settings"],
        "ssr_mode": False,
        "mcp_server": False,
        "app_kwargs": {"middleware": [Middleware(Guard, rules=rules)], **UNTOLD},
        "theme": theme(),
        "css": CSS,
    }


def stay(reloader: Any) -> None:
    """In place of gradio's thread that swaps a Space's code under the open page: ours changes with a restart."""


@contextmanager
def until_told() -> Iterator[threading.Event]:
    """An event that Ctrl+C and SIGTERM set; the handlers are put back after it."""
    over = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:
        over.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield over
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
