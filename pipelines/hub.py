"""The model hub: what is cached, and a short question whether it answers. Never waits for long."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

from studio.pipelines import pickles
from studio.pipelines.errors import ModelError

PATIENCE = 6.0  # seconds


def snapshot(model: str) -> Path:
    """Local folder of a hub model, from the cache or else downloaded. Raises ModelError."""
    from diffusers import DiffusionPipeline

    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "trust_remote_code": False}
    parts["use_safetensors"] = None if pickles.may() else True
    try:
        return Path(DiffusionPipeline.download(model, local_files_only=True, **parts))
    except Exception:  # not in the cache: the client has half a dozen types for that
        if not reachable():
            raise ModelError(
                f"{model}: not cached, and the hub does not answer; check the network or name a folder"
            ) from None
    try:
        return Path(DiffusionPipeline.download(model, **parts))
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "safetensors" in reason and not pickles.may():
            raise ModelError(f"{model}: has no safetensors, only pickled weights: {pickles.WHY}") from error
        raise ModelError(f"{model}: the hub refused it: {reason}") from error


def cached_configs(file: Path) -> Path | None:
    """Cached hub folder with the configs diffusers would use for a single file; None where there is none."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import snapshot_download
    from safetensors.torch import load_file

    try:
        tensors = pickles.load(file) if pickles.is_pickle(file) else load_file(file)
        source = fetch_diffusers_config(tensors)["pretrained_model_name_or_path"]
        return Path(snapshot_download(source, local_files_only=True))
    except Exception:  # not cached: half a dozen types again
        return None


@cache
def reachable() -> bool:
    """Whether the hub answers within six seconds; no when HF_HUB_OFFLINE is set."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    answers: list[bool] = []
    asking = Thread(target=lambda: answers.append(_ask()), daemon=True)  # a name look-up has no time limit of its own
    asking.start()
    asking.join(PATIENCE)
    return answers == [True]


def _ask() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        return get_session().head(constants.ENDPOINT, timeout=PATIENCE - 1).status_code < 500
    except Exception:  # httpx or requests, by the client's version
        return False
