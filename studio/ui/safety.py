"""Who may reach the page, and what the server answers: addresses, passwords, hosts, files, rates, headers."""

from __future__ import annotations

import hmac
import ipaddress
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from studio.pipelines.errors import UsageError

LOCAL = ("127.0.0.1", "localhost", "::1")
SHORTEST = 8  # characters of a password
TRIES, PAUSE = 5, 30.0  # wrong passwords for a name, and the seconds it is then closed for
WHO = ContextVar("who", default="")  # the address that the present request came from


def is_local(host: str) -> bool:
    """Whether an address is only reachable from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int, protected: bool) -> None:
    """Raises UsageError for an address that others reach, unless the page asks for a password or sign-in."""
    if is_local(host) or protected:
        return
    mended = shlex.join(["studio", "ui", "--host", host, "--port", str(port), "--auth", "users.txt"])
    raise UsageError(
        f"--host {host} shows the page to others, who could start runs and read your pictures: "
        f"write a line NAME:PASSWORD into users.txt and run `{mended}`; or stay on 127.0.0.1 and use ssh -L"
    )


def users(file: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Names and passwords: a line NAME:PASSWORD each in a file, or the variable STUDIO_AUTH; {} without either.

    Raises UsageError for a file that is not there, a line of another form, or a password that is too short.
    """
    if file is not None and not file.is_file():
        if ":" in str(file):
            raise UsageError(
                "--auth takes a file: others on this machine can read a password in a command; "
                "write NAME:PASSWORD into a file, or set STUDIO_AUTH"
            )
        raise UsageError(f"--auth {file}: there is no such file; write a line NAME:PASSWORD into it")
    where = f"--auth {file}" if file is not None else "STUDIO_AUTH"
    text = file.read_text("utf-8") if file is not None else environment.get("STUDIO_AUTH", "")
    return dict(entries(text, where))


def entries(text: str, where: str) -> Iterator[tuple[str, str]]:
    """The NAME:PASSWORD lines of a text. Raises UsageError, which never holds the password."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.strip().partition(":")
        if not (name and colon):
            raise UsageError(f"{where}, line {number}: should be NAME:PASSWORD")
        if len(password) < SHORTEST:
            raise UsageError(f"{where}, line {number}: the password of '{name}' needs {SHORTEST} characters or more")
        yield name, password


@dataclass
class Door:
    """Asks for name and password; after a few wrong ones a name stays closed for a while, to the address they came
    from: nobody else is kept out.
    """

    known: Mapping[str, str]
    wrong: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    most: int = 10_000

    def __call__(self, name: str, password: str) -> bool:
        now, key = time.monotonic(), (WHO.get(), name)
        tries = [moment for moment in self.wrong.get(key, []) if now - moment < PAUSE]
        right = hmac.compare_digest(self.known.get(name, "").encode(), password.encode()) and name in self.known
        if right and len(tries) < TRIES:
            self.wrong.pop(key, None)
            return True
        if name in self.known:  # a list of all names somebody tried would grow for ever
            if len(self.wrong) >= self.most:
                self.wrong.clear()
            self.wrong[key] = [*tries, now][-TRIES:]
        return False


@dataclass
class Bucket:
    """So many requests at once, so many a second after that, by visitor."""

    burst: float = 300.0
    rate: float = 30.0
    most: int = 10_000
    levels: dict[str, tuple[float, float]] = field(default_factory=dict)

    def takes(self, who: str, now: float) -> bool:
        """Whether one more request of a visitor is served; now: seconds."""
        level, last = self.levels.get(who, (self.burst, now))
        level = min(self.burst, level + (now - last) * self.rate)
        if len(self.levels) >= self.most and who not in self.levels:
            self.levels.clear()
        self.levels[who] = (level - 1 if level >= 1 else level, now)
        return level >= 1


def private(folder: Path) -> Path:
    """The folder, made so that nobody else on the machine may look in."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "posix":
        folder.chmod(0o700)
    return folder
