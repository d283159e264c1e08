"""What pip installs: a wheel built from the sdist holds everything, and runs far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.sources import FOLDERS, ROOT, sources

ASSETS = ("base", "judges", "lpips", "subjects", "prompts", "configs")


def run(*args: str | Path, cwd: Path, **environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--sdist", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, unpacked, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An otherwise empty folder with the wheel installed."""
    folder = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_the_wheel_holds_every_source_file_and_nothing_beside_the_package(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    paths = [path.relative_to(ROOT) for path in sources()]
    wanted = {str(path if path.parts[0] == "studio" else Path("studio") / path) for path in paths}
    assert wanted <= names
    assert {"studio/evaluation/report.html.j2", "studio/evaluation/report.css"} <= names
    assert {name.partition("/")[0].partition(".")[0] for name in names} == {
        "studio",
        "personalization_studio-0",
    }
    assert not [name for name in names if name.startswith(tuple(f"studio/{folder}/__init__" for folder in FOLDERS))]


def test_the_wheel_holds_what_running_needs_of_the_assets(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = [path for name in ASSETS for path in (ROOT / "assets" / name).rglob("*") if path.is_file()]
    wanted = {f"studio/{path.relative_to(ROOT)}" for path in files if path.name not in (".gitkeep", ".DS_Store")}
    assert {name for name in names if name.startswith("studio/assets/")} == wanted


def test_the_metadata_says_what_pip_has_to_know(site: Path):
    (info,) = site.glob("*.dist-info")
    metadata = (info / "METADATA").read_text()
    assert "Name: personalization-studio" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert "studio = studio.cli:main" in (info / "entry_points.txt").read_text()


def test_the_installed_package_trains_far_from_the_checkout(site: Path, tmp_path: Path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "one.png")
    flags = [
        "--model",
        "toy",
        "--data",
        "one.png",
        "--steps",
        "3",
        "--rank",
        "2",
        "--previews.steps",
        "2",
        "--run",
        "a",
    ]
    assert "dreambooth" in run("-m", "studio", "list", "trainers", cwd=tmp_path, PYTHONPATH=str(site))
    run("-m", "studio", "train", "dreambooth", *flags, cwd=tmp_path, PYTHONPATH=str(site))
    assert (tmp_path / "runs" / "a" / "adapter.safetensors").is_file()


def test_the_installed_package_brings_its_model(site: Path, tmp_path: Path):
    code = (
        f"import studio; assert studio.__file__.startswith({str(site)!r});"
        "from studio.flags import read; from studio.pipelines.backbone import load;"
        "print(load(read([])[0].model).latent_shape(64, 64))"
    )
    assert run("-c", code, cwd=tmp_path, PYTHONPATH=str(site)).startswith("(")
