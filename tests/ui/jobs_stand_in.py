"""A program that a test's queue starts in place of `python -m`: quick to begin, it does what its first word says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(module: str, what: str, *words: str) -> int:
    """Notes that it was started in the file `starts` of its working folder, and does `what`."""
    with Path("starts").open("a") as starts:
        starts.write(f"{' '.join([what, *words])}\n")
    if what == "fail":
        print("studio: error: there is nothing to do it with; bring some", file=sys.stderr)
        return 2
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        Path(words[0]).write_text(str(child.pid))
        time.sleep(60)
    if what == "wait":
        until = time.monotonic() + 60
        while not Path(words[0]).exists() and time.monotonic() < until:
            time.sleep(0.01)
    if what != "quiet":
        print('{"phase": "score", "event": "done"}')
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
