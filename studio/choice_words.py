"""Why a checkpoint and a strength are recommended, in words built from the numbers."""

from __future__ import annotations

from studio.choice import Gap, Marks, Ranking


def reason(curve: Ranking, final: Ranking) -> str:
    """curve: all checkpoints at strength 1; final: these and the leaders' other strengths, which was decided on."""
    one = final.pick()
    picked = final.marks[one]
    here = next(number for number, marks in enumerate(curve.marks) if marks.step == picked.step)
    parts = (after(curve, here), before(curve, here), strengths(final, one), exchange(final, one))
    said = [text for text in parts if text]
    return f"{picked.label}: {'; '.join(said) or 'the only one'}"


def after(curve: Ranking, here: int) -> str:
    """What becomes of identity and prompts between a checkpoint and the last one."""
    last = len(curve.marks) - 1
    if here == last:
        return "the last checkpoint"
    identity, prompt = curve.gap("identity", last, here), curve.gap("prompt", last, here)
    course = "still rises" if rises(identity) else "falls" if identity.clear else "no longer rises"
    grows = f"identity {course} ({number(identity)})"
    if not prompt.clear or points(prompt) == "unchanged":
        return f"{grows}, prompt accuracy holds after it ({points(prompt)})"
    return f"{grows}, prompt accuracy {'rises' if rises(prompt) else 'falls'} {points(prompt).lstrip('+-')} after it"


def before(curve: Ranking, here: int) -> str:
    """What the checkpoint has over the one before it."""
    if here == 0:
        return ""
    identity, prompt = curve.gap("identity", here, here - 1), curve.gap("prompt", here, here - 1)
    step = curve.marks[here - 1].step
    if rises(identity) or not identity.clear and not prompt.clear:
        return f"identity {number(identity)} since step {step}"
    return f"identity {number(identity)} and prompt accuracy {points(prompt)} since step {step}"


def strengths(final: Ranking, one: int) -> str:
    """What the strength has over the others of its step."""
    picked = final.marks[one]
    same = {m.strength: number for number, m in enumerate(final.marks) if m.step == picked.step}
    if len(same) == 1:
        return ""
    if picked.strength != 1:
        identity, prompt = final.gap("identity", one, same[1]), final.gap("prompt", one, same[1])
        return f"against strength 1 identity {number(identity)}, prompt accuracy {points(prompt)}"
    weaker = [strength for strength in same if strength < 1]
    if not weaker:
        return "strength 1 is the weakest that was tried"
    nearest = max(weaker)
    identity, prompt = (final.gap(kind, same[nearest], one) for kind in ("identity", "prompt"))
    return f"at strength {nearest:g} identity {number(identity)}, prompt accuracy {points(prompt)}"


def exchange(final: Ranking, one: int) -> str:
    """What the identity costs in prompt accuracy: beside the candidate that follows its prompts best."""
    other = final.obedient
    identity, prompt = (final.gap(kind, other, one) for kind in ("identity", "prompt"))
    if identity.mean >= 0 or prompt.mean <= 0 or points(prompt) == "unchanged":
        return ""
    return f"{final.marks[other].label} instead: identity {number(identity)}, prompt accuracy {points(prompt)}"


def doubt(final: Ranking, base: float) -> str:
    """That the base model, of which nothing of the subject is asked, is worth as much; '' where it is not."""
    worth = float(final.means["points"][final.pick()])
    if worth > base:
        return ""
    return f"the base model is worth {base:.0f} points, this {worth:.0f}: what it learned cost as much as it gained"


def rises(gap: Gap) -> bool:
    """Whether a difference is upwards and clear."""
    return gap.clear and gap.mean > 0


def number(gap: Gap) -> str:
    """`+0.002, within noise`."""
    return f"{gap.mean:+.3f}" + ("" if gap.clear else ", within noise")


def points(gap: Gap) -> str:
    """`-6 points`, `-1 point, within noise`, `unchanged`."""
    count = round(100 * gap.mean)
    if not count:
        return "unchanged"
    return f"{count:+d} point{'' if abs(count) == 1 else 's'}{'' if gap.clear else ', within noise'}"


def line(marks: Marks, ranking: Ranking) -> str:
    """One candidate: `step 400: identity 0.812, prompt accuracy 94 %, 71 points (66 to 75), drift 0.02`."""
    one = next(number for number, other in enumerate(ranking.marks) if other.order == marks.order)
    worth = ranking.own("points", one)
    between = "" if abs(worth.low) == float("inf") else f" ({worth.low:.0f} to {worth.high:.0f})"
    drift = "" if marks.drift != marks.drift else f", drift {marks.drift:.3f}"
    means = ranking.means
    return (
        f"{marks.label}: identity {means['identity'][one]:.3f}, prompt accuracy {means['prompt'][one]:.0%}, "
        f"{worth.mean:.0f} points{between}{drift}"
    )
