"""Encoders that look at picture and text together: their numbers belong to the pair, and are remembered by pair."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from studio.pipelines.encoders.base import Encoder, batches, content, rows

BATCH = 16


class Matcher(Encoder):
    """A frozen image-text encoder with cross-attention."""

    @abstractmethod
    def numbers(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        """`[B, K]` float32 for prepared pictures and their prompts."""

    def match(self, pictures: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """`[B, K]` float32 for pictures `[3 or 4, h, w]` in 0..1, row by row; NaN rows for pictures that hold NaN.

        Without a gradient each pair is worked on once, whichever of its numbers is asked for.
        """
        return rows([picture[:3] for picture in pictures], lambda good: self._match(good, prompts))

    def tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, `[B, L]` each; L is always the same, so that a batch changes no number."""
        found = self.loaded.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.loaded.longest, return_tensors="pt"
        )
        return {name: found[name].to(self.device) for name in ("input_ids", "attention_mask")}

    def _match(self, pictures: list[Tensor], prompts: Sequence[str]) -> Tensor:
        pairs = list(zip(pictures, prompts, strict=True))
        if torch.is_grad_enabled() and any(picture.requires_grad for picture in pictures):
            return torch.cat([self._numbers(chunk) for chunk in batches(pairs, BATCH)])
        names = [f"pair {content(picture)} {prompt}" for picture, prompt in pairs]
        found = {key: entry["row"] for key in names if (entry := self.memo.memory.get(key))}
        new = {key: pair for key, pair in zip(names, pairs, strict=True) if key not in found}
        with torch.no_grad():
            for chunk in batches(list(new), BATCH):
                for key, row in zip(chunk, self._numbers([new[key] for key in chunk]).cpu(), strict=True):
                    found[key] = row.clone()
                    self.memo.remember(key, {"row": found[key]})
        return torch.stack([found[key] for key in names]).to(self.device)

    def _numbers(self, pairs: Sequence[tuple[Tensor, str]]) -> Tensor:
        x = self.loaded.framing([picture.to(self.device) for picture, _ in pairs])
        return self.numbers(x.to(self.dtype), [prompt for _, prompt in pairs])
