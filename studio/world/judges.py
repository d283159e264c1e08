"""Judges of the embedded world: an open_clip image-text model and an attribute classifier, trained on scenes only.

They share nothing with the generator but the byte-pair vocabulary: other networks, other seeds, other scenes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from studio.pipelines.scorers.embedded import Attributes, Judges, new_clip, tokens
from studio.precision import halved
from studio.world import base, concepts, scenes, sprites
from studio.world.autoencoder import HELD_OUT
from studio.world.fit import Fit

FIRST_SEED = 200_000_000
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "timm_model_name": "regnetx_002", "timm_pool": "avg", "timm_proj": "linear"},
    "text_cfg": {"context_length": base.TOKENS, "vocab_size": 0, "width": 128, "heads": 4, "layers": 1},
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


def train(work: Path, tier: str, images: int, clip_images: int, device: torch.device) -> Judges:
    """Train (or go on training) both judges, one after the other."""
    draw, folder = scenes.Draw(sprites.load(work, tier)), work / f"sprites-{tier}"
    source, tokenizer = Source(draw, folder, device), base.tokenizer(work / "judges" / "tokenizer")
    attributes = train_attributes(source, work / "judges-attributes", images)
    return Judges(train_clip(source, tokenizer, work / "judges-clip", clip_images), tokenizer, attributes)


@dataclass(frozen=True)
class Source:
    """Training scenes with the right answers as class numbers."""

    draw: scenes.Draw
    folder: Path
    device: torch.device

    def __call__(self, first: int, count: int) -> tuple[Tensor, list[scenes.Scene], dict[str, Tensor]]:
        """Pictures `[count, 3, 64, 64]`, their scenes, and class numbers `[count]` per attribute."""
        x, found = batch(self.draw, self.folder, first, count)
        known, right = answers(self.draw), [truth(scene) for scene in found]
        numbers = {n: torch.tensor([words.index(row[n]) for row in right]) for n, words in known.items()}
        x = x.to(self.device, memory_format=torch.channels_last)
        return x, found, {name: target.to(self.device) for name, target in numbers.items()}


def surprise(logits: dict[str, Tensor], right: dict[str, Tensor]) -> Tensor:
    """Sum of the attributes' cross-entropies."""
    return torch.stack([F.cross_entropy(logits[name].float(), right[name]) for name in right]).sum()


def train_attributes(source: Source, folder: Path, images: int, size: int = 64) -> Attributes:
    """The attribute classifier, on `images` scenes."""
    torch.manual_seed(977)
    net = Attributes(answers(source.draw)).to(source.device).to(memory_format=torch.channels_last)
    fit = Fit({"net": net}, folder, images // size, lr=3e-3, warmup=100, ema=0.995)

    def loss(step: int) -> Tensor:
        x, _, right = source(FIRST_SEED + step * size, size)
        with halved(source.device):
            logits = net(x)
        return surprise(logits, right)

    fit.run(loss)
    fit.use_average()
    settle(net, net, source)
    return net.eval()


def train_clip(source: Source, tokenizer: CLIPTokenizer, folder: Path, images: int, size: int = 128) -> CLIP:
    """The image-text model, on `images` scenes; heads for the attributes help its image side along and are dropped."""
    torch.manual_seed(978)
    config = dict(CLIP_CONFIG, text_cfg=dict(CLIP_CONFIG["text_cfg"], vocab_size=len(tokenizer)))
    clip = new_clip(config).to(source.device).to(memory_format=torch.channels_last)
    known = answers(source.draw)
    heads = nn.ModuleDict({n: nn.Linear(CLIP_CONFIG["embed_dim"], len(words)) for n, words in known.items()})
    fit = Fit({"clip": clip, "heads": heads.to(source.device)}, folder, images // size, lr=2e-3, warmup=60, ema=0.99)

    def loss(step: int) -> Tensor:
        x, found, right = source(FIRST_SEED * 2 + step * size, size)
        prompts = [scenes.Writer(scene, Random(scene.seed + 1)).caption() for scene in found]
        with halved(source.device):
            image, text = clip.encode_image(x), clip.encode_text(tokens(tokenizer, prompts).to(source.device))
            logits = {name: head(image) for name, head in heads.items()}
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        return contrast(image @ text.T * clip.logit_scale.exp().clamp(max=100)) + 0.3 * surprise(logits, right)

    fit.run(loss)
    fit.use_average()
    settle(clip.visual, clip.visual, source)
    return clip.eval()


def contrast(logits: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch of matching pairs, logits `[B, B]`."""
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def settle(net: nn.Module, run: Callable[[Tensor], Any], source: Source) -> None:
    """Averaged weights need batch statistics of their own: a few forward passes in training mode."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    for n in range(12):
        run(source(FIRST_SEED + n * 128, 128)[0])


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
