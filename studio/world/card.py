"""The card of the embedded world: what each stage measured, on what hardware, in what time, by which command."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from studio.world import concepts
from studio.world.quality import BARS

HEADER = """---
license: apache-2.0
---

# Embedded base model

A small Stable-Diffusion-shaped pipeline (UNet with cross-attention, CLIP text encoder, AutoencoderKL, v-prediction,
zero terminal SNR) trained on procedural scenes of emoji drawings, {pixels} px. It loads with stock diffusers:

```python
import torch
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("assets/base").to(torch.float32)
picture = pipe("a flat sticker of a fox on a blue background", num_inference_steps=25, guidance_scale=4).images[0]
```

Rebuild it with `python -m studio.world build` (tier `{tier}`); every stage resumes. The captions speak of
{count} concepts in {styles} styles on 12 background colours, small or large, left or right, alone or in pairs.
"""

FEWSTEP = "fewstep"  # the stage whose figures are a table of their own
STATED = "statements"  # how many captions say something of each attribute
FEW = """## In few steps

`lcm/adapter.safetensors`, a few-step LoRA with guidance inside (`--start lcm:embedded`), is drawn by diffusers'
`TCDScheduler` with `guidance_scale=1` and `eta=0.3`; one call of the network a step, where guidance takes two. The same
captions:
"""


def hardware(device: torch.device) -> str:
    """The processor's or accelerator's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"CPU, {torch.get_num_threads()} threads, {name}"


def trained(work: Path, stage: str) -> float:
    """Minutes that a stage's networks were trained, over all its starts."""
    seconds = 0.0
    for file in work.glob(f"{stage}*/state.safetensors"):
        with safe_open(file, "pt") as state:
            seconds += json.loads(state.metadata()["seconds"])
    return seconds / 60


def record(work: Path, stage: str, numbers: dict[str, float], **about: Any) -> None:
    """Keep a stage's figures in `work/card.json`."""
    file = work / "card.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known[stage] = {"numbers": numbers, **about}
    file.write_text(json.dumps(known, indent=1) + "\n")


def table(known: dict[str, Any]) -> list[str]:
    """Markdown rows of every measured figure, with its bar where there is one, and whether it is kept."""
    rows = ["| stage | figure | reached | bar (CPU / GPU) | kept |", "|---|---|--:|--:|---|"]
    for stage, entry in known.items():
        for name, value in entry["numbers"].items() if stage != FEWSTEP else ():
            bar = BARS.get(name)
            share = value <= 1
            shown = f"{value:.1%}" if share else f"{value:.2f}"
            wanted = " / ".join(f"{b:.0%}" if share else f"{b:g}" for b in bar) if bar else ""
            kept = " / ".join("yes" if value >= b else "**no**" for b in bar) if bar else ""
            rows.append(f"| {stage} | {name} | {shown} | {wanted} | {kept} |")
    return rows


def few(known: dict[str, Any]) -> list[str]:
    """A section about the few-step adapter, where there is one: attributes read rightly, by the number of steps."""
    if FEWSTEP not in known:
        return []
    read: dict[str, dict[str, float]] = {}
    if "base" in known:
        read["25 steps without it"] = known["base"]["numbers"]
    for name, share in known[FEWSTEP]["numbers"].items():
        row, _, attribute = name.partition(": ")
        read.setdefault(row, {})[attribute] = share
    counts = read.pop(STATED)
    rows = [f"| drawn in | {' | '.join(counts)} | all |", f"|---{'|--:' * (len(counts) + 1)}|"]
    for row, shares in read.items():
        right = sum(shares[name] * count for name, count in counts.items()) / sum(counts.values())
        rows.append(f"| {row} | {' | '.join(f'{shares[name]:.1%}' for name in counts)} | {right:.1%} |")
    return [FEW, *rows, f"| {STATED} | {' | '.join(map(str, counts.values()))} | {sum(counts.values())} |", ""]


def write(work: Path, target: Path, tier: str, pixels: int) -> None:
    """Write `README.md` into the base model's folder from what the stages recorded."""
    known = json.loads((work / "card.json").read_text())
    text = [HEADER.format(pixels=pixels, tier=tier, count=len(concepts.concepts()), styles=len(concepts.STYLES))]
    text += ["## Measured\n", "500 held-out captions, 25 steps, guidance 4, read by the judges in `assets/judges`.\n"]
    text += [*table(known), "", *few(known), "## Made by\n"]
    text += ["| stage | command | hardware | minutes |", "|---|---|---|--:|"]
    for stage, entry in known.items():
        text.append(f"| {stage} | `{entry['command']}` | {entry['hardware']} | {entry['minutes']:.1f} |")
    text += ["", "## Licences of the drawings\n"]
    text += [f"- {name}: {licence}" for name, licence in concepts.LICENCES.items()]
    text += ["", "Names are from emojibase (MIT); the byte-pair vocabulary is a part of CLIP's (MIT). The weights are"]
    text += ["Apache-2.0 like the studio; attribution to the drawings' authors above is kept with them.", ""]
    (target / "README.md").write_text("\n".join(text))
