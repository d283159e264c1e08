"""What a prompt in the embedded world's words wishes to be seen: attributes as the embedded judges name them."""

from __future__ import annotations

import json
import re
from functools import cache

from studio.pipelines.assets import assets_folder
from studio.pipelines.errors import ModelError
from studio.pipelines.scorers._stated import Reader

ANYTHING = "object"  # the reader's word for what it need not see


@cache
def reader() -> Reader:
    """A reader of the answers that the judges that come with the studio know. Raises ModelError without them."""
    file = assets_folder() / "judges" / "config.json"
    if not file.is_file():
        raise ModelError(f"no judges in {file.parent}: make them with `python -m studio.world judges`")
    return Reader(json.loads(file.read_text("utf-8"))["answers"])


def wishes(prompt: str, class_word: str = "") -> dict[str, str]:
    """Attribute -> answer for what `prompt` (without a trigger) states, but for the subject, `class_word`, being there.

    Whether it is the subject that is there is what identity measures. Raises ModelError.
    """
    plain = re.sub(rf"\b{re.escape(class_word)}\b", ANYTHING, prompt, flags=re.IGNORECASE) if class_word else prompt
    return reader()(plain)
