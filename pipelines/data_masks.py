"""Which files are masks, and of which pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from studio.pipelines.data_walk import Ledger

MASK_ENDINGS = (".mask", "-masklabel", "_mask")


def find_masks(images: Sequence[Path], ledger: Ledger) -> dict[tuple[Path, str], Path]:
    """(folder, stem) of a picture -> its mask. A second mask, and a mask of nothing, are rejected."""
    stems: dict[Path, set[str]] = {}
    for path in images:
        stems.setdefault(path.parent, set()).add(path.stem)
    masks: dict[tuple[Path, str], Path] = {}
    for path in images:
        base = mask_base(path, stems)
        if base is None:
            if path.stem.endswith("_mask"):
                ledger.warn(f"{ledger.name(path)} is used as a picture: it is no mask of a picture beside it")
        elif base[1] not in stems.get(base[0], ()):
            ledger.reject(path, "a mask without its picture")
        elif base in masks:
            ledger.reject(path, f"a second mask; {ledger.name(masks[base])} was read")
        else:
            masks[base] = path
    for path in masks.values():
        ledger.know(path, "mask")
    return masks


def mask_base(path: Path, bare: Mapping[Path, Collection[str]]) -> tuple[Path, str] | None:
    """(folder, stem) of the picture that `path` is the mask of, by its name; None: it is a picture itself.

    bare: the picture stems of each folder. Masks are `x.mask.png`, `x-masklabel.png`, `x_mask.png` where an
    `x` picture is beside it, and `masks/x.png` below a folder with pictures.
    """
    ending = next((e for e in MASK_ENDINGS if path.stem.endswith(e) and path.stem != e), "")
    base = path.stem.removesuffix(ending)
    if path.parent.name.lower() in ("mask", "masks") and (above := bare.get(path.parent.parent)):
        return path.parent.parent, base if path.stem not in above else path.stem
    # a carnival mask may well be the subject: the ending `_mask` alone does not make a file a mask
    if ending and (ending != "_mask" or base in bare.get(path.parent, ())):
        return path.parent, base
    return None
