"""Files of new tokens in diffusers' textual-inversion layout, which stock pipelines load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor

from studio.pipelines.adapters import reading, tokens_spelling, tokens_tables, writing
from studio.pipelines.adapters.tokens import Config, Tokens
from studio.pipelines.adapters.tokens_tables import TABLE
from studio.pipelines.errors import ModelError

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

KIND, SETTINGS = "studio.kind", "studio.adapter"
KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}  # as diffusers' scripts for two encoders name them
NAME = "learned_embeds.safetensors"  # what load_textual_inversion looks for in a folder


def save(model: Backbone, adapter: Tokens, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """One safetensors file; its path. One text encoder: `<word>` -> `[vectors, D]`; two: clip_l, clip_g `[n, D]`.

    A file of one word and one encoder goes into `pipe.load_textual_inversion` as it is. metadata: further header
    fields.
    """
    rows = {part: layer.rows for part, layer in adapter.layers.items()}
    header = {"format": "pt", KIND: adapter.kind, SETTINGS: adapter.config.model_dump_json()}
    return writing.write(layout(rows, adapter.config), path, {**header, **(metadata or {})})


def layout(rows: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The tensors of a file from the rows of each text encoder."""
    if len(rows) > 1:
        return {KEYS[part]: tensor for part, tensor in rows.items()}
    (only,) = rows.values()
    return dict(zip(config.words, only.split(config.vectors), strict=True))


def load(model: Backbone, path: Path) -> Tokens:
    """The tokens of a file, ours or another tool's, in `model`.

    Raises ModelError, in one line that names the file, for one that is damaged, foreign or of another model, and
    UsageError where the model's tokenizer knows one of the words already.
    """
    tensors, header = reading._open(Path(path))
    config = _config(path, tensors, header)
    parts = list(tokens_tables.holders(model))
    if not parts:
        raise ModelError(f"{path}: holds new tokens, and this model has no CLIP text encoder for them")
    rows = _rows(path, tensors, config, parts)
    for part, holder in tokens_tables.holders(model).items():
        wanted = (len(config.words) * config.vectors, getattr(holder, TABLE).weight.shape[1])
        if tuple(rows[part].shape) != wanted:
            raise ModelError(f"{path}: rows of {part} are {tuple(rows[part].shape)}, the model takes {wanted}")
    adapter = config.build(model)
    adapter.load_state_dict({f"{part}.new_tokens.weight": tensor for part, tensor in rows.items()})
    return adapter


def foreign(path: Path) -> bool:
    """Whether a file without a header of ours holds new tokens: words with rows of one table."""
    tensors, header = reading._open(Path(path))
    plain = all(tensor.ndim <= 2 and "." not in name for name, tensor in tensors.items())
    return bool(tensors) and plain and KIND not in header


def _config(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Config:
    """Our own settings where the file carries them, otherwise what can be read off it."""
    try:
        if SETTINGS in header:
            return Config.model_validate_json(header[SETTINGS])
        if set(tensors) <= set(KEYS.values()):  # diffusers' scripts call them <s0>, <s1>, ...
            words = tuple(f"<s{number}>" for number in range(len(next(iter(tensors.values())))))
            return Config(words=words, init=())
        sizes = {1 if tensor.ndim == 1 else len(tensor) for tensor in tensors.values()}
        if len(sizes) == 1:
            return Config(words=tuple(tensors), vectors=sizes.pop(), init=())
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise ModelError(f"{path}: its words or its header field {SETTINGS} are damaged ({mistake})") from None
    raise ModelError(f"{path}: words of different numbers of vectors, {sorted(sizes)}: put each into a file of its own")


def _rows(path: Path, tensors: Mapping[str, Tensor], config: Config, parts: list[str]) -> dict[str, Tensor]:
    """The rows of each text encoder; ModelError unless the file has exactly these."""
    names = [KEYS[part] for part in parts] if len(parts) > 1 else list(config.words)
    if set(names) != set(tensors):
        raise ModelError(f"{path}: holds {', '.join(sorted(tensors))[:80]!a}; this model takes {', '.join(names)}")
    found = [torch.atleast_2d(tensors[name]) for name in names]
    if len(parts) > 1:
        return dict(zip(parts, found, strict=True))
    widths = {tensor.shape[1:] for tensor in found}
    if len(widths) > 1:
        raise ModelError(f"{path}: words of different widths; the file is damaged")
    return {parts[0]: torch.cat(found)}


def into_stock(pipe: Any, model: Backbone, path: Path) -> None:
    """The tokens in a stock pipeline, through diffusers' own `load_textual_inversion`, once per text encoder.

    SD3's pipeline has no such method and spells no word out: it is borrowed, and its tokenizers do the spelling.
    """
    tensors, header = reading._open(Path(path))
    config = _config(path, tensors, header)
    for part, rows in _rows(path, tensors, config, list(tokens_tables.holders(model))).items():
        tokenizer = getattr(pipe, tokens_tables.tokenizer_of(part))
        spells = hasattr(pipe, "maybe_convert_prompt")
        kind = tokens_spelling.stock_names if spells else tokens_spelling.pieces
        names = [name for word in config.words for name in kind(word, config.vectors)]
        if not spells:
            tokens_spelling.spell(tokenizer, config.words, config.vectors)
        source = list(rows) if len(names) > 1 else rows
        _loader(pipe).load_textual_inversion(source, names, tokenizer=tokenizer, text_encoder=getattr(pipe, part))


def _loader(pipe: Any) -> Any:
    """What loads textual inversions into the parts of a pipeline: itself, where it can."""
    from diffusers.loaders import TextualInversionLoaderMixin

    if isinstance(pipe, TextualInversionLoaderMixin):
        return pipe
    loader: Any = TextualInversionLoaderMixin()
    loader.hf_device_map, loader.components = None, pipe.components
    return loader
