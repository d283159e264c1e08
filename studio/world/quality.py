"""How well the embedded base model draws what a caption says, as its judges read it."""

from __future__ import annotations

import torch
from torch import Tensor

from studio.pipelines import sampling
from studio.pipelines.protocols import Backbone
from studio.pipelines.scorers.embedded import Judges
from studio.world import scenes
from studio.world.autoencoder import HELD_OUT
from studio.world.judges import truth

BARS = {  # share of held-out captions; (trained on CPU, trained on GPU)
    "colour": (0.95, 0.95),
    "object (single)": (0.80, 0.95),
    "style": (0.85, 0.85),
    "both objects": (0.40, 0.85),
    "autoencoder PSNR, dB": (25.0, 30.0),
    "judge: object": (0.97, 0.97),
    "judge: second": (0.97, 0.97),
    "judge: colour": (0.97, 0.97),
    "judge: style": (0.97, 0.97),
    "judge: position": (0.97, 0.97),
}


def draw_captions(model: Backbone, prompts: list[str], seeds: list[int], steps: int, cfg: float) -> Tensor:
    """Pictures `[B, 3, H, W]` in -1..1 for each (prompt, seed), as the stock pipeline draws them."""
    drawn = sampling.sample(model, prompts, seeds, steps=steps, guidance_scale=cfg, batch=50)
    return torch.stack([picture.float().cpu() for picture in drawn]) * 2 - 1


def held_out(draw: scenes.Draw, count: int) -> list[tuple[scenes.Scene, str]]:
    """Scenes with captions that the base was not trained on."""
    found = [draw(seed) for seed in range(HELD_OUT, HELD_OUT + count)]
    return [(scene, scene.caption()) for scene in found]


def agreement(found: list[tuple[scenes.Scene, str]], read: list[dict[str, str]]) -> dict[str, float]:
    """Share right per attribute, counted only where the caption states the attribute."""
    return {name: sum(values) / len(values) for name, values in marked(found, read).items()}


def stated(found: list[tuple[scenes.Scene, str]]) -> dict[str, int]:
    """How many captions state each attribute."""
    return {name: len(values) for name, values in marked(found, [truth(scene) for scene, _ in found]).items()}


def marked(found: list[tuple[scenes.Scene, str]], read: list[dict[str, str]]) -> dict[str, list[bool]]:
    """Right or wrong, per attribute and statement."""
    marks: dict[str, list[bool]] = {}
    for (scene, caption), answer in zip(found, read, strict=True):
        right, words = truth(scene), [placed.sprite.concept for placed in scene.objects]
        if right["colour"] in caption.replace(f"{right['tint']} {words[0]}", ""):
            marks.setdefault("colour", []).append(answer["colour"] == right["colour"])
        if any(phrase in caption for phrase in scenes.styles("full")[right["style"]][1]):
            marks.setdefault("style", []).append(answer["style"] == right["style"])
        if not all(word in caption for word in words):
            continue
        if len(words) == 1:
            marks.setdefault("object (single)", []).append(answer["object"] == words[0])
        else:
            marks.setdefault("both objects", []).append({answer["object"], answer["second"]} == set(words))
        if right["tint"] != "none":
            marks.setdefault("tint", []).append(answer["tint"] == right["tint"])
        if " on the " in caption and len(words) == 1:
            marks.setdefault("position", []).append(answer["position"] == right["position"])
    return marks


def measure(
    model: Backbone, judges: Judges, draw: scenes.Draw, count: int = 500, steps: int = 25, cfg: float = 4.0
) -> tuple[dict[str, float], Tensor]:
    """Agreement of `count` generated pictures with their held-out captions, and the pictures."""
    found = held_out(draw, count)
    pictures = draw_captions(model, [caption for _, caption in found], list(range(count)), steps, cfg)
    return agreement(found, [row for part in pictures.split(100) for row in judges.read(part)]), pictures
