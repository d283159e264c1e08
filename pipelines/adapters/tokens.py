"""New tokens for CLIP text encoders: textual inversion, and with another adapter beside it pivotal tuning.

Gal et al. 2022, arXiv 2208.01618. Only the rows of the new tokens learn; there is nothing else that could change. A T5
beside the CLIP encoders (SD3) learns no tokens: it reads a new word's letters, as in stock pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from zlib import crc32

import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor, nn

from studio.pipelines.adapters import tokens_spelling, tokens_tables
from studio.pipelines.adapters.tokens_tables import TABLE, tokenizer_of
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.settings import Part

if TYPE_CHECKING:
    from studio.pipelines.adapters.tokens_rows import Rows
    from studio.pipelines.protocols import Backbone


class Config(Part):
    """New words and what they start from; `{trigger}` and `{class_word}` are the data's."""

    words: Annotated[
        tuple[str, ...], Field(description="New tokens as prompts spell them: <s1>, sks or {trigger}; empty: none")
    ] = ()
    vectors: Annotated[int, Field(ge=1, le=64, description="Vectors that each of them stands for")] = 1
    init: Annotated[
        tuple[str, ...],
        Field(description="Words they start from, one for each or one for all; empty: random, of the mean length"),
    ] = ("{class_word}",)
    lr: Annotated[float, Field(ge=0, le=10, description="Their learning rate; 0: the trainer's")] = 0.0
    keep_norm: Annotated[bool, Field(description="Keep each vector as long as it was at the start")] = False
    until: Annotated[
        float, Field(gt=0, le=1, description="Share of the steps after which they stand still (the pivot); 1: never")
    ] = 1.0

    @field_validator("words")
    @classmethod
    def single(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        """ValueError for what is no word of its own."""
        for word in words:
            if not tokens_spelling.bare(word) or word.split() != [word]:
                raise ValueError(f"{word!r} is not one word; write for example <s1>")
        names = [tokens_spelling.bare(word).lower() for word in words]
        if twice := [word for word, name in zip(words, names, strict=True) if names.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} is there twice")
        return words

    def filled(self, trigger: str, class_word: str) -> Config:
        """The same with the data's words in their places. Raises UsageError for a trigger that cannot be a token."""

        def fill(text: str) -> str:
            return text.replace("{trigger}", trigger).replace("{class_word}", class_word).strip()

        texts = {"words": tuple(map(fill, self.words)), "init": tuple(map(fill, self.init))}
        try:
            return type(self).model_validate({**dict(self), **texts})
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise UsageError(f"tokens.words: {said} (data.trigger is {trigger!r})") from None

    def build(self, model: Backbone) -> Tokens:
        """The tokens in `model`; UsageError where it has no CLIP text encoder, or knows one of the words already."""
        if len(self.init) not in (0, 1, len(self.words)):
            raise UsageError(f"tokens.init: {len(self.init)} words for {len(self.words)} tokens; give one, or one each")
        return Tokens(model, self.filled("", ""))

    def starting(self, number: int) -> str:
        """The word that a token starts from; '' for none."""
        return self.init[number if len(self.init) > 1 else 0] if self.init else ""


class Tokens:
    """Rows for new words in every CLIP text encoder of a model, and the words in its tokenizers.

    Inside `off()` prompts without new words give the base model bit for bit; a new word is what it was at the start.
    Raises UsageError as `Config.build`.
    """

    kind = "tokens"
    exact_off = identity_at_init = conv_ok = unmerged_ok = True
    linear_scale = False
    trains_text = True
    audit_exceptions: Mapping[str, str] = {}

    def __init__(self, model: Backbone, config: Config) -> None:
        self.model, self.config = model, config
        self.holders = tokens_tables.holders(model)
        if not self.holders:
            raise UsageError("tokens.words: this model has no CLIP text encoder that could learn words; leave it empty")
        if not config.words:
            raise UsageError("tokens.words is empty: name a new token, such as <s1>")
        if any(not isinstance(getattr(holder, TABLE), nn.Embedding) for holder in self.holders.values()):
            raise UsageError("the model already carries new tokens: call adapter.remove() before building others")
        self.before = {tokenizer_of(part): model.tokenizers[tokenizer_of(part)] for part in self.holders}
        made = {part: self._made(part) for part in self.holders}  # all, or nothing is changed
        self.layers = {part: rows for part, (_, rows) in made.items()}
        for part, (tokenizer, rows) in made.items():
            model.tokenizers[tokenizer_of(part)] = tokenizer
            setattr(self.holders[part], TABLE, rows)
        self._offs = 0
        if model.adapter is None:
            model.adapter = self

    def _made(self, part: str) -> tuple[Any, Rows]:
        """The new tokenizer and the new layer of a text encoder."""
        from studio.pipelines.adapters.tokens_rows import Rows  # it brings peft

        words, vectors, table = self.config.words, self.config.vectors, getattr(self.holders[part], TABLE)
        before = self.before[tokenizer_of(part)]
        tokenizer, ids = tokens_spelling.extended(before, words, vectors)
        if ids != list(range(ids[0], ids[0] + len(ids))):
            raise UsageError(f"tokens.words: {tokenizer_of(part)} gives new words no numbers in a row; leave it empty")
        starts = [self._start(part, before, table.weight.detach(), number) for number in range(len(words))]
        return tokenizer, Rows(table, ids[0], torch.cat(starts))

    def _start(self, part: str, tokenizer: Any, table: Tensor, number: int) -> Tensor:
        word, vectors = self.config.starting(number), self.config.vectors
        if not word:  # the same in every run: what a resumed one starts from must be what the first did
            return tokens_tables.random(table, crc32(f"{part} {self.config.words[number]}".encode()), vectors)
        found = tokens_spelling.ids(tokenizer, word)
        if found and set(found) != {getattr(tokenizer, "unk_token_id", None)}:
            return tokens_tables.started(table, found, vectors)
        raise UsageError(f"tokens.init: {word!r} is nothing to the tokenizer; name a plain word, or leave it empty")

    @property
    def words(self) -> tuple[str, ...]:
        """The new words, as prompts spell them."""
        return self.config.words

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know before training: a word to start from that is none of the tokenizer's."""
        words = [self.config.starting(number) for number in range(len(self.words))]
        parts = {word: tokens_spelling.ids(next(iter(self.before.values())), word) for word in words if word}
        return tuple(
            f"tokens.init: {word!r} is no word of the tokenizer's, but {len(found)} pieces of one: check its spelling"
            for word, found in parts.items()
            if len(found) > len(word.split())
        )

    @property
    def enabled(self) -> bool:
        """False inside `off()`."""
        return self._offs == 0

    def parameters(self) -> list[nn.Parameter]:
        """Everything that learns."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """One tensor a text encoder, `[words x vectors, D]`, as `text_encoder.new_tokens.weight`."""
        return {f"{part}.new_tokens.weight": layer.rows for part, layer in self.layers.items()}

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """One optimizer group, with the tokens' own learning rate where they have one."""
        return [{"params": self.parameters(), "lr": self.config.lr or lr}]

    def at(self, t: Tensor) -> None:
        """Tokens are the same at every timestep."""

    def train(self, mode: bool) -> None:
        """There is no dropout."""

    def stepping(self, done: float) -> None:
        """Before a step, with the share of all steps that is done: from `until` on nothing reaches the rows."""
        for layer in self.layers.values():
            layer.still = done >= self.config.until

    def stepped(self) -> None:
        """After the optimizer's step: the norms are as they were, if this is asked for."""
        for layer in self.layers.values():
            if self.config.keep_norm and not layer.still:
                layer.keep_norms()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, every new word is what it was at the start, all else the base model; may be nested."""
        self._switch(1)
        try:
            yield
        finally:
            self._switch(-1)

    def _switch(self, by: int) -> None:
        self._offs += by
        for layer in self.layers.values():
            layer._disable_adapters = self._offs > 0

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        """A word has no strength: 0 is `off`, all others are 1."""
        if strength:
            yield
            return
        with self.off():
            yield

    def merged(self, strength: float = 1.0) -> AbstractContextManager[None]:
        """Looking a word up costs nothing that merging could save: this is `scaled`."""
        return self.scaled(strength)

    def folded(self, strength: float) -> AbstractContextManager[None]:
        """A saved file holds the words as they are: this is `scaled`."""
        return self.scaled(strength)

    def numbers(self) -> dict[str, float]:
        """Mean length of the vectors, and 1 - cos of the angle to what they started from."""
        rows = [(layer.rows.detach(), layer.start.float()) for layer in self.layers.values()]
        turned = [1 - torch.cosine_similarity(now, start, dim=1).mean() for now, start in rows]
        norms = [now.norm(dim=1).mean() for now, _ in rows]
        return {"token_norm": float(sum(norms)) / len(rows), "token_turn": float(sum(turned)) / len(rows)}

    def state_dict(self) -> dict[str, Tensor]:
        """The learned rows, by parameter name."""
        return {name: parameter.detach() for name, parameter in self.named_parameters().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts learned rows back; ModelError unless names and shapes are exactly these."""
        named = self.named_parameters()
        odd = sorted(set(state) ^ set(named))
        odd += [name for name, p in named.items() if name in state and state[name].shape != p.shape]
        if odd:
            raise ModelError(f"the saved tokens are not these: {len(odd)} tensors differ, the first is {odd[0]}")
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(state[name])

    def remove(self) -> None:
        """Takes the words out again: tables and tokenizers are the objects that they were before."""
        for part, layer in self.layers.items():
            setattr(self.holders[part], TABLE, layer.base_layer)
        self.model.tokenizers.update(self.before)
        self.layers, self.holders = {}, {}
        if self.model.adapter is self:
            self.model.adapter = None
