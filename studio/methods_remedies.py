"""The orderings once more, for the remedies of `assets/configs/methods_remedies.toml` and their counterparts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from studio.methods_claims import HARD, NEAR, Ordering, identity, minus, ordering, text
from studio.methods_values import DRIFT, IDENTITY


def rest(labels: Sequence[str], *named: str) -> Iterator[str]:
    """The rows that are no counterparts."""
    yield from (label for label in labels if label not in named)


def one_picture(labels: Sequence[str]) -> list[Ordering]:
    """Above LoRA in text, near it in identity."""
    found = []
    for row in rest(labels, "LoRA"):
        near = minus(IDENTITY, row, "LoRA", above=-NEAR)
        found += [
            text(f"{row}: above LoRA in prompt accuracy", row, "LoRA"),
            ordering(f"{row}: loses at most {NEAR} of LoRA's identity", near),
        ]
    return found


def composition(labels: Sequence[str]) -> list[Ordering]:
    """Above DreamBooth on hard prompts; and every row above what the loss is left out of."""
    without = "without the loss"
    found = []
    for row in rest(labels, "DreamBooth"):
        drift = minus(DRIFT, "DreamBooth", row)
        found += [
            text(f"{row}: above DreamBooth in prompt accuracy on composition prompts", row, "DreamBooth", HARD),
            ordering(f"{row}: the class drifts less than DreamBooth's", drift),
        ]
    return [
        *found,
        *(text(f"{row}: above {without}", row, without, HARD) for row in rest(labels, "DreamBooth", without)),
    ]


def consistency(labels: Sequence[str]) -> list[Ordering]:
    """Above DreamBooth in text, above prior preservation in identity."""
    plain, prior = "DreamBooth", "DreamBooth + prior"
    return [
        one
        for row in rest(labels, plain, prior)
        for one in (
            text(f"{row}: above {plain} in prompt accuracy", row, plain),
            identity(f"{row}: above {prior} in identity", row, prior),
        )
    ]


def sparse(labels: Sequence[str]) -> list[Ordering]:
    """The paper's two orders."""
    full, lora = "full fine-tuning", "LoRA"
    found = [text(f"{full}: above {lora} in prompt accuracy", full, lora)]
    for row in rest(labels, full, lora):
        found += [
            text(f"{row}: above {full} in prompt accuracy", row, full),
            identity(f"{lora}: above {row} in identity", lora, row),
            identity(f"{row}: above {full} in identity", row, full),
        ]
    return found


BY_EXPERIMENT: dict[str, Callable[[Sequence[str]], list[Ordering]]] = {
    "one-picture-remedies": one_picture, "composition-remedies": composition, "consistency-remedies": consistency,
    "sparse-remedies": sparse,
}  # fmt: skip
