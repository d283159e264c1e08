"""VLHI: how well each of several methods learnt a data set and kept its prompts, relative to one another."""

from __future__ import annotations

from collections.abc import Sequence

from studio.pipelines.errors import UsageError


def vlhi(fid: Sequence[float], clip: Sequence[float]) -> list[float]:
    """(max FID - FID) / range + (CLIP - min CLIP) / range of each method, 0..2; arXiv 2409.06633.

    The numbers belong to this group of methods: with one more, all of them change. UsageError where a range is zero.
    """
    if len(fid) != len(clip):
        raise UsageError(f"VLHI wants both numbers of every method: {len(fid)} of FID, {len(clip)} of CLIP")
    wide = [max(values) - min(values) if values else 0.0 for values in (fid, clip)]
    if not all(wide):
        raise UsageError("VLHI compares methods: their FID, or their CLIP scores, are all the same")
    return [(max(fid) - f) / wide[0] + (c - min(clip)) / wide[1] for f, c in zip(fid, clip, strict=True)]
