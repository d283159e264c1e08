"""The licence of a base model, as its card says it."""

from __future__ import annotations

from pathlib import Path

from studio.pipelines import assets

KEYS = ("license", "license_name", "license_link")  # the hub's words, at the top of a card
CARD = "README.md"
LARGEST = 2**20  # bytes of a card that is read; a stranger may have written it
LONGEST = 200  # characters of a value


def stated(model: str) -> dict[str, str]:
    """KEYS with what the card of a folder, a file's folder or a cached hub model says; {} where it says nothing.

    Never asks the network, and fails for no card.
    """
    card = where(model)
    try:
        found = head(card) if card is not None and card.stat().st_size <= LARGEST else {}
    except Exception:  # a card is prose by anybody: whatever ails it, it states no licence
        return {}
    told = {key: said(found[key]) for key in KEYS if found.get(key)}
    return told if "license" in told else {}


def words(found: dict[str, str]) -> str:
    """A licence in one line for a file's header; '' where none is known."""
    name = found.get("license_name") or found.get("license", "")
    return f"{name} ({found['license_link']})" if name and "license_link" in found else name


def where(model: str) -> Path | None:
    """The card of a model, None where there is none on this machine."""
    try:
        path = assets.model_path(model)
        folder = path if path.is_dir() else path.parent if path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # no path at all
        return None
    if folder is not None:
        return folder / CARD if (folder / CARD).is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, CARD)
    except HFValidationError:  # no hub id, such as "toy"
        return None
    return Path(cached) if isinstance(cached, str) else None


def head(card: Path) -> dict[str, object]:
    """The fields at the top of a card, between lines of `---`."""
    from huggingface_hub.repocard import metadata_load

    return metadata_load(card) or {}


def said(value: object) -> str:
    """A field as one line of printable characters."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:LONGEST]
