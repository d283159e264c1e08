"""Which commit of published weights a score is of: a pinned one, or a word that it may move."""

from __future__ import annotations

import pytest
import torch

from studio.pipelines.encoders import files
from studio.pipelines.scorers import (
    aesthetic,
    blip,
    dino,
    diversity,
    hps,
    image_reward,
    pickscore,
    vendi,
)

CPU = torch.device("cpu")
PINNED = [aesthetic, diversity, dino, hps, image_reward, pickscore, vendi]


@pytest.mark.parametrize("module", PINNED, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_result_names_the_commit_of_its_weights(module) -> None:
    [scorer, *_] = module.build(module.Config(), CPU, torch.float32)
    for part in scorer.about.encoder.split(" with "):
        assert files.COMMIT.fullmatch(part.rpartition("@")[2]), part
    assert scorer.about.encoder in scorer.about.group


def test_sets_are_described_by_the_very_weights_that_pairs_are_compared_by() -> None:
    by = [module.build(module.Config(), CPU, torch.float32)[0].about.encoder for module in (dino, diversity, vendi)]
    assert len(set(by)) == 1


def test_what_nobody_pinned_is_said_to_move() -> None:
    assert blip.build(blip.Config(), CPU, torch.float32)[0].about.encoder.endswith("@main (not pinned)")
    assert files.said("owner/other", "v1") == "v1 (not pinned)"
    assert files.said("owner/other", "a" * 40) == "a" * 40
    assert all(files.COMMIT.fullmatch(commit) for commit in files.PINNED.values())
