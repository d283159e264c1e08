"""What the Train tab says of a visitor's pictures, without gradio: the data doctor's answer, captions, uploads."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.pipelines.errors import UsageError
from studio.ui import data_look, data_sets
from studio.ui import draft as drafts
from studio.ui.draft import Draft
from studio.ui.form_words import BASIC
from studio.ui.words import EMPTY, shown

if TYPE_CHECKING:
    from studio.pipelines.data_pictures import Pictures
    from studio.ui.data_look import Look
    from studio.ui.data_uploads import Refused
    from studio.ui.place import Place

PAGE = 24  # pictures shown at once
MOST = 1000  # files in the list of those that may be taken out; the page's own come first
KEPT = 8  # answers of the data doctor
FOLDER = "data.folder"
INSTEAD = {  # what the data doctor says of flags, and how it is done on the page
    "masks = true uses them": f"tick '{BASIC['data.masks']}' to use them",
    "(--class-word dog)": f"under '{BASIC['data.class_word']}', for example dog",
}
HEADERS = ["picture", "caption", "from", "tokens", "cut off", "remarks"]


class Looks:
    """The data doctor's last answers, by what they depend on: the page of another ten thumbnails asks for the same."""

    def __init__(self) -> None:
        self.known: dict[str, Look] = {}
        self.lock = threading.Lock()

    def __call__(self, data: Pictures, model: str) -> tuple[str, Look]:
        """The stamp of an answer, and the answer. Raises as `data_look.look`."""
        stamp = data_look.stamp(data, model)
        with self.lock:  # one after another: a second page asks for the same folder
            if stamp not in self.known:
                self.known[stamp] = data_look.look(data, model)
                self.known = dict(list(self.known.items())[-KEPT:])
            return stamp, self.known[stamp]


@dataclass(frozen=True)
class Answer:
    """What the page shows of a folder. stamp: what it depends on; shown: (picture, caption) as they were shown;
    files: those that may be taken out.
    """

    stamp: str
    words: str
    rows: list[list[Any]]
    shown: dict[str, str]
    count: int | None
    pages: int
    thumbnails: list[tuple[Any, str]]
    files: list[str]


def pictures(draft: Draft, place: Place) -> tuple[Pictures, str]:
    """The data settings of a draft, subjects resolved, and its model. Raises StudioError."""
    from studio import subjects

    only = {name: value for name, value in draft["changed"].items() if name.startswith("data.") or name == "model"}
    config = drafts.config({**draft, "changed": only, "wrong": {}}, place)
    return subjects.resolve(config).settings.data, config.model


def answer(draft: Draft, place: Place, looks: Looks, page: int = 1, before: str | None = None) -> Answer | None:
    """The data doctor's answer for a draft; None where nothing has changed since the stamp `before`.

    What is wrong with the folder is the answer's words.
    """
    try:
        if said := draft["wrong"].get(FOLDER):
            raise UsageError(said)
        data, model = pictures(draft, place)
        if data.folder is None:
            return None if before == "" else Answer("", EMPTY["pictures"], [], {}, None, 1, [], [])
        if f"{data_look.stamp(data, model)}|{page}" == before:
            return None
        stamp, found = looks(data, model)
        return described(f"{stamp}|{page}", found, page)
    except Exception as error:  # the page has to say it, whatever it is
        said = trouble(error)
        return None if before == said else Answer(said, said, [], {}, None, 1, [], [])


def described(stamp: str, found: Look, page: int) -> Answer:
    """An answer as the page shows it."""
    pages = max(1, -(-len(found.pictures) // PAGE))
    first = (min(max(page, 1), pages) - 1) * PAGE
    numbers = range(first, min(first + PAGE, len(found.pictures)))
    some = [found.pictures[number] for number in numbers]
    rows = [[one.name, one.caption, one.source, one.tokens, one.cut, "; ".join(one.doubts)] for one in some]
    return Answer(
        stamp=stamp,
        words=said_of(found),
        rows=rows,
        shown={one.name: one.caption for one in some},
        count=len(found.pictures),
        pages=pages,
        thumbnails=[(found.thumbnail(number), found.pictures[number].line) for number in numbers],
        files=list(dict.fromkeys([*(one.name for one in (*some, *found.pictures)), *found.spare]))[:MOST],
    )


def said_of(found: Look) -> str:
    """Verdict, warnings, notes and what was left out, as Markdown."""
    lines = [f"**{plain(found.verdict[:1].upper() + found.verdict[1:])}** · layout {plain(found.layout)}"]
    lines += [f"- ⚠ {plain(text)}" for text in map(by_labels, found.warnings)]
    lines += [f"- {plain(text)}" for text in map(by_labels, found.notes)]
    lines += [f"- left out: {plain(name)}: {plain(why)}" for name, why in found.left_out[:20]]
    if len(found.left_out) > 20:
        lines.append(f"- left out: {len(found.left_out) - 20} more; `studio check-data` lists all")
    return "\n".join([lines[0], "", *lines[1:]])


def by_labels(text: str) -> str:
    """A sentence of the data doctor with the form's labels for flags."""
    for flag, instead in INSTEAD.items():
        text = text.replace(flag, instead)
    return text


def not_taken(refused: list[Refused]) -> str:
    """The files of an upload that were not taken, each with its reason, as Markdown; '' for none."""
    if not refused:
        return ""
    lines = [f"- **{plain(one.name)}**: {plain(one.reason)}" for one in refused[:PAGE]]
    lines += [f"- and {len(refused) - PAGE} more"] if len(refused) > PAGE else []
    return "\n".join([f"⚠ Not taken of the last upload ({len(refused)}):", "", *lines])


def trouble(error: Exception) -> str:
    """An error's sentence, as Markdown."""
    return f"⚠ {plain(shown(error))}"


def plain(text: str) -> str:
    """A text in Markdown, taken as it is: file names and captions are not markup."""
    return "".join(f"\\{mark}" if mark in "\\`*_{}[]<>#|!~$&" else mark for mark in text)


def captioned(draft: Draft, place: Place, before: dict[str, str], rows: list[list[Any]]) -> tuple[str, str]:
    """Writes the captions that were edited: the folder then, as the draft holds it, and what was done, in a sentence.

    Raises StudioError.
    """
    changed, now = data_look.edited(before, rows), str(draft["changed"].get(FOLDER) or "")
    if not changed:
        return now, "No caption was changed."
    data, _ = pictures(draft, place)
    if data.folder is None:
        raise UsageError("there are no pictures any more: reload the page")
    data_sets.apart(place, data)
    with data_sets.changing(place, data.folder) as (folder, said):
        done = data_look.write(place, data.model_copy(update={"folder": folder}), changed)
    many = f"{len(done)} caption{'s' if len(done) != 1 else ''} written beside the pictures"
    return (str(folder) if said else now), f"{many}; the old ones are in a zip. {said}".rstrip()


def taken_out(draft: Draft, place: Place, names: list[str]) -> tuple[str, str]:
    """Takes pictures out of an upload: the folder then, and what was done, in a sentence. Raises StudioError."""
    data, _ = pictures(draft, place)
    folder, said = data_sets.take_out(place, data.folder, names)
    return (str(draft["changed"][FOLDER]) if folder == data.folder else str(folder)), said
