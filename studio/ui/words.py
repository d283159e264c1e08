"""The page's words: errors as one sentence with a remedy, and what an empty place says to do next."""

from __future__ import annotations

import logging
from html import escape

from studio.pipelines.errors import StudioError
from studio.secrets import redact

TITLE = "Personalization studio"
LONGEST = 600  # characters of a message
NAMED = {*"._-@/\\0123456789"}  # letters of a run's or a file's name, which is written as it is: evil.toml, rex@20
log = logging.getLogger("studio.ui")

EMPTY = {
    "runs": "No runs yet. Go to Train, drop a few pictures, and press Start training.",
    "pictures": "No pictures yet. Drop some here, name a folder, or take an example subject.",
    "looking": "Looking at the runs on the disk.",
    "watch": "Nothing is being watched. Choose a run above, or start one in Train.",
    "curve": "The curve begins with the first training step.",
    "previews": "Previews appear here as the run draws them, beside the base model's.",
    "queue": "The queue is empty. Runs started in Train wait here for their turn.",
    "samples": "No pictures drawn yet. Choose a run, write a prompt, and press Draw.",
    "compare": "Nothing to compare yet. Choose one or more runs that are done; Evaluate scores those without scores.",
    "trash": "The trash is empty. Deleted runs come here and can be restored.",
    "thrown": "Choose one to restore it, or to delete it for good.",
}


def shown(error: BaseException) -> str:
    """What the page says of an error: one line, with what to do. A surprise goes to the server's log."""
    from studio.cli import short_of

    if isinstance(error, StudioError):
        return line(str(error))
    if isinstance(error, (MemoryError, OSError, RuntimeError)) and (shortage := short_of(error)):
        return line(shortage)
    if isinstance(error, PermissionError):
        return line(f"{error.filename or 'a file'} may not be read or written: change its rights, or take another one")
    if isinstance(error, FileNotFoundError):
        return line(f"{error.filename or 'a file'} is not there any more: reload the page")
    log.error("a fault of the studio's own", exc_info=error)
    said = f"a fault of the studio's own ({type(error).__name__}: {error})"
    return line(f"{said}; reload the page; the server's log has the details for a bug report")


def toast(error: BaseException) -> str:
    """As `shown`, for a toast, which reads HTML."""
    return escape(shown(error), quote=False)


def line(text: str) -> str:
    """One line of sentence form, without secrets."""
    text = " ".join(redact(text).split())
    text = text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"
    head = text.split(maxsplit=1)[0].strip(":,;.()") if text else ""
    text = text if NAMED & {*head} else text[:1].upper() + text[1:]
    return text + ("" if text.endswith((".", "!", "?", "…")) else ".")
