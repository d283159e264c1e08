"""What a run gives away: its adapter for diffusers and for kohya's and Comfy's loaders, the model card, the report."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from studio.pipelines.confine import is_inside
from studio.pipelines.errors import DataError, UsageError
from studio.store import Run

KINDS = {
    "diffusers": "diffusers (adapter.safetensors)",
    "kohya": "kohya, ComfyUI, A1111 (.kohya.safetensors)",
    "card": "model card (README.md)",
    "report": "report (report.html)",
}
CARDS = ("README.md", "model-card.md")  # what a person wrote comes before the studio's own
FOLDER = Path(".cache") / "exports"
Members = dict[str, "Path | str"]


def offered(run: Run) -> list[str]:
    """The kinds that a run has. The card can always be written."""
    there = {"card"} | {kind(path) for path in adapters(run)}
    there |= {"report"} if (run.folder / "report.html").is_file() else set()
    return [name for name in KINDS if name in there]


def adapters(run: Run) -> list[Path]:
    """The finished adapter's files; none before the run is done. Half-written ones and links are left out."""
    found = sorted(run.folder.glob("*.safetensors"))
    return [path for path in found if not path.name.startswith(".") and is_inside(run.folder, path)]


def kind(path: Path) -> str:
    """kohya or diffusers, by the name that `studio train` gives."""
    return "kohya" if ".kohya." in path.name else "diffusers"


def members(run: Run, wanted: Sequence[str]) -> Members:
    """Name in the export: its file, or its text. Raises UsageError where an asked kind is not there."""
    if not wanted:
        raise UsageError(f"choose what to export: {', '.join(offered(run))}")
    if missing := [name for name in wanted if name not in offered(run)]:
        raise UsageError(f"{run.name} has no {', '.join(missing)}: {advice(missing[0])}")
    found: Members = {}
    for path in adapters(run):
        if kind(path) in wanted:  # Comfy's list shows the file's name alone
            found[f"{run.name}.{path.name.partition('.')[2]}" if kind(path) == "kohya" else path.name] = path
    if "card" in wanted:
        found |= card(run)
    if "report" in wanted:
        found["report.html"] = run.folder / "report.html"
    return found


def advice(name: str) -> str:
    """What makes a kind that is not there."""
    if name == "report":
        return "Evaluate, under Compare, writes it"
    if name == "kohya":
        return "its kind of adapter has no such form, or the run is not finished: take diffusers"
    return "the adapter is written when the run is done; resume it under Watch"


def card(run: Run) -> Members:
    """The card in the run's folder with its picture, else one without scores, which is not kept in the run."""
    for name in CARDS:
        path = run.folder / name
        if path.is_file() and is_inside(run.folder, path):
            picture = run.folder / "README.jpg"
            return {"README.md": path, **({picture.name: picture} if picture.is_file() else {})}
    from studio.ui.library_card import text

    return {"README.md": text(run)}


def pack(run: Run, wanted: Sequence[str], runs: Path) -> Path:
    """Writes RUNS/.cache/exports/NAME.zip and returns it; the members lie in a folder with the run's name.

    Raises UsageError for what is not there, DataError where it cannot be written.
    """
    found = members(run, wanted)
    out = runs / FOLDER / f"{run.name}.zip"
    aside = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as file:  # weights do not become smaller
            for name, content in found.items():
                if isinstance(content, Path):
                    file.write(content, f"{run.name}/{name}")
                else:
                    file.writestr(f"{run.name}/{name}", content)
        aside.replace(out)
    except OSError as error:
        raise DataError(f"{out.name} cannot be written: {error.strerror or error}; free some space") from None
    finally:
        aside.unlink(missing_ok=True)
    return out
