"""Prompts of runs that learn from what they draw: filled in, handed out evenly, the same after a restart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio.pipelines.assets import assets_folder
from studio.pipelines.data_prompts import Prompts, PromptStream, read
from studio.pipelines.data_references import References
from studio.pipelines.draws import Share
from studio.pipelines.errors import DataError
from studio.pipelines.toy import Toy

NOTHING = References().read(Toy())


def stream(batch: int = 2, seed: int = 0, share: Share = Share()) -> PromptStream:  # noqa: B008
    return PromptStream(Toy(), (["a", "b", "c"], ["d"]), NOTHING, batch=batch, seed=seed, share=share)


def test_every_prompt_comes_equally_often() -> None:
    one = stream()
    said = [prompt for _, batch in zip(range(6), one, strict=False) for prompt in batch.prompts]
    assert Counter(said) == {"a": 4, "b": 4, "c": 4}
    assert said != [prompt for _, batch in zip(range(6), stream(seed=1), strict=False) for prompt in batch.prompts]


def test_a_batch_depends_on_its_number_alone() -> None:
    batches = [batch for _, batch in zip(range(5), stream(), strict=False)]
    later = stream()
    later.position = 3
    again = next(iter(later))
    assert again.prompts == batches[3].prompts
    assert torch.equal(torch.randn(3, generator=again.generator), torch.randn(3, generator=batches[3].generator))
    assert again.latents.shape == (2, *Toy().latent_shape(8, 8))


def test_two_processes_have_the_batch_of_one_and_common_draws() -> None:
    whole = stream(batch=4).at(7).prompts
    halves = [stream(batch=2, share=Share(rank, 2)) for rank in range(2)]
    assert [prompt for half in halves for prompt in half.at(7).prompts] == whole
    for half in halves:
        half.position = 8
    first, second = (torch.rand(2, generator=half.common("K")) for half in halves)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", sorted(path.stem for path in (assets_folder() / "prompts" / "reward").glob("*.toml")))
def test_our_own_files_hold_nothing_out_that_they_teach(name: str) -> None:
    train, aside = read(assets_folder() / "prompts" / "reward" / f"{name}.toml")
    assert train
    assert aside
    assert not set(train) & set(aside)
    assert len(set(train)) == len(train)


def test_what_is_chosen(tmp_path: Path) -> None:
    subject = replace(NOTHING, trigger="zwx", class_word="dog")
    assert Prompts(texts=("a {trigger} {class_word}",)).read(subject, True) == (["a zwx dog"], ["a zwx dog"])
    assert Prompts(texts=("a",), held_out=("b",)).read(NOTHING, False) == (["a"], ["b"])
    train, aside = Prompts().read(subject, True)
    assert all("zwx dog" in text for text in train + aside)
    assert "a dog" in Prompts().read(NOTHING, True)[0]
    (tmp_path / "mine.txt").write_text("one\n\n two \n", encoding="utf-8")
    assert Prompts(file=tmp_path / "mine.txt").read(NOTHING, False) == (["one", "two"], ["one", "two"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no prompt"),
        ("train = 3", "lists of prompts"),
        ("trian = ['a']", "'trian'"),
        ("train = [", "cannot be"),
    ],
)
def test_a_file_that_is_none(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        Prompts(file=tmp_path / "p.toml").read(NOTHING, False)


def test_without_a_folder_there_are_no_pictures() -> None:
    assert len(NOTHING) == 0
    assert NOTHING.trigger == ""
    assert References().listing().found == ()
