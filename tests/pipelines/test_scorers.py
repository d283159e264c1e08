"""The contract that every file of `pipelines/scorers` keeps. Joining it is one line in `tests/scorer_cases.py`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from studio import registry
from studio.pipelines.encoders import base
from studio.pipelines.errors import DataError, ModelError
from studio.pipelines.protocols import Scorer
from tests.scorer_cases import CASES, Case, built

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
Given = tuple[Case, list[Scorer]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny weights are, made once."""
    return tmp_path_factory.mktemp("scorers")


@pytest.fixture(params=CASES)
def given(request: pytest.FixtureRequest, place: Path) -> Given:
    """A case and its scorers, with nothing remembered; skipped where the law is not its."""
    case = CASES[request.param]
    if (law := request.function.__name__.removeprefix("test_")) in case.skip:
        pytest.skip(f"{law}: see scorer_cases.py")
    base.forget()
    return case, built(request.param, place)


def score(case: Case, scorer: Scorer, keep: list[int] | None = None, images: Tensor | None = None) -> Tensor:
    """The scores of a case's pictures, or of those at `keep`."""
    keep = list(range(case.count)) if keep is None else keep
    images = case.pictures() if images is None else images
    return scorer(images[keep], [case.prompts()[i] for i in keep], case.references())


def test_every_scorer_is_in_the_contract():
    assert set(CASES) == {entry.name for entry in registry.describe("scorers") if not entry.error}


def test_it_says_what_its_number_is(given: Given):
    case, scorers = given
    assert scorers
    for about in (scorer.about for scorer in scorers):
        assert about.name
        assert about.group
        assert bool(about.encoder) or not case.encoder
        assert about.preprocessing or not case.encoder
        assert about.encoder in about.group, "numbers of two encoders must not share a column"


def test_names_and_groups_are_its_own(place: Path):
    abouts = [scorer.about for name in CASES for scorer in built(name, place)]
    assert len({about.name for about in abouts}) == len({about.group for about in abouts}) == len(abouts)


def test_one_number_for_each_picture(given: Given):
    case, scorers = given
    for scorer in scorers:
        found = score(case, scorer)
        assert found.shape == (case.count,), scorer.about.name
        assert found.dtype == torch.float32, scorer.about.name
        assert found.isfinite().all(), scorer.about.name
        assert not found.requires_grad, scorer.about.name


def test_its_numbers_lie_within_its_bounds(given: Given):
    case, scorers = given
    for scorer in scorers:
        if scorer.about.bounds is not None:
            found, (least, most) = score(case, scorer), scorer.about.bounds
            assert least < most, scorer.about.name
            assert ((found >= least - 1e-5) & (found <= most + 1e-5)).all(), scorer.about.name


def test_the_same_again_is_the_same_number_and_nothing_given_is_changed(given: Given):
    case, scorers = given
    for scorer in scorers:
        images, references = case.pictures(), case.references()
        first = scorer(images, case.prompts(), references)
        assert torch.equal(scorer(images, case.prompts(), references), first), scorer.about.name
        assert torch.equal(images, case.pictures()), scorer.about.name
        assert all(torch.equal(a, b) for a, b in zip(references, case.references(), strict=True))


def test_pictures_in_another_order_have_their_own_numbers(given: Given):
    case, scorers = given
    order = list(range(case.count))[::-1]
    for scorer in scorers:
        found = score(case, scorer, order)
        torch.testing.assert_close(found, score(case, scorer)[order], **CLOSE, msg=scorer.about.name)


def test_a_picture_alone_has_the_number_it_has_among_others(given: Given, place: Path):
    case, scorers = given
    for scorer in scorers:
        if scorer.about.per == "picture":
            together = score(case, scorer)
            base.forget()
            alone = torch.cat([score(case, scorer, [i]) for i in range(case.count)])
            torch.testing.assert_close(alone, together, **CLOSE, msg=scorer.about.name)


def test_a_nan_picture_is_nan_and_the_others_are_as_without_it(given: Given):
    case, scorers = given
    others = [i for i in range(case.count) if i != 1]
    hurt = case.pictures()
    hurt[1, :, :3, :3] = torch.nan
    for scorer in scorers:
        found = score(case, scorer, images=hurt)
        assert found[1].isnan(), scorer.about.name
        torch.testing.assert_close(found[others], score(case, scorer, others), **CLOSE, msg=scorer.about.name)


def test_what_it_needs_is_asked_for(given: Given):
    case, scorers = given
    for scorer in scorers:
        bare = [reference[:3] for reference in case.references()]
        lacking = {
            "prompts": ([], case.references()),
            "references": (case.prompts(), None),
            "masks": (case.prompts(), bare),
        }
        for need in scorer.about.needs:
            prompts, references = lacking[need]
            with pytest.raises(DataError, match=need.rstrip("s")):
                scorer(case.pictures(), prompts, references)


def test_what_it_does_not_name_does_not_count(given: Given):
    case, scorers = given
    for scorer in scorers:
        needs, wanted = scorer.about.needs, score(case, scorer)
        references = case.references() if "masks" in needs else [reference[:3] for reference in case.references()]
        prompts = case.prompts() if "prompts" in needs else []
        found = scorer(case.pictures(), prompts, references if "references" in needs else None)
        torch.testing.assert_close(found, wanted, **CLOSE, msg=scorer.about.name)


def test_references_have_no_order(given: Given):
    case, scorers = given
    for scorer in scorers:
        if "references" in scorer.about.needs:
            found = scorer(case.pictures(), case.prompts(), case.references()[::-1])
            torch.testing.assert_close(found, score(case, scorer), **CLOSE, msg=scorer.about.name)


def test_what_is_differentiable_has_a_gradient_and_the_same_number(given: Given):
    case, scorers = given
    for scorer in (scorer for scorer in scorers if scorer.differentiable):
        images = case.pictures().requires_grad_()
        found = score(case, scorer, images=images)
        found.sum().backward()
        assert images.grad is not None, scorer.about.name
        assert images.grad.isfinite().all(), scorer.about.name
        assert images.grad.abs().sum() > 0, scorer.about.name
        torch.testing.assert_close(found.detach(), score(case, scorer), **CLOSE, msg=scorer.about.name)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.encoder])
def test_missing_weights_are_said_in_seconds_and_in_one_line(name: str, place: Path):
    case, start = CASES[name], time.monotonic()

    def ask() -> None:
        for scorer in built(name, place, **{case.encoder: "nobody/absent-encoder"}):
            score(case, scorer)

    with pytest.raises(ModelError) as caught:
        ask()
    assert time.monotonic() - start < 10
    assert "absent-encoder" in str(caught.value)
    assert "\n" not in str(caught.value)
