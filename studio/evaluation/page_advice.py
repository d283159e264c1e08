"""What a page recommends, and which checkpoint its numbers are about."""

from __future__ import annotations

from studio.evaluation.page_private import clean
from studio.evaluation.page_roles import Cast


def advice(cast: Cast) -> str:
    """The recommended checkpoint and strength with the reason, if one was chosen, and what the numbers are about."""
    return " ".join(filter(None, (recommended(cast), about(cast))))


def recommended(cast: Cast) -> str:
    """`Recommended: step 400. Identity no longer rises ...`; "" where nothing is."""
    if cast.choice is None:
        return ""
    choice, source = cast.choice, cast.choice.source
    reason = clean(choice.reason).strip().rstrip(".")
    sentence = f" {reason[:1].upper()}{reason[1:]}." if reason else ""
    step = choice.step if choice.step is not None else source.step if source else None
    strength = choice.strength if choice.strength is not None else source.strength if source else None
    name = [clean(source.label)] if source and not source.label.startswith("step ") else []
    parts = [*name, *[f"step {step}"] * bool(step), *([f"strength {strength:g}"] if strength is not None else [])]
    if not parts or reason.startswith("step "):  # it names the checkpoint itself
        return f"Recommended: {reason}." if reason else ""
    return f"Recommended: {', '.join(parts)}." + sentence


def about(cast: Cast) -> str:
    """Which checkpoint at which strength the numbers are about, where the run behind them tells."""
    main, run = cast.main, cast.origin
    held = run.of(main) if main else None
    if main is None or held is None or not held.step or not (held.picked or run.choice):
        return ""
    what = f"step {held.step} at strength {held.strength:g}"
    if held.picked and main.strength == 1:
        what += ", which is what the adapter's file holds"
    if cast.choice is None or not run.choice:
        return f"The numbers here are about {what}."
    if cast.choice.source is main:
        return f"The numbers here are about it: {what}."
    return (
        f"The numbers here are not about it, but about {what}; studio evaluate with --pick makes the recommended "
        "one the run's adapter and evaluates that."
    )
