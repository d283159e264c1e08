"""What a captioner is, and those that transformers runs: weights read at the first call, decoding without chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field

from studio.pipelines.captioners.loading import Load, loaded, named
from studio.pipelines.captioners.words import tidy
from studio.pipelines.settings import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Style = Literal["plain", "comprehensive"]
LONG = 16  # tokens that a comprehensive caption has at least


class Captioner(Protocol):
    """Pictures `[3, h, w]` in 0..1, of any size each -> one line each.

    nouns: what it may call a subject. One that is read from files has an `id` too: model and commit.
    """

    @property
    def nouns(self) -> Sequence[str]: ...

    def __call__(self, pictures: Sequence[Tensor]) -> list[str]: ...


class Wording(Part):
    """What all captioners share."""

    style: Annotated[Style, Field(description="plain: what is there; comprehensive: all that can be told")] = "plain"
    batch: Annotated[int, Field(ge=1, le=256, description="Pictures looked at together")] = 8


class Config(Wording):
    """A captioner of transformers."""

    model: Annotated[str, Field(min_length=1, description="A folder in transformers' layout, or a hub id")]
    revision: Annotated[str, Field(description="Commit, tag or branch; empty: the pinned commit, or main")] = ""
    beams: Annotated[int, Field(ge=1, le=16, description="Beams of the search; 1: the likeliest word each time")] = 3
    tokens: Annotated[int, Field(ge=4, le=512, description="Most tokens of a caption")] = 75


class Written:
    """Captions that a network of transformers writes.

    load: (folder, device, dtype) -> (model, processor); task: a text that goes with each picture; least: tokens.
    """

    nouns: tuple[str, ...] = ()

    def __init__(
        self, config: Config, device: torch.device, dtype: torch.dtype, load: Load, task: str = "", least: int = 0
    ) -> None:
        self.config, self.load, self.task, self.least = config, load, task, min(least, config.tokens)
        import torch

        self.device, self.dtype = device, torch.float32 if device.type == "cpu" else dtype

    @property
    def id(self) -> str:
        """Which network writes, with the commit that was read."""
        return named(self.config.model, self.config.revision)

    def __call__(self, pictures: Sequence[Tensor]) -> list[str]:
        """One caption per picture. ModelError: the weights cannot be had."""
        size = self.config.batch
        return [line for start in range(0, len(pictures), size) for line in self.some(pictures[start : start + size])]

    def some(self, pictures: Sequence[Tensor]) -> list[str]:
        """The captions of one batch."""
        model, processor = loaded(self.load, self.config.model, self.config.revision, self.device, self.dtype)
        asked = {"text": [self.task] * len(pictures)} if self.task else {}
        images = [picture.detach().mul(255).round().clamp(0, 255).byte().cpu() for picture in pictures]
        inputs = processor(images=images, input_data_format="channels_first", return_tensors="pt", **asked)
        ids = model.generate(
            **inputs.to(self.device, self.dtype),
            do_sample=False,
            num_beams=self.config.beams,
            max_new_tokens=self.config.tokens,
            min_new_tokens=self.least or None,
            no_repeat_ngram_size=3,
        )
        return [tidy(line) for line in processor.batch_decode(ids, skip_special_tokens=True)]
