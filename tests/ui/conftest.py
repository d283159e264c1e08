"""A real server in a process of its own, and a real browser; skipped with the reason where one is missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from studio.pipelines.errors import UsageError
from studio.ui import shots

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    """A page that runs: its address, its folder of runs, its process."""

    address: str
    runs: Path
    process: Any


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers: start() is `studio ui`; runs: a folder that is there; program, environment: another one."""
    with ExitStack() as stack:

        def begin(
            runs: Path | None = None, program: tuple[str, ...] = (), environment: dict[str, str] | None = None
        ) -> Server:
            home, port = tmp_path_factory.mktemp("page"), shots.free_port()
            runs = runs or home / "runs"
            words = program or ("-m", "studio", "ui", "--port", str(port), "--runs", str(runs))
            paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
            env = {**os.environ, "PYTHONPATH": paths}
            env |= {"GRADIO_SERVER_PORT": str(port), **(environment or {})}
            server = shots.running([sys.executable, *words], port, home / "server.log", cwd=home, env=env)
            return Server(f"http://127.0.0.1:{port}/", runs, stack.enter_context(server))

        yield begin


@pytest.fixture(scope="module")
def server(start: Start) -> Server:
    """One `studio ui` for a file of tests."""
    return start()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for a file of tests."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(shots.browser())
        except UsageError as error:
            pytest.skip(str(error))
        yield found


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A new page, as of a new visitor."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture(autouse=True)
def no_client_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client's heartbeat would reach for the network in the next test."""
    import gradio_client

    begun: list[Any] = []
    begin = gradio_client.Client.__init__

    def remembered(client: Any, *args: Any, **how: Any) -> None:
        begun.append(client)
        begin(client, *args, **how)

    monkeypatch.setattr(gradio_client.Client, "__init__", remembered)
    yield
    for client in begun:
        if hasattr(client, "heartbeat"):
            client.close()
