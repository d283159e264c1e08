"""The form on the page: how it is drawn, and that what is typed meanwhile arrives all the same."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.ui.conftest import Server

pytestmark = pytest.mark.enable_socket
WAIT = 60_000


BUILT = """
from pathlib import Path
from gradio.state_holder import SessionState
from studio.ui import page
from studio.ui.place import home
built = page.build(lambda request: home(Path("runs")))
(form,) = (one for one in built.fns.values() if one.renderable)
print(form.concurrency_limit, (built._id, "load") in form.targets)
mine = SessionState(built).blocks_config  # what a visitor has, which gradio goes over in several threads
for known in (mine.blocks, mine.fns):
    for number, one in enumerate(known.values()):
        known[-1 - number] = one
    print(len(known) == 2 * number + 2)
"""


def test_the_form_is_drawn_when_the_page_opens_and_one_drawing_after_another() -> None:
    """Two at once change what gradio reads for the other; and nobody waits for the browser's draft to come and go.

    Whatever else is added to a visitor's page while the form is drawn does not keep it from being drawn.
    """
    done = subprocess.run([sys.executable, "-c", BUILT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True", "True", "True"]


def test_what_is_typed_while_the_form_is_drawn_anew_is_kept(server: Server, page: Any) -> None:
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 500 else None)
    page.goto(server.address)
    steps, trigger = (
        page.locator("#setting-steps input"),
        page.locator("#setting-data-trigger textarea, #setting-data-trigger input"),
    )
    steps.wait_for(timeout=WAIT)
    page.locator("#train-example input").click()
    page.get_by_role("option", name="fox").first.click()
    page.locator("#train-command", has_text="subject:fox").wait_for(timeout=WAIT)
    page.get_by_text("One subject, few pictures").click()  # proposes what the form shows already
    page.locator("#setting-run textarea, #setting-run input").press_sequentially("early", delay=60)
    page.keyboard.press("Tab")
    page.locator("#train-command", has_text="--run early").wait_for(timeout=WAIT)
    page.get_by_text("A taste or reward").click()
    page.locator("#setting-reward-terms input").click()
    page.keyboard.type("0.5*jpeg-soft-bits", delay=20)  # in no list
    page.keyboard.press("Enter")
    page.locator("#train-command", has_text="'0.5*jpeg-soft-bits'").wait_for(timeout=WAIT)
    page.get_by_text("One subject, few pictures").click()
    page.locator("#train-command", has_text="studio train dreambooth").wait_for(timeout=WAIT)
    page.locator("#train-all input").check()  # draws the form anew
    steps.fill("37")
    page.keyboard.press("Tab")
    trigger.first.fill("zorp")
    page.keyboard.press("Tab")
    for said in ("--steps 37", "--trigger zorp"):
        page.locator("#train-command", has_text=said).wait_for(timeout=WAIT)
    assert not failed
    page.locator("#train-reset").click()
    for field, value in (("steps", "37"), ("data-trigger", "zorp")):
        there = f"document.querySelector('#setting-{field} :is(input, textarea)').value"
        page.wait_for_function(f"{there} && {there} !== '{value}'", timeout=WAIT)
    assert trigger.first.input_value() == "sks"


def test_a_preset_is_deleted_only_after_a_question(server: Server, page: Any) -> None:
    page.goto(server.address)
    page.set_default_timeout(WAIT)
    page.locator("#setting-steps input").wait_for()
    page.get_by_role("button", name="Presets").click()
    preset, file = page.locator("#train-preset input"), server.runs / ".presets" / "mine.toml"
    preset.fill("mine")
    page.keyboard.press("Enter")
    page.locator("#train-preset-delete").click()
    page.get_by_text("There is no preset 'mine'").wait_for()
    assert not page.locator("#train-preset-delete-yes").is_visible()
    page.locator("#train-preset-save").click()
    page.get_by_text("Saved as mine").wait_for()
    page.locator("#train-preset-delete").click()
    page.locator("#train-preset-delete-no").click()
    page.locator("#train-preset-delete").click()
    page.locator("#train-preset-delete-yes").wait_for()
    assert file.is_file()
    page.locator("#train-preset-delete-yes").click()
    page.locator("#train-preset-delete").wait_for()
    assert not file.exists()
