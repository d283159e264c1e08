"""A judge on another machine as a term of a reward: its http or https address, asked with JSON, answering with JSON.

    POST address         {"pictures": ["iVBORw0...", ...], "prompts": ["a red fox", ...]}
    200 OK               {"scores": [0.7, null, ...]}

`pictures`: PNG files in base64, 8 bits a channel, `prompts`: as many texts; `scores`: as many numbers, larger is
better, null for a picture that cannot be scored. At most 16 pictures are sent at a time. Reference pictures are never
sent. Nothing but JSON is read (no pickle), of at most one megabyte, and no redirect is followed. A whole request has
`timeout` seconds; after no answer, one that is none, or the states 408, 429 and 5xx it is asked again, `retries` times,
with pauses that double; after other states it is not. Pictures without an answer are NaN, and a warning says so; when
three calls in a row got no answer at all, the run ends with a ModelError.

A server needs few lines: read the body, `json.loads` it, `base64.b64decode` each picture, open it with Pillow.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import About
from studio.pipelines.rewards_http import Failure, within
from studio.pipelines.rewards_terms import Term
from studio.pipelines.scorers.base import asked

BATCH = 16  # pictures of one request
PATIENCE = 3  # calls in a row without any answer
PAUSE, LONGEST = 0.5, 8.0  # seconds before the second attempt, and at most before a later one


class Judge:
    """A remote judge as a scorer. Raises ModelError when it did not answer for several calls in a row."""

    differentiable = False

    def __init__(self, term: Term, timeout: float, retries: int) -> None:
        self.term, self.timeout, self.retries = term, timeout, retries
        self.about = About(term.label, term.label, "PNG", f"remote: {term.label}", needs=("prompts",))
        self.silent, self.news = 0, list[str]()

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` float32 for pictures `[B, 3, H, W]` in 0..1 and B prompts; NaN where there was no answer."""
        texts = asked(prompts, images, self.about.name)
        found, reasons = list[float](), list[str]()
        for start in range(0, len(images), BATCH):
            chunk = images[start : start + BATCH]
            try:
                found += self.scores(chunk, texts[start : start + BATCH])
            except Failure as failure:
                found += [math.nan] * len(chunk)
                reasons.append(str(failure))
        self.judged(reasons, len(reasons) * BATCH >= len(images))
        return torch.tensor(found, dtype=torch.float32, device=images.device)

    def told(self) -> list[str]:
        """The warnings since this was last asked."""
        news, self.news = self.news, []
        return news

    def judged(self, reasons: list[str], nothing: bool) -> None:
        """Counts calls without an answer; ModelError after too many."""
        self.silent = self.silent + 1 if nothing and reasons else 0
        if self.silent >= PATIENCE:
            raise ModelError(
                f"the judge at {self.about.name} did not answer {PATIENCE} times in a row ({reasons[-1]}): start it, "
                "or take it out of reward.terms; the run goes on where it was last saved"
            )
        if reasons:
            self.news.append(f"the judge at {self.about.name} did not answer ({reasons[-1]}): pictures are left out")

    def scores(self, images: Tensor, prompts: Sequence[str]) -> list[float]:
        """The judge's numbers for one request. Raises Failure when no attempt brought them."""
        body = json.dumps({"pictures": [png(picture) for picture in images], "prompts": list(prompts)}).encode()
        for attempt in range(self.retries + 1):
            try:
                return read(within(self.timeout, self.term.name, body), len(images))
            except Failure as failure:
                if attempt == self.retries or not failure.again:
                    raise
            time.sleep(min(PAUSE * 2**attempt, LONGEST))
        raise AssertionError("an attempt returns or raises")


def read(answer: bytes, count: int) -> list[float]:
    """The numbers of an answer. Raises Failure unless it is `{"scores": [...]}` with `count` numbers or nulls."""
    try:
        scores = json.loads(answer)["scores"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failure('its answer is not {"scores": [...]}') from None
    if not isinstance(scores, list) or len(scores) != count:
        raise Failure(f"its answer has not {count} scores") from None
    if not all(score is None or (isinstance(score, (int, float)) and not isinstance(score, bool)) for score in scores):
        raise Failure("its scores are not all numbers or null")
    return [math.nan if score is None or abs(score) > 1e30 else float(score) for score in scores]


def png(picture: Tensor) -> str:
    """A picture `[3, H, W]` in 0..1 as a PNG file in base64."""
    values = (picture.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).numpy())).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
