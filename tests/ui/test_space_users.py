"""Users of one Space: nobody sees another one's runs or files, and a restart goes on with what was at work."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from studio.ui import shots
from studio.ui.jobs import Queue
from tests.ui.test_space import ROOT, SPACE

PATIENCE = 120.0  # seconds


@contextmanager
def space(home: Path) -> Iterator[tuple[str, Any]]:
    """`app.py` as a Space with people who sign in, on hardware of its own: its address and its process."""
    port = shots.free_port()
    found = {"SPACE_HOST": "127.0.0.1", "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    found |= {"OAUTH_SCOPES": "openid profile", "OPENID_PROVIDER_URL": "https://hub.invalid"}
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # nothing but the checkout
    words = [sys.executable, str(ROOT / "app.py")]
    with shots.running(words, port, home / "server.log", cwd=home, env={**bare, **SPACE, **found}) as process:
        yield f"http://127.0.0.1:{port}/", process


def cookie(name: str) -> dict[str, str]:
    """What the browser of a signed-in user sends: the session as gradio signs it after the hub's answer."""
    from itsdangerous import TimestampSigner

    info = {"userinfo": {"preferred_username": name}, "expires_at": time.time() + 3600}
    said = base64.b64encode(json.dumps({"oauth_info": info}).encode())
    key = hashlib.sha256(f"{SPACE['OAUTH_CLIENT_SECRET']}-v4".encode()).hexdigest()
    return {"Cookie": f"session={TimestampSigner(key).sign(said).decode()}"} if name else {}


def client(address: str, name: str) -> Any:
    """The interface as a user sees it; "": as a stranger does."""
    from gradio_client import Client

    return Client(address, verbose=False, headers=cookie(name))


def until(done: Callable[[], Any]) -> Any:
    """What `done` gives when it is something."""
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        assert time.monotonic() < end
        time.sleep(0.3)
    return found


def fetched(url: str, name: str) -> int:
    """The status of a request by a user."""
    try:
        with urlopen(Request(url, headers=cookie(name)), timeout=20) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


@pytest.mark.enable_socket
def test_users_are_apart_and_a_run_goes_on_after_a_restart(tmp_path: Path) -> None:
    from gradio_client.exceptions import AppError

    data = {"folder": "subject:dog"}
    settings = {"steps": 10**6, "save_every": 50, "keep_last": 2, "precision": "no", "data": data}
    wanted = {"trainer": "dreambooth", "model": "toy", "run": "one", "dreambooth": settings}
    runs = tmp_path / "space-data" / "studio" / "users" / "ana" / "runs"
    with space(tmp_path) as (address, process):
        ana, ben, stranger = (client(address, name) for name in ("Ana", "ben", ""))
        assert ana.predict(wanted, api_name="/start_run") == "one"
        for other in (ben, stranger):
            with pytest.raises(AppError, match="no run 'one'"):
                other.predict("one", api_name="/run_status")
        with pytest.raises(AppError, match="sign in"):
            stranger.predict(wanted, api_name="/start_run")
        for file in (runs / "one" / "run.toml", runs / ".queue", runs / ".." / "runs" / "one" / "run.toml"):
            for way in ("gradio_api/file=", "gradio_api/file/", "file=", "file/"):
                for path in (str(file), quote(str(file), safe="")):
                    assert fetched(f"{address}{way}{path}", "ben") in (403, 404), (way, path)
        before = until(lambda: ana.predict("one", api_name="/run_status")["saved"])
        (job,) = Queue(runs).jobs()
        process.kill()  # first: nobody is there to see how the run ends, as when a Space is restarted
        process.wait()
        os.killpg(job.pid, signal.SIGKILL)
    with space(tmp_path) as (address, process):
        ana = client(address, "Ana")
        until(lambda: ana.predict("one", api_name="/run_status")["saved"] > before)
        ana.predict("one", api_name="/stop_run")
        now = until(lambda: (said := ana.predict("one", api_name="/run_status"))["state"] == "stopped" and said)
        assert now["adapter"] is False
