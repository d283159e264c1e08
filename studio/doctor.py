"""`studio doctor`: asks every part whether it answers, not whether a package of its name is there."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from studio.extras import EXTRAS
from studio.online import hub
from studio.pipelines.errors import StudioError
from studio.table import show

PACKAGES = (
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "open_clip_torch",
    "gradio",
    "pydantic",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report. ok: None for what is only said; vital: a False fails the command."""

    part: str
    ok: bool | None
    words: str
    vital: bool = False


def asked(part: str, question: Callable[[], str], vital: bool = False) -> Finding:
    """The answer of a part, or the first line of what it raised."""
    try:
        return Finding(part, True, question(), vital)
    except Exception as error:  # whatever a broken installation raises is the finding
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        clear = isinstance(error, (StudioError, OSError))
        return Finding(part, False, reason if clear else f"{type(error).__name__}: {reason}", vital)


def release(package: str) -> str:
    """The installed version of a distribution, or ''."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def findings(ask_hub: bool = True) -> Iterator[Finding]:
    """Every question in turn."""
    yield Finding("python", None, f"{platform.python_version()} on {platform.platform()}")
    working = asked("torch", torch_answers, vital=True)
    yield working
    versions = "  ".join(f"{name} {release(name) or 'missing'}" for name in PACKAGES)
    yield Finding("packages", all(release(name) for name in PACKAGES), versions)
    if working.ok:
        yield asked("device", device)
        yield Finding("cpu", None, cpu_features())
        yield from attention()
        yield from (extra(*question) for question in EXTRAS)
    yield asked("memory", free_memory)
    yield asked("disk", lambda: disk(Path.cwd()))
    yield from caches()
    yield asked("embedded", embedded)
    yield asked("hub", hub) if ask_hub else Finding("hub", None, "not asked")


def torch_answers() -> str:
    """Trains one linear layer for one step."""
    import torch

    layer = torch.nn.Linear(4, 4)
    layer(torch.ones(2, 4)).square().mean().backward()
    if layer.weight.grad is None or not torch.isfinite(layer.weight.grad).all():
        raise RuntimeError("the gradient of a linear layer is not finite")
    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def device() -> str:
    """The accelerator that runs would use, after a multiplication on it."""
    import torch

    if torch.cuda.is_available():
        torch.ones(8, 8, device="cuda").matmul(torch.ones(8, 8, device="cuda")).sum().item()
        found = torch.cuda.get_device_properties(0)
        more = f" and {torch.cuda.device_count() - 1} more" if torch.cuda.device_count() > 1 else ""
        return f"{found.name}, {found.total_memory / 2**30:.0f} GB, compute {found.major}.{found.minor}{more}"
    if torch.backends.mps.is_available():
        torch.ones(8, 8, device="mps").sum().item()
        return "Apple GPU (mps) found; runs use the CPU"
    return "cpu only: the embedded model trains in minutes, Stable Diffusion needs a GPU"


def cpu_features() -> str:
    """Cores and the instruction sets that decide about bf16."""
    import torch

    known = {key.removeprefix("_is_").removesuffix("_supported"): value for key, value in vars(torch.cpu).items()}
    wanted = ("avx2", "avx512", "avx512_bf16", "amx_tile")
    have = [name for name in wanted if callable(known.get(name)) and known[name]()]
    return f"{os.cpu_count()} cores, {platform.machine()}, {' '.join(have) or 'no vector extensions reported'}"


def attention() -> Iterator[Finding]:
    """Every attention implementation, probed forward and backward on the device runs would use."""
    import torch

    from studio.kernels.attention import KINDS, probe

    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    for name in KINDS:
        answer = probe(name, place, dtype)
        absent = not answer.ok and name == "xformers" and not release("xformers")
        words = answer.reason or f"forward and backward right on {place.type}"
        yield Finding(f"attention {name}", None if absent else answer.ok, words)


def extra(part: str, package: str, question: Callable[[], str], name: str) -> Finding:
    """An optional package: absent is no fault, installed and silent is one."""
    if not release(package):
        return Finding(
            part,
            None,
            f"not installed (pip install personalization-studio[{name}])" if name else "not installed",
        )
    answer = asked(part, question)
    return Finding(part, answer.ok, f"{release(package)}: {answer.words}")


def free_memory() -> str:
    """Free main memory, and the accelerator's."""
    import psutil

    words = f"{psutil.virtual_memory().available / 2**30:.1f} GB free"
    import torch

    if torch.cuda.is_available():
        words += f", GPU {torch.cuda.mem_get_info()[0] / 2**30:.1f} GB free"
    return words


def disk(folder: Path) -> str:
    """Free space where runs would be written; raises when there is less than 1 GB."""
    free = shutil.disk_usage(folder).free / 2**30
    if free < 1:
        raise OSError(f"only {free:.2f} GB free in {folder}")
    return f"{free:.1f} GB free in {folder}"


def caches() -> Iterator[Finding]:
    """Where downloaded models lie, and how many bytes there are."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    models = len(list(folder.glob("models--*"))) if folder.is_dir() else 0
    yield Finding("hub cache", None, f"{folder} ({models} models)")


def embedded() -> str:
    """The model inside the package; raises when its files are not there."""
    from studio.registry import find

    return find("models", "embedded").source


def report(ask_hub: bool = True) -> int:
    """Prints the findings; 0, or 1 when something vital does not work."""
    rows = list(findings(ask_hub))
    marks = {True: "ok", False: "no", None: "-"}
    show([(marks[row.ok], row.part, row.words) for row in rows], {"ok": "green", "no": "red", "-": "dim"})
    return int(any(row.vital and row.ok is False for row in rows))
