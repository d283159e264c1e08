"""Where the embedded files are, and the settings a model recommends. Never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

import studio
from studio.pipelines.errors import ModelError


def assets_folder() -> Path:
    """The folder `assets`: inside the installed package, beside it in a checkout."""
    package = Path(studio.__file__).resolve().parent
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent / "assets"


def model_path(model: str) -> Path:
    """The path a model's name stands for; "embedded" is the base model that comes with the studio."""
    return assets_folder() / "base" if model == "embedded" else Path(model).expanduser()


def recommended(model: str) -> dict[str, Any]:
    """Settings from `studio.toml` in the model's folder, {} where there is none.

    Raises ModelError when the file is not valid TOML.
    """
    try:
        path = model_path(model) / "studio.toml"
        if not path.is_file():
            return {}
    except (OSError, ValueError, RuntimeError):  # no path at all; loading the model will say so
        return {}
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except (TOMLKitError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid TOML ({error}); correct it or delete it") from error
