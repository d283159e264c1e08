"""What a run works with, brought together in the same way by every process: model, pictures, adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from studio import class_pictures, loop, ranks, snapshot, start
from studio.basis import Basis
from studio.config import RunConfig
from studio.pipelines import attention, backbone
from studio.pipelines.cache import Cache, Embeddings
from studio.pipelines.data import Dataset, DataStream
from studio.pipelines.data_prompts import Prompts, PromptStream
from studio.pipelines.distillation_data import Drawn, DrawnStream
from studio.pipelines.protocols import Adapter, Backbone
from studio.precision import deterministic, dtype
from studio.thrift import Thrift

Streams = DataStream | PromptStream | DrawnStream


@dataclass
class Materials:
    """classes: pictures of the class, once there are any; basis: what all of it is, by fingerprints; thrift: what
    saves memory.
    """

    config: RunConfig
    model: Backbone
    dataset: Dataset
    classes: Dataset | None
    adapter: Adapter
    engine: loop.Engine
    basis: Basis
    thrift: Thrift

    @classmethod
    def gather(cls, config: RunConfig, check: Callable[[], None]) -> Materials:
        """Everything loaded and read. check: called where loading can be stopped."""
        settings, device = config.settings, ranks.device()
        deterministic(settings.deterministic, device)  # before anything touches the device
        model = backbone.load(config.model, device, dtype(settings, device))
        check()
        thrift = Thrift(settings, model)
        dataset = settings.data.read(model)
        classes = class_pictures.given(config, model, dataset)
        attention.install(model.net, settings.attention)
        snapshot.seed(config.seed)
        adapter = start.adapter(settings, model, dataset)
        engine = loop.Engine(settings, model, adapter, {})  # a wrong optimizer is said before anything is written
        basis = Basis.of(config.resolved(config.run, config.runs), model, dataset, classes)
        return cls(config, model, dataset, classes, adapter, engine, basis, thrift)

    def read(self) -> Streams:
        """The stream over the pictures, or the prompts; latents and embeddings through the cache of all runs."""
        settings, cache = self.config.settings, Cache(self.config.runs / ".cache")
        size, drawn = self.size, getattr(settings, "drawn", None)
        stream: Streams
        if isinstance(prompts := getattr(settings, "prompts", None), Prompts):
            stream = self.prompted(prompts)
        elif isinstance(drawn, Drawn) and settings.data.folder is None:
            texts = drawn.prompts.read(self.dataset, self.config.model == "embedded")[0]
            stream = DrawnStream(self.model, texts, self.dataset, drawn, cache=cache, **size)
        else:
            stream = DataStream(self.model, self.dataset, cache=cache, prior=self.classes, **size)
        if not self.adapter.trains_text:
            self.model.embed = Embeddings(self.model, cache.folder)  # type: ignore[method-assign]
        return stream

    def prompted(self, prompts: Prompts) -> PromptStream:
        """The stream of prompts. Raises DataError."""
        ours = self.config.model == "embedded"
        return PromptStream(self.model, prompts.read(self.dataset, ours), self.dataset, **self.size, embedded=ours)

    @property
    def size(self) -> dict[str, Any]:
        """What every stream is told: rows of a batch, the seed, this process's share."""
        return {"batch": self.config.settings.batch, "seed": self.config.seed, "share": ranks.join()}
