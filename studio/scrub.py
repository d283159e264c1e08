"""Private words out of a text, by stable placeholders: paths, file names, captions, prompts, triggers, people."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from studio.pipelines.data_image import shown
from studio.secrets import redact

OPEN, CLOSE = "\ue000", "\ue001"  # around placeholders while others are put in; < and > may be in what a person wrote
PARTS = re.compile(f"({OPEN}[^{OPEN}{CLOSE}]*{CLOSE})")
PLACEHOLDER = re.compile(r"<[^<>\n]{1,120}>")
WORD = re.compile(r"\w+")
GRAM = 3  # so many words in a row give a caption away
LONGEST = 300  # letters of a name; longer texts are found by their words
END = rf"\s'\"<>:,;()\[\]{{}}{OPEN}{CLOSE}"
CODE = re.compile(r".*?[/\\](?:site-packages|dist-packages|lib[/\\]python[\d.]+)[/\\]")
QUOTED = re.compile(rf'(?<=File ")[^"\n{OPEN}{CLOSE}]+(?=")')
WHOLE = re.compile(rf"(?:~?/|[A-Za-z]:\\)[^\n{OPEN}{CLOSE}]*")
PATH = re.compile(rf"(?<![\w<>/.~{CLOSE}-])(?:~?/[A-Za-z_.~][^{END}]*|[A-Za-z]:\\[^{END}]+)")
KINDS = r"png|jpe?g|jfif|webp|bmp|gif|tiff?|avif|heic|jp2|txt|caption|jsonl|csv"
FILE = re.compile(rf"(?i)[^/{END}]+\.(?:{KINDS})\b")
OURS = re.compile(r"(?:grid|curve)\.png|(?:base|\d+)-\d+\.png|log\.txt")
REST = re.compile(rf"(?<={OPEN}data{CLOSE}/)[^{END}]+|(?<={OPEN}prior{CLOSE}/)[^{END}]+")
CUT = re.compile(r"(?<=never seen: )(['\"]).*?\1(?=: shorten it)")  # a caption's end may be a word or two
NUMBERS = 16  # longer lists are the state of random generators


class Scrub:
    """Replaces private words wherever they stand; the same word always by the same placeholder, as in `<trigger>`."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.grams: set[tuple[str, ...]] = set()
        self.paths: dict[str, str] = {}
        self.pattern: re.Pattern[str] | None = None

    def add_place(self, place: Path, placeholder: str) -> None:
        """A folder or file whose path becomes a placeholder; what follows it stays, as far as nothing else hides it."""
        for form in forms(str(place)):
            self.places.setdefault(form, placeholder)

    def add(self, private: object, placeholder: str) -> None:
        """A word or name to hide. Numbers and single letters are no names."""
        text = str(private).strip()
        if len(text) > 1 and not text.replace(".", "").isdigit():
            for form in forms(text):
                self.words.setdefault(form.lower(), placeholder)
            self.pattern = None

    def add_text(self, text: str, placeholder: str) -> None:
        """A caption or prompt: hidden whole, and any three words of it in a row."""
        if len(text) <= LONGEST:
            self.add(text, placeholder)
        words = tuple(WORD.findall(text.lower()))
        self.grams.update(words[i : i + GRAM] for i in range(len(words) - GRAM + 1))

    def __call__(self, text: str) -> str:
        """The text with every secret and every private word replaced."""
        text = CUT.sub(f"{OPEN}caption{CLOSE}", redact(text.replace(OPEN, "?").replace(CLOSE, "?")))
        for place in sorted(self.places, key=len, reverse=True):
            text = text.replace(place, f"{OPEN}{self.places[place]}{CLOSE}")
        text = QUOTED.sub(lambda found: self.path(found[0]), text)
        text = self.path(text) if WHOLE.fullmatch(text) else text
        text = PATH.sub(lambda found: self.path(found[0]), text)
        text = each(text, lambda part: self.matcher().sub(self.word, part))
        text = re.sub(rf"{OPEN}(data|prior){CLOSE}/({OPEN}\1/)", r"\2", text)
        text = REST.sub(lambda found: self.path(found[0]), text)
        text = each(each(text, self.ungrammed), unnamed)
        return text.replace(OPEN, "<").replace(CLOSE, ">")

    def tree(self, value: Any) -> Any:
        """A JSON value with every text in it cleaned, names of fields too."""
        if isinstance(value, Mapping):
            return {self(str(key)): self.tree(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            numbers = len(value) > NUMBERS and all(isinstance(item, (int, float)) for item in value)
            return f"<{len(value)} numbers>" if numbers else [self.tree(item) for item in value]
        return value if isinstance(value, (int, float, type(None))) else self(str(value))

    def leaks(self, text: str) -> list[str]:
        """The private words still in a text, placeholders aside."""
        return self.matcher().findall(PLACEHOLDER.sub("\0", text))

    def word(self, found: re.Match[str]) -> str:
        """The placeholder of a private word."""
        return f"{OPEN}{self.words.get(found[0].lower(), 'private')}{CLOSE}"

    def matcher(self) -> re.Pattern[str]:
        """All private words as one expression; none is found inside a longer word."""
        if self.pattern is None:
            kinds = {True: r"(?<![^\W_])", False: ""}
            sorts = {edge: [word for word in self.words if word[0].isalnum() == inner] for inner, edge in kinds.items()}
            expressions = [edge + trie(words) for edge, words in sorts.items() if words]
            self.pattern = re.compile("|".join(expressions) or r"(?!)", re.IGNORECASE)
        return self.pattern

    def path(self, path: str) -> str:
        """A path nobody named: a package's code keeps its place in the package, the rest gets a number."""
        if code := CODE.match(path):
            return f"{OPEN}python{CLOSE}/{path[code.end() :]}"
        number = self.paths.setdefault(path, f"path-{len(self.paths) + 1}")
        return f"{OPEN}{number}{CLOSE}"

    def ungrammed(self, text: str) -> str:
        """The text without pieces of captions and prompts."""
        found = list(WORD.finditer(text))
        words = [match[0].lower() for match in found]
        hidden = [i for i in range(len(words) - GRAM + 1) if tuple(words[i : i + GRAM]) in self.grams]
        for first, last in reversed(list(runs(hidden))):
            end = found[last + GRAM - 1].end()
            text = f"{text[: found[first].start()]}{OPEN}words of a caption{CLOSE}{text[end:]}"
        return text


def each(text: str, change: Callable[[str], str]) -> str:
    """The text with everything but its placeholders changed."""
    return "".join(part if part.startswith(OPEN) else change(part) for part in PARTS.split(text))


def trie(words: Iterable[str]) -> str:
    """An expression for any of the words, the longest first: a tree of letters, quick for thousands of them."""
    top: dict[str, Any] = {}
    for word in words:
        node = top
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = r"(?![^\W_])" if word[-1].isalnum() else ""
    return branches(top)


def branches(node: dict[str, Any]) -> str:
    """The expression of a node's letters and what follows them."""
    row = ""
    while len(node) == 1 and "" not in node:  # no recursion for what has no branches: names may be long
        letter, node = next(iter(node.items()))
        row += re.escape(letter)
    more = [re.escape(letter) + branches(below) for letter, below in node.items() if letter]
    ends = [node[""]] if "" in node else []
    return row + (f"(?:{'|'.join([*more, *ends])})" if more else ends[0])


def unnamed(text: str) -> str:
    """The text without file names of pictures and captions that nobody listed, because their folder is gone."""
    return FILE.sub(lambda found: found[0] if OURS.fullmatch(found[0]) else f"{OPEN}file{CLOSE}", text)


def runs(places: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each row of overlapping pieces."""
    row: list[int] = []
    for place in places:
        if row and place > row[-1] + GRAM:
            yield row[0], row[-1]
            row = []
        row.append(place)
    if row:
        yield row[0], row[-1]


def forms(text: str) -> set[str]:
    """How a text may be written down: as it is, on one line, escaped by JSON, by repr or for the screen."""
    plain = {text, " ".join(text.split())}
    escaped = {json.dumps(word)[1:-1] for word in plain} | {
        json.dumps(word, ensure_ascii=False)[1:-1] for word in plain
    }
    return plain | escaped | {repr(word)[1:-1] for word in plain} | {shown(word) for word in plain}
