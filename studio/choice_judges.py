"""Who scores the pictures of checkpoints: the embedded judges on the embedded world, CLIP and DINO elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from studio import subjects
from studio.evaluation import references
from studio.pipelines.assets import assets_folder
from studio.pipelines.data import Pictures
from studio.pipelines.errors import DataError, ModelError
from studio.pipelines.protocols import Backbone
from studio.trainers.base import Settings

if TYPE_CHECKING:
    from studio.pipelines.encoders.judges import Attributes

Exact = Callable[[Tensor, Sequence[str]], list[float]]
View = Callable[[Sequence[Tensor]], Tensor]  # pictures [3, h, w] in 0..1 -> unit features [B, D]
NEUTRAL = "white"  # behind the references where a prompt names no background
MOST = 32  # references that are looked at
COPIES = "identity is to the training pictures, and a copy of them scores best"


@dataclass
class Judge:
    """name: in files and tables; views: identity is their mean; text: prompts in the space of the first view.

    material: the references for a prompt; exact: the share of a prompt's wishes that a picture meets, if that can be
    known; notes: what a person must know.
    """

    name: str
    views: Sequence[View]
    text: Callable[[Sequence[str]], Tensor]
    material: Callable[[str], Sequence[Tensor]]
    exact: Exact | None = None
    notes: list[str] = field(default_factory=list)
    seen: dict[int, list[Tensor]] = field(default_factory=dict)

    def known(self, prompt: str) -> list[Tensor]:
        """The features of a prompt's references, by view."""
        found = self.material(prompt)
        if id(found) not in self.seen:
            self.seen[id(found)] = [view(found).cpu() for view in self.views]
        return self.seen[id(found)]

    @torch.no_grad()
    def identity(self, pictures: Tensor, prompts: Sequence[str]) -> list[float]:
        """Mean cosine of each picture `[B, 3, H, W]` to the references of its prompt."""
        looked = [view(list(pictures)).cpu() for view in self.views]
        rows = []
        for row, prompt in enumerate(prompts):
            pairs = zip(looked, self.known(prompt), strict=True)
            rows.append(sum(float(features[row] @ known.mean(0)) for features, known in pairs) / len(looked))
        return rows

    def ceiling(self, prompts: Sequence[str]) -> float:
        """The identity of the references among themselves, each held against the others; 1 for one alone."""
        found = []
        for known in (features for prompt in dict.fromkeys(prompts) for features in self.known(prompt)):
            count = len(known)
            alike = float((known @ known.T).sum()) - float((known * known).sum())
            found.append(alike / (count * (count - 1)) if count > 1 else 1.0)
        return sum(found) / len(found)

    @torch.no_grad()
    def prompt(self, pictures: Tensor, prompts: Sequence[str]) -> list[float]:
        """Exact accuracy where it can be known, else the cosine of picture and prompt."""
        if self.exact is not None:
            return self.exact(pictures, prompts)
        return [float(value) for value in (self.views[0](list(pictures)).cpu() * self.text(prompts).cpu()).sum(-1)]

    @torch.no_grad()
    def scale(self, pictures: Tensor, prompts: Sequence[str]) -> tuple[float, float]:
        """Nothing and everything of `prompt`: 0 and 1, or the base model's pictures by other prompts and their own."""
        if self.exact is not None:
            return 0.0, 1.0
        alike = self.views[0](list(pictures)).cpu() @ self.text(prompts).cpu().T
        other = torch.tensor([[a != b for b in prompts] for a in prompts])
        own = float(alike.diagonal().nanmean())
        return (float(alike[other].nanmean()) if other.any() else 0.0), own


def judge(model: Backbone, source: str, settings: Settings, prompts: Sequence[str]) -> Judge:
    """The judge of a run. source: the model's name; prompts: plain ones. Raises ModelError and DataError."""
    choice, found = settings.choice, references.gather(None, settings.data.folder)
    if not found.references:
        raise DataError(f"no reference pictures: {'; '.join(found.notes)}")
    pictures = [picture[:3] for picture in found.references[:MOST]]
    notes = [COPIES] if found.names == found.training_names else []
    if source in ("embedded", "toy"):
        return replace(embedded(model.device, pictures, settings.data, prompts), notes=notes)
    from studio.pipelines.encoders import clip as clips
    from studio.pipelines.encoders import dino as dinos

    clip = clips.clip(choice.clip or clips.BASE, "", model.device, model.dtype)
    views = [clip.image_features]
    clip.text_features(["a picture"])  # said now, not at the first checkpoint
    dino = dinos.dino(choice.dino, "", model.device, model.dtype)
    try:
        dino.image_features(pictures[:1])
        views.append(dino.image_features)
    except ModelError as problem:
        notes.append(f"identity by CLIP alone: {problem}")
    name = " and ".join([clip.id, dino.id][: len(views)])
    return Judge(name, views, clip.text_features, lambda prompt: pictures, notes=notes)


def embedded(
    device: torch.device, pictures: list[Tensor], data: Pictures, prompts: Sequence[str], sure: bool = False
) -> Judge:
    """The embedded judges; a subject's references stand on the prompt's own background. sure: for `exact`."""
    from studio.evaluation.personal_wishes import wishes
    from studio.pipelines.encoders import judges

    folder, word = assets_folder() / "judges", data.class_word
    sight, traits = (judges.judge(kind, folder, device) for kind in (judges.Sight, judges.Traits))

    @lru_cache
    def on_ground(colour: str) -> list[Tensor]:
        from studio.world.concepts import BACKGROUNDS

        return list(subjects.references(data.folder.parent, BACKGROUNDS[colour])) if data.folder else pictures

    def material(prompt: str) -> list[Tensor]:
        subject = subjects.about(data.folder).get("kind") == "subject"
        return on_ground(wishes(prompt, word).get("colour", NEUTRAL)) if subject else pictures

    share = exact(sight.loaded.model.attributes, lambda prompt: wishes(prompt, word), sure)
    known = share if all(wishes(prompt, word) for prompt in prompts) else None
    name = f"{sight.id}{', answers' if sure else ''}"
    return Judge(name, [sight.image_features, traits.image_features], sight.text_features, material, known)


def exact(classifier: Attributes, wishes: Callable[[str], dict[str, str]], sure: bool) -> Exact:
    """The share of its prompt's wishes that a picture meets, by the classifier's probabilities, or sure answers."""
    from studio.pipelines.encoders.judges import FRAMING

    def met(made: Tensor, asked: Sequence[str]) -> list[float]:
        x = FRAMING(list(made.to(next(classifier.parameters()).device)))
        seen = {name: logits.softmax(-1).cpu() for name, logits in classifier(x).items()}
        if sure:
            seen = {name: (likely == likely.amax(-1, keepdim=True)) + 0 * likely for name, likely in seen.items()}
        rows = []
        for row, wished in enumerate(map(wishes, asked)):
            columns = {name: classifier.answers[name].index(word) for name, word in wished.items()}
            rows.append(sum(float(seen[name][row, column]) for name, column in columns.items()) / len(columns))
        return rows

    return met
