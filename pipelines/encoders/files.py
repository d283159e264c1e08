"""Where an encoder's files are, a folder or the hub, and its network out of them; a ModelError when they are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from studio.pipelines import checkpoints, hub, model_files, pickles
from studio.pipelines.encoders.framing import Framing
from studio.pipelines.errors import ModelError

WANTED = ("*.json", "*.txt", "*.model", "model*.safetensors")
WITHOUT = "name a folder that has it, or leave the scorer out"
REVISION = "Commit, tag or branch of the hub id; empty: the pinned commit of an encoder known here, else main"
COMMIT = re.compile("[0-9a-f]{40}")
MOVING = " (not pinned)"  # after a revision that may be other weights tomorrow
PINNED = {  # commits as public code names them; what is not among them is read at main, and says so in its id
    "openai/clip-vit-base-patch32": "b33cedfd0df4e43b8238760678fcc89e1a0d38b3",  # safetensors; its main has pickles
    "facebook/dinov2-base": "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    "google/siglip-base-patch16-224": "7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "yuvalkirstain/PickScore_v1": "a4e4367c6dfa7288a00c550414478f865b875800",
    "xswu/HPSv2": "697403c78157020a1ae59d23f111aa58ced35b0a",
    "THUDM/ImageReward": "5736be03b2652728fb87788c9797b0570450ab72",  # the hub calls its owner zai-org today
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "trl-lib/ddpo-aesthetic-predictor": "cf4bd10345610935a80a5d3be9a3133c50f121e4",
}
Result = TypeVar("Result")


def pinned(source: str, revision: str = "") -> str:
    """The revision that is meant: the one given, or else the pinned one, or else main."""
    return revision or PINNED.get(source, "main")


def said(source: str, revision: str = "") -> str:
    """`revision`, or the one that is meant, and whether it may move: in the records of results."""
    found = pinned(source, revision)
    return found if COMMIT.fullmatch(found) else found + MOVING


def place(source: str, revision: str = "", wanted: Sequence[str] = WANTED) -> Path:
    """The folder `source`, or the hub repository's files that match `wanted`, from the cache or else downloaded.

    Raises ModelError, within seconds when there is no network.
    """
    here = local(source, revision, wanted)
    if here is not None:
        return here
    revision = pinned(source, revision)
    found = fetched(source, revision, readable(wanted), False)
    if isinstance(found, str):
        raise ModelError(f"encoder {source}@{revision}: the hub refused it ({found}); {WITHOUT}")
    if not has_weights(found):
        raise ModelError(f"encoder {source}@{revision}: has no safetensors, only pickled weights: {pickles.WHY}")
    return found


def local(source: str, revision: str = "", wanted: Sequence[str] = WANTED) -> Path | None:
    """The folder `source`, or the hub repository's cached files that match `wanted`; None where `place` would download.

    Raises ModelError where they are not here and the hub cannot be asked, within seconds.
    """
    path, kind = checkpoints.place(source)
    if kind == "folder":
        return path
    if kind == "file" or not checkpoints.HUB_ID.fullmatch(source):
        raise ModelError(f"encoder {source[:200]!a}: no such folder, and not a hub id like owner/name; {WITHOUT}")
    revision = pinned(source, revision)
    cached = fetched(source, revision, readable(wanted), True)
    if isinstance(cached, Path) and has_weights(cached):
        return cached
    if not hub.reachable():
        raise ModelError(f"encoder {source}@{revision}: not cached, and the hub does not answer; connect, {WITHOUT}")
    return None


def readable(wanted: Sequence[str]) -> list[str]:
    """The patterns of files that may be read: pickles too where they are allowed."""
    return [*wanted, *(("*.bin", "*.pt") if pickles.may() else ())]


def fetched(source: str, revision: str, patterns: list[str], cached: bool) -> Path | str:
    """The folder of a snapshot, or the first line of the reason why there is none."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, local_files_only=cached))
    except Exception as error:  # the client has half a dozen types for "not there"
        return checkpoints.first_line(error)


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights that may be read."""
    return any(path.suffix == ".safetensors" or pickles.may() and pickles.is_pickle(path) for path in folder.iterdir())


def load_or_refuse(name: str, load: Callable[[], Result]) -> Result:
    """`load()`; whatever a damaged or foreign file makes it raise becomes a ModelError about the encoder `name`."""
    try:
        return load()
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a stranger's files raise nearly anything
        raise ModelError(f"encoder {name}: cannot be loaded: {checkpoints.first_line(error)}; {WITHOUT}") from error


def family(folder: Path, known: Sequence[str]) -> str:
    """The `model_type` of a folder's config. Raises ModelError when it is none of `known`."""
    found = str(model_files.read_json(folder / "config.json").get("model_type"))
    if found not in known:
        raise ModelError(f"{folder / 'config.json'}: a model of type {found}, wanted {' or '.join(known)}")
    return found


def framing(folder: Path, default: Framing, exactly: int | None = None) -> Framing:
    """How the encoder in `folder` wants its pictures. Raises ModelError unless the side comes out as `exactly`."""
    file = folder / "preprocessor_config.json"
    found = default.read(model_files.read_json(file)) if file.is_file() else default
    if exactly not in (None, found.square):
        raise ModelError(f"{file}: pictures of {found.square} px for an encoder of {exactly} px; get it again")
    return found


def tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`, of transformers' own classes. Raises ModelError when its words are not there."""
    from transformers import AutoTokenizer

    # without them transformers makes a tokenizer that knows nothing, and says nothing
    words = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",), ("tokenizer.model",))
    if not any(all((folder / file).is_file() for file in group) for group in words):
        raise ModelError(f"{folder}: no tokenizer in it (tokenizer.json, or vocab.json and merges.txt); get it again")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def pretrained(kind: Any, folder: Path, device: torch.device, dtype: torch.dtype, **options: Any) -> Any:
    """A transformers model of class `kind`, frozen and in eval mode, with every one of its weights out of `folder`.

    Raises ModelError when files are missing, damaged, or hold fewer tensors than the model has.
    """
    model_files.tensors_on_disk(folder)
    options |= {"use_safetensors": None if pickles.may() else True, "trust_remote_code": False}
    with checkpoints.quiet():
        model, found = kind.from_pretrained(
            folder, local_files_only=True, dtype=dtype, output_loading_info=True, **options
        )
    lacking = [*found["missing_keys"], *(row[0] for row in found.get("mismatched_keys", ()))]
    if lacking:  # transformers would go on with random ones
        raise ModelError(f"{folder}: no fitting weights for {lacking[0]} and {len(lacking) - 1} others; get it again")
    return model.to(device).eval().requires_grad_(False)
