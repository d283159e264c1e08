"""What stands before the page on the wire: hosts, files, sizes, rates and headers, as ASGI middleware."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from studio.pipelines.confine import is_inside
from studio.ui.safety import LOCAL, WHO, Bucket

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
CONTENT = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'"
HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "same-origin"}
FILES = ("/file=", "/file/")  # gradio answers to both
KEPT = (b"cache-control", b"private, max-age=86400, immutable")  # a cached file's path holds the hash of what is in it


@dataclass
class Rules:
    """What the guard goes by.

    cache: the only folder whose files are served by their path; upload: bytes of one request; local: only this
    machine's names are answered (a foreign page cannot reach us by a name it owns); space: shown inside another page.
    """

    cache: Path
    upload: int
    local: bool = True
    space: bool = False
    bucket: Bucket = field(default_factory=Bucket)

    def refusal(self, path: str, headers: dict[str, str], who: str) -> tuple[int, str] | None:
        """The status and the sentence for a request that is not served, else None. who: '' is not counted."""
        if self.local and name_of(headers.get("host", "")) not in LOCAL:
            return 421, "This page answers to 127.0.0.1 and localhost only; open it under that address."
        asked = path.removeprefix("/gradio_api")
        if asked.startswith("/proxy="):
            return 403, "The studio fetches nothing for others."
        if asked.startswith(FILES) and not self.serves(asked[len(FILES[0]) :]):
            return 403, "Files are only served from what the page shows; use its download buttons."
        size = headers.get("content-length", "0")
        if not size.isdigit() or int(size) > self.upload:
            return 413, f"That is larger than the {self.upload >> 20} MiB that one upload may have."
        if who and foreign(headers, self.local):
            return 403, "Another page sent that; the studio only listens to its own."
        if who and not self.bucket.takes(who, time.monotonic()):
            return 429, "Too many requests at once; wait a moment and try again."
        return None

    def serves(self, file: str) -> bool:
        """Whether a path, as it stands and decoded once more, is a file of the page's own cache."""
        ways = {file, unquote(file)}
        return all("://" not in way and Path(way).is_absolute() and is_inside(self.cache, Path(way)) for way in ways)

    def headers(self) -> dict[str, str]:
        """Headers of every answer: nothing is loaded from elsewhere, nobody else may frame the page."""
        frames = "'self' https://huggingface.co https://*.hf.space" if self.space else "'self'"
        policy = f"frame-ancestors {frames}" if self.space else f"{CONTENT}; frame-ancestors {frames}"
        return {**HEADERS, "content-security-policy": policy}


def name_of(host: str) -> str:
    """The name of a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


def foreign(headers: dict[str, str], local: bool = True) -> bool:
    """Whether a browser says that another page made it send a request; programs say nothing.

    The port counts: another program on this machine, or another user's, is another page. A proxy may hand the name on
    without it; then the name has to do.
    """
    if (origin := headers.get("origin")) is None:
        return False
    sender = origin.partition("://")[2].lower()
    for key in ("host", "x-forwarded-host"):
        known = headers.get(key, "").lower()
        bare = known == name_of(known) and (key != "host" or not local)
        if known and (sender == known or (bare and name_of(sender) == known)):
            return False
    return True


class Guard:
    """The middleware itself."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], rules: Rules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refusal = self.rules.refusal(scope["path"], headers, self.who(scope, headers))
        extra = [(key.encode(), value.encode()) for key, value in self.rules.headers().items()]
        if refusal is not None:
            await say(send, *refusal, extra)
            return

        WHO.set((scope.get("client") or ("",))[0])
        file = scope["path"].removeprefix("/gradio_api").startswith(FILES)

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [KEPT] * (file and message["status"] == 200)
                message["headers"] = [*message.get("headers", []), *extra, *kept]
            await send(message)

        await self.app(scope, counted(receive, self.rules.upload), with_headers)

    def who(self, scope: Scope, headers: dict[str, str]) -> str:
        """The visitor's address, which a Space sees behind its proxy; '' for what only reads."""
        if scope.get("method") != "POST":
            return ""
        forwarded = headers.get("x-forwarded-for", "").partition(",")[0].strip() if self.rules.space else ""
        return forwarded or (scope.get("client") or ("",))[0]


def counted(receive: Receive, limit: int) -> Receive:
    """The request's parts, cut off after so many bytes: a length need not be told in advance."""
    seen = 0

    async def next_part() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > limit else message

    return next_part


async def say(send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]]) -> None:
    """A whole answer in plain text."""
    kind = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": [kind, *headers]})
    await send({"type": "http.response.body", "body": text.encode()})
