"""Where one visitor of the page is: whose runs they see, which folders they may name, whether they may write."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.pipelines.confine import HOME, is_inside
from studio.pipelines.errors import UsageError
from studio.store import Store

OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
SIGN_IN = (
    "is for signed-in users: sign in with the button at the top of the page; looking is open to all, writing is not"
)
NO_SIGN_IN = (
    "is for signed-in users, and signing in is not set up on this Space: whoever owns it adds `hf_oauth: true` to its "
    "README.md; or install the studio and run `studio ui` on a machine of your own"
)
NOT_INVITED = (
    "is for users whom this Space's owner names (STUDIO_USERS), and you are not one of them: ask the owner, or "
    "duplicate the Space"
)
ZERO_GPU = (
    "this Space runs on ZeroGPU, which lends a GPU for one short call only: training cannot run here; "
    "duplicate the Space on a CPU or GPU of its own, or copy the command and run it at home"
)


@dataclass(frozen=True)
class Place:
    """One visitor's place. Locally everybody is at home; on a Space each signed-in user has folders of their own.

    runs: folder of the runs this visitor sees; roots: folders that pictures, models and runs may lie in;
    uploads: what this visitor uploaded; owner: the signed-in user's name, '' locally and for a stranger; closed: why
    one who is not `writable` may not write, and what to do.
    """

    runs: Path
    roots: tuple[Path, ...]
    uploads: Path
    owner: str = ""
    space: bool = False
    zero_gpu: bool = False
    writable: bool = True
    closed: str = SIGN_IN

    @property
    def store(self) -> Store:
        """The runs of this visitor."""
        return Store(self.runs)

    def allows(self, path: Path) -> bool:
        """Whether a path, its links followed, lies in a folder of this visitor or comes with the studio."""
        place = path.expanduser()
        return any(is_inside(root, place) for root in (*self.roots, self.runs, self.uploads, HOME))

    def permitted(self, path: str | Path, what: str = "the path") -> Path:
        """The absolute path, if this visitor may name it. Raises UsageError, saying how to open another folder."""
        said = str(path).strip()
        try:
            found = Path(said).expanduser()
            if said and said.isprintable() and self.allows(found):
                return found.absolute()
        except (OSError, RuntimeError, ValueError):
            pass  # a name no file can have is outside of every folder
        if self.space:
            raise UsageError(f"{what} = {said[:120]!a} is not yours: upload pictures here, or choose among your runs")
        known = ", ".join(str(root) for root in dict.fromkeys((*self.roots, self.runs)))
        raise UsageError(
            f"{what} = {said[:120]!a} is outside of {known}: start the page with `studio ui --data FOLDER` to open it"
        )

    def may_write(self, what: str = "this") -> None:
        """Raises UsageError unless this visitor may start, change or delete things."""
        if not self.writable:
            raise UsageError(f"{what} {self.closed}")

    def may_train(self) -> None:
        """Raises UsageError with the reason where nothing can be trained."""
        if self.zero_gpu:
            raise UsageError(ZERO_GPU)
        self.may_write("training")


Where = Callable[[Any], Place]
"""From a gradio request (None: the server itself) to the place of who asks."""


def home(runs: Path, data: tuple[Path, ...] = ()) -> Place:
    """The place of everybody at a local page: the runs, and the folders opened with --data (the working folder)."""
    runs = runs.expanduser().absolute()
    roots = tuple(path.expanduser().absolute() for path in (data or (Path.cwd(),)))
    return Place(runs=runs, roots=(*roots, runs), uploads=runs / ".uploads")


def guest(base: Path, owner: str, writable: bool, zero_gpu: bool, closed: str = SIGN_IN) -> Place:
    """A visitor of a Space: signed-in users have a folder below `base`, strangers look at base/public.

    Raises UsageError for a name that cannot be a folder.
    """
    if owner and not OWNER.fullmatch(owner):
        raise UsageError(f"the user's name {owner[:80]!a} cannot be a folder: letters, digits, '.', '_' and '-' can")
    mine = base / "users" / owner.lower() if owner else base / "public"
    return Place(
        runs=mine / "runs",
        roots=(mine,),
        uploads=mine / "uploads",
        owner=owner,
        space=True,
        zero_gpu=zero_gpu,
        writable=writable and bool(owner),
        closed=closed,
    )
