"""What a caption of the embedded world states: object, second object, colour, style, position, size, tint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

SIZES = {"small": "small", "tiny": "small", "little": "small", "large": "large", "big": "large"}
STYLES = {
    "noto": ("shaded cartoon", "soft cartoon", "noto drawing"),
    "twemoji": ("flat sticker", "simple sticker", "twemoji drawing"),
    "emojione": ("bright vector", "glossy vector", "emojione drawing"),
}
KINDS = ("animal", "bird", "fish", "plant", "food", "vehicle", "object")  # said for an object, and no answer
TWO = re.compile(r"\b(and|next to|to the (left|right) of)\b")
PLACE = re.compile(r"\b(?:on|in|at) the (left|right|center)\b")


class Reader:
    """Reads prompts. answers: what the attribute classifier may answer to each attribute."""

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        self.answers = answers
        colour = either(answers["colour"])
        # "an orange on an orange background": the ground is told by the words around it
        self.ground = re.compile(
            rf",? ?\b(?:(?:on|with) an? ({colour}) background|in front of an? ({colour}) wall"
            rf"|on ({colour})\b|({colour}) background)"
        )
        self.noun = re.compile(
            rf"\b(?:({either(SIZES)}) )?(?:({either(answers['tint'])}) )?({either([*answers['object'], *KINDS])})\b"
        )

    def __call__(self, prompt: str) -> dict[str, str]:
        """The stated attributes, by name; of two objects the left one's size and tint."""
        found, text = {}, prompt.lower()
        phrases = [(name, phrase) for name in self.answers["style"] for phrase in STYLES.get(name, ())]
        for style, phrase in phrases:
            if phrase in text:
                found["style"], text = style, text.replace(phrase, "")
        if ground := self.ground.search(text):
            found["colour"] = next(filter(None, ground.groups()))
            text = text[: ground.start()] + text[ground.end() :]
        return found | self.objects(text)

    def objects(self, text: str) -> dict[str, str]:
        """What is said about one or two objects."""
        nouns = list(self.noun.finditer(text))[:2]
        pair, place = TWO.search(text), PLACE.search(text)
        if not nouns or pair and len(nouns) < 2:
            return {}  # which of the two the unknown word is cannot be told
        if len(nouns) == 2 and (mirrored(text, nouns[0].end(), nouns[1].start())):
            nouns.reverse()
        size, tint, noun = nouns[0].groups()
        said = {"object": noun, "size": SIZES.get(size or ""), "tint": tint}
        if len(nouns) == 2:
            said["second"] = nouns[1][3]
        elif place:
            said["position"] = place[1]
        return {name: value for name, value in said.items() if value and value not in KINDS}


def spoken(prompt: str, name: str, answer: str) -> str:
    """An attribute's answer in the prompt's own words: `flat sticker` for twemoji, `tiny` for the size small."""
    ways = list(STYLES.get(answer, ())) if name == "style" else []
    ways += [word for word, size in SIZES.items() if name == "size" and size == answer]
    return next((way for way in ways if re.search(rf"\b{way}\b", prompt, re.IGNORECASE)), answer)


def mirrored(text: str, start: int, end: int) -> bool:
    """Whether what stands between two objects says that the first is the right one."""
    return "right" in text[start:end]


def either(words: Iterable[str]) -> str:
    """A pattern of any of the words, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
