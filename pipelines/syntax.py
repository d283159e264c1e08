"""Python source as a syntax tree, from any thread."""

from __future__ import annotations

import ast
import threading
from functools import lru_cache

ALONE = threading.Lock()


@lru_cache(maxsize=512)
def tree(text: str) -> ast.Module:
    """The tree of a module's text, to be looked at only. Raises SyntaxError, and ValueError for a null byte."""
    with ALONE:  # CPython 3.11 counts the parser's depth for all threads together, and then refuses good source
        return ast.parse(text)
