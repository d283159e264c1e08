"""Library and Compare in a real browser: search, notes, zip, trash and back; scores, report, grid and a blind test."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from studio.ui import blind
from tests.ui import library_runs
from tests.ui.test_side_by_side import scored

if TYPE_CHECKING:
    from tests.ui.conftest import Server, Start

pytestmark = pytest.mark.enable_socket
WAIT = 60_000  # milliseconds
REPORT = "<style>@media (prefers-color-scheme: dark) { p { color: rgb(1, 2, 3) } }</style><p>what was measured</p>"


@pytest.fixture(scope="module")
def library(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A page over two finished runs with the same prompts; one has scores, a report and scored checkpoints."""
    runs = tmp_path_factory.mktemp("library") / "runs"
    first, _ = (library_runs.run(runs, name, prompts=3).folder for name in ("alpha", "beta"))
    scored(first, 0.8, 0.7)
    (first / "report.html").write_text(REPORT)
    row = {"points": 80.0, "low": 70.0, "high": 90.0, "identity": 0.8, "prompt": 0.7, "strength": 1.0}
    picked = {"step": 6, "strength": 1.0, "reason": "checkpoint 6 has most points"}
    said = {"picked": picked, "about": {"prompts": ["a {subject}"]}, "table": [{**row, "step": n} for n in (3, 6)]}
    (first / "choice.json").write_text(json.dumps(said))
    for step in (3, 6):
        library_runs.picture(first / "choice" / "pictures" / f"{step:06}-1" / "choice-00-7.png", step)
    return start(runs=runs)


@pytest.fixture
def visit(library: Server, page: Any) -> Callable[[str], Any]:
    """A page that is opened at one of the tabs."""

    def opened(tab: str) -> Any:
        page.set_default_timeout(WAIT)
        page.goto(f"{library.address}?tab={tab}")
        page.locator(f"#tab-{tab}-button[aria-selected=true]").wait_for()
        return page

    return opened


def choose(page: Any, box: str, name: str | re.Pattern[str]) -> None:
    """Takes one of a list's choices."""
    page.locator(f"{box} input").click()
    page.locator(box).get_by_role("option", name=name).click()
    page.keyboard.press("Tab")


def tiles(page: Any, count: int) -> Any:
    """Waits until so many runs are shown."""
    script = "(n) => document.querySelectorAll('#library-runs .grid-container button').length === n"
    page.wait_for_function(script, arg=count, timeout=WAIT)
    return page.locator("#library-runs .grid-container button")


def test_a_run_is_found_noted_exported_deleted_and_restored(library: Server, visit: Any, tmp_path: Path) -> None:
    page = visit("library")
    tiles(page, 2)
    page.locator("#library-search textarea, #library-search input").fill("beta dreambooth")
    tiles(page, 1).click()
    page.get_by_role("heading", name="beta: done").wait_for()
    page.wait_for_function("() => JSON.parse(localStorage.getItem('studio-library') ?? '{}').place?.run === 'beta'")
    page.reload()
    page.get_by_role("heading", name="beta: done").wait_for()
    tiles(page, 1)
    page.locator("#library-note textarea").fill("the second one")
    page.locator("#library-note-save").click()
    page.get_by_text("The note is saved.").wait_for()
    assert (library.runs / "beta" / "notes.txt").read_text() == "the second one\n"
    page.locator("#library-export").click()
    with page.expect_download() as download:
        page.locator("#library-zip").click()
    download.value.save_as(tmp_path / "beta.zip")
    wanted = {"beta/adapter.safetensors", "beta/beta.kohya.safetensors", "beta/README.md"}
    assert set(zipfile.ZipFile(tmp_path / "beta.zip").namelist()) == wanted
    page.locator("#library-hub button").first.click()
    page.locator("#library-repo input, #library-repo textarea").fill("me/beta")
    page.locator("#library-token input").fill("hf_" + "x" * 30)
    page.locator("#library-push").click()
    page.locator("#library-pushed", has_text="Not pushed. The Hub is switched off here").wait_for()
    page.wait_for_function("() => document.querySelector('#library-token input').value === ''")
    page.locator("#library-delete").click()
    page.locator("#library-delete-yes").click()
    page.locator("#library-run").wait_for(state="hidden")
    assert not (library.runs / "beta").exists()
    page.locator("#library-trash button").first.click()
    page.locator("#library-gone", has_text="Choose one to restore it").wait_for()
    choose(page, "#library-gone", re.compile("beta, deleted"))
    page.locator("#library-restore").click()
    page.get_by_text("beta is back.").wait_for()
    tiles(page, 1)
    assert (library.runs / "beta" / "notes.txt").read_text() == "the second one\n"


def test_runs_are_compared_and_the_report_is_in_the_page_and_to_download(
    library: Server, visit: Any, tmp_path: Path
) -> None:
    page = visit("compare")
    for name in ("alpha", "beta"):
        choose(page, "#compare-runs", name)
    page.locator("#compare-previews thead", has_text="beta").wait_for()
    assert "0.800 (0.700 to 0.900)" in page.locator("#compare-scores").inner_text()
    assert page.locator("#compare-previews img").count() == 9, "three prompts of base, alpha and beta"
    page.frame_locator("#compare-report iframe").get_by_text("what was measured").wait_for()
    assert "checkpoint 6 has most points" in page.locator("#compare-reason").inner_text()
    assert page.locator("#compare-grid img").count() == 2
    assert "step 6" in page.locator("#compare-grid .picked img").get_attribute("alt")
    with page.expect_download() as download:
        page.locator("#compare-download").click()
    download.value.save_as(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == REPORT
    page.locator("#page-theme").click()  # the frame goes with the page, not with the system
    inner = page.frame_locator("#compare-report iframe").locator("p")
    page.wait_for_function("() => document.querySelector('#compare-report iframe').look === 'dark'")
    assert inner.evaluate("one => getComputedStyle(one).color") == "rgb(1, 2, 3)"
    page.reload()
    page.locator("#compare-previews thead", has_text="beta").wait_for()
    page.frame_locator("#compare-report iframe").get_by_text("what was measured").wait_for()
    assert page.locator("#compare-runs .token").all_inner_texts() == ["alpha", "beta"]
    (library.runs / "alpha" / "report.html").write_text("<p>what was measured again</p>")
    page.frame_locator("#compare-report iframe").get_by_text("again").wait_for()


def test_a_blind_test_hides_the_sides_until_every_pair_is_answered(library: Server, visit: Any) -> None:
    page = visit("compare")
    page.locator("#blind button").first.click()
    choose(page, "#blind-run-1", "alpha")
    choose(page, "#blind-run-2", "beta")
    page.locator("#blind-begin").click()
    for number in (1, 2, 3):
        page.locator("#blind-told", has_text=f"Pair {number} of 3").wait_for()
        for side in ("left", "right"):
            source = page.locator(f"#blind-{side} img").get_attribute("src")
            assert not any(name in source for name in ("alpha", "beta", "0000"))
        assert not any(name in page.locator("#blind-told").inner_text() for name in ("alpha", "beta"))
        page.locator("#blind-choose-left").click()
    told = page.locator("#blind-told", has_text="of 3 pairs")
    told.wait_for()
    (trial,) = blind.trials(library.runs)
    assert trial.answers == ["left"] * 3
    assert trial.verdict() in told.inner_text()
