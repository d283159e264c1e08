"""What a run writes: bytes of checkpoints, cache, pictures and adapter files."""

from __future__ import annotations

from studio import subjects
from studio.config import RunConfig
from studio.pipelines.errors import StudioError
from studio.pipelines.protocols import Backbone
from studio.plan_weights import Weights
from studio.previews import DEFAULT_PROMPTS

BYTES_PER_PIXEL = 2.0  # of a PNG of a photo; drawings take less
HEADERS = 2**16  # of one file of tensors


def shots(config: RunConfig) -> int:
    """Pictures of one round of previews."""
    previews = config.settings.previews
    return (len(previews.prompts) or DEFAULT_PROMPTS) * previews.n


def rounds(config: RunConfig) -> int:
    """Rounds of previews: the base model's, those on the way, the last."""
    settings = config.settings
    return 2 + (settings.steps - 1) // settings.previews.every if settings.previews.every else 2


def saves(config: RunConfig) -> int:
    """Checkpoints that lie there at the same time: those kept, and the one being written."""
    settings = config.settings
    written = -(-settings.steps // settings.save_every) if settings.save_every else 1
    kept = settings.keep_last + len(settings.keep_steps) + settings.keep_best if settings.keep_last else written
    return min(written, kept + 1) + (settings.save_minutes > 0)


def makes_class_pictures(config: RunConfig) -> bool:
    """Whether the base model draws pictures of the class first."""
    prior = getattr(config.settings, "prior", None)
    return prior is not None and bool(prior.weight) and prior.folder is None


def scored(config: RunConfig) -> bool:
    """Whether the finished adapter is scored on an embedded subject."""
    folder = config.settings.data.folder
    return config.model == "embedded" and folder is not None and subjects.about(folder).get("kind") == "subject"


def pictures(config: RunConfig) -> int:
    """Pictures in the data's folder; 0 when it cannot be read."""
    try:
        return len(config.settings.data.listing().found)
    except StudioError:
        return 0


def disk(config: RunConfig, model: Backbone, weights: Weights) -> dict[str, int]:
    """Bytes by kind."""
    settings = config.settings
    side = settings.data.resolution or model.pixels
    channels, height, width = model.latent_shape(side, side)
    moments = 2 * 4 * channels * height * width
    made = config.settings.prior.images if makes_class_pictures(config) else 0  # type: ignore[attr-defined]
    entries = (pictures(config) + made) * (1 + settings.data.flip)
    checkpoint = weights.adapter + weights.optimizer + weights.ema + HEADERS
    drawn = int(BYTES_PER_PIXEL * model.pixels**2)
    return {
        "checkpoints": saves(config) * checkpoint,
        "cache": entries * (moments + HEADERS) + made * drawn,
        "samples": shots(config) * rounds(config) * drawn,
        "adapter": 2 * weights.adapter + HEADERS,
    }
