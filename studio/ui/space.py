"""The page as a Hugging Face Space: where it keeps its files, who is signed in, and a GPU lent by the call."""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from studio.ui.place import NO_SIGN_IN, NOT_INVITED, SIGN_IN, Place, guest

F = TypeVar("F", bound=Callable[..., Any])
PERSISTENT = Path("/data")
TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Space:
    """What the environment of a Space says.

    name: owner/space; base: folder of everything that is kept; lasting: whether it outlives a restart; oauth: whether
    people can sign in; users: who may write, nobody named: everybody who is signed in.
    """

    name: str
    base: Path
    lasting: bool
    zero_gpu: bool
    oauth: bool
    users: frozenset[str] = frozenset()

    def place(self, owner: str) -> Place:
        """The place of a signed-in user, or of a stranger ('')."""
        welcome = bool(owner) and (not self.users or owner.lower() in self.users)
        closed = NO_SIGN_IN if not self.oauth else NOT_INVITED if owner else SIGN_IN
        return guest(self.base, owner if welcome else "", welcome, self.zero_gpu, closed)

    def where(self, request: Any) -> Place:
        """The place of who sends a request; of a stranger for None."""
        return self.place(signed_in(request))

    def notes(self) -> list[str]:
        """What visitors of this Space should know, a sentence each."""
        said = []
        if not self.lasting:
            said.append("No persistent storage: a restart of this Space loses the runs; download what you keep.")
        if self.zero_gpu:
            said.append("ZeroGPU lends a GPU for drawing only: duplicate this Space on its own hardware to train.")
        if not self.oauth:
            said.append("Signing in is not set up (hf_oauth: true in README.md): this page is for looking only.")
        return said


def here(environment: Mapping[str, str] = os.environ, persistent: Path = PERSISTENT) -> Space | None:
    """The Space this process runs in, None when it is none. Nothing is made."""
    if environment.get("SYSTEM") != "spaces" or not environment.get("SPACE_ID"):
        return None
    lasting = persistent.is_dir() and os.access(persistent, os.W_OK)
    names = environment.get("STUDIO_USERS", "").replace(",", " ").split()
    return Space(
        name=environment["SPACE_ID"],
        base=(persistent if lasting else Path.cwd() / "space-data") / "studio",
        lasting=lasting,
        zero_gpu=environment.get("SPACES_ZERO_GPU", "").lower() in TRUE,
        oauth=bool(environment.get("OAUTH_CLIENT_ID") and environment.get("OAUTH_CLIENT_SECRET")),
        users=frozenset(name.lower() for name in names),
    )


def signed_in(request: Any) -> str:
    """The name of who is signed in with the hub, '' for a stranger; request: gradio's, or the web framework's own."""
    return str((session(request).get("userinfo") or {}).get("preferred_username") or "")


def token(request: Any) -> str:
    """The hub's token of who is signed in, with the rights that README.md asks for; '' for a stranger. Kept nowhere."""
    return str(session(request).get("access_token") or "")


def session(request: Any) -> dict[str, Any]:
    """What the hub said when somebody signed in; {} for a stranger, and when it is too old."""
    raw = getattr(request, "request", None) or request
    found = ((getattr(raw, "scope", None) or {}).get("session") or {}).get("oauth_info") or {}
    expires = found.get("expires_at")
    return {} if expires is not None and float(expires) < time.time() else dict(found)


def on_gpu(seconds: int = 60) -> Callable[[F], F]:
    """A decorator: on ZeroGPU the function borrows a GPU for up to so many seconds; elsewhere it stays as it is."""

    def decorate(function: F) -> F:
        if os.environ.get("SPACES_ZERO_GPU", "").lower() not in TRUE or importlib.util.find_spec("spaces") is None:
            return function
        decorated: F = importlib.import_module("spaces").GPU(duration=seconds)(function)
        return decorated

    return decorate


def run(space: Space) -> int:
    """Serves the Space: its own address, the hub's sign-in, everything below its base. Returns an exit code."""
    from studio.ui.serve import Service, serve

    serve(
        Service(
            where=space.where,
            base=space.base,
            roots=(space.base,),
            host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
            port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
            notes=tuple(space.notes()),
            space=True,
            sign_in=space.oauth,
        )
    )
    return 0
