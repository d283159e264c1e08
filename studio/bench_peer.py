"""diffusers' own DreamBooth-LoRA script beside ours: same model, pictures, rank, batch and precision."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from studio.pipelines.assets import assets_folder, model_path
from studio.pipelines.errors import UsageError

RANK, LR = 16, 1e-3


@dataclass(frozen=True)
class Spent:
    """Wall seconds and peak resident MiB of one process."""

    seconds: float
    memory: float


def measured(command: list[str], log: Path) -> Spent:
    """Run a command to its end. Raises UsageError with its last line when it fails."""
    began = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UsageError(f"{command[1]} failed: {log.read_text().strip().splitlines()[-1:]}; see {log}")
    return Spent(time.perf_counter() - began, usage.ru_maxrss / 1024)


def theirs(script: Path, model: str, pictures: Path, batch: int, steps: int, out: Path) -> list[str]:
    """The command of diffusers' script."""
    options = {
        "pretrained_model_name_or_path": model_path(model), "instance_data_dir": pictures, "output_dir": out / "peer",
        "instance_prompt": "a sks fox", "resolution": 64, "train_batch_size": batch, "max_train_steps": steps,
        "learning_rate": LR, "lr_scheduler": "constant", "lr_warmup_steps": 0, "rank": RANK, "seed": 0,
        "checkpointing_steps": 10**6, "mixed_precision": "bf16", "dataloader_num_workers": 0,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, str(script), *words, "--center_crop"]


def ours(model: str, pictures: Path, batch: int, steps: int, out: Path) -> list[str]:
    """The command of the studio."""
    options = {
        "model": model, "data": pictures, "runs": out / "ours", "run": f"peer-{steps}", "steps": steps, "batch": batch,
        "lr": LR, "rank": RANK, "precision": "bf16", "prompt": "a sks fox", "previews.prompts": "a sks fox",
        "previews.steps": 1, "data.caption-dropout": 0, "seed": 0, "targets": "attention",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "studio", "train", "dreambooth", *words, "--json", "--data.no-flip"]


def plain_pictures(out: Path) -> Path:
    """The fox's pictures alone: the peer takes every file of a folder for a picture."""
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (assets_folder() / "subjects" / "fox" / "train").glob("*.png"):
        shutil.copy(file, folder)
    return folder


def run(script: Path, model: str, batch: int, steps: int, rounds: int, out: Path, console: Console) -> None:
    """Both programs with few and with many steps, in turn; the difference is the time of the steps alone."""
    if not script.is_file():
        raise UsageError(
            f"{script} is not there: take examples/dreambooth/train_dreambooth_lora.py of diffusers' release"
        )
    pictures, few, many = plain_pictures(out), steps, steps * 6
    speeds, memory = [], []
    for number in range(max(1, rounds // 3)):
        spent = {}
        for count in (few, many):
            shutil.rmtree(out / "ours", ignore_errors=True)
            spent["ours", count] = measured(ours(model, pictures, batch, count, out), out / "ours.log")
            spent["peer", count] = measured(theirs(script, model, pictures, batch, count, out), out / "peer.log")
        rate = {who: (many - few) / (spent[who, many].seconds - spent[who, few].seconds) for who in ("ours", "peer")}
        speeds.append(rate["ours"] / rate["peer"])
        memory.append(spent["ours", many].memory / spent["peer", many].memory)
        console.print(
            f"round {number + 1}: {rate['ours']:.2f} against {rate['peer']:.2f} steps/s, peak "
            f"{spent['ours', many].memory:.0f} against {spent['peer', many].memory:.0f} MiB"
        )
    console.print(
        f"studio / diffusers script, batch {batch}: steps per second {statistics.median(speeds):.2f}, "
        f"peak memory {statistics.median(memory):.2f} (median of {len(speeds)})"
    )
