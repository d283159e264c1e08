"""Training pictures to batches: the endless, seeded, resumable stream over a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from studio.pipelines import buckets, draws
from studio.pipelines.buckets import Size
from studio.pipelines.cache import Cache, Embeddings
from studio.pipelines.data_latents import Encoder, Latents
from studio.pipelines.data_order import Order, digest
from studio.pipelines.data_pictures import Dataset, Example, Pictures, Rejected
from studio.pipelines.data_view import View
from studio.pipelines.data_zoom import WHOLE, Zoom, cells, draw
from studio.pipelines.protocols import Batch

__all__ = ["Cache", "DataStream", "Dataset", "Embeddings", "Example", "Pictures", "Rejected"]


class DataStream:
    """The `Stream` over a data set; with `prior`, a batch has `batch` instance rows, then `batch` class rows.

    Batch p depends on (seed, p) alone: setting `position = p` resumes there; `Order` says which samples it
    holds. Each row draws its crop, zoom, mirroring, caption dropout and posterior noise from generators of its own:
    no setting and no other row changes what is drawn for another purpose. cache: keeps the latents of centre
    crops. share: of several processes, which one this is: together they hold the batch that one process would
    have with `batch` times as many rows as there are processes.
    """

    def __init__(
        self,
        model: Encoder,
        dataset: Dataset,
        *,
        batch: int,
        seed: int,
        cache: Cache | None = None,
        prior: Dataset | None = None,
        share: draws.Share = draws.ALONE,
    ) -> None:
        self.model, self.dataset, self.batch, self.seed = model, dataset, batch, seed
        self.latents, self.prior, self.position, self.share = Latents(model, cache), prior, 0, share
        self.buckets = sorted({example.bucket for example in dataset.examples})
        self.groups = [repeated([e for e in dataset.examples if e.bucket == bucket]) for bucket in self.buckets]
        self.order = Order([len(group) for group in self.groups], batch * share.ranks, seed)
        self.class_pictures = repeated(prior.examples) if prior else []
        self.class_order = Order([len(self.class_pictures)], batch * share.ranks, digest(seed, "prior"))

    @cached_property
    def bases(self) -> dict[str, str]:
        """The base caption of each instance sample, by its id; none where zooms make more than one of a caption."""
        return {} if self.dataset.settings.zooms else self.dataset.bases

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.position += 1
            yield self.at(self.position - 1)

    def at(self, position: int) -> Batch:
        """The batch of this number."""
        rows, views = zip(*self.views(position), strict=True)
        latents = self.latents.draw(views, [self.generator(position, "posterior", row) for row in rows])
        prior = torch.arange(len(views)) >= self.batch
        device = self.model.device
        return Batch(
            latents=latents,
            prompts=[view.prompt for view in views],
            prior=prior.to(device),
            weights=torch.tensor([view.example.weight for view in views], device=device),
            masks=self.masks(views, latents.shape[-2:]),
            ids=[view.example.id for view in views],
            generator=draws.generator(digest(self.seed, position, "noise"), self.share),
        )

    def masks(self, views: Sequence[View], size: torch.Size) -> Tensor | None:
        """Where to learn, `[B, 1, h, w]` at latent size on the device; None: everywhere."""
        settings = self.dataset.settings
        if not (settings.masks or settings.zooms):
            return None
        masks = interpolate(torch.stack([view.mask() for view in views]), size, mode="area")
        if settings.zooms:
            masks = masks * cells(torch.stack([view.inside() for view in views]), size)
        return masks.to(self.model.device)

    def fill(self) -> Iterator[tuple[int, int]]:
        """Encode everything that the cache can hold; yields (done, total). Nothing to do without a cache."""
        views = [view for view in self.all_views() if view.cacheable and self.latents.cache is not None]
        for done, view in enumerate(views, 1):
            self.latents.moments(view)
            yield done, len(views)

    def generator(self, position: int, *purpose: object) -> torch.Generator:
        """A CPU generator for one purpose in one batch."""
        return torch.Generator().manual_seed(digest(self.seed, position, *purpose))

    def views(self, position: int) -> list[tuple[int, View]]:
        """This process's rows of a batch, numbered: instance rows, then class rows at the same size."""
        group, entries = self.order(position)
        halves = [[(self.groups[group][i], self.dataset) for i in entries]]
        if self.prior:
            halves.append([(self.class_pictures[i], self.prior) for i in self.class_order(position)[1]])
        bucket, mine, number = self.buckets[group], self.share.rows(self.batch), len(entries)
        rows = [row for half, part in enumerate(halves) for row in list(enumerate(part, half * number))[mine]]
        return [(row, self.view(*entry, bucket, position, row)) for row, entry in rows]

    def view(self, example: Example, dataset: Dataset, bucket: Size, position: int, row: int) -> View:
        """How row `row` of the batch shows the example."""
        settings = dataset.settings
        place = buckets.place(settings.crop, self.generator(position, "crop", row))
        flip = settings.flip and self.chance(position, "flip", row) < 0.5
        dropped = self.chance(position, "dropout", row) < settings.caption_dropout
        box = buckets.crop_box(example.size, bucket, place)
        choice = int(self.chance(position, "zoom", row) * settings.zooms)
        zoom = self.zooms(example, dataset, choice, choice + 1)[0]
        return View(example, settings, bucket, box, flip, "" if dropped else zoom.words + example.caption, zoom)

    def zooms(self, example: Example, dataset: Dataset, start: int, stop: int) -> list[Zoom]:
        """The example's zooms of these numbers; class pictures, and all without zooms, fill their frame."""
        if dataset is not self.dataset or not dataset.settings.zooms:
            return [WHOLE]
        return [draw(self.seed, example.id, number) for number in range(start, stop)]

    def chance(self, position: int, *purpose: object) -> float:
        """A number in 0..1 for one purpose in one batch."""
        return float(torch.rand((), generator=self.generator(position, *purpose)))

    def all_views(self) -> Iterator[View]:
        """Every way a batch with center crops can show an example."""
        rows = [(self.dataset, example, example.bucket) for example in self.dataset.examples]
        if self.prior:
            rows += [(self.prior, example, bucket) for example in self.prior.examples for bucket in self.buckets]
        for dataset, example, bucket in rows:
            for flip in (False, True)[: 1 + dataset.settings.flip]:
                box = buckets.crop_box(example.size, bucket)
                for zoom in self.zooms(example, dataset, 0, dataset.settings.zooms):
                    yield View(example, dataset.settings, bucket, box, flip, zoom.words + example.caption, zoom)


def repeated(examples: Sequence[Example]) -> list[Example]:
    """Each example as often as an epoch shows it."""
    return [example for example in examples for _ in range(example.repeats)]
