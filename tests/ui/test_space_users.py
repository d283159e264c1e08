"""Users of one Space, over HTTP, as the client in `page_api`: a run is started, watched, and its adapter fetched.

Nobody sees another one's runs or files, and a restart goes on with what was at work.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from studio.pipelines import backbone
from studio.pipelines.adapters import files
from studio.store import Run
from studio.ui import shots
from studio.ui.jobs import Queue
from studio.ui.library import entries
from tests.ui.journey_steps import held, until
from tests.ui.test_space import ROOT, SPACE

STEPS = 200  # of the toy model


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


def client(address: str, name: str, folder: Path) -> Any:
    """The interface as a user sees it; "": as a stranger does. folder: where downloads go."""
    from gradio_client import Client

    return Client(address, verbose=False, headers=cookie(name), download_files=folder / "downloads")


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

    data, previews = {"folder": "subject:dog"}, {"every": 0}
    settings = {"steps": STEPS, "save_every": 20, "keep_last": 2, "precision": "no", "data": data, "previews": previews}
    wanted = {"trainer": "dreambooth", "model": "toy", "run": "one", "dreambooth": settings}
    runs = tmp_path / "space-data" / "studio" / "users" / "ana" / "runs"
    with space(tmp_path) as (address, process):
        ana, ben, stranger = (client(address, name, tmp_path) for name in ("Ana", "ben", ""))
        assert ana.predict(wanted, api_name="/start_run") == "one"
        with held(runs / "one", 21):
            apart(address, runs, ana, ben, stranger)
            with pytest.raises(AppError, match="sign in"):
                stranger.predict(wanted, api_name="/start_run")
            before = ana.predict("one", api_name="/run_status")
            assert (before["state"], before["adapter"]) == ("running", False)
            (job,) = Queue(runs).jobs()
            process.kill()  # first: nobody is there to see how the run ends, as when a Space is restarted
            process.wait()
            os.killpg(job.pid, signal.SIGKILL)
    with space(tmp_path) as (address, process):
        ana, ben = client(address, "Ana", tmp_path), client(address, "ben", tmp_path)
        now = until(lambda: (said := ana.predict("one", api_name="/run_status"))["state"] == "done" and said, "it ends")
        assert (now["step"], now["saved"], now["adapter"]) == (STEPS, STEPS, True)
        steps = [event.step for event in Run(runs / "one").events() if event.numbers]
        assert steps.count(before["saved"]) == 1, "it went on from its checkpoint"
        file = Path(ana.predict("one", "diffusers", api_name="/fetch_adapter"))
        assert tmp_path in file.parents, "the file came over the wire"
        assert file.read_bytes() == (runs / "one" / "adapter.safetensors").read_bytes()
        assert files.load(backbone.load("toy"), file).parameters()
        assert [(entry.name, entry.state()) for entry in entries(runs)] == [("one", "done")]
        with pytest.raises(AppError, match="no run 'one'"):
            ben.predict("one", "diffusers", api_name="/fetch_adapter")
    assert "hot-reload" not in (tmp_path / "server.log").read_text()


def apart(address: str, runs: Path, ana: Any, ben: Any, stranger: Any) -> None:
    """A run is there for its owner and for nobody else, whichever way they ask."""
    from gradio_client.exceptions import AppError

    assert ana.predict("one", api_name="/run_status")["run"] == "one"
    for other in (ben, stranger):
        with pytest.raises(AppError, match="no run 'one'"):
            other.predict("one", api_name="/run_status")
    for file in (runs / "one" / "run.toml", runs / ".queue", runs / ".." / "runs" / "one" / "run.toml"):
        for way in ("gradio_api/file=", "gradio_api/file/", "file=", "file/"):
            for path in (str(file), quote(str(file), safe="")):
                assert fetched(f"{address}{way}{path}", "ben") in (403, 404), (way, path)
