"""The studio over HTTP, as the client of `page_api` uses it: a run is started, watched, and its adapter fetched."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from studio.pipelines import backbone
from studio.pipelines.adapters import files
from studio.ui.library import entries

if TYPE_CHECKING:
    from tests.ui.conftest import Server

pytestmark = pytest.mark.enable_socket
PATIENCE = 120.0  # seconds for a run of the toy model, most of which is its imports
SETTINGS = {"steps": 4, "precision": "no", "previews": {"every": 0}, "data": {"folder": "subject:dog"}}


def ended(client: Any, run: str) -> dict[str, Any]:
    """What a run's status says when it is over."""
    until = time.monotonic() + PATIENCE
    while (now := client.predict(run, api_name="/run_status"))["state"] in ("waiting", "running"):
        assert time.monotonic() < until, now
        time.sleep(0.3)
    return dict(now)


def test_a_run_is_started_watched_and_its_adapter_fetched(server: Server, tmp_path: Path) -> None:
    from gradio_client import Client

    client = Client(server.address, verbose=False, download_files=tmp_path)
    wanted = {"trainer": "dreambooth", "model": "toy", "run": "by-wire", "dreambooth": SETTINGS}
    run = client.predict(wanted, api_name="/start_run")
    assert run == "by-wire"
    now = ended(client, run)
    assert (now["state"], now["step"], now["adapter"]) == ("done", 4, True), now
    file = Path(client.predict(run, "diffusers", api_name="/fetch_adapter"))
    assert tmp_path in file.parents, "the file came over the wire"
    assert file.read_bytes() == (server.runs / run / "adapter.safetensors").read_bytes()
    assert files.load(backbone.load("toy"), file).parameters()
    assert [(entry.name, entry.state()) for entry in entries(server.runs)] == [("by-wire", "done")]
