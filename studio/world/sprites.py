"""Sprites: openly licensed emoji drawings, fetched with npm and rendered once to RGBA pictures."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from studio.world import concepts

SIZE = 96  # pixels: larger than any sprite in a 64 px scene, so placing one never enlarges it
FULL_GROUPS = {3, 4, 5, 6, 7}  # emojibase: animals and nature, food, travel, activities, objects
FULL_STYLES = {"noto-v1": ("@iconify-json/noto-v1", ("a blob cartoon", "a rounded blob drawing"))}


@dataclass(frozen=True)
class Sprite:
    """One drawing: which concept, in which style, where the file is and what it came from."""

    concept: str
    style: str
    path: str
    sha256: str
    source: str


def fetch(package: str, work: Path) -> Path:
    """Folder of an unpacked npm package below `work`; downloads it once with `npm pack`.

    Raises RuntimeError when npm is missing or the registry refuses.
    """
    folder = work / "packages" / package.strip("@").replace("/", "-")
    if folder.is_dir():
        return folder
    if not shutil.which("npm"):
        raise RuntimeError("npm is not installed: the sprite packages come from the npm registry; install Node.js")
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["npm", "pack", package, "--silent"], cwd=folder.parent, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"npm could not fetch {package}: {done.stderr.strip().splitlines()[-1:]}")
    archive = folder.parent / done.stdout.strip().splitlines()[-1]
    with tarfile.open(archive) as tar:
        tar.extractall(folder.with_suffix(".part"), filter="data")
    (folder.with_suffix(".part") / "package").rename(folder)
    shutil.rmtree(folder.with_suffix(".part"))
    archive.unlink()
    return folder


def full_concepts(work: Path) -> dict[str, str]:
    """Label -> code point of every usable concept in emojibase (tier `full`), held-out subjects left out."""
    rows = json.loads((fetch("emojibase-data", work) / "en" / "data.json").read_text())
    held_out = {code for code, kind in concepts.SUBJECTS.values() if kind in concepts.KINDS}
    codes = {r["hexcode"].lower().replace("-fe0f", ""): r["label"] for r in rows if r.get("group") in FULL_GROUPS}
    plain = {code: word for word, code in concepts.concepts().items()}
    return {plain.get(code, label): code for code, label in codes.items() if code not in held_out}


def styles(tier: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Style name -> (npm package, caption phrases) of the styles the base model of this tier learns."""
    return concepts.STYLES | (FULL_STYLES if tier == "full" else {})


def slugs(work: Path) -> dict[str, str]:
    """Code point -> icon name, as the Iconify sets spell it."""
    table: dict[str, str] = {}
    for package in ("@iconify-json/twemoji", "@iconify-json/noto"):
        chars = json.loads((fetch(package, work) / "chars.json").read_text())
        table = {code.replace("-fe0f", ""): name for code, name in chars.items()} | table
    return table


def icon_svg(icons: dict, slug: str) -> str | None:
    """The SVG text of an icon by slug, by its '-face' form, or by its squashed spelling; None when the set lacks it."""
    squashed = {re.sub(r"[^a-z0-9]", "", name): name for name in icons["icons"]}
    for name in (slug, f"{slug}-face", slug.removesuffix("-face"), squashed.get(re.sub(r"[^a-z0-9]", "", slug))):
        if name in icons["icons"]:
            icon = icons["icons"][name]
            width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
            return (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
            )
    return None


def render(svg: str, size: int = SIZE) -> Image.Image:
    """SVG text -> RGBA picture `size` pixels wide, trimmed to its drawing and made square again."""
    import resvg_py

    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size * 2)))).convert("RGBA")
    box = picture.getchannel("A").getbbox() or (0, 0, *picture.size)
    picture = picture.crop(box)
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def family(package: str, words: dict[str, str], work: Path) -> dict[str, Image.Image]:
    """Word -> picture for every concept of `words` that the Iconify set `package` draws."""
    icons, names = json.loads((fetch(package, work) / "icons.json").read_text()), slugs(work)
    found = {word: icon_svg(icons, names.get(code, word.replace(" ", "-"))) for word, code in words.items()}
    return {word: render(svg) for word, svg in found.items() if svg}


def build(work: Path, tier: str = "small") -> list[Sprite]:
    """Fetch and render all sprites of a tier to `work/sprites-<tier>`; returns them. Finished work is kept."""
    folder, manifest = work / f"sprites-{tier}", work / f"sprites-{tier}" / "manifest.jsonl"
    if manifest.exists():
        return load(work, tier)
    words = concepts.concepts() if tier == "small" else full_concepts(work)
    rows = []
    for style, (package, _) in styles(tier).items():
        for word, picture in family(package, words, work).items():
            path = folder / style / f"{words[word]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            digest = sha256(picture.tobytes()).hexdigest()
            rows.append(Sprite(word, style, str(path.relative_to(folder)), digest, package))
    manifest.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return rows


def load(work: Path, tier: str = "small") -> list[Sprite]:
    """The sprites rendered before; FileNotFoundError when `studio.world sprites` has not run."""
    manifest = work / f"sprites-{tier}" / "manifest.jsonl"
    if not manifest.exists():
        raise FileNotFoundError(f"no sprites at {manifest.parent}: run `python -m studio.world sprites` first")
    return [Sprite(**json.loads(line)) for line in manifest.read_text().splitlines()]
