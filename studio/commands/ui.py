"""`studio ui`: the page, on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from studio.commands.form import parse
from studio.pipelines.errors import UsageError


@dataclass(frozen=True)
class Options:
    """Train, watch, sample and compare in the browser.

    The page reads the folder of the runs and starts the commands a person would type: runs go on when it is closed,
    and it shows them again when it is back. It answers to this machine only; --host with another address needs --auth.
    """

    host: str = ""
    """Address; empty: GRADIO_SERVER_NAME, else 127.0.0.1 (this machine only). Others need --auth."""
    port: int = 0
    """Port; 0: GRADIO_SERVER_PORT, else the first that is free from 7860 on."""
    auth: Path | None = None
    """File with a line NAME:PASSWORD per user; without it, the variable STUDIO_AUTH."""
    runs: Path = Path("runs")
    """Folder of the runs."""
    data: tuple[Path, ...] = ()
    """Folders that pictures and models may lie in; none: STUDIO_ROOTS, else the folder you are in."""
    lanes: int = 1
    """Runs at once; the others wait in the queue."""
    max_upload: int = 1024
    """MiB that one upload may have."""
    allow_code: bool = False
    """Rewards may be Python functions and judges over HTTP: what is said on the page is run on this machine."""
    open: bool = False
    """Open a browser."""


def main(args: list[str]) -> int:
    """Runs `studio ui ARGS` until it is stopped; without words, in a Space, the page as that Space."""
    from studio.ui import space

    if not args and (here := space.here()) is not None:
        return space.run(here)
    options = parse(Options, args, "ui")
    if options.lanes < 1 or options.max_upload < 1:
        raise UsageError("--lanes and --max-upload start at 1")
    from studio.ui.place import home
    from studio.ui.safety import is_local, users
    from studio.ui.serve import Service, serve

    host = options.host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    if options.allow_code and not is_local(host):
        raise UsageError(f"--allow-code is for this machine's own page: on {host} whoever signs in could run any code")

    named = tuple(Path(root) for root in os.environ.get("STUDIO_ROOTS", "").split(os.pathsep) if root)
    for folder in options.data:
        if not folder.expanduser().is_dir():
            raise UsageError(f"--data {folder}: there is no such folder")
    place = home(options.runs, options.data or named)
    serve(
        Service(
            where=lambda request: place,
            base=place.runs,
            roots=place.roots,
            host=host,
            port=port_of(
                str(options.port or os.environ.get("GRADIO_SERVER_PORT", "")), "--port" if options.port else ""
            ),
            users=users(options.auth, os.environ),
            upload=options.max_upload,
            lanes=options.lanes,
            browser=options.open,
            code=options.allow_code,
        )
    )
    return 0


def port_of(text: str, said: str = "") -> int | None:
    """A port as a person or the environment says it; None where they say none. Raises UsageError."""
    if text and not (text.isdigit() and 0 < int(text) < 2**16):
        raise UsageError(f"{said or 'GRADIO_SERVER_PORT'} = {text[:20]!r} should be a number from 1 to 65535")
    return int(text) if text else None
