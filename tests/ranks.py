"""Starts a run in several processes by fork, so that torch is imported once; used by test_ranks.py.

Reads scenarios as JSON lines on stdin: {"args": [...], "ranks": n, "watch": events.jsonl or "", "signal": number,
"to": rank}. When a training step is in `watch`, `signal` is sent to process `to`. Prints the exit codes as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

import torch

from studio import cli, follower, train

LOADED = (follower, train)  # before the first fork


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(args: list[str], rank: int, ranks: int, port: int) -> int:
    """The process id of one more process of the run."""
    if pid := os.fork():
        return pid
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.dup2(2, 1)  # stdout is for the answers
    code = 1
    try:
        code = cli.run(args)
    finally:
        os._exit(code)


def interrupt(watch: Path, signal: int, pid: int) -> None:
    """The signal, once three steps are taken."""
    for _ in range(600):
        if watch.exists() and sum('"numbers"' in line for line in watch.read_text().splitlines()) >= 3:
            os.kill(pid, signal)
            return
        time.sleep(0.05)


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        port = free_port()
        pids = [start(job["args"], rank, job["ranks"], port) for rank in range(job["ranks"])]
        if job.get("watch"):
            interrupt(Path(job["watch"]), job["signal"], pids[job["to"]])
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
