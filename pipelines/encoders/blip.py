"""BLIP and BLIP-2 through transformers: does a picture fit a text, by cosine (ITC) and by matching head (ITM)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.pipelines.encoders import files
from studio.pipelines.encoders.base import Loaded, shared
from studio.pipelines.encoders.framing import OPENAI, Framing
from studio.pipelines.encoders.matching import Matcher

ITC, ITM = 0, 1  # the columns of `match`


class Blip(Matcher):
    """transformers' BlipForImageTextRetrieval: cosine of the two [CLS] projections, and probability of a match."""

    preprocessing = "both sides to the encoder's side (antialiased bicubic), CLIP mean and std"
    longest = 35  # tokens its retrieval training read

    def load(self, folder: Path) -> Loaded:
        """Network, framing and tokenizer out of a folder."""
        from transformers import BlipForImageTextRetrieval

        files.family(folder, ("blip",))
        model = files.pretrained(BlipForImageTextRetrieval, folder, self.device, self.dtype)
        return self.described(folder, model, model.config.text_config.max_position_embeddings)

    def described(self, folder: Path, model: Any, positions: int) -> Loaded:
        """The network with its framing and tokenizer."""
        side = model.config.vision_config.image_size
        framing = files.framing(folder, Framing((side, side), None, *OPENAI), side)
        return Loaded(model, framing, files.tokenizer(folder), min(self.longest, positions))

    def look(self, x: Tensor) -> Tensor:
        """Projected [CLS] states `[B, D]` of prepared pictures."""
        return self.seen(x)[1]

    def read(self, tokens: dict[str, Tensor]) -> Tensor:
        """Projected [CLS] states `[B, D]` of tokens."""
        model = self.loaded.model
        states = model.text_encoder(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state
        return model.text_proj(states[:, 0])

    def numbers(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        """`[B, 2]`: cosine, probability of a match."""
        states, picture = self.seen(x)
        cosine = (F.normalize(picture.float(), dim=-1) * self.text_features(prompts)).sum(-1)
        tokens, model = self.tokens(prompts), self.loaded.model
        joint = model.text_encoder(**tokens, encoder_hidden_states=states).last_hidden_state
        return torch.stack([cosine, model.itm_head(joint[:, 0]).float().softmax(-1)[:, 1]], 1)

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All states `[B, N, W]` of prepared pictures, and the projected first one `[B, D]`."""
        states = self.loaded.model.vision_model(x).last_hidden_state
        return states, self.loaded.model.vision_proj(states[:, 0])


class Blip2(Blip):
    """transformers' Blip2ForImageTextRetrieval: the best of the query tokens' cosines with the text, and ITM."""

    longest = 32

    def load(self, folder: Path) -> Loaded:
        """Network, framing and tokenizer out of a folder."""
        from transformers import Blip2ForImageTextRetrieval

        files.family(folder, ("blip-2",))
        model = files.pretrained(Blip2ForImageTextRetrieval, folder, self.device, self.dtype)
        return self.described(folder, model, model.config.qformer_config.max_position_embeddings)

    def look(self, x: Tensor) -> Tensor:
        """The mean `[B, D]` of the query tokens' unit projections; ITC itself takes the best of them."""
        return self.queried(self.states(x)).mean(1)

    def read(self, tokens: dict[str, Tensor]) -> Tensor:
        """Projected [CLS] states `[B, D]` of tokens."""
        model = self.loaded.model
        words = model.embeddings(input_ids=tokens["input_ids"])
        states = model.qformer(query_embeds=words, query_length=0, attention_mask=tokens["attention_mask"])
        return model.text_projection(fitting(states.last_hidden_state[:, 0], model.text_projection))

    def numbers(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        """`[B, 2]`: cosine, probability of a match."""
        states = self.states(x)
        cosine = (self.queried(states) @ self.text_features(prompts).unsqueeze(-1)).squeeze(-1).amax(1)
        tokens, model = self.tokens(prompts), self.loaded.model
        queries = model.query_tokens.expand(len(x), -1, -1)
        words = model.embeddings(input_ids=tokens["input_ids"], query_embeds=queries)
        mask = torch.cat([torch.ones_like(queries[..., 0], dtype=torch.long), tokens["attention_mask"]], 1)
        joint = model.qformer(
            query_embeds=words, query_length=queries.shape[1], attention_mask=mask, encoder_hidden_states=states
        ).last_hidden_state[:, : queries.shape[1]]
        logits = model.itm_head(fitting(joint, model.itm_head)).mean(1)
        return torch.stack([cosine, logits.float().softmax(-1)[:, 1]], 1)

    def states(self, x: Tensor) -> Tensor:
        """The vision tower's states `[B, N, W]`."""
        return self.loaded.model.vision_model(x).last_hidden_state

    def queried(self, states: Tensor) -> Tensor:
        """Unit projections `[B, Q, D]` float32 of what the query tokens saw."""
        model = self.loaded.model
        queries = model.query_tokens.expand(len(states), -1, -1)
        found = model.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
        return F.normalize(model.vision_projection(fitting(found, model.vision_projection)).float(), dim=-1)


def fitting(x: Tensor, layer: torch.nn.Linear) -> Tensor:
    """`x` in the layer's precision; transformers keeps the Q-Former in float32."""
    return x.to(layer.weight.dtype)


def blip(source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Blip:
    """The BLIP in a folder or hub repository; nothing is read yet."""
    return shared(Blip, source, revision, device, dtype)


def blip2(source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Blip2:
    """The BLIP-2 in a folder or hub repository; nothing is read yet."""
    return shared(Blip2, source, revision, device, dtype)
