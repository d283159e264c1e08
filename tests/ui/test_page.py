"""The page from the outside: a real server, a real browser, its interface over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from studio.commands import ui
from studio.pipelines.errors import UsageError
from studio.ui.shots import TABS, weigh

if TYPE_CHECKING:
    from tests.ui.conftest import Server

pytestmark = pytest.mark.enable_socket
WEIGHT = 12_000  # KiB of a first look
ENDPOINTS = {"/start_run", "/run_status", "/stop_run", "/resume_run", "/fetch_adapter"}


def status(address: str, **headers: str) -> int:
    """The status of a request."""
    try:
        with urlopen(Request(address, headers=headers), timeout=20) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_every_tab_is_there_also_on_a_phone_and_nothing_comes_from_elsewhere(server: Server, page: Any) -> None:
    said: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("response", lambda answer: asked.append(answer.url))
    page.goto(server.address)
    for name in TABS:
        page.get_by_role("tab", name=name, exact=True).click()
        panel = page.locator(f"#tab-{name.lower()}")
        panel.wait_for()
        assert panel.inner_text().strip(), f"{name} is empty"
    page.set_viewport_size({"width": 390, "height": 844})
    for name in TABS:
        page.get_by_role("tab", name=name, exact=True).click()
        page.locator(f"#tab-{name.lower()}").wait_for()
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is wider than a phone"
    page.set_viewport_size({"width": 375, "height": 844})  # with a scrollbar
    assert len({page.get_by_role("tab", name=name, exact=True).bounding_box()["y"] for name in TABS}) == 1
    assert not said
    assert [url for url in asked if not url.startswith((server.address, "data:", "blob:"))] == []


def test_a_reload_keeps_the_tab_and_the_look(server: Server, page: Any) -> None:
    page.goto(server.address)
    page.wait_for_function("window.studioOpened")  # before, gradio still chooses the first tab by itself
    page.get_by_role("tab", name="Library", exact=True).click()
    page.wait_for_url("**tab=library*")
    before = page.evaluate("document.body.classList.contains('dark')")
    page.locator("#page-theme").click()
    page.wait_for_function(f"document.body.classList.contains('dark') !== {json.dumps(before)}")
    scheme = "getComputedStyle(document.documentElement).colorScheme"
    assert page.evaluate(scheme) == ("light" if before else "dark")  # scrollbars, too
    page.reload()
    page.locator("[role=tab][aria-selected=true]", has_text="Library").wait_for()
    page.get_by_role("tab", name="Sample", exact=True).click()
    page.wait_for_url("**tab=sample*")
    page.go_back()
    page.locator("[role=tab][aria-selected=true]", has_text="Library").wait_for()
    page.wait_for_function(f"document.body.classList.contains('dark') !== {json.dumps(before)}")


def test_only_the_open_tab_asks_for_news(server: Server, page: Any) -> None:
    asked: list[int] = []

    def note(request: Any) -> None:
        if "queue/join" in request.url:
            asked.append(json.loads(request.post_data)["fn_index"])

    page.on("request", note)
    page.goto(f"{server.address}?tab=library")
    page.locator("#library-count", has_text="run").wait_for()
    page.wait_for_timeout(3000)  # what is asked once, at the opening
    asked.clear()
    page.wait_for_timeout(9000)
    assert len(asked) >= 2
    assert len({*asked}) == 1
    page.get_by_role("tab", name="Sample", exact=True).click()
    page.wait_for_timeout(1500)
    asked.clear()
    page.wait_for_timeout(6500)
    assert not asked, "there is no news in Sample"


def test_a_first_look_is_light(server: Server, chromium: Any) -> None:
    assert weigh(chromium, server.address)["kib"] < WEIGHT


def test_files_hosts_and_machines_that_are_not_ours(server: Server) -> None:
    kept = server.runs / "run.toml"
    kept.write_text("kept = true")
    assert status(f"{server.address}gradio_api/file={kept}") == 403
    assert status(server.address, Host="evil.example") == 421
    assert status(server.address) == 200
    assert status(f"{server.address}openapi.json") == status(f"{server.address}docs") == 404


def test_the_interface_is_the_documented_one_and_errors_are_sentences(server: Server, tmp_path: Path) -> None:
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(server.address, verbose=False, download_files=tmp_path)
    assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == ENDPOINTS
    for arguments, name, said in (
        (("nobody",), "/run_status", r"no run 'nobody'"),
        (("../x",), "/fetch_adapter", r"not a run's name"),
        (({"trainer": "dreamboth"},), "/start_run", r"dreambooth"),
        (({"trainer": "dreambooth", "dreambooth": {"stepz": 3}},), "/start_run", r"steps"),
    ):
        with pytest.raises(AppError, match=said) as error:
            client.predict(*arguments, api_name=name)
        assert "Traceback" not in str(error.value)


def test_another_address_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--auth users.txt"):
        ui.main(["--host", "0.0.0.0", "--runs", str(tmp_path / "runs")])
    with pytest.raises(UsageError, match="whoever signs in could run any code"):
        ui.main(["--host", "0.0.0.0", "--allow-code", "--runs", str(tmp_path / "runs")])
    for port in ("99999", "-1"):
        with pytest.raises(UsageError, match="a number from 1 to 65535"):
            ui.main([f"--port={port}", "--runs", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()
