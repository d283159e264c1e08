"""The prompts of runs that learn from what they draw, and the stream that hands them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import tomlkit
import torch
from pydantic import Field
from tomlkit.exceptions import TOMLKitError

from studio.pipelines import draws
from studio.pipelines.assets import assets_folder
from studio.pipelines.confine import permitted
from studio.pipelines.data_examples import fill_in
from studio.pipelines.data_order import Order, digest
from studio.pipelines.data_pictures import Dataset
from studio.pipelines.errors import DataError
from studio.pipelines.protocols import Backbone, Batch
from studio.pipelines.settings import Part

KEYS = ("train", "held_out")  # of a TOML file of prompts
SAMPLES = 4
Lists = tuple[list[str], list[str]]


class Prompts(Part):
    """What is drawn and rewarded, and what is drawn to see whether that helps beyond it."""

    texts: Annotated[
        tuple[str, ...], Field(description="Prompts to learn on; {trigger}, {class_word} are filled; empty: the file's")
    ] = ()
    held_out: Annotated[tuple[str, ...], Field(description="Prompts that are only looked at; empty: the file's")] = ()
    file: Annotated[
        Path | None,
        Field(description="Text file, a prompt a line, or TOML with train and held_out; empty: the studio's own"),
    ] = None

    def read(self, dataset: Dataset, embedded: bool) -> Lists:
        """Prompts to learn on, and held-out ones, filled in and each once. Raises DataError.

        embedded: the model is the studio's own, which knows few words.
        """
        train, aside = ([], []) if self.texts and not self.file else read(self.file or own(dataset, embedded))
        train = list(self.texts) or train
        aside = list(self.held_out) or aside or train
        words = (dataset.trigger, dataset.class_word)
        filled = [list(dict.fromkeys(fill_in(text, words) for text in texts)) for texts in (train, aside)]
        return filled[0], filled[1]


def own(dataset: Dataset, embedded: bool) -> Path:
    """The studio's prompts for a subject, where there is one, else about animals."""
    name = f"{'subject' if dataset.trigger or dataset.class_word else 'animals'}{'-embedded' if embedded else ''}.toml"
    return assets_folder() / "prompts" / "reward" / name


def read(path: Path) -> Lists:
    """The prompts of a file. Raises DataError where it cannot be read or has none."""
    permitted(path, "prompts.file", DataError)
    try:
        text = path.read_text("utf-8")
        rows = tomlkit.parse(text).unwrap() if path.suffix == ".toml" else {"train": text.splitlines()}
    except (OSError, ValueError, TOMLKitError) as error:
        raise DataError(f"prompts.file: {path} cannot be read: {' '.join(str(error).split())[:160]}") from None
    return lists(path, rows)


def lists(path: Path, rows: Mapping[str, Any]) -> Lists:
    """The two lists of a file's contents. Raises DataError."""
    if strange := sorted(set(rows) - set(KEYS)):
        raise DataError(f"prompts.file: {path} has '{strange[0]}'; it may have {' and '.join(KEYS)}")
    found = [rows.get(key, []) for key in KEYS]
    if not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in found):
        raise DataError(f"prompts.file: {path}: {' and '.join(KEYS)} should be lists of prompts")
    train, aside = ([text.strip() for text in texts if text.strip()] for texts in found)
    if not train:
        raise DataError(f"prompts.file: {path} has no prompt to learn on")
    return train, aside


class PromptStream:
    """The `Stream` of prompts: batch p depends on (seed, p) alone, and every prompt comes equally often.

    A batch's latents are zeros of the size to draw. share: which of several processes this is; together they hold the
    batch of one process that has as many rows as all of them. embedded: the model is the studio's own.
    """

    def __init__(
        self,
        model: Backbone,
        prompts: Lists,
        dataset: Dataset,
        *,
        batch: int,
        seed: int,
        share: draws.Share = draws.ALONE,
        embedded: bool = False,
    ) -> None:
        self.embedded = embedded
        self.model, self.dataset, self.batch, self.seed, self.share = model, dataset, batch, seed, share
        self.prompts, self.held_out = prompts
        self.order = Order([len(self.prompts)], batch * share.ranks, seed)
        self.position = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.position += 1
            yield self.at(self.position - 1)

    def at(self, position: int) -> Batch:
        """The batch of this number."""
        entries = self.order(position)[1][self.share.rows(self.batch)]
        side, device = self.dataset.settings.resolution or self.model.pixels, self.model.device
        return Batch(
            latents=torch.zeros(len(entries), *self.model.latent_shape(side, side), device=device),
            prompts=[self.prompts[entry] for entry in entries],
            prior=torch.zeros(len(entries), dtype=torch.bool, device=device),
            weights=torch.ones(len(entries), device=device),
            masks=None,
            ids=[f"prompt {entry}" for entry in entries],
            generator=draws.generator(digest(self.seed, position, "noise"), self.share),
        )

    def common(self, *purpose: object) -> torch.Generator:
        """A generator for a purpose in the batch that was handed out last, the same in all processes."""
        return torch.Generator().manual_seed(digest(self.seed, self.position, *purpose))

    def fill(self) -> Iterator[tuple[int, int]]:
        """Nothing is to be encoded."""
        yield from ()

    @property
    def samples(self) -> list[str]:
        """A few of both lists, held-out ones first: what is worth a look."""
        pairs = zip_longest(self.held_out, self.prompts)
        return list(dict.fromkeys(text for pair in pairs for text in pair if text))[:SAMPLES]

    @property
    def captions(self) -> Sequence[str]:
        """Every text that the run asks for."""
        return list(dict.fromkeys((*self.prompts, *self.held_out, "")))
