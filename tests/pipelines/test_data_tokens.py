"""Laws of counting tokens, and of a model's outline: what the loaded model says, without its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from studio.pipelines.data_tokens import count, count_all
from studio.pipelines.errors import UsageError
from studio.pipelines.outline import ASSUMED, outline
from studio.pipelines.toy import Tokenizer
from tests.models import BACKBONES, LENGTH, backbone, clip_tokenizer, t5_tokenizer

WORDS = ("a", "the cat", "RED,", "dog", "of   the", "größe", "🐱", "x")


def sentences(number: int) -> list[str]:
    random = Random(0)
    return [" ".join(random.choices(WORDS, k=random.randrange(12))) for _ in range(number)]


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_what_is_cut_off_is_exactly_what_the_encoder_never_sees(kind: str, tmp_path: Path):
    tokenizer = clip_tokenizer(tmp_path) if kind == "clip" else t5_tokenizer()
    seen = {True: 0, False: 0}
    for text in sentences(60):
        tokens = count(tokenizer, text, LENGTH)
        assert tokens.count == len(tokenizer(text)["input_ids"])
        assert bool(tokens.cut) == (tokens.count > LENGTH)
        assert text.endswith(tokens.cut)
        kept = text[: len(text) - len(tokens.cut)]
        if kind == "t5":  # one token per letter, one to end
            assert kept.rstrip() == text[: LENGTH - 1].rstrip()
        else:
            read = tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"]
            spelled = tokenizer.decode(read, skip_special_tokens=True).rstrip("\ufffd ")  # half a letter may be left
            assert spelled.split() == [] or "".join(spelled.split()) == "".join(kept.lower().split())
        seen[bool(tokens.cut)] += 1
    assert min(seen.values()) > 5


def test_the_toy_cuts_off_words():
    tokenizer = Tokenizer()
    for text in ("", "a b", "a b c d e f g", "a b c d e f g h i"):
        tokens = count(tokenizer, text, tokenizer.model_max_length)
        kept = text.removesuffix(tokens.cut)
        assert torch.equal(tokenizer([kept]), tokenizer([text]))
        assert bool(tokens.cut) == (tokens.count > tokenizer.model_max_length)


def test_a_model_may_read_fewer_tokens_than_its_tokenizer_gives(tmp_path: Path):
    tokenizers = {"one": clip_tokenizer(tmp_path), "two": t5_tokenizer()}
    counted = count_all(tokenizers, ["the cat", "dog"], {"two": 5})
    assert [tokens.limit for tokens in counted["one"]] == [LENGTH, LENGTH]
    assert [tokens.cut for tokens in counted["two"]] == ["cat", ""]


def ids(read: Any) -> list[list[int]]:
    """Token ids of one of transformers' tokenizers, or of the toy's."""
    return torch.as_tensor(getattr(read, "input_ids", read)).tolist()


@pytest.mark.parametrize("name", BACKBONES)
def test_an_outline_says_what_the_loaded_model_says(name: str, tmp_path: Path):
    model = backbone(name, tmp_path)
    if (folder := tmp_path / name).is_dir():
        for weights in folder.rglob("*.safetensors"):
            weights.unlink()
    found = outline(str(folder) if folder.is_dir() else name)
    assert (found.pixels, found.multiple, found.problem) == (model.pixels, model.multiple, "")
    assert found.tokenizers.keys() == model.tokenizers.keys()
    for part, tokenizer in model.tokenizers.items():
        mine, theirs = (one(["a red fox"]) for one in (found.tokenizers[part], tokenizer))
        assert torch.equal(
            torch.as_tensor(getattr(mine, "input_ids", mine)), torch.as_tensor(getattr(theirs, "input_ids", theirs))
        )


def test_an_outline_of_a_single_file_reads_the_configs_beside_it(tmp_path: Path):
    from tests.models import tiny_sd

    save_file({"cond_stage_model.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    alone = outline(str(tmp_path / "model.safetensors"))
    assert (alone.pixels, alone.multiple) == ASSUMED
    assert "not on this machine" in alone.problem
    tiny_sd(tmp_path / "model")
    beside = outline(str(tmp_path / "model.safetensors"))
    assert (beside.pixels, beside.problem) == (32, "")
    shutil.rmtree(tmp_path / "model" / "tokenizer")
    without = outline(str(tmp_path / "model.safetensors"))
    assert not without.tokenizers
    assert "tokenizer" in without.problem
    assert "\n" not in without.problem


def test_a_model_out_of_reach_is_a_sentence_and_a_wrong_name_an_error():
    found = outline("nobody/nothing-here")
    assert (found.pixels, found.multiple) == ASSUMED
    assert "assumed" in found.problem
    with pytest.raises(UsageError, match="no such folder"):
        outline("no such model")


def test_sd3_reads_fewer_t5_tokens_than_the_tokenizer_allows():
    from studio.pipelines import sd3
    from studio.pipelines.outline import limits

    assert limits("studio.pipelines.sd3") == {"tokenizer_3": sd3.T5_LENGTH}
