"""Pictures of every tab from the running program (light, dark, phone), and what a first look at it weighs.

`python -m studio.ui.shots FOLDER [ADDRESS]`; without an address a page of its own is started over ./runs.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image

from studio.pipelines.errors import UsageError
from studio.ui.words import TITLE

TABS = ("Train", "Watch", "Sample", "Compare", "Library")
LOOKS = {"light": (1280, 900), "dark": (1280, 900), "phone": (390, 844)}
TALLEST = 1800  # pixels of a picture; what is below is left out
WAIT = 120_000  # milliseconds until what a tab shows is there
PATIENCE = 180.0  # seconds until the server has to answer
SETTLE = 1500  # milliseconds that a tab has to draw what it reads


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], port: int, log: Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, from the moment it answers; ended on leaving. Raises UsageError if it ends."""
    with log.open("ab") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, **how)
    try:
        until = time.monotonic() + PATIENCE
        while not answers(port):
            if server.poll() is not None or time.monotonic() > until:
                raise UsageError(f"the page did not start: {log.read_text('utf-8', 'replace')[-600:]}")
            time.sleep(0.1)
        yield server
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(20)
        server.kill()
        server.wait()


def answers(port: int) -> bool:
    """Whether the page on a port is there."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium through Playwright. Raises UsageError where one of them is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UsageError("pictures of the page need Playwright: pip install playwright") from None
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise UsageError("pictures of the page need Chromium: install the package chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield found
        finally:
            found.close()


def shoot(found: Any, address: str, folder: Path) -> list[Path]:
    """A picture of every tab in every look, with what there is to show in it."""
    made = []
    for look, (width, height) in LOOKS.items():
        page = found.new_page(viewport={"width": width, "height": height})
        for tab in TABS:
            page.goto(f"{address}?tab={tab.lower()}&__theme={'dark' if look == 'dark' else 'light'}")
            page.get_by_role("heading", name=TITLE).wait_for(timeout=60_000)
            page.wait_for_timeout(SETTLE)
            dress(page, tab)
            page.wait_for_timeout(SETTLE)
            tall = height if look == "phone" else page.evaluate("document.documentElement.scrollHeight")
            clip = {"x": 0, "y": 0, "width": width, "height": min(tall, TALLEST)}
            raw = page.screenshot(full_page=look != "phone", clip=None if look == "phone" else clip)
            made.append(folder / f"{tab.lower()}-{look}.webp")
            with Image.open(io.BytesIO(raw)) as picture:
                picture.convert("RGB").save(made[-1], quality=85, method=6)
        page.close()
    return made


def dress(page: Any, tab: str) -> None:
    """Lets a tab show something: an example, the newest runs, pictures; empty where there are none."""

    def there(box: str) -> Any:
        return page.locator(box).first

    if tab == "Train":
        page.locator("#train-example input").click()
        page.get_by_role("option", name="dog", exact=False).first.click()
        there("#train-pictures img").wait_for(timeout=WAIT)
        page.locator("#train-plan", has_text="fit").wait_for(timeout=WAIT)
    if tab == "Sample" and not page.locator("#sample-pictures img").count():
        there("#sample-prompt textarea").fill("a {trigger} {class_word} on a blue background")
        there("#sample-n input").fill("4")
        page.keyboard.press("Tab")
        there("#sample-draw").click()
        there("#sample-pictures img").wait_for(timeout=WAIT)
        page.locator("#sample-stop[disabled]").wait_for(timeout=WAIT)
    if tab == "Compare":
        page.locator("#compare-runs input").click()
        page.wait_for_timeout(SETTLE)
        for newest in range(min(2, page.get_by_role("option").count())):
            page.get_by_role("option").nth(newest).click()
            there("#compare-previews img").wait_for(state="attached", timeout=WAIT)
        page.keyboard.press("Escape")
    if tab == "Library" and page.locator("#library-runs img").count():
        there("#library-runs button").click()
        there("#library-pictures img").wait_for(timeout=WAIT)


def weigh(found: Any, address: str) -> dict[str, float]:
    """Seconds until the first tab is there, and the requests and KiB it took, by a browser without a cache."""
    page, sizes = found.new_page(), []
    wire = page.context.new_cdp_session(page)
    wire.send("Network.enable")
    wire.on("Network.loadingFinished", lambda done: sizes.append(done["encodedDataLength"]))
    begun = time.perf_counter()
    page.goto(address)
    page.get_by_role("tab", name=TABS[0]).wait_for(timeout=60_000)
    seconds = time.perf_counter() - begun
    page.wait_for_timeout(SETTLE)
    page.close()
    return {"seconds": round(seconds, 2), "requests": len(sizes), "kib": round(sum(sizes) / 1024)}


def main(folder: Path, address: str = "") -> None:
    """Pictures into a folder, weights on stdout as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    if address:
        with browser() as found:
            print(
                json.dumps({"page": weigh(found, address), "pictures": [p.name for p in shoot(found, address, folder)]})
            )
        return
    port, begun = free_port(), time.perf_counter()
    command = [sys.executable, "-m", "studio", "ui", "--port", str(port)]
    with running(command, port, folder / "server.log", env=dict(os.environ)):
        print(json.dumps({"start": round(time.perf_counter() - begun, 2)}))
        main(folder, f"http://127.0.0.1:{port}/")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
