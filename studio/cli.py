"""The command `studio`: runs the command's module and turns every error into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import studio
from studio import logs, stop
from studio.pipelines import pickles
from studio.pipelines.errors import EXITS, StudioError, UsageError, is_full
from studio.registry import nearest
from studio.secrets import redact

COMMANDS = {
    "ui": "The page: train, watch, sample and compare in the browser",
    "train": "Learn a subject or style; without arguments: the demo on the embedded model",
    "sample": "Make pictures with a run or an adapter file, beside the base model's",
    "preview": "A run's previews once more, by its newest checkpoint: the same prompts and seeds",
    "rollback": "A run by rewards back at its guard's best look: the adapter's files, with those weights",
    "evaluate": "How good runs or adapter files are, beside the base model, with intervals and a report",
    "plan": "What a run will take: memory per phase, disk, time; whether it fits",
    "check-data": "What a folder of pictures holds: each file used or left out and why, crops, captions, masks",
    "caption": "Captions for a folder of pictures, as text files beside them: BLIP, BLIP-2, Florence-2, embedded",
    "show": "A run's config, curve, samples and scores",
    "compare": "Methods x settings x seeds on the same data at equal cost, and what each learned",
    "list": "What there is: trainers, models, scorers or runs",
    "doctor": "What works on this machine, and what does not",
    "report": "A zip for a bug report: no pictures, captions, secrets or private paths",
}
EVERYWHERE = {
    "--debug": "Show the traceback of an error; without it, it goes to the run's log.txt",
    "--allow-pickle": "Read pickled model weights (.bin, .pt, .ckpt) too: only from people you trust",
}
INTERRUPTED = stop.STOPPED


def main(args: Sequence[str] | None = None) -> None:
    """The entry point: runs a command and exits with its code."""
    args = sys.argv[1:] if args is None else args
    stop.before_listening(train=Call(list(args)).words[:1] == ["train"])
    sys.exit(run(args))


def run(args: Sequence[str]) -> int:
    """Runs a command; its exit codes are `errors.EXITS`."""
    call = Call(list(args))
    with logs.listening(say_warning) as log, pickles.allowed("--allow-pickle" in call.everywhere):
        try:
            return dispatch(call.words)
        except StudioError as error:
            return call.fail(log, error, error.exit_code, " ".join(str(error).split()))
        except BrokenPipeError:
            return 0
        except (MemoryError, OSError, RuntimeError) as error:
            shortage = short_of(error)
            return call.fail(log, error, 4 if shortage else 1, shortage)
        except KeyboardInterrupt:
            print("studio: stopped", file=sys.stderr)
            return INTERRUPTED
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception as error:  # the last door: a person gets a line, the traceback goes to a file
            return call.fail(log, error, 1)
        finally:
            flush()


class Call:
    """The words of one call: those for the command, and those that every command knows."""

    def __init__(self, args: list[str]) -> None:
        args = ["--debug" if word == "--traceback" else word for word in args]
        self.words = [word for word in args if word not in EVERYWHERE]
        self.everywhere = {word for word in args if word in EVERYWHERE}
        self.command = " ".join(["studio", *" ".join(args).split()])

    def fail(self, log: logs.Log, error: BaseException, code: int, line: str = "") -> int:
        """Keeps the traceback, prints the one line and returns the code. line: '' for an error nobody foresaw."""
        kept = log.traceback(error, self.command)
        if "--debug" in self.everywhere:
            sys.stderr.write(redact("".join(traceback.format_exception(error))))
        if not line:
            line = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            kept = kept or (None if "--debug" in self.everywhere else log.aside(error, self.command))
            line += f" (the traceback is in {kept})" if kept else ""
        print(f"studio: error: {redact(line)}", file=sys.stderr)
        return code


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
    module = importlib.import_module(f"studio.commands.{args[0].replace('-', '_')}")
    code: int = module.main(args[1:])
    return code


def overview() -> str:
    """The help of `studio` itself: the commands, the flags that all of them know, the exit codes."""
    head = [(studio.__doc__ or "").strip(), "", "usage: studio COMMAND [OPTIONS]", ""]
    tables = [COMMANDS, EVERYWHERE, {str(c): text for c, text in EXITS.items()}]
    commands, flags, codes = ([f"  {key:<14} {text}" for key, text in table.items()] for table in tables)
    tail = ["", "With every command:", *flags, "", "Exit codes:", *codes, "", "studio COMMAND --help says more."]
    return "\n".join([*head, *commands, *tail])


def short_of(error: BaseException) -> str:
    """What ran out, in one line, when an error says that memory or disk did; '' for any other error."""
    text = str(error).lower()
    if isinstance(error, OSError) and is_full(error):
        return f"the disk is full: {error.filename or 'a file'} was not written; what was finished is kept"
    if (
        isinstance(error, MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "bad_alloc" in text
    ):
        return "memory ran out: use a smaller batch or resolution; what was finished is kept"
    return ""


def flush() -> None:
    """Empties stdout; where its reader has gone, keeps the interpreter's own last flush from complaining."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_warning(message: str) -> None:
    """A warning as one line on stderr."""
    print(f"studio: warning: {redact(' '.join(message.split()))}", file=sys.stderr)
