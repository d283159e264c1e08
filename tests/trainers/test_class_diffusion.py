"""ClassDiffusion's formulas, and what its public code does otherwise."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from studio import loop
from studio.pipelines import backbone as backbones
from studio.pipelines import phrases
from studio.pipelines.adapters import lora, together, tokens, tokens_tables
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone, Batch
from studio.trainers import class_diffusion, dreambooth
from studio.trainers.base import Loss
from tests import models

LOADED: dict[str, Backbone] = {}
PAIR = [("sks", "cat")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def backbone(name: str, folder: Path) -> Backbone:
    if name not in LOADED:
        LOADED[name] = models.backbone(name, folder)
    return copy.deepcopy(LOADED[name])


class Fixed:
    """A stream of one batch, over and over, each time with other noise."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.position = batch, 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.position += 1
            yield replace(self.batch, generator=torch.Generator().manual_seed(self.position))


def batch(model: Backbone, rows: int = 2, **changes: Any) -> Batch:
    """Random latents; the first row is no class row."""
    shape = model.latent_shape(model.pixels, model.pixels)
    values: dict[str, Any] = {
        "latents": torch.randn(rows, *shape, generator=torch.Generator().manual_seed(3)),
        "prompts": ["a photo of a sks cat"] * rows,
        "prior": torch.zeros(rows, dtype=torch.bool),
        "weights": torch.ones(rows),
        "masks": None,
        "ids": [str(row) for row in range(rows)],
        "generator": torch.Generator(),
    }
    return Batch(**{**values, **changes})


def config(**settings: Any) -> Any:
    values = {"adapter": {"rank": 2}, "data": {"class_word": "cat"}, **settings}
    return class_diffusion.Config(**values)


def taught(model: Backbone, settings: Any) -> Any:
    """The adapter of the settings, with the new rows away from their class."""
    torch.manual_seed(0)
    data = SimpleNamespace(trigger="sks", class_word="cat", captions=("a sks cat, a <a> cat and a <b> teddy bear",))
    adapter = together.build(settings.adapter, settings.tokens, model, data)
    with torch.no_grad():
        for rows in adapter.others[0].parameters() if isinstance(adapter, together.Together) else ():
            rows.add_(torch.randn_like(rows) * 0.5)
    return adapter


def started(model: Backbone, trainer: Any = class_diffusion, stream: Any = None, **settings: Any) -> tuple[Any, Any]:
    """A fresh adapter and the losses over one batch."""
    values = config(**settings)
    adapter = taught(model, values)
    return adapter, trainer.losses(values, model, adapter, stream or Fixed(batch(model)), {})


def first(model: Backbone, **settings: Any) -> Loss:
    return next(started(model, **settings)[1])


def number(loss: Loss, name: str) -> float:
    return float(torch.as_tensor(loss.numbers[name]).detach())


def test_equal_phrases_are_exactly_no_distance_apart() -> None:
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(phrases.distance(rows, rows), torch.zeros(50))
    torch.testing.assert_close(phrases.distance(rows, -rows), torch.full((50,), 2.0))
    other = rows.flip(0)
    found = phrases.distance(rows, other)
    torch.testing.assert_close(found, 1 - torch.cosine_similarity(rows, other, dim=1))
    assert (found >= 0).all()
    assert (found <= 2).all()


@pytest.mark.parametrize("name", ["toy", "tiny-sd-eps", "tiny-sd3"])
def test_a_copy_of_the_class_in_the_classs_place_has_no_drift(name: str, made: Path) -> None:
    model = backbone(name, made)
    tokens.Config(words=("sks",), init=("cat",)).build(model)
    own, theirs = (phrases.features(model, [f"a photo of a {word}"]) for word in ("sks", "cat"))
    assert phrases.apart(own, theirs).item() == 0
    assert phrases.drift(model, PAIR) > 0  # "sks cat" is "cat cat"


@pytest.mark.parametrize("eos_in_config", [2, None])
@pytest.mark.parametrize("name", ["tiny-sd-eps", "tiny-sd3"])
def test_phrases_end_where_the_tokenizer_says(name: str, eos_in_config: int | None, made: Path) -> None:
    """SD 1.5's config says 2; transformers then pools at the highest id, which is the new token."""
    model = backbone(name, made)
    adapter: Any = tokens.Config(words=("sks",), vectors=2, init=("dog",)).build(model)
    for part, encoder in model.text_encoders.items():
        if part in adapter.layers and eos_in_config is not None:
            encoder.config.eos_token_id = eos_in_config
            next(m for m in encoder.modules() if hasattr(m, "eos_token_id")).eos_token_id = eos_in_config
    texts = ["a photo of a sks cat", "sks on a red dog"]
    tokenizer = model.tokenizers["tokenizer"]
    read = tokenizer(texts, padding="longest", return_tensors="pt").input_ids
    ends = phrases.position(read, tokenizer.eos_token_id, "eos")
    assert ends.tolist() == [row.index(tokenizer.eos_token_id) for row in read.tolist()]
    at = phrases.position(read, tokenizer.eos_token_id, "placeholder")
    assert [row[place] for row, place in zip(read.tolist(), at.tolist(), strict=True)] == [len(tokenizer) - 1] * 2
    with torch.no_grad():
        one, other = (phrases.features(model, [f"a sks {word}"])[0] for word in ("cat", "dog"))
        assert not torch.equal(one, other)  # the end has heard the class
        one, other = (phrases.features(model, [f"a sks {word}"], "placeholder")[0] for word in ("cat", "dog"))
        torch.testing.assert_close(one, other)  # a new token has not: it comes before


def test_the_loss_is_reconstruction_plus_weighted_drift(made: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    loss = first(model, spl_weight=0.5)
    torch.testing.assert_close(loss.value, loss.numbers["instance"] + 0.5 * loss.numbers["drift"])
    drift = phrases.drift(model, PAIR)
    assert number(loss, "drift") == pytest.approx(drift, rel=1e-5)
    assert drift > 0


@pytest.mark.parametrize("name", ["toy", "tiny-sd-eps", "tiny-sd3"])
def test_drift_reaches_the_new_rows_and_nothing_else(name: str, made: Path) -> None:
    model = backbone(name, made)
    adapter, losses = started(model)
    loss = next(losses)
    assert isinstance(loss.numbers["drift"], Tensor)
    loss.numbers["drift"].backward()
    for key, parameter in adapter.named_parameters().items():
        reached = parameter.grad is not None and bool(parameter.grad.ne(0).any())
        assert reached == ("new_tokens" in key), key
    assert all(part.grad is None for part in model.text_encoders["text_encoder"].parameters() if not part.requires_grad)


@pytest.mark.parametrize("pool", ["eos", "placeholder"])
def test_drift_alone_brings_the_token_back_and_changes_no_other_row(pool: str, made: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    adapter = taught(model, config())
    (rows,) = adapter.others[0].parameters()
    table = tokens_tables.holders(model)["text_encoder"].token_embedding.base_layer.weight
    before, optimizer = table.clone(), torch.optim.AdamW([rows], lr=1e-2, weight_decay=0.01)
    goal, seen = phrases.targets(model, PAIR, "a photo of a {}"), []
    for _ in range(200):
        optimizer.zero_grad()
        distance = phrases.apart(phrases.features(model, ["a photo of a sks cat"], pool), goal).mean()  # type: ignore[arg-type]
        distance.backward()
        optimizer.step()
        seen.append(distance.item())
    assert seen[-1] < seen[0] / 5
    assert torch.equal(table, before)


@pytest.mark.parametrize("name", ["toy", "tiny-sd-eps"])
def test_weight_zero_is_dreambooth_to_the_bit(name: str, made: Path) -> None:
    ways = []
    for trainer, detach in ((class_diffusion, False), (dreambooth, False)):
        adapter, losses = started(backbone(name, made), trainer, spl_weight=0.0, detach_bos=detach)
        optimizer, values = torch.optim.AdamW(adapter.parameters(), lr=1e-2), []
        for _ in range(3):
            optimizer.zero_grad()
            value = next(losses).value
            value.backward()
            optimizer.step()
            values.append(value.item())
        ways.append((values, adapter.state_dict()))
    assert ways[0][0] == ways[1][0]
    assert all(torch.equal(tensor, ways[1][1][key]) for key, tensor in ways[0][1].items())


def test_the_class_is_encoded_once_and_each_phrase_once_a_step(made: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    stream = Fixed(batch(model, prompts=["a <a> cat", "a <b> dog"]))
    _, losses = started(model, stream=stream, tokens={"words": ("<a>", "<b>")}, concepts=("<a> cat", "<b> dog"))
    rows: list[int] = []
    model.text_encoders["text_encoder"].register_forward_hook(lambda module, args, out: rows.append(len(out[0])))
    next(losses)
    assert sorted(rows) == [2, 2, 2]  # two captions, two phrases, and, for the first step, two classes
    rows.clear()
    next(losses)
    next(losses)
    assert rows == [2, 2] * 2


def test_the_target_is_the_original_encoders_whatever_learns(made: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    goal = phrases.targets(model, PAIR, "a {}")
    adapter = taught(model, config(adapter={"rank": 2, "text_encoder": True}))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    assert torch.equal(phrases.targets(model, PAIR, "a {}")[0], goal[0])
    assert not torch.equal(phrases.features(model, ["a cat"])[0], goal[0])
    assert adapter.enabled


def test_concepts_may_come_in_any_order_and_one_is_the_single_formula(made: Path) -> None:

    def drift(*concepts: str) -> float:
        model = backbone("tiny-sd-eps", made)
        return number(first(model, concepts=concepts, tokens={"words": ("<a>", "<b>")}), "drift")

    one, other = drift("<a> cat"), drift("<b> teddy bear")
    assert drift("<a> cat", "<b> teddy bear") == pytest.approx((one + other) / 2, rel=1e-5)
    assert drift("<b> teddy bear", "<a> cat") == pytest.approx((one + other) / 2, rel=1e-5)
    assert one != other


@pytest.mark.parametrize("masked", [True, False])
def test_summed_channels_are_as_many_times_the_mean(masked: bool, made: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    shape = model.latent_shape(model.pixels, model.pixels)
    rows = batch(model, masks=torch.ones(2, 1, *shape[1:]) if masked else None)
    adapter, losses = started(model, stream=Fixed(rows))
    mean = next(losses).numbers["instance"]
    summed = next(class_diffusion.losses(config(reduction="sum_channels"), model, adapter, Fixed(rows), {})).numbers[
        "instance"
    ]
    torch.testing.assert_close(summed, shape[0] * mean)
    noisy = dreambooth.noised(model, replace(rows, generator=torch.Generator().manual_seed(1)), 0.0)
    with torch.no_grad():
        said = model.predict(noisy.x, noisy.t, model.embed(rows.prompts))
    torch.testing.assert_close(mean.detach(), (said - noisy.target).square().mean())


def hearing(model: Backbone) -> list[str]:
    return [name for name, _ in model.net.named_modules() if re.fullmatch(class_diffusion.HEARING, name)]


@pytest.mark.parametrize(("name", "kinds"), [("toy", 1), ("tiny-sd-eps", 4), ("tiny-sd3", 2)])
def test_only_what_hears_the_text_learns(name: str, kinds: int, made: Path) -> None:
    """Keys and values of cross-attention; in an MMDiT those of the text's half."""
    model = backbone(name, made)
    adapter = class_diffusion.Config().adapter.build(model)
    names = [key for part in adapter.layers.values() for key in part]
    assert names == hearing(model)
    assert {name.rpartition(".")[2] for name in names} in ({"to_k", "to_v"}, {"add_k_proj", "add_v_proj"})
    assert len(names) == 2 * kinds
    assert adapter.config.rank == 16


@pytest.mark.parametrize("name", ["toy", "tiny-sd-eps", "tiny-sd3"])
def test_the_beginning_of_a_text_teaches_no_keys_and_values(name: str, made: Path) -> None:
    """Only gradients change: the states are the same, and the hooks go with the training."""
    model = backbone(name, made)
    adapter = lora.Config(targets=class_diffusion.HEARING, rank=2).build(model)
    inner = model.net.get_submodule(hearing(model)[0])
    x = torch.randn(1, 5, inner.in_features)

    def gradient(through: slice) -> float:
        for parameter in adapter.parameters():
            parameter.grad = None
        inner(x)[:, through].sum().backward()
        return sum(float(p.grad.abs().sum()) for p in adapter.parameters() if p.grad is not None)

    out = inner(x)
    assert gradient(slice(0, 1)) > 0
    with class_diffusion.bos_detached(model.net):
        assert torch.equal(inner(x), out)
        assert gradient(slice(1, 5)) > 0
        assert gradient(slice(0, 5)) == pytest.approx(gradient(slice(1, 5)))
        assert gradient(slice(0, 1)) == 0
    assert gradient(slice(0, 1)) > 0


@pytest.mark.parametrize("name", ["toy", "tiny-sd-eps", "tiny-sd3"])
def test_detaching_the_beginning_changes_gradients_and_nothing_else(name: str, made: Path) -> None:
    ways = []
    for detach in (True, False):
        adapter, losses = started(backbone(name, made), detach_bos=detach)
        loss = next(losses)
        loss.value.backward()
        ways.append((loss.value.item(), [p.grad for p in adapter.main.parameters()]))
    assert ways[0][0] == ways[1][0]
    assert not all(torch.equal(a, b) for a, b in zip(ways[0][1], ways[1][1], strict=True))


def test_the_loop_keeps_norms_and_stops_at_the_pivot() -> None:
    model = backbones.load("toy")
    settings = config(steps=6, lr=1e-2, precision="no", tokens={"keep_norm": True, "until": 0.5})
    adapter = taught(model, settings)
    rows = adapter.others[0].layers["text_encoder"].rows
    losses, seen = class_diffusion.losses(settings, model, adapter, Fixed(batch(model)), {}), []
    for _ in loop.train(settings, model, adapter, losses, {}):
        seen.append(rows.detach().clone())
        torch.testing.assert_close(rows.norm(dim=1, keepdim=True), adapter.others[0].layers["text_encoder"].norms)
    assert not torch.equal(seen[1], seen[2])
    assert all(torch.equal(seen[2], after) for after in seen[3:])


def test_prior_preservation_and_drift_are_both_there(made: Path) -> None:
    """The public code forgets one of them in silence."""
    model = backbone("toy", made)
    rows = batch(model, 2, prior=torch.tensor([False, True]), prompts=["a sks cat", "a cat"])
    _, losses = started(model, stream=Fixed(rows), prior={"weight": 0.3}, spl_weight=0.5)
    numbers = (loss := next(losses)).numbers
    torch.testing.assert_close(loss.value, numbers["instance"] + 0.3 * numbers["prior"] + 0.5 * numbers["drift"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data": {"class_word": ""}}, "'sks' has no class to stay near; give --class-word"),
        ({"tokens": {"words": ()}}, r"'sks' is no new token: name it in tokens\.words"),
        ({"concepts": ("<a> cat",)}, "'<a>' is no new token"),
    ],
)
def test_what_is_missing_is_said(settings: dict[str, Any], said: str, made: Path) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        first(backbone("toy", made), **settings)
    assert "\n" not in str(caught.value)


def test_part_of_a_table_keeps_the_trainers_defaults() -> None:
    """A file that sets only a rank must not bring back another method's targets or lose the token."""
    settings = config(adapter={"rank": 4}, tokens={"lr": 0.1})
    assert settings.adapter.targets == class_diffusion.HEARING
    assert settings.tokens.words == ("{trigger}",)


def test_it_trains_on_the_embedded_base() -> None:
    model = backbones.load("embedded")
    _, losses = started(model)
    loss = next(losses)
    loss.value.backward()
    assert 0 < number(loss, "drift") < 1
