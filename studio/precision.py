"""What a `precision` setting means on a device."""

from __future__ import annotations

import os

import torch

from studio.pipelines.errors import UsageError
from studio.trainers.base import Settings

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def precision(choice: str, device: torch.device) -> str:
    """no, fp16 or bf16: what `auto` means on this device; UsageError for fp16 on a CPU."""
    if choice == "fp16" and device.type == "cpu":
        raise UsageError("precision: fp16 needs a GPU; use 'bf16', 'no' or 'auto' on a CPU")
    if choice != "auto":
        return choice
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "no"
    return "bf16" if device.type == "cpu" and _fast_bf16_cpu() else "no"


def _fast_bf16_cpu() -> bool:
    """Whether the CPU multiplies bf16 in hardware."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def dtype(settings: Settings, device: torch.device) -> torch.dtype:
    """The dtype of the frozen parts."""
    return DTYPES[precision(settings.precision, device)]


def preferred() -> tuple[torch.device, torch.dtype]:
    """The device to sample on, and the dtype that is fast there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device, DTYPES[precision("auto", device)]


def halved(device: torch.device) -> torch.autocast:
    """A context in which products are bf16 where the device is fast at it; a CPU that has to emulate it is not."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision("auto", device) == "bf16")


def deterministic(wanted: bool, device: torch.device) -> None:
    """Deterministic algorithms on a GPU, for the rest of the process; a warning names those that have none.

    Call it before the first matrix product: cuBLAS reads its workspace once. A CPU is deterministic already.
    """
    if wanted and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
