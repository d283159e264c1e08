"""SaRA for tools that do not know it: the network with it in, LyCORIS' dense changes, the nearest LoRA."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studio.pipelines.adapters import families_svd, lora, lora_files, targets, writing
from studio.pipelines.adapters.sara import SaRA
from studio.pipelines.adapters.sara_place import Place

STOCK, FULL, MERGED = "adapter.lora.safetensors", "adapter.full.safetensors", "merged"
KEPT = "studio.svd_energy"
LAYERS, NORMS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.GroupNorm, nn.LayerNorm)


def write(adapter: SaRA, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """What the adapter's settings ask for; the paths."""
    ways: dict[str, Callable[[SaRA, Path, Mapping[str, str]], list[Path]]] = {
        "lora": save_lora,
        "full": save_full,
        "merged": save_merged,
    }
    return [path for name in adapter.config.exports for path in ways[name](adapter, folder, about)]


def save_merged(adapter: SaRA, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """The whole network in diffusers' layout: `from_pretrained` of its class reads it."""
    net: Any = adapter.model.net
    with adapter.merged():
        net.save_pretrained(folder / MERGED)
    return sorted((folder / MERGED).glob("*.safetensors"))


def save_full(adapter: SaRA, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """LyCORIS' 'full' and 'norm': every changed layer's dense change in float16, as `.diff`, `.diff_b`, `.w_norm`.

    Nothing where no such layer has changed. Changes elsewhere, which LyCORIS has no name for, are counted in the
    header.
    """
    prefix = "lora_unet_" if targets.part(adapter.model) == "unet" else "lycoris_"
    tensors: dict[str, Tensor] = {}
    left = set(adapter.places)
    for name, module in adapter.model.net.named_modules():
        keys = ("diff", "diff_b") if isinstance(module, LAYERS) else ("w_norm", "b_norm")
        own = {key: f"{targets.part(adapter.model)}.{name}.{key}" for key in ("weight", "bias")}
        if not isinstance(module, LAYERS + NORMS) or not left & set(own.values()):
            continue
        left -= set(own.values())
        for key, full in zip(keys, own, strict=True):
            if (weight := getattr(module, full)) is not None:
                place = adapter.places.get(own[full])
                change = torch.zeros_like(weight.data, dtype=torch.float32) if place is None else dense(place)
                tensors[f"{prefix}{name.replace('.', '_')}.{key}"] = change.half()
    header = {"format": "pt", "ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps({"algo": "full"})}
    lost = {"studio.full_lost": f"changes of {len(left)} tensors"} if left else {}
    return [writing.write(tensors, folder / FULL, {**header, **lost, **about})] if tensors else []


def save_lora(adapter: SaRA, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """The nearest LoRA, which `load_lora_weights` reads; what it keeps of each layer is in its header.

    A sparse change has a high rank, and biases and norms have no place in a LoRA: it is lossy.
    """
    made = factors(adapter)
    if not made.tensors:
        return []
    kept = {KEPT: json.dumps({name or "all": round(share, 6) for name, share in made.kept.items()}, sort_keys=True)}
    lost = {"studio.svd_lost": f"changes of {len(made.lost)} biases and norms"} if made.lost else {}
    said = {**about, **kept, **lost, "studio.svd_of": SaRA.kind}
    return [lora_files.save(adapter.model, made, folder / STOCK, said)]  # type: ignore[arg-type]


def factors(adapter: SaRA) -> families_svd.Factors:
    """Truncated SVDs of all layers' changes. `kept` has the share of squares by layer and, as "", of everything."""
    part = targets.part(adapter.model)
    made = families_svd.Factors(lora.Config(targets="all", rank=1), {part: {}})
    whole = left = 0.0
    for name, place, layer in changed(adapter):
        change = dense(place)
        energy = float(change.double().square().sum())
        whole += energy
        if layer is None:
            made.lost.append(name)
        elif energy:
            module = name.removesuffix(".weight")
            down, up, kept = families_svd.truncated(change)
            made.tensors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
            made.layers[part][module.removeprefix(f"{part}.")] = (len(down), float(len(down)))
            made.kept[module] = kept
            left += kept * energy
    made.kept[""] = left / whole if whole else 1.0
    rank = max((rank for rank, _ in made.layers[part].values()), default=1)
    made.config = made.config.model_copy(update={"rank": rank})
    return made


def changed(adapter: SaRA) -> Iterator[tuple[str, Place, nn.Module | None]]:
    """Every place with its name, and the linear or convolution layer whose weight it is."""
    modules = dict(adapter.model.net.named_modules())
    for name, place in adapter.places.items():
        inside, _, key = name.partition(".")[2].rpartition(".")
        layer = modules.get(inside)
        yield name, place, layer if key == "weight" and isinstance(layer, nn.Linear | nn.Conv2d) else None


@torch.no_grad()
def dense(place: Place) -> Tensor:
    """What the adapter adds to a whole tensor, float32."""
    change = torch.zeros(place.weight.numel(), device=place.weight.device)
    change[place.index.long()] = (place.values() - place.original.to(place.vector.dtype)).float()
    return change.view(place.weight.shape)
