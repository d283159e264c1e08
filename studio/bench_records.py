"""What long comparisons measured, kept in one file: `python -m studio.bench_records keep|restore FILE FOLDER`.

The file holds what runs said and how they were judged (`.toml`, `.json`, `.jsonl`), no weights and no pictures.
Restored elsewhere, the comparison's command goes on with the cells that are missing, and its page can be written again.
"""

from __future__ import annotations

import io
import lzma
import re
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import tyro

from studio.pipelines.assets import assets_folder
from studio.pipelines.errors import DataError, StudioError

KEPT, APART = (".toml", ".json", ".jsonl"), ("checkpoints", "logs", ".trash")
HERE, STUDIO = "{{folder}}", "{{studio}}"  # stand for the two folders that a record names
STUDIOS = assets_folder().parent  # the checkout


@dataclass(frozen=True)
class Records:
    """Keep a comparison's records in a file, or lay them out again."""

    do: tyro.conf.Positional[Literal["keep", "restore"]]
    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(help="The records, a .tar.xz")]]
    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(help="The comparison's folder, such as runs/methods")]]


def keep(folder: Path, file: Path) -> int:
    """Write the records of a folder of runs; how many files. Raises DataError where there are none."""
    folder = folder.absolute()
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in KEPT and path.is_file()]
    found = [path for path in found if not set(APART) & set(path.relative_to(folder).parts)]
    if not found:
        raise DataError(f"{folder}: no records of runs in there; name the folder of a comparison")
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.writing")
    with tarfile.open(aside, "w:xz", preset=9) as packed:
        for path in found:
            text = named(named(path.read_text("utf-8"), folder, HERE), STUDIOS, STUDIO)
            about = tarfile.TarInfo(path.relative_to(folder).as_posix())
            about.size = len(data := text.encode())
            packed.addfile(about, io.BytesIO(data))
    aside.replace(file)
    return len(found)


def named(text: str, folder: Path, name: str) -> str:
    """A text with a folder's path by a name; another folder's whose path only begins alike stays."""
    return re.sub(re.escape(str(folder)) + r"(?![\w-]|\.\w)", name, text)


def restore(file: Path, folder: Path) -> int:
    """Lay records out where they are not; how many files are new. Raises DataError for a file that is not of `keep`."""
    folder, new = folder.absolute(), 0
    try:
        with tarfile.open(file, "r:xz") as packed:
            for about in packed:
                name, data = PurePosixPath(about.name), packed.extractfile(about)
                if data is None or name.is_absolute() or ".." in name.parts or name.suffix not in KEPT:
                    raise DataError(f"{file}: {about.name} is no record; the file is not of `keep`")
                path = folder / name
                if not path.exists():
                    text = data.read().decode().replace(HERE, str(folder)).replace(STUDIO, str(STUDIOS))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text, "utf-8")
                    new += 1
    except (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError) as problem:
        raise DataError(f"{file}: not a file of records ({problem})") from None
    return new


def main() -> int:
    """Keep or restore; the exit code."""
    asked = tyro.cli(Records, prog="python -m studio.bench_records", description=__doc__)
    try:
        if asked.do == "keep":
            count = keep(asked.folder, asked.file)
            print(f"wrote {asked.file}: {count} files, {asked.file.stat().st_size / 2**20:.1f} MiB")
        else:
            print(f"{restore(asked.file, asked.folder)} files laid out in {asked.folder}")
    except StudioError as problem:
        print(f"studio: error: {problem}", file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
