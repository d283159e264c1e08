"""The command `studio`: runs the command's module and turns every error into one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import studio
from studio.pipelines.errors import StudioError, UsageError
from studio.registry import nearest

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
COMMANDS = {
    "train": "Learn a subject or style; without arguments: the demo on the embedded model",
    "sample": "Make pictures with a run or an adapter file, beside the base model's",
    "show": "A run's config, curve, samples and scores",
    "list": "What there is: trainers, models, scorers or runs",
    "doctor": "What works on this machine, and what does not",
}
INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> None:
    """The entry point: runs a command and exits with its code."""
    sys.exit(run(sys.argv[1:] if args is None else args))


def run(args: Sequence[str]) -> int:
    """Runs a command; 0 done, 2 usage, 3 data, 4 memory, 5 numerical, 6 model files, 130 stopped."""
    warnings.showwarning = say_warning
    try:
        return dispatch(list(args))
    except StudioError as error:
        return fail(args, error, error.exit_code, " ".join(str(error).split()))
    except BrokenPipeError:
        return 0
    except (MemoryError, OSError, RuntimeError) as error:
        shortage = short_of(error)
        return fail(args, error, 4 if shortage else 1, shortage or unexpected(args, error))
    except KeyboardInterrupt:
        print("studio: stopped", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:  # the last door: a person gets a line, the traceback goes to a file
        return fail(args, error, 1, unexpected(args, error))
    finally:
        flush()


def dispatch(args: list[str]) -> int:
    """Runs the command named first."""
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"studio {studio.__version__}")
        return 0
    if args[0] not in COMMANDS:
        raise UsageError(f"there is no command '{args[0]}'{nearest(args[0], COMMANDS)}; see studio --help")
    module = importlib.import_module(f"studio.commands.{args[0]}")
    code: int = module.main(args[1:])
    return code


def overview() -> str:
    """The help of `studio` itself."""
    lines = [f"  {name:<8} {summary}" for name, summary in COMMANDS.items()]
    head = (studio.__doc__ or "").strip()
    return "\n".join([head, "", "usage: studio COMMAND [OPTIONS]", "", *lines, "", "studio COMMAND --help says more."])


def fail(args: Sequence[str], error: BaseException, code: int, line: str) -> int:
    """Prints the one line (after the traceback, if that was asked for) and returns the code."""
    if "--traceback" in args:
        traceback.print_exception(error)
    print(f"studio: error: {line}", file=sys.stderr)
    return code


def short_of(error: BaseException) -> str:
    """What ran out, in one line, when an error says that memory or disk did; '' for any other error."""
    text = str(error).lower()
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full: {error.filename or 'a file'} was not written; what was finished is kept"
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "memory ran out: use a smaller batch or resolution; what was finished is kept"
    return ""


def unexpected(args: Sequence[str], error: BaseException) -> str:
    """The line of an error nobody foresaw."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}{saved(args)}"


def saved(args: Sequence[str]) -> str:
    """Where the traceback of an unexpected error was kept, as the end of its line."""
    if "--traceback" in args:
        return ""
    handle, path = tempfile.mkstemp(prefix="studio-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"studio {' '.join(args)}\n{traceback.format_exc()}")
    return f" (the traceback is in {path})"


def flush() -> None:
    """Empties stdout; where its reader has gone, keeps the interpreter's own last flush from complaining."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line on stderr."""
    print(f"studio: warning: {' '.join(str(message).split())}", file=sys.stderr)
