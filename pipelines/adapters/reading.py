"""Adapter files back into a model: ours, diffusers' and kohya's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from torch import Tensor, nn

from studio.pipelines import pickles
from studio.pipelines.adapters import targets
from studio.pipelines.adapters.lora import Config, Layers, LoRA
from studio.pipelines.confine import permitted
from studio.pipelines.errors import ModelError

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

HEADER = "lora_adapter_metadata"  # where diffusers looks for rank and alpha
OURS = "studio.adapter"
OLD = "text_model."  # CLIP's prefix in every file made before transformers 5, which other tools expect
MAGNITUDE = "lora_magnitude_vector"


@dataclass(frozen=True)
class File:
    """A LoRA file: tensors by `part.module.lora_A.weight`, kohya's alphas by `part.module`, the header."""

    path: Path
    tensors: dict[str, Tensor]
    alphas: dict[str, float]
    header: dict[str, str]

    @cached_property
    def peft(self) -> dict[str, Any]:
        """The settings diffusers put into the header; empty for a foreign file. ModelError where they are damaged."""
        try:
            found = json.loads(self.header.get(HEADER, "{}"))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ModelError(f"{self.path}: its header field {HEADER} is damaged; save or download the file again")
        return found


def load(model: Backbone, path: Path) -> LoRA:
    """The adapter a file holds, injected into `model` and switched on.

    Ranks come from the tensors, alpha from the header, else from kohya's alphas, else it is the rank. Raises
    ModelError for a file that is not one, of another family or of other sizes, in one line that names it.
    """
    file = read(model, Path(path))
    layers = _layers(model, file)
    config = _config(file, layers)
    if config.dora != any(MAGNITUDE in name for name in file.tensors):
        raise ModelError(f"{file.path}: says dora = {config.dora}, and its tensors say the opposite; it is damaged")
    adapter = LoRA(model, layers, config)
    try:
        adapter.load_state_dict(file.tensors)
    except ModelError:
        adapter.remove()
        raise ModelError(f"{file.path}: some layers lack a tensor; the file is not whole") from None
    return adapter


def read(model: Backbone, path: Path) -> File:
    """The file with its keys in our naming; ModelError when it cannot be one for this model."""
    tensors, header = _open(path)
    alphas: dict[str, float] = {}
    if any(name.startswith(("lora_unet_", "lora_te")) for name in tensors):
        tensors, alphas = _from_kohya(model, path, tensors)
    else:
        tensors = _from_diffusers(model, path, tensors)
    return File(path, tensors, alphas, header)


def header(path: Path) -> dict[str, str]:
    """What a file says of itself: trigger, base, adapter settings. ModelError when it cannot be read."""
    return _open(path, tensors=False)[1]


def _open(path: Path, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open

    if not path.is_file():
        raise ModelError(f"{path}: there is no such adapter file")
    if pickles.is_pickle(path):
        return _sound(path, pickles.load(path)), {}
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
            return _sound(path, found), file.metadata() or {}
    except ModelError:
        raise
    except Exception as error:  # besides SafetensorError and OSError, torch's own for odd types and sizes
        raise ModelError(f"{path}: not a readable safetensors file ({' '.join(str(error).split())[:200]})") from None


def _sound(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, when all are finite floating-point numbers (or one whole number, an alpha). Raises ModelError."""
    permitted(path, "the adapter", ModelError)
    for name, tensor in tensors.items():
        whole = not tensor.is_floating_point() and tensor.numel() != 1
        if tensor.is_complex() or not tensor.numel() or whole or not tensor.float().isfinite().all():
            what = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            raise ModelError(f"{path}: the tensor {name[:100]!a} ({what}) is empty or holds no finite numbers")
    return tensors


def _from_diffusers(model: Backbone, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys like `unet.X.lora.down.weight`, `transformer.X.lora_A.weight`, `text_encoder.text_model.X...`."""
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft

    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    _check_parts(model, path, parts)
    result: dict[str, Tensor] = {}
    for part, state in parts.items():
        text = part in model.text_encoders
        try:
            if text and any("lora_linear_layer" in name or "to_out_lora" in name for name in state):
                state = convert_state_dict_to_peft(state)
            elif not text:
                state = convert_unet_state_dict_to_peft(state)
        except (ValueError, KeyError) as error:
            raise ModelError(f"{path}: names of {part} that no LoRA has ({error})") from None
        modules = dict(targets.roots(model)[part].named_modules())
        result |= {f"{part}.{_present(name, modules)}": tensor for name, tensor in state.items()}
    return {name + ".weight" if name.endswith(MAGNITUDE) else name: tensor for name, tensor in result.items()}


def _check_parts(model: Backbone, path: Path, parts: Mapping[str, Any]) -> None:
    foreign = sorted(set(parts) - set(targets.roots(model)))
    if foreign:
        raise ModelError(
            f"{path}: made for a model with {foreign[0]!r}; this one has {', '.join(targets.roots(model))}: "
            "use the base model the file was trained on"
        )


def _present(name: str, modules: Mapping[str, nn.Module]) -> str:
    """`name` with or without CLIP's old prefix, whichever the encoder has."""
    bare = name.removeprefix(OLD)
    module = bare.partition(".lora_")[0]
    return bare if module in modules else name


def _from_kohya(
    model: Backbone, path: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Keys like `lora_unet_down_blocks_0_..._to_q.lora_down.weight` and their `.alpha`."""
    names = _kohya_names(model)
    kinds = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    result: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, tensor in tensors.items():
        flat, _, kind = key.partition(".")
        if flat not in names or kind not in {*kinds, "alpha"}:
            ways = "; is it for another family of models?"
            if kind in ("diff", "diff_b", "w_norm", "b_norm") or key.endswith(("w_norm", "b_norm")):
                ways = ": a LyCORIS file for other tools; use the adapter.safetensors beside it"
            raise ModelError(f"{path}: this model has no place for {key!r}{ways}")
        if kind == "alpha":
            if tensor.numel() != 1:
                raise ModelError(f"{path}: {key!r} is not one number; save or download the file again")
            alphas[names[flat]] = float(tensor)
        else:
            result[f"{names[flat]}.{kinds[kind]}"] = tensor
    return result, alphas


def _kohya_names(model: Backbone) -> dict[str, str]:
    """kohya's flat names of all layers -> `part.module`."""
    prefixes = {"text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",)}
    names = {}
    for part, root in targets.roots(model).items():
        for name, module in root.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                old = OLD + name.removeprefix(OLD) if part in prefixes else name
                for prefix in prefixes.get(part, ("lora_unet_",)):
                    names[prefix + old.replace(".", "_")] = f"{part}.{name}"
    return names


def _layers(model: Backbone, file: File) -> Layers:
    """Part -> module -> (rank, alpha); ModelError when a tensor does not fit its layer."""
    layers: Layers = {}
    modules = {part: dict(root.named_modules()) for part, root in targets.roots(model).items()}
    for key, tensor in file.tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        part, _, name = key.removesuffix(".lora_A.weight").partition(".")
        _check_size(modules[part].get(name), f"{part}.{name}", file)
        layers.setdefault(part, {})[name] = (tensor.shape[0], _alpha(file, part, name, tensor.shape[0]))
    if not layers:
        raise ModelError(f"{file.path}: holds no LoRA layers")
    return layers


def _check_size(layer: nn.Module | None, full: str, file: File) -> None:
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise ModelError(f"{file.path}: this model has no layer {full!r}; use the base model the file was trained on")
    down, up = file.tensors[f"{full}.lora_A.weight"], file.tensors.get(f"{full}.lora_B.weight")
    if down.ndim != layer.weight.ndim:
        raise ModelError(
            f"{file.path}: layer {full} has {down.ndim} dimensions in the file, {layer.weight.ndim} in ours"
        )
    theirs = (down[0].numel(), 0 if up is None or not up.ndim else up.shape[0])
    if theirs != targets.size(layer):
        ours = "{} -> {}".format(*targets.size(layer))
        raise ModelError(f"{file.path}: layer {full} is {theirs[0]} -> {theirs[1]} in the file and {ours} in the model")


def _alpha(file: File, part: str, name: str, rank: int) -> float:
    """alpha of one layer: the header's, else kohya's, else the rank. ModelError unless it is a number."""
    patterns = file.peft.get(f"{part}.alpha_pattern") or {}
    stated = file.peft.get(f"{part}.lora_alpha")
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if _fits(pattern, name):
            stated = value
            break
    alpha = file.alphas.get(f"{part}.{name}", rank) if stated is None else stated
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < 1e9:
        raise ModelError(f"{file.path}: alpha of {part}.{name} is {str(alpha)[:40]!a}, not a number that can be used")
    return float(alpha)


def _fits(pattern: str, name: str) -> bool:
    """Whether peft's pattern means this layer: its name or, without an anchor, the end of it.

    peft runs it as a regular expression; one out of a stranger's file could run for ever.
    """
    plain = pattern.removeprefix("^").replace("\\", "")
    return name == plain or (not pattern.startswith("^") and name.endswith(f".{plain}"))


def _config(file: File, layers: Layers) -> Config:
    """Our own settings where the file carries them, otherwise what can be read off it."""
    if OURS in file.header:
        try:
            return Config.model_validate_json(file.header[OURS])
        except ValidationError as error:
            mistake = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, mistake["loc"]))
            raise ModelError(f"{file.path}: its header field {OURS} is damaged ({where}: {mistake['msg']})") from None
    ranks: Counter[int] = Counter(rank for part in layers.values() for rank, _ in part.values())
    rslora = any(file.peft.get(f"{part}.use_rslora", False) is True for part in layers)
    dora = any(MAGNITUDE in name for name in file.tensors)
    return Config(rank=min(4096, ranks.most_common(1)[0][0]), rslora=rslora, dora=dora)
