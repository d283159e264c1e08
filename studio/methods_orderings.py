"""The orderings that the papers of T-LoRA, ClassDiffusion, DCO and SaRA claim, by experiment of methods.toml."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from studio import methods_remedies
from studio.methods_claims import HARD, NEAR, Claim, Ordering, identity, minus, ordering, text
from studio.methods_values import BOTH, CLIP_T, DRIFT, IDENTITY, NAMES, TEXT

MANY = 16  # rank from which on T-LoRA should be ahead
STYLE = "style similarity"  # of the merged adapters, as `methods_draw` names it


def one_picture(labels: Sequence[str]) -> list[Ordering]:
    """T-LoRA, arXiv 2507.05964, table 1."""
    ranks = sorted({int(seen.group(1)) for label in labels if (seen := re.search(r", rank (\d+)$", label))})
    if len(ranks) < 2:
        return []
    low, high = ranks[0], ranks[-1]
    lora, ours = ((f"{name}, rank {low}", f"{name}, rank {high}") for name in ("LoRA", "T-LoRA"))
    weights = {lora[0]: 1.0, lora[1]: -1.0, ours[0]: -1.0, ours[1]: 1.0}
    found = [text(f"LoRA's prompt accuracy falls from rank {low} to rank {high}", *lora)]
    falls = [
        Claim(f"(LoRA, rank {low} - {high}) - (T-LoRA, rank {low} - {high}), {NAMES[n]}", n, weights)
        for n in (TEXT, CLIP_T)
    ]
    found.append(ordering("T-LoRA's stays: it falls less than LoRA's", falls[0], beside=falls[1:]))
    for rank in (rank for rank in ranks if rank >= MANY):
        names = [f"{name}, rank {rank}" for name in ("T-LoRA", "vanilla T-LoRA", "LoRA")]
        near = [minus(IDENTITY, name, names[2], above=-NEAR) for name in names[:2]]
        found += [
            text(f"Rank {rank}: T-LoRA above LoRA in prompt accuracy", names[0], names[2]),
            text(f"Rank {rank}: T-LoRA above vanilla T-LoRA in prompt accuracy", names[0], names[1]),
            text(f"Rank {rank}: vanilla T-LoRA above LoRA in prompt accuracy", names[1], names[2]),
            ordering(f"Rank {rank}: both T-LoRAs lose at most {NEAR} of LoRA's identity", *near),
        ]
    return found


def composition(labels: Sequence[str]) -> list[Ordering]:
    """ClassDiffusion, arXiv 2405.17532, table 1."""
    ours, theirs, without = "ClassDiffusion", "DreamBooth", "ClassDiffusion, no semantic loss"
    found = [
        text("ClassDiffusion above DreamBooth in prompt accuracy on composition prompts", ours, theirs, HARD),
        ordering("ClassDiffusion's class drifts less than DreamBooth's", minus(DRIFT, theirs, ours)),
        identity("ClassDiffusion pays with identity", theirs, ours),
    ]
    if without in labels:
        found += [
            text("The semantic loss itself brings prompt accuracy", ours, without, HARD),
            ordering("The semantic loss itself makes the class drift less", minus(DRIFT, without, ours)),
        ]
    return found


def consistency(labels: Sequence[str]) -> list[Ordering]:
    """DCO, arXiv 2402.12004, abstract and figures."""
    ours, plain, prior = "DCO", "DreamBooth", "DreamBooth + prior"
    sweep = sorted((label for label in labels if label.startswith("DCO, w_con ")), key=lambda one: float(one[11:]))
    found = [
        text("DCO above DreamBooth in prompt accuracy", ours, plain),
        identity("DCO above DreamBooth + prior preservation in identity", ours, prior),
        text("Prior preservation brings DreamBooth prompt accuracy", prior, plain),
        identity("Prior preservation costs DreamBooth identity", plain, prior),
    ]
    if len(sweep) > 1:
        first, last = sweep[0], sweep[-1]
        found += [
            identity(f"More consistency guidance brings identity ({first} to {last})", last, first),
            text(f"More consistency guidance costs prompt accuracy ({first} to {last})", first, last),
        ]
        for other in (plain, prior):
            ways = tuple((minus(TEXT, one, other), minus(IDENTITY, one, other)) for one in sweep)
            found.append(Ordering(f"The curve over w_con passes above {other} in both", ways))
    return found


def merging(labels: Sequence[str]) -> list[Ordering]:
    """DCO's section on merging a subject's and a style's adapter."""
    found = [
        text(
            "Two DCO adapters added follow prompts better than two DreamBooth ones", "DCO, merged", "DreamBooth, merged"
        )
    ]
    for number, alone in ((IDENTITY, "subject alone"), (STYLE, "style alone")):
        weights = {"DCO, merged": 1.0, f"DCO, {alone}": -1.0, "DreamBooth, merged": -1.0, f"DreamBooth, {alone}": 1.0}
        words = f"(DCO, merged - {alone}) - (DreamBooth, merged - {alone}), {number}"
        found.append(ordering(f"Adding costs DCO less {number} than DreamBooth", Claim(words, number, weights)))
        found.append(ordering(f"The DCO merge has more {number}", minus(number, "DCO, merged", "DreamBooth, merged")))
    return found


def sparse(labels: Sequence[str]) -> list[Ordering]:
    """SaRA, arXiv 2409.06633: DreamBooth table (mean of three subjects) and ablation."""
    ours, full, lora = "SaRA", "full fine-tuning", "LoRA"
    found = [
        text("SaRA above full fine-tuning in prompt accuracy", ours, full),
        text("Full fine-tuning above LoRA in prompt accuracy", full, lora),
        identity("LoRA above SaRA in identity", lora, ours),
        identity("SaRA above full fine-tuning in identity", ours, full),
    ]
    for other in ("random", "largest"):
        row = f"SaRA, {other} entries"
        beside = [minus(number, ours, row) for number in (TEXT, IDENTITY)]
        found.append(ordering(f"The smallest entries beat the {other} ones", minus(BOTH, ours, row), beside=beside))
    row = "SaRA, no progressive step"
    beside = [minus(number, ours, row) for number in (TEXT, IDENTITY)]
    found.append(ordering("The progressive step helps", minus(BOTH, ours, row), beside=beside))
    return found


BY_EXPERIMENT: dict[str, Callable[[Sequence[str]], list[Ordering]]] = {
    "one-picture": one_picture, "composition": composition, "consistency": consistency, "merging": merging,
    "sparse": sparse, "merging-remedies": merging, **methods_remedies.BY_EXPERIMENT,
}  # fmt: skip


def of(experiment: str, labels: Sequence[str]) -> list[Ordering]:
    """An experiment's orderings; none for one that no paper speaks of."""
    return BY_EXPERIMENT[experiment](labels) if experiment in BY_EXPERIMENT else []
