"""What checking pictures needs of a model, read from its configs and tokenizers alone: no weights."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.pipelines import backbone, checkpoints, families, hub, pickles, syntax
from studio.pipelines.model_files import COMPONENT, read_index, read_json

CONFIGS = ("model_index.json", "*/config.json", "scheduler/*", "tokenizer*/*")
ASSUMED = (512, 8)  # pixels and multiple where the model cannot say


@dataclass(frozen=True)
class Outline:
    """A model's own picture side, what sides are multiples of, and its tokenizers with their limits in tokens.

    problem: why some of it is missing or assumed, in one sentence; '' where all of it was read.
    """

    pixels: int
    multiple: int
    tokenizers: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


def outline(model: str) -> Outline:
    """The outline of a model by its name: "embedded", "toy", a folder, a `.safetensors` file or a hub id.

    Raises UsageError for what is no model, ModelError for one that is damaged or of no known family; what is only
    out of reach is told in `problem`.
    """
    if any(model in family.names for family in families.ours()):  # it needs no files: it is made, not loaded
        made = backbone.load(model)
        return Outline(made.pixels, made.multiple, made.tokenizers, limits(type(made).__module__))
    folder = config_folder(model)
    if folder is None:
        pixels, multiple = ASSUMED
        said = f"the configs of {model} are not on this machine: picture side {pixels}, a multiple of {multiple},"
        return Outline(pixels, multiple, problem=f"{said} is assumed and tokens are not counted")
    name = read_index(folder).get("_class_name", "")
    family = families.pick(lambda one: name in one.classes, f"{folder / 'model_index.json'}: {name or 'a model'}")
    found, problem = tokenizers(folder)
    return Outline(*sides(folder), found, limits(family.module), problem)


def config_folder(model: str) -> Path | None:
    """A folder with the model's configs and tokenizers; None where they are out of reach. Raises as `outline`."""
    path, kind = checkpoints.place(model)
    if kind == "file":
        checkpoints.single_file_family(path)
        folders = (path.with_suffix(""), path.parent)
        beside = next((folder for folder in folders if (folder / "model_index.json").is_file()), None)
        return beside or (None if pickles.is_pickle(path) else fetched(origin(path)))
    if kind == "folder" or model == "embedded":
        return path
    return fetched(checkpoints.hub_id(model))


def origin(file: Path) -> str:
    """The hub id whose configs diffusers would use for a single file, told by the shapes of its tensors."""
    import torch
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
    empty = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    return str(fetch_diffusers_config(empty)["pretrained_model_name_or_path"])


def fetched(name: str) -> Path | None:
    """The hub model's configs and tokenizers, from the cache or else downloaded; None where neither works."""
    from huggingface_hub import snapshot_download

    for offline in (True, False):
        if not offline and not hub.reachable():
            return None
        try:
            folder = Path(snapshot_download(name, allow_patterns=list(CONFIGS), local_files_only=offline))
        except Exception:  # not cached, gated or unknown: the client has half a dozen types for that
            continue
        if (folder / "model_index.json").is_file():
            return folder
    return None


def sides(folder: Path) -> tuple[int, int]:
    """The picture side the model was made for, and what sides must be divisible by, in pixels.

    As the families find them in a loaded network: the tests hold both to the same numbers.
    """
    vae = read_json(folder / "vae" / "config.json")
    factor = 2 ** (len(vae.get("block_out_channels", (0,))) - 1)
    name = "unet" if (folder / "unet").is_dir() else "transformer"
    net = read_json(folder / name / "config.json")
    depth = 2 ** (len(net.get("block_out_channels", (0,))) - 1)
    size, patch = net.get("sample_size"), net.get("patch_size") or 1
    side = max(size) if isinstance(size, list) else size
    return (side or ASSUMED[0] // factor) * factor, factor * depth * patch


def tokenizers(folder: Path) -> tuple[dict[str, Any], str]:
    """The model's tokenizers by their names in its pipeline, and a sentence about those that cannot be read."""
    from transformers import AutoTokenizer

    found, problems = {}, []
    index = read_index(folder)
    for name in sorted(part for part in index if part.startswith("tokenizer") and COMPONENT.fullmatch(part)):
        if not index[name] or index[name][0] is None:
            continue
        try:
            options = {"local_files_only": True, "trust_remote_code": False}
            found[name] = AutoTokenizer.from_pretrained(folder / name, **options)
        except Exception as error:  # a missing file, a missing package, damaged JSON: all of them cost a column only
            problems.append(f"{name} of {folder} cannot be read ({checkpoints.first_line(error)})")
    return found, "; ".join(problems) + ": its tokens are not counted" if problems else ""


def limits(module: str) -> dict[str, int]:
    """How many tokens a family gives each encoder, by its tokenizer, where that is not the tokenizer's own limit.

    From a literal `TOKEN_LIMITS` at the top level of the family's module, which is read and not imported.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin:
        return {}
    body = syntax.tree(Path(spec.origin).read_text(encoding="utf-8")).body
    for node in (node for node in body if isinstance(node, ast.Assign)):
        if any(isinstance(target, ast.Name) and target.id == "TOKEN_LIMITS" for target in node.targets):
            return {str(name): int(limit) for name, limit in ast.literal_eval(node.value).items()}
    return {}
