"""Build the embedded world: `python -m studio.world sprites|scenes|autoencoder|judges|base|fewstep|subjects|build`.

Every stage resumes, prints its measured quality and writes it to the card `assets/base/README.md`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from diffusers import AutoencoderKL
from PIL import Image

from studio.pipelines import attention, backbone
from studio.pipelines.scorers import embedded
from studio.precision import preferred
from studio.world import autoencoder, base, card, fewstep, judges, quality, scenes, sprites, subjects

STAGES = ("sprites", "scenes", "autoencoder", "judges", "base", "fewstep", "subjects")
Stage = Literal["sprites", "scenes", "autoencoder", "judges", "base", "fewstep", "subjects", "build"]


@dataclass(frozen=True)
class World:
    """Build the embedded world, or one stage of it."""

    stage: tyro.conf.Positional[Stage]
    """Which stage; `build` runs all of them in order."""
    tier: Literal["small", "full"] = "small"
    """small: 147 concepts in 3 styles, for two cores; full: every usable concept, for a GPU."""
    work: Path = Path("build/world")
    """Folder for downloaded packages, sprites and training states."""
    assets: Path = Path("assets")
    """Where base/, judges/ and subjects/ are written."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to train."""
    images: Annotated[int, tyro.conf.arg(help="Scenes for the autoencoder")] = 48_000
    judge_images: Annotated[int, tyro.conf.arg(help="Scenes for the attribute classifier")] = 400_000
    clip_images: Annotated[int, tyro.conf.arg(help="Scenes for the image-text judge")] = 96_000
    samples: Annotated[int, tyro.conf.arg(help="Noised scenes for the base model")] = 400_000
    few_samples: Annotated[int, tyro.conf.arg(help="Noised scenes for the few-step adapter")] = 40_000
    warm: Annotated[bool, tyro.conf.arg(help="Go on from the base model, or the few-step adapter, in assets/base")] = (
        False
    )
    compile: Annotated[bool, tyro.conf.arg(help="Compile the UNet: minutes to start, then faster steps")] = False
    pixels: Annotated[int, tyro.conf.arg(help="Side of a picture: 64, or 128 on a GPU")] = 64

    def draw(self) -> scenes.Draw:
        """The scene generator over this tier's sprites."""
        return scenes.Draw(sprites.load(self.work, self.tier))

    @property
    def folder(self) -> Path:
        """Where this tier's sprites lie."""
        return self.work / f"sprites-{self.tier}"

    def autoencoder(self) -> AutoencoderKL:
        """The one that was built here, else the shipped one."""
        built = self.work / "autoencoder" / "model"
        return AutoencoderKL.from_pretrained(built if built.is_dir() else self.assets / "base" / "vae")


def run_sprites(world: World) -> dict[str, float]:
    found = sprites.build(world.work, world.tier)
    (world.assets / "base").mkdir(parents=True, exist_ok=True)
    (world.assets / "base" / "sprites.txt").write_text("".join(f"{s.sha256}  {s.style}/{s.concept}\n" for s in found))
    return {
        "drawings": len(found),
        "concepts": len({s.concept for s in found}),
        "styles": len({s.style for s in found}),
    }


def run_scenes(world: World) -> dict[str, float]:
    """A sheet of 64 scenes, to look at."""
    draw, side = world.draw(), world.pixels
    sheet = Image.new("RGB", (16 * side, 4 * side))
    for seed in range(64):
        picture = Image.fromarray(draw(seed).render(world.folder, side))
        sheet.paste(picture, (seed % 16 * side, seed // 16 * side))
    sheet.save(world.work / "scenes.png")
    return {"different captions in 1000": len({draw(seed).caption() for seed in range(1000)})}


def run_autoencoder(world: World) -> dict[str, float]:
    vae = autoencoder.train(world.work, world.tier, world.images, torch.device(world.device), world.pixels)
    vae.save_pretrained(world.work / "autoencoder" / "model")
    return {"autoencoder PSNR, dB": autoencoder.psnr(vae, world.draw(), world.folder)}


def run_judges(world: World) -> dict[str, float]:
    both = judges.train(world.work, world.tier, world.judge_images, world.clip_images, torch.device(world.device))
    both.clip.cpu(), both.attributes.cpu()
    judges.save(both, world.assets / "judges")
    found = judges.quality(embedded.load(world.assets / "judges"), world.draw(), world.folder)
    return {f"judge: {name}": value for name, value in found.items()}


def run_base(world: World) -> dict[str, float]:
    shipped = world.assets / "base"
    warm = shipped if world.warm else None
    pipe = base.train(
        world.autoencoder(),
        world.work,
        world.tier,
        world.samples,
        torch.device(world.device),
        warm=warm,
        compiled=world.compile,
    )
    base.export(pipe, world.assets / "base")
    model = backbone.load(str(world.assets / "base"), *preferred())
    attention.install(model.net, "auto")
    numbers, pictures = quality.measure(model, embedded.load(world.assets / "judges"), world.draw())
    rows = pictures[:64].add(1).mul(127.5).clamp(0, 255).byte().permute(0, 2, 3, 1)
    sheet = rows.unflatten(0, (4, 16)).permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)
    Image.fromarray(sheet.numpy()).save(world.assets / "base" / "samples.png")
    return numbers


def run_fewstep(world: World) -> dict[str, float]:
    shipped, device = world.assets / "base", torch.device(world.device)
    fewstep.train(world.autoencoder(), world.work, world.tier, shipped, world.few_samples, device, world.warm)
    return fewstep.measure(shipped, embedded.load(world.assets / "judges"), world.draw())


def run_subjects(world: World) -> dict[str, float]:
    return {"subjects and styles": len(list(subjects.build(world.work, world.assets / "subjects")))}


RUN: dict[str, Callable[[World], dict[str, float]]] = {name: globals()[f"run_{name}"] for name in STAGES}


def main() -> int:
    """Run the chosen stage or all of them; one line and exit code 1 where something is missing."""
    world = tyro.cli(World, prog="python -m studio.world", description=__doc__)
    for stage in STAGES if world.stage == "build" else (world.stage,):
        began = time.monotonic()
        try:
            numbers = RUN[stage](world)
        except (RuntimeError, FileNotFoundError) as problem:
            print(f"studio.world: error: {stage}: {problem}", file=sys.stderr)
            return 1
        command = " ".join(["python -m studio.world", stage, *[a for a in sys.argv[1:] if a != world.stage]])
        minutes = max((time.monotonic() - began) / 60, card.trained(world.work, stage))
        device = card.hardware(torch.device(world.device))
        card.record(world.work, stage, numbers, command=command, hardware=device, minutes=minutes)
        print(f"{stage}: " + ", ".join(f"{name} {value:.3f}" for name, value in numbers.items()), flush=True)
        if world.stage == "build" or stage in ("base", "fewstep"):
            card.write(world.work, world.assets / "base", world.tier, world.pixels)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
