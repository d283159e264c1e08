"""Several adapters as one: a main one that goes into the network, and new tokens beside it (pivotal tuning)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from studio.pipelines.adapters import reading, tokens_files
from studio.pipelines.errors import ModelError, UsageError

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

COMPANION = "studio.tokens"  # in the main file's header: the file of the tokens beside it, and its sha256


class Naming(Protocol):
    """What new tokens must know of the pictures; where it has `captions`, each token must be in one."""

    @property
    def trigger(self) -> str: ...
    @property
    def class_word(self) -> str: ...


@dataclass(frozen=True)
class Words:
    """The words of pictures that are not at hand, as an adapter file's header has them."""

    trigger: str = ""
    class_word: str = ""


class Together:
    """A main adapter and others in the same model, used as one; what only the main one has is asked of it.

    Raises UsageError where two have a parameter of the same name.
    """

    def __init__(self, main: Any, *others: Any) -> None:
        self.main, self.others = main, others
        names = [name for part in self.parts for name in part.named_parameters()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"two adapters both teach {twice[0]}: leave one of them out")
        self.model = others[0].model
        self.model.adapter = self

    def __getattr__(self, name: str) -> Any:
        if name == "main":  # asked for by copy before there is anything
            raise AttributeError(name)
        return getattr(self.main, name)

    @property
    def parts(self) -> tuple[Any, ...]:
        """All of them, the main one first."""
        return (self.main, *self.others)

    @property
    def words(self) -> tuple[str, ...]:
        """The new words, as prompts spell them."""
        return tuple(word for part in self.others for word in part.words)

    @property
    def exact_off(self) -> bool:
        """Whether inside `off()` the model is the base model."""
        return all(part.exact_off for part in self.parts)

    @property
    def identity_at_init(self) -> bool:
        """Whether the model starts as the base model (for prompts without new words)."""
        return all(part.identity_at_init for part in self.parts)

    @property
    def linear_scale(self) -> bool:
        """Whether everything grows with the strength; words do not."""
        return all(part.linear_scale for part in self.parts)

    @property
    def trains_text(self) -> bool:
        """Whether text embeddings depend on what learns."""
        return any(getattr(part, "trains_text", False) for part in self.parts)

    @property
    def audit_exceptions(self) -> dict[str, str]:
        """Parameters that no loss can teach, and why."""
        return {key: why for part in self.parts for key, why in getattr(part, "audit_exceptions", {}).items()}

    @property
    def enabled(self) -> bool:
        """False inside `off()`."""
        return all(getattr(part, "enabled", True) for part in self.parts)

    def parameters(self) -> list[nn.Parameter]:
        """Everything that learns."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Everything that learns, by the names its own adapter gives it."""
        return {name: value for part in self.parts for name, value in part.named_parameters().items()}

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """The optimizer groups of all."""
        return [group for part in self.parts for group in part.groups(lr)]

    def at(self, t: Tensor) -> None:
        """Tells all of them the time."""
        for part in self.parts:
            part.at(t)

    def train(self, mode: bool) -> None:
        """Dropout on (training) or off."""
        for part in self.parts:
            part.train(mode)

    def stepping(self, done: float) -> None:
        """Before a step, with the share of all steps that is done."""
        self._tell("stepping", done)

    def stepped(self) -> None:
        """After the optimizer's step."""
        self._tell("stepped")

    def _tell(self, what: str, *about: Any) -> None:
        for part in self.parts:
            getattr(part, what, lambda *_: None)(*about)

    def numbers(self) -> dict[str, float]:
        """The diagnostics of all."""
        return {key: value for part in self.parts for key, value in getattr(part, "numbers", dict)().items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know before training."""
        return tuple(text for part in self.parts for text in getattr(part, "notes", ()))

    def off(self) -> AbstractContextManager[None]:
        """Inside, all are off."""
        return self._all("off")

    def scaled(self, strength: float) -> AbstractContextManager[None]:
        """Inside, each counts `strength` times in its own way; 0 is `off`."""
        return self._all("scaled", strength)

    def merged(self, strength: float = 1.0) -> AbstractContextManager[None]:
        """Inside, the frozen weights hold the main adapter's update."""
        return self._all("merged", strength)

    def folded(self, strength: float) -> AbstractContextManager[None]:
        """Inside, it acts at a strength, and a saved file holds it."""
        return self._all("folded", strength)

    @contextmanager
    def _all(self, what: str, *about: float) -> Iterator[None]:
        with ExitStack() as inside:
            for part in self.parts:
                inside.enter_context(getattr(part, what)(*about))
            yield

    def state_dict(self) -> dict[str, Tensor]:
        """Everything learned, by name."""
        return {name: tensor for part in self.parts for name, tensor in part.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts everything back; ModelError unless names and shapes are exactly these."""
        rest = dict(state)
        for part in self.others:
            part.load_state_dict({name: rest.pop(name) for name in part.state_dict() if name in rest})
        self.main.load_state_dict(rest)

    def remove(self) -> None:
        """Takes all of them out again, the last one first."""
        for part in reversed(self.parts):
            part.remove()
        self.model.adapter = None


def build(adapter: Any, tokens: Any, model: Backbone, data: Naming) -> Any:
    """The adapter of two settings: that of `adapter` alone where `tokens` names no words.

    UsageError as each of them, and for a word that no caption has; the model is then as it was.
    """
    if not tokens.words:
        return adapter.build(model)
    words = tokens.filled(data.trigger, data.class_word)
    said = getattr(data, "captions", words.words)
    if missing := [word for word in words.words if not any(word.lower() in text.lower() for text in said)]:
        raise UsageError(
            f"tokens.words: no caption has {missing[0]!r}, so it would learn nothing; write it into the captions, "
            f"before the class word, or give data.trigger = {missing[0]!r}"
        )
    main = adapter.build(model)
    try:
        return Together(main, words.build(model))
    except UsageError:
        main.remove()
        raise


def companion(path: Path) -> Path:
    """The file of the tokens that belong to an adapter file; `adapter.safetensors` has the name diffusers looks for."""
    name = tokens_files.NAME if path.name == "adapter.safetensors" else f"{path.stem}.{tokens_files.NAME}"
    return path.with_name(name)


def beside(model: Backbone, adapter: Any, path: Path, about: Mapping[str, str] | None) -> tuple[Any, dict[str, str]]:
    """The tokens' file written beside `path`; the adapter that goes into `path`, and its header fields.

    An adapter without tokens comes back as it is.
    """
    if not isinstance(adapter, Together):
        return adapter, dict(about or {})
    (tokens,) = adapter.others
    file = tokens_files.save(model, tokens, companion(path), about)
    named = {"file": file.name, "sha256": _sha256(file)}
    return adapter.main, {**(about or {}), COMPANION: json.dumps(named)}


def named(path: Path, header: Mapping[str, str]) -> Path | None:
    """The tokens' file that a main file names, checked; None where it names none. Raises ModelError."""
    if COMPANION not in header:
        return None
    try:
        said = json.loads(header[COMPANION])
        name, digest = str(said["file"]), str(said["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{path}: its header field {COMPANION} is damaged; save or download the file again") from None
    file = path.parent / name
    if file.name != name or not file.is_file():
        raise ModelError(f"{path}: the new tokens it was trained with are missing; put {name[:80]!a} beside it")
    if _sha256(file) != digest:
        raise ModelError(f"{file}: is not the tokens' file that {path.name} was saved with; copy both again")
    return file


def rejoined(model: Backbone, main: Any, path: Path) -> Any:
    """The adapter read from `path`, with the tokens its header names beside it. Raises ModelError, and takes it out."""
    try:
        file = named(path, reading.header(path))
        return main if file is None else Together(main, tokens_files.load(model, file))
    except (ModelError, UsageError):
        main.remove()
        raise


def into_stock(pipe: Any, model: Backbone, path: Path) -> None:
    """The tokens that a file's header names, in a stock pipeline; nothing where it names none."""
    if file := named(path, reading.header(path)):
        tokens_files.into_stock(pipe, model, file)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
