"""env.json: what a run depended on besides its config."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import studio
from studio.secrets import redact

PACKAGES = ("accelerate", "diffusers", "numpy", "peft", "pillow", "safetensors", "torch", "torchvision", "transformers")


class Fingerprinted(Protocol):
    """A model or a data set: what it is made of, as one hash."""

    def fingerprint(self) -> str: ...


def environment(model: Fingerprinted, data: Fingerprinted) -> str:
    """The text of env.json for a run of `model` on `data`."""
    return json.dumps(describe(model=model.fingerprint(), data=data.fingerprint()), indent=1, ensure_ascii=False) + "\n"


def describe(**fingerprints: str) -> dict[str, Any]:
    """Versions, commit and dirtiness, device, and the fingerprints given by name (data, model, ...)."""
    return {
        "command": [redact(word) for word in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {"studio": studio.__version__, **{name: installed(name) for name in PACKAGES}},
        "git": commit(Path(studio.__file__).resolve().parents[1]),
        "device": device(),
        "fingerprints": fingerprints,
    }


def installed(package: str) -> str | None:
    """The version of a distribution, None when it is absent; torch's with its build, as it reports it."""
    if package == "torch" and "torch" in sys.modules:
        return str(sys.modules["torch"].__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit(folder: Path) -> dict[str, Any] | None:
    """The checkout's commit and whether files differ from it; None outside a checkout of this project."""
    if not (folder / "pyproject.toml").is_file():
        return None
    try:
        head = git(folder, "rev-parse", "HEAD")
        return {"commit": head, "dirty": bool(git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def git(folder: Path, *args: str) -> str:
    """What a git command says."""
    command = ["git", "-C", str(folder), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def device() -> dict[str, Any]:
    """The accelerator and the CPU that the process computes on."""
    import torch

    found: dict[str, Any] = {
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "gpus": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
        }
    return found
