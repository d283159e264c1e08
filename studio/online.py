"""Whether the model hub can be reached, without ever waiting long for the answer."""

from __future__ import annotations

import os
import threading

HUB_SECONDS = 2.0


def hub() -> str:
    """Whether the model hub answers, names looked up included; never longer than two seconds."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConnectionError("not asked: HF_HUB_OFFLINE is set")
    answer: list[str] = []
    # a name lookup knows no deadline: it is waited for in a thread that the process does not wait for
    thread = threading.Thread(target=lambda: answer.append(fetch()), daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if not answer:
        raise TimeoutError(f"no answer within {HUB_SECONDS:g} s; models that are on this machine still work")
    if answer[0]:
        raise ConnectionError(answer[0])
    return "reachable"


def fetch() -> str:
    """Asks the hub one small question; '' when it answers, else why not."""
    from urllib.request import urlopen

    from huggingface_hub.constants import ENDPOINT

    try:
        with urlopen(f"{ENDPOINT}/api/models?limit=1", timeout=HUB_SECONDS) as reply:
            return "" if reply.status == 200 else f"it says {reply.status}"
    except OSError as error:
        return f"not reachable ({getattr(error, 'reason', error)}); models that are on this machine still work"
