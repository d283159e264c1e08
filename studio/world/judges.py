"""Judges of the embedded world: an open_clip image-text model and an attribute classifier, trained on scenes only.

They share nothing with the generator but the byte-pair vocabulary: other networks, other seeds, other scenes.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.pipelines.scorers.embedded import Attributes, Judges, new_clip, tokens
from studio.world import base, concepts, scenes, sprites
from studio.world.autoencoder import HELD_OUT
from studio.world.fit import Fit

FIRST_SEED = 200_000_000
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 40},
    "text_cfg": {"context_length": base.TOKENS, "vocab_size": 0, "width": 128, "heads": 4, "layers": 2},
}


def answers(draw: scenes.Draw) -> dict[str, list[str]]:
    """What the classifier may answer to each attribute."""
    words = sorted({word for by in draw.by_style.values() for word in by})
    return {
        "object": words,
        "second": ["none", *words],
        "colour": list(concepts.BACKGROUNDS),
        "style": list(draw.by_style),
        "position": list(scenes.SIDES),
        "size": list(scenes.SIZES),
        "tint": ["none", *concepts.TINTS],
    }


def truth(scene: scenes.Scene) -> dict[str, str]:
    """The right answers for a scene; `object`, `position`, `size` and `tint` are of its left-most object."""
    first, *rest = scene.objects
    return {
        "object": first.sprite.concept,
        "second": rest[0].sprite.concept if rest else "none",
        "colour": scene.background,
        "style": first.sprite.style,
        "position": first.side,
        "size": first.size,
        "tint": first.tint or "none",
    }


def batch(draw: scenes.Draw, folder: Path, first: int, count: int) -> tuple[Tensor, list[scenes.Scene]]:
    """Noisy pictures (a judge must bear what a small generator leaves unsharp) and their scenes."""
    found = [draw(seed) for seed in range(first, first + count)]
    x = torch.stack([torch.from_numpy(scene.render(folder)) for scene in found]).permute(0, 3, 1, 2).float()
    x = x / 127.5 - 1
    if first >= HELD_OUT:
        return x, found
    rng = torch.Generator().manual_seed(first)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(count, 1, 1, 1, generator=rng) * (torch.rand(count, 1, 1, 1, generator=rng) < 0.4)
    return x.lerp(blurred, share) + torch.randn(x.shape, generator=rng) * 0.04 * share, found


def train(work: Path, tier: str, images: int, device: torch.device, size: int = 128) -> Judges:
    """Train both judges on the same scenes, side by side."""
    torch.manual_seed(977)
    draw, folder = scenes.Draw(sprites.load(work, tier)), work / f"sprites-{tier}"
    known, tokenizer = answers(draw), base.tokenizer(work / "judges" / "tokenizer")
    attributes = Attributes(known).to(device).to(memory_format=torch.channels_last)
    config = dict(CLIP_CONFIG, text_cfg=dict(CLIP_CONFIG["text_cfg"], vocab_size=len(tokenizer)))
    clip = new_clip(config).to(device, memory_format=torch.channels_last)
    index = {name: {word: i for i, word in enumerate(words)} for name, words in known.items()}
    fit = Fit({"attributes": attributes, "clip": clip}, work / "judges", images // size, lr=2e-3, warmup=100, ema=0.995)

    def loss(step: int) -> Tensor:
        x, found = batch(draw, folder, FIRST_SEED + step * size, size)
        x = x.to(device, memory_format=torch.channels_last)
        right = [truth(scene) for scene in found]
        prompts = [scenes.Writer(scene, Random(FIRST_SEED + step)).caption() for scene in found]
        with torch.autocast(device.type, torch.bfloat16):
            logits = attributes(x)
            image, text, scale = clip(x, tokens(tokenizer, prompts).to(device))
        named = [F.cross_entropy(logits[n].float(), labels(index[n], right, n, device)) for n in known]
        return torch.stack(named).sum() + contrast(image.float() @ text.float().T * scale.float())

    fit.run(loss)
    attributes.train(), clip.train()
    fit.use_average()
    settle(attributes, clip, draw, folder, device)
    return Judges(clip.eval(), tokenizer, attributes.eval())


def labels(index: dict[str, int], right: list[dict[str, str]], name: str, device: torch.device) -> Tensor:
    """Class numbers `[B]` of one attribute."""
    return torch.tensor([index[row[name]] for row in right], device=device)


def contrast(logits: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch of matching pairs, logits `[B, B]`."""
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def settle(attributes: Attributes, clip: CLIP, draw: scenes.Draw, folder: Path, device: torch.device) -> None:
    """Averaged weights need batch statistics of their own: a few forward passes in training mode."""
    for net in (attributes, clip.visual):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
    for n in range(12):
        x, _ = batch(draw, folder, FIRST_SEED + n * 128, 128)
        attributes(x.to(device)), clip.encode_image(x.to(device))


@torch.no_grad()
def quality(judges: Judges, draw: scenes.Draw, folder: Path, count: int = 1024) -> dict[str, float]:
    """Share of right answers per attribute and of captions found among 64 (R@1), on held-out scenes."""
    hits: dict[str, float] = {}
    for first in range(HELD_OUT, HELD_OUT + count, 64):
        x, found = batch(draw, folder, first, 64)
        for row, scene in zip(judges.attributes.read(x), found, strict=True):
            for name, word in truth(scene).items():
                hits[name] = hits.get(name, 0) + (row[name] == word) / count
        match = judges.image_features(x) @ judges.text_features([s.caption() for s in found]).T
        hits["clip R@1 of 64"] = hits.get("clip R@1 of 64", 0) + float(
            (match.argmax(1) == torch.arange(64)).float().sum() / count
        )
    return hits


def save(judges: Judges, folder: Path) -> None:
    """Half-precision safetensors, configuration as JSON, tokenizer files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, net in (("clip", judges.clip), ("attributes", judges.attributes)):
        state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, folder / f"{name}.safetensors")
    text = dict(CLIP_CONFIG["text_cfg"], vocab_size=len(judges.tokenizer))
    config = {
        "clip": dict(CLIP_CONFIG, text_cfg=text),
        "answers": judges.attributes.answers,
        "open_clip": open_clip.__version__,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    judges.tokenizer.save_pretrained(folder)
