"""One POST with a time limit for all of it, an answer of bounded size, and no redirects."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

LIMIT = 2**20  # bytes of an answer
AGAIN = frozenset({408, 429, *range(500, 600)})


class Failure(Exception):
    """Why there is no answer. again: whether it may be asked for again."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: pictures go where a person said, and nowhere else."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """None makes an HTTPError of the redirect."""


def within(seconds: float, url: str, body: bytes) -> bytes:
    """The answer to a POST. Raises Failure, at the latest after `seconds`: a judge that drips bytes has no more."""
    answers: SimpleQueue[bytes | Failure] = SimpleQueue()

    def work() -> None:
        try:
            answers.put(post(seconds, url, body))
        except Failure as failure:
            answers.put(failure)

    Thread(target=work, daemon=True).start()  # a name look-up and a slow answer have no time limit of their own
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        raise Failure(f"nothing within {seconds:g} s") from None
    if isinstance(answer, Failure):
        raise answer
    return answer


def post(seconds: float, url: str, body: bytes) -> bytes:
    """At most LIMIT bytes of an answer. Raises Failure."""
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "studio"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=seconds) as response:
            answer: bytes = response.read(LIMIT + 1)
    except urllib.error.HTTPError as error:
        error.close()
        where = " elsewhere, which is not followed" if 300 <= error.code < 400 else ""
        raise Failure(f"status {error.code}{where}", error.code in AGAIN) from None
    except (OSError, HTTPException, ValueError) as error:
        raise Failure(" ".join(str(getattr(error, "reason", error)).split())[:200] or type(error).__name__) from None
    if len(answer) > LIMIT:
        raise Failure(f"more than {LIMIT} bytes", again=False)
    return answer
