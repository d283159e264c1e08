"""New tokens: nothing but their rows learns, prompts spell them out, stock pipelines load them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft.tuners.trainable_tokens.config import TrainableTokensConfig
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studio.pipelines import backbone as backbones
from studio.pipelines import twin
from studio.pipelines.adapters import (
    files,
    lora,
    together,
    tokens,
    tokens_files,
    tokens_rows,
    tokens_spelling,
    tokens_tables,
)
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Backbone
from tests import models

DATA = SimpleNamespace(trigger="sks", class_word="cat", captions=("a photo of a sks cat",))
LOADED: dict[str, Backbone] = {}
CLIPS = ("tiny-sd-eps", "tiny-sd3")
ALL = ("toy", *CLIPS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def loaded(name: str, folder: Path) -> Backbone:
    """From disk; SD3 without its T5, which reads a new word's letters, also inside `off()`."""
    if name != "tiny-sd3":
        return models.backbone(name, folder)
    place = folder / name
    return backbones.load(str(place if place.exists() else models.tiny_sd3(place, t5=False)))


def backbone(name: str, folder: Path) -> Backbone:
    """A fresh one; copied, which is faster."""
    if name not in LOADED:
        LOADED[name] = loaded(name, folder)
    return copy.deepcopy(LOADED[name])


def embedded(model: Backbone, *prompts: str) -> list[Tensor]:
    with torch.no_grad():
        cond = model.embed(prompts)
    return [cond.tokens] if cond.pooled is None else [cond.tokens, cond.pooled]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def built(model: Backbone, *words: str, moved: bool = True, **settings: Any) -> tokens.Tokens:
    """Tokens with every row away from its start."""
    adapter = tokens.Config(words=words, **settings).build(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for rows in adapter.parameters() if moved else ():
            rows.add_(torch.randn_like(rows) * 0.3)
    return adapter


def tables(model: Backbone) -> dict[str, Any]:
    return {part: getattr(holder, tokens_tables.TABLE) for part, holder in tokens_tables.holders(model).items()}


@pytest.mark.parametrize("name", ALL)
def test_a_token_that_starts_as_a_word_is_that_word_and_others_hear_nothing(name: str, made: Path) -> None:
    model = backbone(name, made)
    base, word = embedded(model, "a red cat", "masks"), embedded(model, "a cat on a dog")
    adapter = built(model, "sks", "<s1>", init=("cat", "dog"))
    assert same(embedded(model, "a red cat", "masks"), base)
    trained = embedded(model, "a sks on a <s1>")
    with adapter.off(), adapter.off():
        assert same(embedded(model, "a sks on a <s1>"), word)
        assert not adapter.enabled
    with adapter.scaled(0):
        assert same(embedded(model, "a sks on a <s1>"), word)
    assert not same(trained, word)
    with adapter.scaled(0.5):
        assert same(embedded(model, "a sks on a <s1>"), trained)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in adapter.parameters())


@pytest.mark.parametrize("name", ALL)
def test_removed_it_was_never_there(name: str, made: Path) -> None:
    model = backbone(name, made)
    base, mark, tokenizers, before = embedded(model, "a sks"), model.fingerprint(), {**model.tokenizers}, tables(model)
    adapter = built(model, "sks", vectors=2)
    assert model.adapter is adapter
    assert not same(embedded(model, "a sks"), base)
    model._digests.clear()  # type: ignore[attr-defined]
    assert model.fingerprint() == mark
    adapter.remove()
    assert model.adapter is None
    assert tables(model) == before
    assert model.tokenizers == tokenizers
    assert all(model.tokenizers[key] is value for key, value in tokenizers.items())
    assert same(embedded(model, "a sks"), base)


def test_it_is_pefts_layer_without_the_copy(made: Path) -> None:
    """The same states and the same gradients as peft's TrainableTokens on a table with more rows."""
    torch.manual_seed(0)
    table, start = nn.Embedding(10, 4), torch.randn(3, 4)
    grown = nn.Embedding(13, 4)
    grown.weight = nn.Parameter(torch.cat([table.weight.detach(), start]))
    theirs = TrainableTokensLayer(grown, "default", TrainableTokensConfig(token_indices=[10, 11, 12]))
    theirs.update_layer("default", TrainableTokensConfig(token_indices=[10, 11, 12]))
    ours, ids, weights = tokens_rows.Rows(table, 10, start), torch.tensor([[1, 10, 12], [12, 0, 9]]), torch.randn(4)
    for layer in (ours, theirs):
        layer.zero_grad()
        ((layer(ids) @ weights).sum()).backward()
    assert torch.equal(ours(ids), theirs(ids))
    assert torch.equal(ours.rows.grad, theirs.trainable_tokens_delta["default"].grad)


def trained(model: Backbone, adapter: Any, steps: int, **settings: Any) -> list[Tensor]:
    """Rows after each step of a plain text loss, with the loop's hooks around AdamW's step."""
    optimizer = torch.optim.AdamW(adapter.groups(1e-2), weight_decay=0.5)
    seen = []
    for step in range(steps):
        adapter.stepping(step / steps)
        optimizer.zero_grad()
        cond = model.embed(["a photo of a sks cat", "a cat"])
        loss = cond.tokens.square().mean() + (0 if cond.pooled is None else cond.pooled.sum())
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
        adapter.stepped()
        seen.append(torch.cat([rows.detach().flatten() for rows in adapter.parameters()]))
    return seen


@pytest.mark.parametrize("name", ALL)
def test_only_the_rows_learn_even_under_weight_decay(name: str, made: Path) -> None:
    model = backbone(name, made)
    before = {part: table.weight.detach().clone() for part, table in tables(model).items()}
    adapter = built(model, "sks", vectors=2, moved=False, init=("cat",))
    seen = trained(model, adapter, 20)
    assert not torch.equal(seen[0], seen[-1])
    for part, table in tables(model).items():
        assert torch.equal(table.base_layer.weight, before[part])
        assert table.base_layer.weight.grad is None


@pytest.mark.parametrize("keep", [True, False])
def test_norms_are_kept_on_request(keep: bool, made: Path) -> None:
    model = backbone("tiny-sd3", made)
    adapter = built(model, "sks", vectors=2, moved=False, keep_norm=keep)
    starts = [rows.detach().norm(dim=1) for rows in adapter.parameters()]
    for _ in range(5):
        trained(model, adapter, 1)
        now = [rows.detach().norm(dim=1) for rows in adapter.parameters()]
        close = [torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(now, starts, strict=True)]
        assert all(close) if keep else not any(close)


def test_after_the_pivot_rows_stand_still_to_the_bit() -> None:
    """The public scripts keep renormalising after it; here neither gradient, decay nor norm reaches them."""
    model = models.backbone("toy", Path())
    adapter = built(model, "sks", moved=False, keep_norm=True, until=0.5)
    seen = trained(model, adapter, 8)
    assert all(not torch.equal(a, b) for a, b in zip(seen[:4], seen[1:4], strict=False))
    assert all(torch.equal(seen[3], after) for after in seen[4:])


@pytest.mark.parametrize("name", ALL)
def test_starts(name: str, made: Path) -> None:
    model = backbone(name, made)
    weights = {part: table.weight.detach() for part, table in tables(model).items()}
    first = {part: tokens_spelling.ids(model.tokenizers[tokens_tables.tokenizer_of(part)], "cat") for part in weights}
    adapter = built(model, "sks", vectors=3, init=("cat",), moved=False)
    for part, layer in adapter.layers.items():
        assert torch.equal(layer.rows, weights[part][first[part] * 3])
    adapter.remove()
    drawn = [built(backbone(name, made), "sks", vectors=3, init=(), moved=False).parameters() for _ in range(2)]
    for rows, again, table in zip(*drawn, weights.values(), strict=True):
        torch.testing.assert_close(rows.norm(dim=1), table.norm(dim=1).mean().expand(3))
        assert torch.equal(rows, again)


def test_a_word_of_several_rows_starts_them_in_turn_or_as_their_mean() -> None:
    table = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokens_tables.started(table, [3, 5], 3), table[[3, 5, 3]])
    mean = tokens_tables.started(table, [3, 5], 1)
    torch.testing.assert_close(mean.norm(), table[[3, 5]].norm(dim=1).mean())
    torch.testing.assert_close(torch.cosine_similarity(mean[0], table[[3, 5]].mean(0), dim=0), torch.tensor(1.0))


@pytest.mark.parametrize("name", CLIPS)
def test_the_tokenizer_spells_words_out(name: str, made: Path) -> None:
    """In any case of letters, as a whole word only, in every prompt that the model ever sees."""
    model = backbone(name, made)
    plain = model.tokenizers["tokenizer"]
    built(model, "sks", "<s1>", vectors=2)
    tokenizer = model.tokenizers["tokenizer"]
    first = len(plain)

    def ids(text: str) -> list[int]:
        return tokens_spelling.ids(tokenizer, text)

    assert type(tokenizer) is type(plain)
    assert ids("sks SKS") == [first, first + 1] * 2
    assert ids("a <s1>cat") == [*ids("a"), first + 2, first + 3, *ids("cat")]
    assert [i for i in ids("masks of a skset") if i >= first] == []
    assert tokens_spelling.ids(plain, "sks")[0] < first


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"words": ("a",)}, r"knows 'a' already; write it as <a>"),
        ({"words": ("{trigger}",)}, r"'' is not one word"),
        ({"words": ("<s1>", "<s2>"), "init": ("a", "b", "c")}, r"3 words for 2 tokens"),
        ({"words": ()}, r"tokens\.words is empty"),
    ],
)
def test_words_that_cannot_be(settings: dict[str, Any], said: str, made: Path) -> None:
    model = backbone("tiny-sd3", made)
    base = embedded(model, "a red cat")
    with pytest.raises(UsageError, match=said) as caught:
        tokens.Config(**settings).build(model)
    assert "\n" not in str(caught.value)
    assert model.adapter is None
    assert same(embedded(model, "a red cat"), base)


@pytest.mark.parametrize("words", [("two words",), ("<>",), ("sks", "<sks>"), ("",)])
def test_what_is_no_word_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="is not one word|is there twice"):
        tokens.Config(words=words)


def test_no_second_tokens_and_no_encoder_to_teach(made: Path) -> None:
    model = backbone("toy", made)
    built(model, "sks")
    with pytest.raises(UsageError, match="already carries new tokens"):
        tokens.Config(words=("<s1>",)).build(model)
    bare = backbone("toy", made)
    bare.text_encoders = {}
    with pytest.raises(UsageError, match="no CLIP text encoder"):
        tokens.Config(words=("<s1>",)).build(bare)


def both(model: Backbone, text: bool = False, vectors: int = 2) -> Any:
    """LoRA and tokens, all of it away from the start."""
    torch.manual_seed(2)
    config = tokens.Config(words=("{trigger}",), vectors=vectors, lr=0.5)
    adapter = together.build(lora.Config(rank=2, text_encoder=text), config, model, DATA)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return adapter


def output(model: Backbone) -> Tensor:
    x = torch.randn(1, *model.latent_shape(model.pixels, model.pixels), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.predict(x, torch.tensor([500]), model.embed(["a photo of a sks cat"]))


@pytest.mark.parametrize("name", ALL)
def test_together_they_are_one_adapter(name: str, made: Path) -> None:
    model, plain = backbone(name, made), backbone(name, made)
    cat = plain.embed
    adapter = both(model, text=name != "toy", vectors=1)
    assert model.adapter is adapter
    assert (adapter.kind, adapter.words, adapter.trains_text, adapter.linear_scale) == ("lora", ("sks",), True, False)
    assert adapter.layers is adapter.main.layers
    assert len(adapter.parameters()) == len(adapter.named_parameters()) == len(adapter.state_dict())
    assert {id(p) for group in adapter.groups(0.1) for p in group["params"]} == {id(p) for p in adapter.parameters()}
    assert adapter.groups(0.1)[-1]["lr"] == 0.5
    assert set(adapter.numbers()) == {"token_norm", "token_turn"}
    plain.embed = lambda prompts: cat([text.replace("sks", "cat") for text in prompts])  # type: ignore[method-assign]
    with adapter.off():
        assert torch.equal(output(model), output(plain))
        assert not adapter.enabled
    with adapter.merged(0), adapter.folded(0.5):
        assert torch.equal(output(model), output(plain))
    seen = output(model)
    with adapter.merged():
        torch.testing.assert_close(output(model), seen)
    with adapter.folded(0.5):
        assert not torch.equal(output(model), seen)
    assert torch.equal(output(model), seen)
    state, seen = {k: v.clone() for k, v in adapter.state_dict().items()}, output(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.zero_()
    adapter.load_state_dict(state)
    assert torch.equal(output(model), seen)
    with pytest.raises(ModelError, match="tokens"):
        adapter.load_state_dict({k: v for k, v in state.items() if "new_tokens" not in k})
    copied = copy.deepcopy(model)
    assert torch.equal(output(copied), seen)
    adapter.remove()
    assert model.adapter is None
    assert {type(module).__module__.partition(".")[0] for module in model.net.modules()}.isdisjoint({"peft"})
    assert all(type(table) is nn.Embedding for table in tables(model).values())


@pytest.mark.parametrize("init", [("cat",), ()])
def test_they_go_into_a_model_without_weights_and_into_half_precision(init: tuple[str, ...], made: Path) -> None:
    backbone("tiny-sd-eps", made)
    bare = twin.hollow(str(made / "tiny-sd-eps"), torch.bfloat16)
    with torch.device(bare.device):
        adapter = together.build(lora.Config(rank=2), tokens.Config(words=("sks",), init=init), bare, together.Words())
    assert {p.device.type for p in adapter.others[0].parameters()} == {"meta"}
    model = backbone("toy", made)
    half = built(model, "sks", init=init)
    model.to(torch.device("cpu"), torch.bfloat16)
    assert model.embed(["a sks cat"]).tokens.dtype == torch.bfloat16
    assert half.parameters()[0].dtype == torch.float32


def test_settings_without_words_give_the_main_adapter_alone(made: Path) -> None:
    model = backbone("toy", made)
    assert type(together.build(lora.Config(rank=2), tokens.Config(), model, DATA)) is lora.LoRA
    assert model.adapter is not None
    fresh = backbone("tiny-sd3", made)
    with pytest.raises(UsageError, match="knows"):
        together.build(lora.Config(rank=2), tokens.Config(words=("a",)), fresh, DATA)
    assert fresh.adapter is None
    with pytest.raises(UsageError, match=r"no caption has '<s1>'.* data\.trigger = '<s1>'"):
        together.build(lora.Config(rank=2), tokens.Config(words=("{trigger}", "<s1>")), fresh, DATA)
    assert fresh.adapter is None


@pytest.mark.parametrize("name", ALL)
def test_files_come_back_to_the_bit(name: str, made: Path, tmp_path: Path) -> None:
    model = backbone(name, made)
    adapter, fresh = both(model), backbone(name, made)
    seen = output(model)
    path = files.save(model, adapter, tmp_path / "adapter.safetensors", {"trigger": "sks"})
    assert {file.name for file in tmp_path.iterdir()} == {"adapter.safetensors", "learned_embeds.safetensors"}
    loaded = files.load(fresh, path)
    assert torch.equal(output(fresh), seen)
    assert fresh.adapter is loaded
    with loaded.off(), adapter.off():
        assert torch.equal(output(fresh), output(model))
    other = files.save(model, adapter, tmp_path / "other.safetensors")
    assert together.companion(other).name == "other.learned_embeds.safetensors"


def test_a_companion_that_is_missing_or_another_is_said(made: Path, tmp_path: Path) -> None:
    model = backbone("toy", made)
    adapter = both(model)
    path = files.save(model, adapter, tmp_path / "adapter.safetensors")
    kept = together.companion(path).read_bytes()

    def refused(said: str) -> None:
        fresh = backbone("toy", made)
        with pytest.raises(ModelError, match=said) as caught:
            files.load(fresh, path)
        assert "\n" not in str(caught.value)
        assert fresh.adapter is None

    together.companion(path).unlink()
    refused(r"tokens it was trained with are missing; put 'learned_embeds\.safetensors' beside it")
    with torch.no_grad():
        adapter.others[0].parameters()[0].add_(1)
    tokens_files.save(model, adapter.others[0], together.companion(path))
    refused("is not the tokens' file")
    together.companion(path).write_bytes(kept)
    assert files.load(backbone("toy", made), path).words == ("sks",)
    for said in ('{"file": "../learned_embeds.safetensors", "sha256": ""}', "[]", "{"):
        tensors = load_file(path)
        save_file(tensors, path, {"studio.adapter": adapter.config.model_dump_json(), together.COMPANION: said})
        refused("missing|damaged")


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("name", CLIPS)
def test_a_stock_pipeline_hears_the_same(name: str, vectors: int, made: Path, tmp_path: Path) -> None:
    model = backbone(name, made)
    prompt = "a photo of a sks cat"
    path = files.save(model, both(model, vectors=vectors), tmp_path / "adapter.safetensors")
    ours = model.embed([prompt]).tokens.detach()
    fresh = loaded(name, made)
    pipe = fresh.pipeline()
    files.into_stock(pipe, fresh, path)
    options = {"prompt_2": None, "prompt_3": None} if name == "tiny-sd3" else {"num_images_per_prompt": 1}
    stock = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False, **options)[0]
    torch.testing.assert_close(stock[:, : ours.shape[1]], ours)


def test_a_file_of_one_word_is_loaded_by_name_alone(made: Path, tmp_path: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    adapter = built(model, "<s1>", vectors=2)
    path = files.save(model, adapter, tmp_path / "learned_embeds.safetensors")
    assert {key: tuple(value.shape) for key, value in load_file(path).items()} == {"<s1>": (2, 32)}
    pipe = models.backbone("tiny-sd-eps", made).pipeline()
    pipe.load_textual_inversion(str(tmp_path))
    ours = model.embed(["a <s1> cat"]).tokens.detach()
    stock = pipe.encode_prompt("a <s1> cat", "cpu", 1, False)[0]
    torch.testing.assert_close(stock, ours)
    again = files.load(backbone("tiny-sd-eps", made), path)
    assert same([p.detach() for p in again.parameters()], [p.detach() for p in adapter.parameters()])


def test_two_encoders_are_named_as_diffusers_scripts_do(made: Path, tmp_path: Path) -> None:
    model = backbone("tiny-sd3", made)
    path = files.save(model, built(model, "<a>", "<b>", vectors=2), tmp_path / "x.safetensors")
    assert {key: tuple(value.shape) for key, value in load_file(path).items()} == {"clip_l": (4, 16), "clip_g": (4, 24)}


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        ("tiny-sd-eps", {"<cat-toy>": (32,)}, ("<cat-toy>",)),
        ("tiny-sd-eps", {"<cat-toy>": (4, 32)}, ("<cat-toy>",)),
        ("tiny-sd3", {"clip_l": (2, 16), "clip_g": (2, 24)}, ("<s0>", "<s1>")),
        ("tiny-sd-eps", {"<cat-toy>": (2, 31)}, "the model takes"),
        ("tiny-sd-eps", {"<a>": (2, 32), "<b>": (3, 32)}, "different numbers of vectors"),
        ("tiny-sd3", {"<cat-toy>": (1, 16)}, "this model takes clip_l, clip_g"),
        ("tiny-sd-eps", {"not a word": (1, 32)}, "damaged"),
    ],
)
def test_other_tools_files(name: str, tensors: dict[str, Any], words: Any, made: Path, tmp_path: Path) -> None:
    model, path = backbone(name, made), tmp_path / "learned_embeds.safetensors"
    save_file({key: torch.ones(shape) for key, shape in tensors.items()}, path)
    if isinstance(words, str):
        with pytest.raises(ModelError, match=words) as caught:
            files.load(model, path)
        assert "\n" not in str(caught.value)
        assert model.adapter is None
        return
    loaded: Any = files.load(model, path)
    assert loaded.words == words
    assert all(torch.equal(rows, torch.ones_like(rows)) for rows in loaded.parameters())


def test_the_companion_is_named_in_the_header(made: Path, tmp_path: Path) -> None:
    model = backbone("toy", made)
    path = files.save(model, both(model), tmp_path / "adapter.safetensors")
    assert json.loads(files.header(path)[together.COMPANION])["file"] == "learned_embeds.safetensors"
    left = files.exports(model, model.adapter, tmp_path, {})  # type: ignore[arg-type]
    assert left[0].name == "adapter.safetensors"
    assert left[-1].name == "learned_embeds.safetensors"
