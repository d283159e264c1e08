"""What a model is distilled on when nobody gives pictures: latents that it draws itself, once, and their stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines import draws, sampling
from studio.pipelines.cache import Cache, address
from studio.pipelines.data_order import Order, digest
from studio.pipelines.data_pictures import Dataset
from studio.pipelines.data_prompts import Prompts
from studio.pipelines.guidance import cfg
from studio.pipelines.protocols import Backbone, Batch
from studio.pipelines.settings import Part

TOGETHER = 4  # drawn in one batch and kept in one entry: neighbours in a batch would change the last bits


class Drawn(Part):
    """Pictures that the model draws to be distilled on."""

    prompts: Annotated[Prompts, Field(description="What they show, in turn")] = Prompts()
    pictures: Annotated[int, Field(ge=1, le=10**6, description="How many")] = 128
    sampler_steps: Annotated[int, Field(ge=1, le=1000, description="Sampler steps of each")] = 25
    guidance_scale: Annotated[float, Field(ge=1, le=100, description="Their classifier-free guidance scale")] = 5.0


class DrawnStream:
    """The `Stream` over a model's own pictures: batch p depends on (seed, p) alone, each picture on (seed, its number).

    cache: keeps the latents between runs. share: which of several processes this is; together they hold the batch of
    one process that has as many rows as all of them.
    """

    def __init__(
        self,
        model: Backbone,
        prompts: Sequence[str],
        dataset: Dataset,
        config: Drawn,
        *,
        batch: int,
        seed: int,
        cache: Cache | None = None,
        share: draws.Share = draws.ALONE,
    ) -> None:
        self.model, self.prompts, self.dataset, self.config = model, list(prompts), dataset, config
        self.batch, self.seed, self.share = batch, seed, share
        self.cache, self.base = cache or Cache(None), model.fingerprint()
        self.order = Order([config.pictures], batch * share.ranks, seed)
        self.position = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.position += 1
            yield self.at(self.position - 1)

    def at(self, position: int) -> Batch:
        """The batch of this number."""
        number, device = self.batch * self.share.ranks, self.model.device
        rows = list(enumerate(self.order(position)[1]))[self.share.rows(self.batch)]
        latents = torch.stack([self.chunk(entry // TOGETHER)[entry % TOGETHER] for _, entry in rows])
        chances = torch.rand(number, generator=torch.Generator().manual_seed(digest(self.seed, position, "dropout")))
        dropped = (chances < self.dataset.settings.caption_dropout).tolist()
        return Batch(
            latents=latents.to(device),
            prompts=["" if dropped[row] else self.prompt(entry) for row, entry in rows],
            prior=torch.zeros(len(rows), dtype=torch.bool, device=device),
            weights=torch.ones(len(rows), device=device),
            masks=None,
            ids=[f"drawn {entry}" for _, entry in rows],
            generator=draws.generator(digest(self.seed, position, "noise"), self.share),
        )

    def prompt(self, entry: int) -> str:
        """What picture number `entry` shows."""
        return self.prompts[entry % len(self.prompts)]

    def fill(self) -> Iterator[tuple[int, int]]:
        """Draw all pictures that are not there yet; yields (done, total)."""
        total = self.config.pictures
        for number in range(-(-total // TOGETHER)):
            self.chunk(number)
            yield min((number + 1) * TOGETHER, total), total

    def chunk(self, number: int) -> Tensor:
        """The latents `[4, C, h, w]` of the pictures from 4 `number` on, fewer at the end, through the cache."""
        entries = range(number * TOGETHER, min((number + 1) * TOGETHER, self.config.pictures))
        prompts, seeds = [self.prompt(e) for e in entries], [digest(self.seed, "drawn", e) for e in entries]
        side = self.dataset.settings.resolution or self.model.pixels
        how = (self.config.sampler_steps, self.config.guidance_scale, side)
        name = address(base=self.base, drawn=prompts, seeds=seeds, how=how)
        return self.cache(name, lambda: {"latents": self.draw(prompts, seeds, side)})["latents"]

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], side: int) -> Tensor:
        """Clean latents by the base model, `[B, C, h, w]`."""
        model, adapter = self.model, self.model.adapter
        with torch.no_grad(), sampling.evaluating(model), nullcontext() if adapter is None else adapter.off():
            guide = cfg(self.config.guidance_scale, model.embed([""]))
            generators = sampling.seeded(seeds)
            x, walker = sampling.start(model, generators, side, side), sampling.by_name(model)
            steps = walker(
                model,
                guide(model.predict),
                x,
                model.embed(prompts),
                self.config.sampler_steps,
                generators=generators,
            )
            for step in steps:
                x = step.next
        return x

    @property
    def samples(self) -> list[str]:
        """A few prompts: what is worth a look."""
        return self.prompts[:TOGETHER]

    @property
    def captions(self) -> Sequence[str]:
        """Every text that the run asks for."""
        return list(dict.fromkeys((*self.prompts, "")))
