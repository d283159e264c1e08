"""T-LoRA files: a LoRA of twice the rank with the schedule in its header, and plain LoRAs for tools without schedules.

Pairs are interleaved, A2[2j], A2[2j + 1] = Q[j], Q0[j] and B2[:, 2j], B2[:, 2j + 1] = s[j] P[:, j], -s0[j] P0[:, j], so
that rank k of the adapter is the first 2 k columns of the file. A tool that ignores the header applies every column at
every timestep, and copies pose and background like any LoRA.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from studio.pipelines.adapters import lora, lora_files, reading, targets
from studio.pipelines.adapters.lora import Layers, LoRA
from studio.pipelines.adapters.tlora import Config, TLoRA
from studio.pipelines.errors import ModelError

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

SCHEDULE = "tlora"  # the header field with the method's numbers, for other tools
NOTE = "studio.note"
WARNING = "T-LoRA: without the schedule in this header the whole rank acts at every timestep, as in a plain LoRA"


@dataclass
class Plain:
    """What `lora_files` writes: a LoRA that is in no model."""

    model: Backbone
    layers: Layers
    config: lora.Config
    tensors: dict[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors

    def scales(self) -> dict[str, float]:
        return {f"{part}.{name}": a / r for part, layers in self.layers.items() for name, (r, a) in layers.items()}


def save(model: Backbone, adapter: TLoRA, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """One safetensors file that `load` reads to the same bits, and `load_lora_weights` as a plain LoRA; its path."""
    config = adapter.config
    schedule = {
        "method": f"{config.variant} T-LoRA",
        "R": config.rank,
        "r_min": config.least,
        "alpha": config.power,
        "T": adapter.masks.period,
        "sig_type": config.init,
        "interleaved": config.variant == "full",
    }
    header = {reading.OURS: config.model_dump_json(), SCHEDULE: json.dumps(schedule, sort_keys=True), NOTE: WARNING}
    about = {"studio.kind": adapter.kind, **header, **(metadata or {})}
    return lora_files.save(model, cast(LoRA, _interleaved(adapter)), path, about)


def load(model: Backbone, path: Path) -> TLoRA:
    """The adapter of a file, with its schedule, in `model` and switched on. Its s is 1, P holds the product.

    Raises ModelError for a file that is damaged or of another model.
    """
    file = reading.read(model, Path(path))
    config, period = _header(file)
    layers, full = reading._layers(model, file), config.variant == "full"
    pairs = 2 if full else 1
    ranks = [rank for inner in layers.values() for rank, _ in inner.values()]
    if list(layers) != [targets.part(model)] or any(r % pairs or r > pairs * config.rank for r in ranks):
        raise ModelError(f"{file.path}: its layers are not those of a T-LoRA of rank {config.rank}; it is damaged")
    if full:
        layers = {part: {n: (r // 2, a / 2) for n, (r, a) in inner.items()} for part, inner in layers.items()}
    adapter = TLoRA(model, layers, config, period, drawn=False)
    try:
        adapter.load_state_dict(_separated(file.tensors) if full else file.tensors)
    except ModelError:
        adapter.remove()
        raise ModelError(f"{file.path}: some layers lack a tensor; the file is not whole") from None
    return adapter


def _header(file: reading.File) -> tuple[Config, int]:
    """Settings and T; ModelError where the header does not have them."""
    try:
        config = Config.model_validate_json(file.header[reading.OURS])
        period = json.loads(file.header[SCHEDULE])["T"]
        if isinstance(period, bool) or not isinstance(period, int) or not 0 < period < 10**9:
            raise ValueError("T")
    except (KeyError, TypeError, ValueError, ValidationError, RecursionError):
        raise ModelError(f"{file.path}: its header has no T-LoRA schedule that can be read; save it again") from None
    return config, period


def _interleaved(adapter: TLoRA) -> Plain:
    """The file's content: twice the rank where a copy is subtracted."""
    if adapter.config.variant == "vanilla":
        tensors = {name: tensor.detach() for name, tensor in adapter.named_parameters().items()}
        return Plain(adapter.model, adapter.layers, lora.Config(rank=adapter.config.rank), tensors)
    tensors, frozen, ups, state = {}, adapter.frozen(), adapter.ups(), adapter.named_parameters()
    for name in ups:
        down, base = state[f"{name}.lora_A.weight"].detach(), frozen[f"{name}.lora_base_A.weight"]
        tensors[f"{name}.lora_A.weight"] = torch.stack([down, base], 1).flatten(0, 1)
        up, base = ups[name], frozen[f"{name}.lora_base_B.weight"]
        tensors[f"{name}.lora_B.weight"] = torch.stack([up, -base], 2).flatten(1, 2)
    layers = {part: {n: (2 * r, 2 * a) for n, (r, a) in inner.items()} for part, inner in adapter.layers.items()}
    return Plain(adapter.model, layers, lora.Config(rank=min(4096, 2 * adapter.config.rank)), tensors)


def _separated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `load_state_dict` takes: the product P diag(s) is kept as P, with s = 1, which changes no bit."""
    state = {}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition(".lora_")
        if kind == "A.weight":
            state[key], state[f"{name}.lora_base_A.weight"] = tensor[0::2], tensor[1::2]
            state[f"{name}.lora_S.weight"] = torch.ones(len(tensor) // 2)
        elif kind == "B.weight":
            state[key], state[f"{name}.lora_base_B.weight"] = tensor[:, 0::2], -tensor[:, 1::2]
        else:
            state[key] = tensor
    return state


def exports(model: Backbone, adapter: TLoRA, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """Our own file; for kohya's tools the whole rank as a plain LoRA; where wanted, a plain LoRA of fewer columns."""
    written = [save(model, adapter, folder / lora_files.NAME, about)]
    whole, noted = compact(adapter, adapter.config.rank), {NOTE: WARNING, **about}
    if not lora_files.kohya_problem(model, cast(LoRA, whole)):
        written.append(lora_files.save_kohya(model, cast(LoRA, whole), folder / lora_files.KOHYA, noted))
    if rank := adapter.config.export_rank:
        written.append(fused(model, adapter, rank, folder / f"adapter.rank-{rank}.safetensors", about))
    return written


def fused(model: Backbone, adapter: TLoRA, rank: int, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """A plain LoRA that is, at every timestep, what the adapter is where `rank` columns act; its path."""
    note = f"a T-LoRA fused at rank {rank} of {adapter.config.rank}: the same at every timestep, its schedule is lost"
    return lora_files.save(model, cast(LoRA, compact(adapter, rank)), path, {NOTE: note, **(metadata or {})})


def compact(adapter: TLoRA, rank: int) -> Plain:
    """The update of the first `rank` columns as balanced factors of rank 2 `rank` at most.

    Unlike the interleaved pairs, which nearly cancel, these keep their precision in a half-precision pipeline.
    """
    whole = _interleaved(adapter)
    pairs = 2 if adapter.config.variant == "full" else 1
    tensors: dict[str, Tensor] = {}
    layers: Layers = {}
    for part, inner in whole.layers.items():
        layers[part] = {}
        for name, (width, alpha) in inner.items():
            keys = [f"{part}.{name}.lora_{kind}.weight" for kind in "AB"]
            down, up = balanced(whole.tensors[keys[0]][: pairs * rank], whole.tensors[keys[1]][:, : pairs * rank])
            tensors |= dict(zip(keys, (down, up), strict=True))
            layers[part][name] = (len(down), alpha / width * len(down))
    return Plain(adapter.model, layers, lora.Config(rank=min(4096, pairs * rank)), tensors)


def balanced(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The same product from factors of equal scale with orthogonal columns, by a small SVD in float64."""
    left, upper = torch.linalg.qr(up.flatten(1).cpu().double())
    right, lower = torch.linalg.qr(down.flatten(1).cpu().double().T)
    u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    root = s.sqrt()
    a, b = root[:, None] * (v @ right.T), (left @ u) * root
    return a.float().reshape(-1, *down.shape[1:]), b.float().reshape(len(b), -1, *up.shape[2:])
