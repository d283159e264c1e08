"""How many pictures scoring a run's checkpoints will draw."""

from __future__ import annotations

from studio import choice_exam, choice_run
from studio.config import RunConfig


def pictures(config: RunConfig) -> int:
    """Pictures of the base model, of every checkpoint and of the leading ones at their strengths; 0 where none is
    scored. A held-out prompt that is a caption of the data, which nobody has read yet, is counted and not drawn.

    Raises DataError for prompts that no exam can be made of.
    """
    settings = config.settings
    if not choice_run.wanted(config):
        return 0
    choice, data = settings.choice, settings.data
    groups = choice_exam.held_out(choice, config.model, data.trigger, data.class_word, ())
    more = max(choice.seeds, choice.final_seeds)
    candidates = 1 + ((settings.steps - 1) // settings.save_every if settings.save_every else 0)
    others = len({*choice.strengths} - {1.0})
    drawn = 1 + candidates + min(choice.leaders, candidates) * others  # the base model's too
    return sum(len(group.prompts) for group in groups) * drawn * more
