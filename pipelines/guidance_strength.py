"""An adapter at another strength for a while, where it can have that strength exactly."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Adapter


def acting(adapter: Adapter | None, strength: float) -> AbstractContextManager[None]:
    """Inside, the adapter acts `strength` times as strongly. Raises UsageError where it cannot."""
    allowed(adapter, strength)
    if adapter is None or strength == 1:
        return nullcontext()
    return adapter.off() if strength == 0 else adapter.scaled(strength)


def allowed(adapter: Adapter | None, strength: float) -> None:
    """UsageError unless the adapter can act exactly at this strength."""
    if strength == 1:
        return
    if adapter is None:
        raise UsageError("this guidance compares an adapter with its base model, and there is none: use cfg guidance")
    if not adapter.exact_off:
        raise UsageError(
            f"this guidance needs the true base model, and switching this adapter ({adapter.kind}) off does not give "
            "it back (exact_off = false): use cfg guidance"
        )
    if strength != 0 and not adapter.linear_scale:
        raise UsageError(
            f"this guidance needs weights {strength:g} of the way from the base model to the adapter, which scaling "
            f"this one ({adapter.kind}) does not give (linear_scale = false): use 0 or 1, or cfg guidance"
        )
