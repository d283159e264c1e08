"""`studio report`: a zip for a bug report that holds nothing private, proven by looking for it before it is written."""

from __future__ import annotations

import getpass
import json
import platform
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomlkit

import studio
from studio import logs, toml
from studio.pipelines.confine import is_inside
from studio.pipelines.data_examples import fill_in
from studio.pipelines.data_pictures import Pictures
from studio.pipelines.errors import StudioError, UsageError
from studio.scrub import Scrub
from studio.secrets import redact
from studio.store import Run

CALLED = re.compile(r", called '.*'$", re.DOTALL)  # the words the pictures are called by
SAID = re.compile(r"prompt|caption|trigger|class_word|negative")  # settings that are a person's own words
COMMAND = re.compile(r"(?m)^(\S+ \S+ failed: )(studio .*)$")
LAST = 2**20  # bytes of the log and of the events that go in
MEMBERS = {
    "run.toml": "the settings; prompts, words and paths replaced",
    "env.json": "versions, device, and the flags of the command without their values",
    "events.jsonl": "numbers, phases, warnings and errors",
    "log.txt": "tracebacks and libraries' messages",
    "checkpoints.json": "steps, sizes and hashes; no weights",
    "doctor.json": "what works on this machine",
    "README.txt": "this list",
}


def write(run: Run, out: Path) -> dict[str, int]:
    """Writes the zip; returns the size of each member. Raises StudioError when something private is left."""
    settings = readable(run)
    scrub = privacy(run, settings)
    texts = dict(members(run, settings, scrub))
    for name, text in texts.items():
        if left := scrub.leaks(text):
            raise StudioError(f"{name} would still hold {len(left)} private words: no report was written; tell us so")
    texts["README.txt"] = "\n".join(f"{name}: {MEMBERS[name]}" for name in MEMBERS) + "\n"
    aside = out.with_name(f".{out.name}.part")
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as file:
            for name, text in texts.items():
                file.writestr(name, text.encode("utf-8", "backslashreplace"))
        aside.replace(out)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return {name: len(text.encode("utf-8", "backslashreplace")) for name, text in texts.items()}


def readable(run: Run) -> dict[str, Any]:
    """The values of run.toml; {} where it is damaged, which may be what the report is about."""
    try:
        return toml.read(run.config_file)
    except StudioError:
        return {}


def members(run: Run, settings: Mapping[str, Any], scrub: Scrub) -> Iterator[tuple[str, str]]:
    """(name, text) of everything that goes in but the list of it."""
    yield "run.toml", tomlkit.dumps(scrub.tree(unsaid(settings))) if settings else "it cannot be read\n"
    yield "env.json", as_json(scrub.tree(unsaid(environment(run))))
    yield "events.jsonl", "".join(f"{json.dumps(event)}\n" for event in events(run, scrub))
    yield "log.txt", scrub(COMMAND.sub(lambda found: found[1] + bare(found[2]), kept(run, logs.NAME)))
    yield "checkpoints.json", as_json([scrub.tree(unsaid(checkpoint)) for checkpoint in checkpoints(run)])
    yield "doctor.json", as_json(scrub.tree(doctor()))


def privacy(run: Run, settings: Mapping[str, Any]) -> Scrub:
    """What has to be hidden, from the settings, the pictures' folders and the machine."""
    scrub = Scrub()
    scrub.add_place(run.folder, "run")
    scrub.add(run.name, "run")
    source = Path(studio.__file__).resolve().parent.parent
    for name in ("studio", "pipelines", "trainers", "kernels"):
        scrub.add_place(source / name, f"source/{name}")
    for said in (dict(leaves(settings)), *earlier(run)):
        hide(scrub, said)
    if Path(str(settings.get("model", ""))).is_absolute():
        scrub.add_place(Path(settings["model"]), "model")
    home = Path.home()
    scrub.add(home, "home")
    for name, hidden in ((person(), "user"), (home.name, "user"), (platform.node(), "host")):
        if name not in ("root", "localhost", "user", "home"):  # everybody's
            scrub.add(name, hidden)
    return scrub


def earlier(run: Run) -> Iterator[dict[str, Any]]:
    """The settings that earlier starts of the run had, by dotted name, as env.json and the checkpoints tell."""
    for found in (environment(run), *(checkpoint["meta.json"] for checkpoint in checkpoints(run))):
        basis = found.get("basis") if isinstance(found, Mapping) else None
        if isinstance(basis, Mapping) and isinstance(basis.get("config"), Mapping):
            yield dict(basis["config"])


def hide(scrub: Scrub, said: Mapping[str, Any]) -> None:
    """Folders, prompts and words of settings."""
    words = [next((str(v) for k, v in said.items() if k.endswith(f"data.{w}")), "") for w in ("trigger", "class_word")]
    for key, value in said.items():
        for number, text in enumerate(value if isinstance(value, list) else [value], 1):
            if key.endswith("folder") and text not in ("", toml.NONE):
                place = Path(str(text)).expanduser().absolute()
                pictures(scrub, place, "prior" if "prior" in key else "data", (words[0], words[1]))
            elif SAID.search(key) and isinstance(text, str):
                for form in (text, fill_in(text, (words[0], words[1])), redact(text)):  # secrets in it go first
                    scrub.add_text(form, placeholder(key, number, text))


def person() -> str:
    """The name of the account; '' where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def placeholder(key: str, number: int, text: str) -> str:
    """What stands for a prompt or a word of a person's own."""
    name = key.rpartition(".")[2].removesuffix("s").replace("_", " ")
    words = len(text.split())
    return name if words < 2 else f"{name}-{number}, {words} words"


def pictures(scrub: Scrub, folder: Path, name: str, defaults: tuple[str, str]) -> None:
    """Hides a folder of pictures (or one picture): its path, every name in it and every caption."""
    scrub.add_place(folder, name)
    if folder.name not in ("train", "images", "pictures", "data"):
        scrub.add(folder.name, name)
        scrub.add(re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-"), name)  # as names of runs have it
    try:
        listing = Pictures(folder=folder).listing()
    except (StudioError, OSError):  # gone since: `scrub.unnamed` and `events` do what can be done
        return
    files = sorted({*(found.path for found in listing.found), *listing.known, *(r.path for r in listing.rejected)})
    root = folder.parent if folder.is_file() else folder
    for number, path in enumerate(files, 1):
        kind = path.suffix.lower() if path.suffix.isascii() else ""
        for part in (path.relative_to(root).as_posix(), path.name, path.stem):
            scrub.add(part, f"{name}/file-{number:02}{kind}")
        for above in path.relative_to(root).parents:
            scrub.add(above, f"{name}/folder")
            scrub.add(above.name, f"{name}/folder")
    for number, found in enumerate(listing.found, 1):
        for word in found.words or ():
            scrub.add(word, "word of a folder's name")
        for text in {found.caption, fill_in(found.caption, found.words or defaults)}:
            scrub.add_text(text, f"caption-{number}, {len(text.split())} words")


def unsaid(value: Any, key: str = "") -> Any:
    """Settings whose prompts and words are placeholders."""
    if isinstance(value, Mapping):
        return {name: unsaid(item, f"{key}.{name}") for name, item in value.items()}
    if not SAID.search(key):
        return value
    if isinstance(value, list):
        return [f"<{placeholder(key, number, str(text))}>" for number, text in enumerate(value, 1)]
    return f"<{placeholder(key, 1, value)}>" if isinstance(value, str) and value else value


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def kept(run: Run, name: str) -> str:
    """The end of a file of the run; '' where there is none, or a link that leads elsewhere."""
    path = run.folder / name
    if not path.is_file() or not is_inside(run.folder, path):
        return ""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - LAST))
        return file.read().decode("utf-8", "replace")


def environment(run: Run) -> Any:
    """env.json, its command without values."""
    try:
        found = json.loads(kept(run, "env.json"))
        return found | {"command": bare(" ".join(map(str, ["studio", *found.get("command", [])[1:]])))}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {"unreadable": True}


def bare(command: str) -> str:
    """A command with its flags and without their values: those are in run.toml, as far as they may be seen."""
    words = [word.partition("=")[0] if word.startswith("--") else "<value>" for word in command.split()[2:]]
    return " ".join([*command.split()[:2], *words])


def events(run: Run, scrub: Scrub) -> Iterator[dict[str, Any]]:
    """The events, cleaned; a message that still names an unknown file is cut up to the end of that name."""
    for line in kept(run, "events.jsonl").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            if event.get("event") == "accepted":  # which settings changed, not from what to what
                event |= {"message": "changes", "changes": [str(c).partition(":")[0] for c in event.get("changes", [])]}
            if isinstance(event.get("message"), str):
                event["message"] = CALLED.sub("", event["message"])
            event = scrub.tree(event)
            if "<file>" in str(event.get("message", "")):  # names may have spaces: what stands before it goes too
                event["message"] = f"<file>{event['message'].rpartition('<file>')[2]}"
            yield event


def checkpoints(run: Run) -> Iterator[dict[str, Any]]:
    """Each checkpoint's manifest and meta, and the sizes of its files."""
    for folder in sorted(run.folder.glob("checkpoints/step-*")):
        found: dict[str, Any] = {"name": folder.name}
        found["bytes"] = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
        for name in ("manifest.json", "meta.json"):
            try:
                found[name] = json.loads(kept(run, f"checkpoints/{folder.name}/{name}"))
            except (ValueError, RecursionError):
                found[name] = "unreadable"
        yield found


def doctor() -> list[dict[str, Any]]:
    """What `studio doctor` finds, the network not asked."""
    from studio.doctor import findings

    return [{"part": row.part, "ok": row.ok, "words": row.words} for row in findings(ask_hub=False)]


def default_name() -> Path:
    """A file name that says nothing about the run."""
    return Path(f"studio-report-{time.strftime('%Y%m%d-%H%M%S')}.zip")


def as_json(value: Any) -> str:
    """A JSON text."""
    return json.dumps(value, indent=1) + "\n"
