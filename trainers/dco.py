"""DCO: learn a subject only as far from the base model as it takes, measured by the base model's own error.

Lee et al. 2024, arXiv 2402.12004. L = mean of softplus(beta (l - l')), where l is the adapter's error on a picture and
l' the frozen model's, for the same noise and timestep and for the caption with the class word in the trigger's place.
Class pictures, where there are any, keep DreamBooth's loss: L + beta / 2 * prior.weight * L_class, so that the weight
means what it means there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from studio.pipelines import consistency
from studio.pipelines.adapters import lora
from studio.pipelines.consistency_measure import Beta
from studio.pipelines.consistency_trial import Trial
from studio.pipelines.data import Dataset
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Adapter, Backbone, Batch, Stream
from studio.trainers import dreambooth
from studio.trainers.base import Loss, Turn
from studio.trainers.dreambooth import embed, halves_of, min_snr, noised, per_sample, refuse_snr_for_flow


class Config(dreambooth.Config):
    """DCO's own settings; where they differ from DreamBooth's they are the published ones (SDXL, a subject)."""

    steps: Annotated[int, Field(ge=1, le=10**9, description="Optimizer steps, those of the trial included")] = 2000
    lr: Annotated[float, Field(gt=0, le=10, description="Learning rate")] = 5e-5
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay of the optimizer")] = 1e-4
    adapter: Annotated[lora.Config, Field(description="Which weights learn")] = lora.Config(rank=32)
    # the published 1000 is SDXL's: it shuts a gate when the error is 5 / 1000 lower, which small models (embedded, SD
    # 1.5 at 512 pixels) are within a few steps, and then they learn nothing more
    beta: Annotated[
        Beta, Field(description="The gates shut when the error is 5 / beta lower; auto: a trial finds it")
    ] = "auto"
    trial: Annotated[
        int, Field(ge=0, description="Plain steps that measure the gain for beta = auto; 0: a third of the steps")
    ] = 0
    floor: Annotated[
        float, Field(ge=0, lt=0.5, description="Gates below it are shut; a step with no other is idle")
    ] = 0.01


def texts(data: Dataset) -> list[str]:
    """What is embedded beside the captions."""
    return list(data.bases.values())


def losses(config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """One loss per batch. UsageError: an adapter without an exact off, Min-SNR for flows, a trial without an end."""
    refuse_snr_for_flow(config.snr_gamma, model.prediction)
    if not getattr(adapter, "exact_off", False):
        kind = getattr(adapter, "kind", type(adapter).__name__)
        raise UsageError(
            f"adapter: DCO measures against the base model, and the kind '{kind}' changes it even when it is switched "
            "off (exact_off is false): use lora"
        )
    # a third is half of the rest: plain training's gain at half its steps is what beta is made of
    trial = Trial(config.trial or max(1, config.steps // 3), adapter, memory)
    if config.beta == "auto" and trial.steps >= config.steps:
        raise UsageError(f"trial: its {trial.steps} steps leave none of {config.steps}: use more, or a number as beta")
    return lessons(config, model, adapter, data, trial)


def lessons(config: Config, model: Backbone, adapter: Adapter, data: Stream, trial: Trial) -> Iterator[Loss]:
    """The losses: the trial's while it runs, then DCO's."""
    if config.beta == "auto":
        trial.begin()
    known: Mapping[str, str] = getattr(data, "bases", {})
    for batch in data:
        adapter.train(False)  # dropout would be noise in one of the two errors that are compared
        noisy, count = noised(model, batch, config.noise_offset), halves_of(batch)[0]
        weights, masks = noisy.weight * min_snr(noisy, config.snr_gamma, model.prediction), batch.masks
        theirs = None
        if trial.compares:  # before the tuned model: its activations are gone when those of the graph are kept
            prompts = consistency.captions(batch, count, known, config.data.trigger, config.data.class_word)
            base = consistency.frozen(model, adapter, noisy.x[:count], noisy.t[:count], prompts)
            theirs = per_sample(base, noisy.target[:count], None if masks is None else masks[:count]) * weights[:count]
        prediction = model.predict(noisy.x, noisy.t, embed(model, adapter, batch.prompts))
        yield judged(config, batch, per_sample(prediction, noisy.target, masks) * weights, theirs, trial, known)


def judged(
    config: Config, batch: Batch, errors: Tensor, theirs: Tensor | None, trial: Trial, known: Mapping[str, str]
) -> Loss:
    """The loss of a batch, by the errors `[B]` of all rows and the frozen model's of the instance rows, where known."""
    (ours, classes), (mine, other) = errors.split(halves_of(batch)), batch.weights.split(halves_of(batch))
    idle: float | Tensor = 0.0
    steepness, value = 1.0, (ours * mine).mean()
    numbers: dict[str, float | Tensor] = {"instance": ours.mean()}
    if theirs is not None:
        gap = ours - theirs
        numbers |= {"base": theirs.mean(), "gap": gap.mean()}
        if not trial.running:
            beta = trial.memory["beta"] if config.beta == "auto" else float(config.beta)
            steepness, value = beta / 2, (consistency.loss(gap, beta) * mine).mean()
            health = consistency.health(gap, beta, config.floor)
            numbers |= {"beta": beta, **health}
            idle = (health["shut"] == 1).float()
    if len(classes):
        idle, prior = 0.0, (classes * other).mean()
        numbers["prior"] = prior
        value = value + steepness * config.prior.weight * prior

    def then(numbers: Mapping[str, float]) -> Turn:
        """Go on with the trial, or count idle steps."""
        doubts = () if "told" in trial.memory else consistency.doubts(trial.adapter, known)
        trial.memory["told"] = True
        if not trial.running:
            return Turn(warnings=(*doubts, consistency.idle(trial.memory, numbers)))
        found = trial.see(numbers)
        return Turn((found.message,), (*doubts, found.warning), fresh=True) if found else Turn(warnings=doubts)

    return Loss(value, numbers, idle=idle, steepness=steepness, then=then)
