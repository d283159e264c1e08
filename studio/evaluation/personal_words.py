"""Whether a picture shows what its prompt says, told in words: the attributes a judge reads, and a caption's own words.

Both are exact about what they count and blind to the rest; neither uses the encoder that a text score uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from studio.evaluation.personal import COSINE, Measured, numbers
from studio.pipelines.errors import DataError
from studio.pipelines.protocols import About

Captioner = Callable[[Sequence[Tensor]], Sequence[str]]
SMALL = (
    "a an the of on in at to from by with and or is are it its this that there some front next beside near into onto "
    "picture photo photograph image background drawing"
)
EMPTY = frozenset(SMALL.split())  # they say nothing of what is to be seen
NAN, SHARE = float("nan"), (0.0, 1.0)


class Reader(Protocol):
    """A text encoder, such as the image-text ones of `pipelines/encoders`."""

    @property
    def id(self) -> str: ...
    def text_features(self, prompts: Sequence[str]) -> Tensor: ...  # unit [B, D]


def accuracy(read: Sequence[Mapping[str, str]], wishes: Sequence[Mapping[str, str]], judge: str) -> Measured:
    """Share of the attributes wished of each picture that the judge read in it; NaN where nothing was wished.

    read: what `Judges.read` says, a dict per picture; wishes: such as `personal_wishes` or `studio.subjects.prompts()`
    gives. Raises DataError unless there are as many of both, and for an attribute nobody reads.
    """
    if len(read) != len(wishes):
        raise DataError(f"{len(read)} pictures were read and {len(wishes)} have wishes: give each picture its own")
    what = text_about("prompt-accuracy", judge, "the judge", SHARE)
    return Measured(what, tuple(share(*row) for row in zip(read, wishes, strict=True)))


def share(read: Mapping[str, str], wishes: Mapping[str, str]) -> float:
    """Of one picture."""
    unknown = [name for name in wishes if name not in read]
    if unknown:
        raise DataError(f"a prompt wishes '{unknown[0]}', which the judge does not read; it reads {', '.join(read)}")
    return sum(read[name] == wish for name, wish in wishes.items()) / len(wishes) if wishes else NAN


def round_trip(captions: Sequence[str], prompts: Sequence[str], reader: Reader, captioner: str) -> list[Measured]:
    """What is left of a prompt after painting it and describing the painting: cosine of the texts, share of its words.

    captions: of the pictures, by the captioner of that name; prompts: what the pictures should show, without a trigger.
    An empty caption scores NaN: a captioner that said nothing saw nothing. Raises DataError unless paired.
    """
    if len(captions) != len(prompts):
        raise DataError(f"{len(captions)} captions and {len(prompts)} prompts: give each picture its own")
    good = [bool(caption.strip()) for caption in captions]
    said = [caption if fine else prompt for caption, prompt, fine in zip(captions, prompts, good, strict=True)]
    alike = numbers((reader.text_features(said) * reader.text_features(prompts)).sum(-1)) if said else ()
    recalls = tuple(recall(caption, prompt) for caption, prompt in zip(captions, prompts, strict=True))
    return [
        Measured(
            text_about(name, by, "the captioner", bounds),
            tuple(value if fine else NAN for value, fine in zip(values, good, strict=True)),
        )
        for name, by, values, bounds in (
            ("caption-match", f"{captioner}, read by {reader.id}", alike, COSINE),
            ("caption-recall", captioner, recalls, SHARE),
        )
    ]


def text_about(name: str, by: str, who: str, bounds: tuple[float, float]) -> About:
    """What a number out of words is."""
    return About(name, by, f"as {who} takes pictures", f"{name}: {by}", needs=("prompts",), bounds=bounds)


def describe(captioner: Captioner, pictures: Sequence[Tensor]) -> list[str]:
    """The captions; "" for a picture with values that are no numbers. Raises DataError when one is missing."""
    good = [bool(picture.isfinite().all()) for picture in pictures]
    found = list(captioner([picture for picture, fine in zip(pictures, good, strict=True) if fine]))
    if len(found) != sum(good):
        raise DataError(f"the captioner gave {len(found)} captions for {sum(good)} pictures; use another")
    rest = iter(found)
    return [next(rest) if fine else "" for fine in good]


def recall(caption: str, prompt: str) -> float:
    """Share of the prompt's words, but for small ones, that the caption has too; NaN for a prompt of small words."""
    wanted = words(prompt)
    return len(wanted & words(caption)) / len(wanted) if wanted else NAN


def words(text: str) -> set[str]:
    """The words that say something, in the singular as far as an ending tells."""
    return {stem(word) for word in re.findall(r"[^\W_]+", text.lower()) if word not in EMPTY}


def stem(word: str) -> str:
    """foxes -> fox, cats -> cat, berries -> berry."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
