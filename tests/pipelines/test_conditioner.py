"""Laws of DECOR, the removal of words from a prompt's embedding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studio.pipelines.conditioner import decor, edited, project, span
from studio.pipelines.conditioner_blocks import blocks, content
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance import cfg
from studio.pipelines.protocols import Cond
from studio.pipelines.toy import Toy
from tests.models import backbone

X = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
UNDESIRED = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
BASIS = span(UNDESIRED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_basis_is_orthonormal_and_spans_the_rows() -> None:
    assert BASIS.shape == (12, 3)
    torch.testing.assert_close(BASIS.T @ BASIS, torch.eye(3), rtol=0, atol=1e-6)
    close(project(UNDESIRED, BASIS), torch.zeros(3, 12))


def test_at_full_strength_nothing_is_left_and_a_second_pass_changes_nothing() -> None:
    once = project(X, BASIS)
    close(once @ BASIS, torch.zeros(2, 7, 3))
    close(project(once, BASIS), once)


def test_two_halves_are_three_quarters_and_nothing_is_nothing() -> None:
    close(project(project(X, BASIS, 0.5), BASIS, 0.5), project(X, BASIS, 0.75))
    assert torch.equal(project(X, BASIS, 0.0), X)


def test_the_choice_of_a_basis_does_not_matter() -> None:
    mixture = torch.tensor([[1.0, 2, 0], [0, 1, 1], [1, 0, 1]])
    turn, _ = torch.linalg.qr(mixture)
    close(project(X, BASIS @ turn), project(X, BASIS))
    close(project(X, span(mixture @ UNDESIRED)), project(X, BASIS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_directions_that_are_only_rounding_stay(dtype: torch.dtype) -> None:
    weights = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.3, 0.7, 0], [1 / 3, 1 / 7, 0]])
    rows = (weights @ UNDESIRED).to(dtype)  # four rows in a plane, up to rounding
    assert span(rows).shape == (12, 2)
    assert span(torch.zeros(2, 12)).shape == (12, 0)
    assert torch.equal(project(X, span(torch.zeros(2, 12))), X)


@pytest.mark.parametrize("name", ["toy", "tiny-sd-eps", "tiny-sd3"])
def test_each_encoder_loses_the_words_and_keeps_what_is_beside_them(name: str, folder: Path) -> None:
    model = backbone(name, folder)
    with torch.no_grad():
        cond, words = model.embed(["a red cat on a house", "a dog"]), model.embed(["red cat"])
        found = decor(model, ["red cat"])(cond)
        half = decor(model, ["red cat"], 0.5)(cond)
        gone = decor(model, ["red cat"])(words)
    assert found.pooled is cond.pooled
    for block in blocks(model):
        tokenizer = model.tokenizers[block.encoder.replace("text_encoder", "tokenizer")]
        before, after = block.of(cond.tokens), block.of(found.tokens)
        places = content(tokenizer, "red cat", before.shape[1])
        assert 0 not in places or block.encoder == "text_encoder_3"  # T5 has no token that begins
        undesired = block.of(words.tokens)[0, places].double()
        close((after.double() @ undesired.T) / undesired.norm(), torch.zeros_like(after[..., : len(places)]).double())
        removed = before - after
        close(half.tokens[:, block.rows, block.columns], before - removed / 2)
        assert removed.abs().max() > 1e-3
        close(block.of(gone.tokens)[0, places], torch.zeros_like(undesired).float())
    assert torch.equal(decor(model, ["red cat"], 0.0)(cond).tokens, cond.tokens)


def test_the_blocks_of_sd3_part_its_states(folder: Path) -> None:
    model = backbone("tiny-sd3", folder)
    marks = torch.zeros(1, *model.embed(["a"]).tokens.shape[1:])
    for number, block in enumerate(blocks(model), 1):
        marks[:, block.rows, block.columns] += number
    assert marks.unique().tolist() == [0, 1, 2, 3]  # 0: the padding beside the narrower CLIP states; nothing twice
    with torch.no_grad():
        states = model.embed(["a cat"]).tokens
    assert not states[marks == 0].any()
    widths = [int((marks[0, 0] == number).sum()) for number in (1, 2)]
    assert widths == [model.text_encoders[name].config.hidden_size for name in ("text_encoder", "text_encoder_2")]


def test_padding_is_removed_on_request(folder: Path) -> None:
    model = backbone("tiny-sd-eps", folder)
    tokenizer = model.tokenizers["tokenizer"]
    words = content(tokenizer, "red cat", 16)
    assert content(tokenizer, "red cat", 16, padding=True) == list(range(1, 16))
    assert words == list(range(1, 1 + len(tokenizer("red cat").input_ids) - 2))
    with torch.no_grad():
        cond = model.embed(["a dog"])
        assert not torch.equal(
            decor(model, ["red cat"], padding=True)(cond).tokens, decor(model, ["red cat"])(cond).tokens
        )


def test_texts_are_embedded_by_themselves() -> None:
    toy = Toy()
    cond = toy.embed(["a red cat"])
    both, other = decor(toy, ["red", " cat "]), decor(toy, ["cat", "", "red"])
    close(both(cond).tokens, other(cond).tokens)


def test_a_guidance_with_an_edit_hears_the_edited_prompt() -> None:
    heard: list[Cond] = []

    def predict(x: torch.Tensor, t: torch.Tensor, cond: Cond) -> torch.Tensor:
        heard.append(cond)
        return x

    empty, cond = Cond(torch.zeros(1, 2, 3)), Cond(torch.ones(1, 2, 3))
    edited(lambda it: it.map(lambda value: value * 2), cfg(2.0, empty))(predict)(torch.ones(1, 1, 2, 2),
                                                                                  torch.tensor([1]), cond)  # fmt: skip
    assert torch.equal(heard[0].tokens, torch.cat([empty.tokens, 2 * cond.tokens]))


def test_what_cannot_be_removed_is_said() -> None:
    toy = Toy()
    with pytest.raises(UsageError, match="name at least one"):
        decor(toy, ["", " "])
    toy.text_encoders["text_encoder_2"] = toy.text_encoders["text_encoder"]
    with pytest.raises(UsageError, match="Toy"):
        blocks(toy)
