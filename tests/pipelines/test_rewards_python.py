"""Python functions as terms of a reward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studio.pipelines.errors import UsageError
from studio.pipelines.rewards import Rewards, build
from studio.pipelines.rewards_python import Callable
from studio.pipelines.rewards_terms import parse
from tests.scorer_cases import CPU, pictures

F = "tests.reward_functions"
PROMPTS = ["a", "a cat", "a red dog"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"{F}:brihgtness", "has no function 'brihgtness'; did you mean 'brightness'"),
        (f"{F}:NUMBER", "has no function 'NUMBER'"),
        ("os:getcwd", r"positional argument.*; it is called as getcwd\(images, prompts, references\)"),
        (f"{F}:of_two", r"too many positional.*; it is called as of_two\(images, prompts, references\)"),
        ("nobody.at_home:score", "nobody.at_home does not import: No module named 'nobody'; .*PYTHONPATH"),
    ],
)
def test_a_function_that_is_not_there_is_said_when_the_reward_is_built(name: str, reason: str):
    with pytest.raises(UsageError, match=reason) as caught:
        build(Rewards(terms=(name,)), CPU, torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("one", r"shape \[\] for 3 pictures, not \[3\]"),
        ("column", r"shape \[3, 1\] for 3 pictures"),
        ("text", "it returned list, not 3 numbers"),
        ("broken", "KeyError: .*a reason"),
        ("leaving", "SystemExit: 0"),
        ("detached", "its numbers have no gradient"),
    ],
)
def test_a_function_that_does_something_else_is_refused_in_one_line(name: str, reason: str):
    score = Callable(parse(f"{F}:{name}"))
    with pytest.raises(UsageError, match=reason) as caught:
        score(pictures(3, 8).requires_grad_(), PROMPTS)
    assert f"{F}:{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_person_who_stops_the_program_is_heard():
    with pytest.raises(KeyboardInterrupt):
        Callable(parse(f"{F}:interrupted"))(pictures(3, 8), PROMPTS)


def test_a_module_that_ends_the_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="leaves_at_once does not import"):
        Callable(parse("leaves_at_once:score"))


def test_what_a_function_changes_is_its_own():
    images, prompts = pictures(3, 8).requires_grad_(), list(PROMPTS)
    found = build(Rewards(terms=(f"{F}:greedy", f"{F}:brightness"), standardise="no"), CPU, torch.float32)(
        images, prompts
    )
    assert torch.equal(images, pictures(3, 8))
    assert prompts == PROMPTS
    assert (found.raw[f"{F}:greedy"] == 0).all()
    assert (found.raw[f"{F}:brightness"] > 0).all()


def test_its_gradient_is_followed_only_where_it_says_so():
    images = pictures(3, 8).requires_grad_()
    found = Callable(parse(f"{F}:brightness"))(images, PROMPTS)
    (gradient,) = torch.autograd.grad(found.sum(), images)
    torch.testing.assert_close(gradient, torch.full_like(images, 1 / (3 * 8 * 8)))
    quiet = Callable(parse(f"{F}:words"))
    assert not quiet.differentiable
    assert quiet(images, PROMPTS).tolist() == [1, 5, 9]
