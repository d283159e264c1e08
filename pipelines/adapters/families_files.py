"""Files of the families, for ours and for other tools.

LoHa and LoKr: LyCORIS' keys (`lora_unet_..._to_q.hada_w1_a`, `.alpha`), as ComfyUI, A1111 and LyCORIS read them.
OFT and (IA)3: ours by `part.module.oft_R.weight`, and beside it a folder in peft's own layout, for peft alone knows
peft's OFT. For all of them a LoRA by SVD, which stock diffusers loads, with what it keeps in its header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from studio.pipelines.adapters import families, families_layers, families_svd, lora_files, reading, targets, writing
from studio.pipelines.adapters.families_layers import FORMS, Family
from studio.pipelines.adapters.lora import NAME, Config, Layers
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Backbone

KIND, PEFT, KEPT = "studio.kind", "studio.peft", "studio.svd_energy"
OWN, STOCK = "adapter.safetensors", "adapter.lora.safetensors"
LYCORIS = ("loha", "lokr")


def save(model: Backbone, adapter: Family, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """One safetensors file that `load` reads back to the bit; its path. metadata: further header fields."""
    tensors = adapter.state_dict()
    header = {"format": "pt", KIND: "families", reading.OURS: adapter.config.model_dump_json()}
    header[PEFT] = json.dumps(
        {part: families_layers.settings(adapter.config, names) for part, names in adapter.layers.items()},
        sort_keys=True,
    )
    if adapter.config.family in LYCORIS:
        flat = {f"{part}.{name}": _key(model, part, name) for part, inner in adapter.layers.items() for name in inner}
        tensors = {f"{flat[_layer(n)]}.{n.rpartition('.')[2]}": t for n, t in tensors.items()}
        # what LyCORIS divides by the rank; where it does not, for two whole factors, the strength is 1 anyway
        tensors |= {f"{flat[n]}.alpha": torch.tensor(s * adapter.config.rank) for n, s in adapter.scales().items()}
        header |= {"ss_network_module": "lycoris.kohya", "ss_network_dim": str(adapter.config.rank)}
        header["ss_network_args"] = json.dumps({"algo": adapter.config.family})
    return writing.write(tensors, path, {**header, **(metadata or {})})


def exports(model: Backbone, adapter: Family, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """Our file, peft's layout where nothing else has the family, and the nearest LoRA where it can be told."""
    written = [save(model, adapter, folder / OWN, about)]
    if adapter.config.family not in LYCORIS:
        for part, names in adapter.layers.items():
            written += save_peft(adapter, part, names, folder / "peft" / part)
    if not adapter.changeable:  # in 8 bits or offloaded: what the frozen weights would become is not known here
        return written
    made = families_svd.factors(adapter)
    kept = {name or "all": round(share, 6) for name, share in made.kept.items()}
    said = {KEPT: json.dumps(kept), "studio.svd_of": adapter.config.family}
    if made.lost:
        said["studio.svd_lost"] = f"changes of {len(made.lost)} biases"
    lora: Any = made
    return [*written, lora_files.save(model, lora, folder / STOCK, {**about, **said})]


def save_peft(adapter: Family, part: str, names: Mapping[str, tuple[int, float]], folder: Path) -> list[Path]:
    """The part's update as `PeftModel.from_pretrained(network, folder)` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    inside = {n.removeprefix(f"{part}."): t for n, t in adapter.state_dict().items() if n.startswith(f"{part}.")}
    tensors = {f"base_model.model.{name}": tensor for name, tensor in inside.items()}
    said = folder / "adapter_config.json"
    said.write_text(json.dumps(families_layers.settings(adapter.config, names), indent=1) + "\n", encoding="utf-8")
    return [writing.write(tensors, folder / "adapter_model.safetensors", {"format": "pt"}), said]


def load(model: Backbone, path: Path) -> Family:
    """The adapter of a file, injected into `model` and switched on; ModelError when it cannot be one for it."""
    tensors, header = reading._open(Path(path))
    config, named = _config(path, header), _named(model, path, tensors)
    touched = {_layer(name) for name in named}
    layers: Layers = {}
    for part, root in targets.roots(model).items():
        inside = [name for name, _ in root.named_modules() if f"{part}.{name}" in touched]
        layers |= {part: dict.fromkeys(inside, (config.rank, float(config.alpha or config.rank)))} if inside else {}
    missing = _promised(header) - {part: len(names) for part, names in layers.items()}.items()
    if missing:
        raise ModelError(f"{path}: it lacks layers of {next(iter(missing))[0]}; save or download the file again")
    try:
        families.check(config, layers, model)
    except UsageError as error:
        raise ModelError(f"{path}: made for another model ({error})") from None
    adapter = Family(model, layers, config)
    try:
        adapter.load_state_dict(named)
    except ModelError as error:
        adapter.remove()
        raise ModelError(f"{path}: its layers have other sizes than this model's, or are not whole ({error})") from None
    return adapter


def _promised(header: Mapping[str, str]) -> set[tuple[str, int]]:
    """How many layers of each part the header speaks of; nothing where it does not."""
    try:
        said = json.loads(header.get(PEFT, "{}"))
        return {(part, str(values["target_modules"]).count("|") + 1) for part, values in said.items()}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return set()


def _config(path: Path, header: Mapping[str, str]) -> Config:
    """The settings that the file was trained with."""
    try:
        config = Config.model_validate_json(header.get(reading.OURS, ""))
        families.refuse(config)
    except (ValidationError, UsageError):
        config = Config()
    if header.get(KIND) != "families" or config.family not in FORMS:
        raise ModelError(f"{path}: its header field {reading.OURS} is missing or damaged; save or download it again")
    return config


def _named(model: Backbone, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by our names, alphas left out: the header's settings hold them."""
    names = [(part, name) for part, root in targets.roots(model).items() for name, _ in root.named_modules()]
    flat, named = {_key(model, *one): ".".join(one) for one in names}, {}
    for key, tensor in tensors.items():
        module, _, weight = key.partition(".")
        if weight != "alpha":
            named[f"{flat[module]}.{weight}" if module in flat else key] = tensor
    known = {
        f"{part}.{name}"
        for part, root in targets.roots(model).items()
        for name, module in root.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    if odd := [name for name in named if _layer(name) not in known]:
        raise ModelError(f"{path}: this model has no layer for {odd[0][:100]!a}; use the model the file was trained on")
    if not named:
        raise ModelError(f"{path}: holds no layers")
    return named


def _layer(name: str) -> str:
    """The `part.module` of a tensor's name."""
    return name.removesuffix(".weight").rpartition(".")[0]


def _key(model: Backbone, part: str, name: str) -> str:
    """LyCORIS' name of a layer; a transformer's as ComfyUI knows it (SimpleTuner's)."""
    first = "lora_te1_" if "text_encoder_2" in model.text_encoders else "lora_te_"
    prefix = {"unet": "lora_unet_", "text_encoder": first, "text_encoder_2": "lora_te2_"}.get(part, "lycoris_")
    return prefix + lora_files._old_style(part, name).replace(".", "_")


def into_stock(pipe: Any, model: Backbone, path: Path) -> None:
    """Put a file into a stock pipeline with peft alone: its layers injected and given the file's tensors."""
    from peft import inject_adapter_in_model, set_peft_model_state_dict

    tensors, header = reading._open(path)
    named = _named(model, path, tensors)
    for part, values in json.loads(header[PEFT]).items():
        network = getattr(pipe, part)
        inject_adapter_in_model(families_layers.peft_config(values), network, NAME)
        for name, parameter in network.named_parameters():
            if f".{NAME}" in name:
                parameter.data = parameter.data.float()  # OFT solves equations, which half precision cannot
        inside = {n.removeprefix(f"{part}."): t for n, t in named.items() if n.startswith(f"{part}.")}
        missed = set_peft_model_state_dict(network, inside, NAME).unexpected_keys
        if missed:
            raise ModelError(f"{path}: peft has no place for {missed[0][:100]!a}; is its version another?")
