"""What can be chosen by name, found without importing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from studio import reading, registry
from studio.pipelines.errors import UsageError
from tests.plugins import TRAINER, install


def entry(name: str, kind: str = "trainers") -> registry.Entry:
    return next(entry for entry in registry.describe(kind) if entry.name == name)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is searched for modules and installed packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", registry.names("trainers"))
def test_every_trainer_loads_and_says_what_it_does(name: str):
    module = registry.trainer(name)
    assert module.Config
    assert module.losses
    assert entry(name).summary.endswith(".")


def test_the_shared_base_is_no_trainer():
    assert "base" not in registry.names("trainers")
    assert "dreambooth" in registry.names("trainers")


def test_models_are_the_families_and_the_ones_that_come_along():
    assert {"embedded", "toy", "sd", "sd3"} <= {entry.name for entry in registry.describe("models")}


def test_listing_imports_neither_torch_nor_the_plug_in(tmp_path: Path, root: Path):
    install(tmp_path, "loud", '"""Loud."""\nraise SystemExit("imported")\nConfig = losses = None')
    code = (
        "import sys; from studio import registry; names = [registry.names(kind) for kind in registry.DOORS];"
        "assert 'loud' in names[0], names; assert 'torch' not in sys.modules"
    )
    environment = {"PYTHONPATH": f"{root}:{tmp_path}", "PATH": ""}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=tmp_path)


def test_a_plug_in_is_listed_with_its_source(site: Path):
    install(site, "huber", TRAINER)
    found = entry("huber")
    assert found.summary == "Huber DreamBooth: a loss that outliers pull on less."
    assert "studio-huber 1.0" in found.source
    assert found.error == ""


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("torn", '"""Torn."""\ndef losses(:', "SyntaxError"),
        ("half", '"""Half."""\nclass Config: ...', "it has no 'losses'"),
        (
            "needy",
            '"""Needy."""\nimport a_package_nobody_has\nConfig = losses = None',
            "a_package_nobody_has",
        ),
    ],
)
def test_a_broken_plug_in_is_listed_with_its_error_and_refused(site: Path, name: str, code: str, reason: str):
    install(site, name, code)
    assert reason in entry(name).error
    assert name not in registry.names("trainers")
    with pytest.raises(UsageError, match=name):
        registry.trainer(name)


def test_a_plug_in_without_its_module_is_listed_with_its_error(site: Path):
    install(site, "gone", "", module="studio_gone_module")
    (site / "studio_gone_module.py").unlink()
    assert "no module named" in entry("gone").error


def test_a_plug_in_that_fails_to_import_says_so_in_one_line(site: Path):
    install(site, "fails", '"""Fails."""\n1 / 0\nConfig = losses = None')
    with pytest.raises(UsageError, match=r"'fails' from studio-fails 1.0 .* ZeroDivisionError"):
        registry.trainer("fails")


def test_two_of_one_name_are_refused_and_both_named(site: Path):
    install(site, "dreambooth", TRAINER)
    assert "dreambooth" not in registry.names("trainers")
    with pytest.raises(UsageError, match=r"dreambooth\.py and studio-dreambooth 1\.0"):
        registry.trainer("dreambooth")


def test_an_unknown_name_brings_the_nearest_and_the_list():
    with pytest.raises(UsageError, match="did you mean 'dreambooth'.*there are: .*dreambooth"):
        registry.trainer("draembooth")


def test_an_unknown_kind_brings_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'scorers'"):
        registry.describe("scores")


SCORER = '''"""Brightness: the mean of all values."""
Config = build = None'''


def test_scorers_are_the_files_that_build_some():
    listed = {entry.name: entry for entry in registry.describe("scorers")}
    assert {"clip_text", "clip_image", "dino", "siglip", "embedded"} <= set(registry.names("scorers"))
    assert not {name for name in listed if name == "base" or name.startswith("_")}
    assert all(entry.summary for entry in listed.values())


def test_a_foreign_scorer_is_listed_and_loaded(site: Path):
    install(site, "brightness", SCORER, "studio.scorers")
    assert entry("brightness", "scorers").summary == "Brightness: the mean of all values."
    assert registry.load("scorers", "brightness").__name__ == "studio_brightness"


@pytest.mark.parametrize("needed", ["Config", "build"])
def test_a_foreign_scorer_that_is_not_whole_is_listed_with_its_error(site: Path, needed: str):
    install(site, "dim", f'"""Dim."""\n{({"Config", "build"} - {needed}).pop()} = None', "studio.scorers")
    assert entry("dim", "scorers").error == f"it has no '{needed}'"
    assert "dim" not in registry.names("scorers")
    with pytest.raises(UsageError, match=f"the scorer 'dim' cannot be used: it has no '{needed}'"):
        registry.load("scorers", "dim")


def test_our_scorers_are_listed_without_torch(root: Path):
    code = (
        "import sys; from studio import registry; rows = registry.describe('scorers');"
        "assert 'clip_text' in [row.name for row in rows] and not [row.error for row in rows if row.error], rows;"
        "assert not {'torch', 'transformers', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(root), "PATH": ""}, check=True)


def test_a_module_inside_a_package_is_found_without_importing_the_package(site: Path):
    package = site / "noisy_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "inner.py").write_text('"""Inner."""')
    assert reading.locate("noisy_package.inner") == package / "inner.py"
