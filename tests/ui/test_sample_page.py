"""The Sample tab in a real browser: draw, a grid, stop, reload, a dropped picture, wrong values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from studio.ui import drawn_files
from studio.ui.recipe_reading import read

if TYPE_CHECKING:
    from tests.ui.conftest import Server, Start

pytestmark = pytest.mark.enable_socket
LONG = 60_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def server(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A page over one small run."""
    from studio.train import train
    from tests.runs import config, pictures

    path = tmp_path_factory.mktemp("sample")
    train(config(pictures(path / "data"), path / "runs", "one", steps=2, save_every=0, previews={"every": 0}))
    return start(path / "runs")


class Tab:
    """The tab as a visitor uses it."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        page.set_default_timeout(LONG)
        page.goto(f"{address}?tab=sample")
        page.locator("#sample-draw").wait_for()
        self.said("No pictures drawn yet")

    def part(self, name: str) -> Any:
        return self.page.locator(f"#sample-{name}")

    def field(self, name: str) -> Any:
        return self.part(name).locator("textarea, input").first

    def fill(self, **values: Any) -> None:
        for name, value in values.items():
            box = self.field(name.replace("_", "-"))
            box.fill(str(value))
            box.press("Tab")

    def along(self, axis: str, name: str, values: str) -> None:
        self.field(axis).click()
        self.part(axis).get_by_role("option", name=name, exact=True).click()
        self.fill(**{f"{axis}_values": values})

    def draw(self) -> None:
        self.part("draw").click()

    def said(self, words: str) -> None:
        """Waits until the tab begins to say this."""
        from playwright.sync_api import expect

        expect(self.part("said")).to_have_text(re.compile(rf"^\s*{re.escape(words)}"), timeout=LONG)


def kept(server: Server) -> list[Path]:
    return sorted((server.runs / drawn_files.NAME).glob("*.png"))


def test_draw_a_grid_stop_reload_and_take_the_settings_back(server: Server, page: Any) -> None:
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    tab = Tab(page, server.address)
    tab.fill(prompt="a {trigger} cat", negative="rain", steps=3)
    tab.draw()
    tab.said("1 picture drawn")
    (first,) = kept(server)
    assert read(first).values["negative"] == "rain"
    assert "studio sample one --prompt" in tab.field("command").input_value()

    page.get_by_role("button", name="X/Y/Z grid").click()
    tab.along("x", "steps", "2, 3")
    tab.along("y", "seed", "1-2")
    tab.draw()
    tab.said("4 pictures drawn")
    assert [path.stem.endswith("grid") for path in kept(server)].count(True) == 1
    assert len(kept(server)) == 6

    tab.fill(x_values="900, 1000", y_values="1-40")
    tab.draw()
    tab.part("early").locator("img").first.wait_for()
    tab.part("stop").click()
    tab.said("stopped")
    after = len(kept(server))

    page.reload()
    tab.part("pictures").locator("img").nth(after - 1).wait_for()
    shown = tab.part("pictures").locator("img")
    assert shown.count() == min(after, 40)
    assert shown.first.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 1
    assert tab.field("prompt").input_value() == "a {trigger} cat"
    tab.part("x-values").wait_for()  # axes that are set are in sight

    tab.fill(prompt="something else", negative="", steps=9)
    tab.part("drop").locator("input[type=file]").set_input_files(first)
    tab.said("The picture's settings are back.")
    found = [tab.field(name).input_value() for name in ("prompt", "negative", "steps")]
    assert found == ["a {trigger} cat", "rain", "3"]

    for name, wrong, words in (("strengths", "much", "Strengths = 'much'"), ("prompt", " ", "There is no prompt")):
        right = tab.field(name).input_value()
        tab.fill(**{name: wrong})
        tab.draw()
        tab.said(words)
        tab.fill(**{name: right})
    assert not faults
