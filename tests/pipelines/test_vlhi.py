"""VLHI, the number SaRA's paper compares methods by."""

from __future__ import annotations

import pytest

from studio.pipelines.errors import UsageError
from studio.pipelines.vlhi import vlhi


def test_best_in_both_is_two_and_worst_in_both_is_zero() -> None:
    scores = vlhi([130.0, 150.0, 140.0], [28.0, 26.0, 27.0])
    assert scores == [2.0, 0.0, 1.0]
    with pytest.raises(UsageError, match="all the same"):
        vlhi([1.0], [2.0])
    with pytest.raises(UsageError, match="both numbers"):
        vlhi([1.0, 2.0], [2.0])
