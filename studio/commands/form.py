"""A command's options: a dataclass filled by tyro, its mistakes in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from studio.mistakes import nearest
from studio.pipelines.errors import UsageError

T = TypeVar("T")
RULE = re.compile(r"[-─]+")
STRAY = "these words have no place here: "
OURS = {  # tyro's sentences, and those of the types it calls
    r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)": r"\1 = \2: should be a whole number",
    r"Error parsing (\S+): could not convert string to float: (.*)": r"\1 = \2: should be a number",
    r"Missing value for argument '(.*?)'\. Expected 1 values\.": r"\1 needs a value",
    r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*)\)\.": r"\2 = '\1': should be one of \3",
    r"Unrecognized options: ": STRAY,
}


def parse(form: type[T], args: Sequence[str], command: str, known: Sequence[str] = (), **how: Any) -> T:
    """The form filled with the arguments of `studio COMMAND`.

    known: dotted names of the flags, the form's fields when empty; `how` goes to tyro. Raises UsageError with
    the nearest flag or tyro's sentence (its cause: what the form's types raised); SystemExit(0) after help.
    """
    import tyro

    check_names(args, known or [field.name for field in dataclasses.fields(form)], command)  # type: ignore[arg-type]
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            return tyro.cli(form, args=list(args), prog=f"studio {command}", **how)
    except SystemExit as end:
        if not end.code:
            raise
        reason = next((cause for cause in causes(end) if isinstance(cause, ValueError)), None)
        said = unboxed(words.getvalue())
        raise UsageError(f"{said}{crowded(args, said)}; see studio {command} --help") from reason


def crowded(args: Sequence[str], said: str) -> str:
    """Where a word too many follows a flag's one value, that it takes only one."""
    stray = said.removeprefix(STRAY).split(", ") if said.startswith(STRAY) else []
    for flag, value, extra in zip(args, args[1:], args[2:], strict=False):
        if flag.startswith("--") and "=" not in flag and value not in stray and extra in stray:
            return f"; {flag} takes one value"
    return ""


def check_names(args: Sequence[str], known: Sequence[str], command: str) -> None:
    """Raises UsageError for a flag that does not exist, with the nearest one."""
    for token in args:
        flag = token.partition("=")[0]
        name = flag[2:].replace("-", "_")
        if not flag.startswith("--") or name == "help" or {name, re.sub(r"(^|\.)no_", r"\1", name)} & set(known):
            continue
        hint = nearest(name, known).replace("_", "-")
        meant = f"; did you mean '--{hint}'?" if hint else f"; see studio {command} --help"
        raise UsageError(f"studio {command} has no setting '{flag}'{meant}")


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those it was raised from or during."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def unboxed(text: str) -> str:
    """The sentence in one of tyro's boxes, of lines or, where the terminal knows none, of hyphens; in our words."""
    lines = [line.strip(" │") for line in text.splitlines()]
    if len(lines) > 1 and RULE.fullmatch(lines[1]):  # the line above a box of hyphens is its title
        lines = lines[2:]
    said = [line for line in lines if line and not RULE.fullmatch(line) and not line.startswith(("╭", "╰"))]
    ends = ("Argument helptext", "For full helptext", "Are you sure", "Perhaps you meant")
    last = next((number for number, line in enumerate(said) if line.startswith(ends)), len(said))
    sentence = " ".join(said[:last])
    for pattern, ours in OURS.items():
        sentence = re.sub(pattern, ours, sentence)
    return sentence or "wrong usage"
