"""What each family is: its formula, its invariants, and the settings that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.pipelines.adapters import eva, families, lora
from studio.pipelines.errors import UsageError
from tests.families import TINY, backbone, batches, build, close, moved, output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def change(adapter: Any, name: str = "unet.attn1.to_q") -> Tensor:
    return adapter.change(adapter._wrapped[name])[0]


def rank(matrix: Tensor) -> int:
    return int(torch.linalg.matrix_rank(matrix, rtol=1e-5))


def test_loha_reaches_the_square_of_its_rank(made: Path) -> None:
    adapter = moved(backbone("toy", made), "loha")
    assert rank(change(adapter)) == 4
    assert sum(p.numel() for p in adapter.parameters()) == 8 * 2 * 2 * (16 + 16)


def test_lokr_is_a_kronecker_product(made: Path) -> None:
    adapter = moved(backbone("toy", made), "lokr", factor=2)
    own = {key: value for key, value in adapter.state_dict().items() if key.startswith("unet.attn1.to_q.")}
    one, left, right = (own[f"unet.attn1.to_q.lokr_{key}"] for key in ("w1", "w2_a", "w2_b"))
    assert one.shape == (2, 2)
    assert close(change(adapter), torch.kron(one, left @ right))
    assert rank(change(adapter)) == rank(one) * 2


def test_lokr_of_two_whole_factors_has_no_alpha(made: Path) -> None:
    """As every reader of its files has it."""
    adapter = moved(backbone("toy", made), "lokr whole", alpha=3.0)
    own = {key.rpartition(".")[2]: value for key, value in adapter.state_dict().items() if "attn1.to_q." in key}
    assert close(change(adapter), torch.kron(own["lokr_w1"], own["lokr_w2"]))


def test_oft_keeps_the_angles_between_neurons(made: Path) -> None:
    """Also for rotations so large that peft's default, a series, leaves them."""
    model = backbone("toy", made)
    weight = model.net.get_submodule("attn1.to_q").weight.detach().clone()
    adapter = build(model, "oft", rank=8)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter))
    turned = weight + change(adapter)
    assert not close(turned, weight)
    assert close(turned @ turned.T, weight @ weight.T)
    assert not close(turned.T @ turned, weight.T @ weight)


def test_ia3_is_a_number_for_each_output(made: Path) -> None:
    model = backbone("toy", made)
    layer = model.net.get_submodule("attn1.to_out.0")
    x = torch.randn(3, 16)
    base = layer(x).detach()
    adapter = moved(model, "ia3")
    numbers = adapter.state_dict()["unet.attn1.to_out.0.ia3_l"].flatten()
    assert numbers.shape == (16,)
    assert close(model.net.get_submodule("attn1.to_out.0")(x), base * numbers)


def test_adapters_of_one_a_are_added_by_their_bs(made: Path) -> None:
    """The same seed gives the same A; the sum of two updates is one whose B is the sum."""
    one, two, both = (moved(backbone("toy", made), "freeze_a") for _ in range(3))
    with torch.no_grad():
        for a, b, c in zip(one.parameters(), two.parameters(), both.parameters(), strict=True):
            b.mul_(-0.3)
            c.copy_(a + b)
    name = "unet.attn1.to_q"
    down = both.state_dict()[f"{name}.lora_A.weight"]
    assert torch.equal(down, one.state_dict()[f"{name}.lora_A.weight"])
    ups = [adapter.state_dict()[f"{name}.lora_B.weight"] for adapter in (one, two, both)]
    assert close(ups[0] @ down + ups[1] @ down, ups[2] @ down)


def test_a_fixed_a_gets_no_gradient(made: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    adapter = moved(model, "freeze_a", targets="all")
    model.predict(torch.randn(2, 4, 16, 16), torch.tensor([1, 2]), model.embed(["a", "b"])).sum().backward()
    assert {name for name, p in adapter._parameters.items() if p.grad is not None} == set(adapter.named_parameters())
    assert 2 * len(adapter.parameters()) == len(adapter.state_dict())


@pytest.mark.parametrize("name", ["toy", *TINY])
def test_eva_starts_with_the_main_directions(name: str, made: Path) -> None:
    """Orthonormal, the base model still, and nearly the variance that no others of this rank can exceed."""
    model = backbone(name, made)
    base = output(model)
    where = "conv" if name == "tiny-sd-eps" else "all"
    adapter = build(model, "eva", targets=where, text_encoder=name != "toy")
    seen: dict[str, list[Tensor]] = {key: [] for key in adapter._wrapped}
    handles = []
    for key, layer in adapter._wrapped.items():

        def look(module: Any, args: Any, key: str = key) -> None:
            seen[key].append(eva.rows(module.get_base_layer(), args[0].float()))

        handles.append(layer.register_forward_pre_hook(look))
    adapter.prepare(batches(model))
    for handle in handles:
        handle.remove()
    assert torch.equal(output(model), base)
    for key, found in seen.items():
        down = adapter.state_dict()[f"{key}.lora_A.weight"].flatten(1)
        assert close(down @ down.T, torch.eye(len(down)))
        x = torch.cat(found)
        x = x - x.mean(0)
        most = torch.linalg.svdvals(x)[: len(down)].square().sum()
        assert (x @ down.T).square().sum() >= 0.95 * most - 1e-6
        assert not adapter.state_dict()[f"{key}.lora_B.weight"].any()


def test_eva_is_the_same_every_time_and_must_come_first(made: Path) -> None:
    states = []
    for seed in (1, 2):
        model = backbone("toy", made)
        adapter = build(model, "eva")
        with pytest.raises(UsageError, match="prepare"):
            adapter.train(True)
        torch.manual_seed(seed)
        adapter.prepare(batches(model))
        adapter.train(True)
        states.append(adapter.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    with pytest.raises(UsageError, match="no input"):
        build(backbone("toy", made), "eva").prepare([])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"family": "oft", "targets": "conv_in"}, "larger than 1x1 .*conv_in"),
        ({"family": "oft", "rank": 3}, "blocks of 3 .* 2, 4, 8, 16 do"),
        ({"family": "oft", "rank": 1}, "blocks of 1"),
        ({"family": "oft", "alpha": 2.0}, "adapter.alpha"),
        ({"family": "ia3", "alpha": 2.0}, "adapter.alpha"),
        ({"family": "loha", "rank": 17}, "adapter.rank: 17"),
        ({"family": "loha", "factor": 4}, "adapter.factor"),
        ({"family": "lokr", "factor": 0}, "adapter.factor"),
        ({"family": "loha", "dropout": 0.1}, "adapter.dropout"),
        ({"family": "lokr", "dora": True}, "adapter.dora"),
        ({"family": "ia3", "rslora": True}, "adapter.rslora"),
        ({"family": "loha", "init": "eva"}, "adapter.init"),
        ({"family": "lokr", "freeze_a": True}, "adapter.freeze_a"),
        ({"freeze_a": True, "rank": 17}, "adapter.rank: 17"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings: dict[str, Any], words: str, made: Path) -> None:
    """And the model is left as it was."""
    model = backbone("toy", made)
    with pytest.raises(UsageError, match=words):
        lora.Config(**{"rank": 2, **settings}).build(model)
    assert model.adapter is None
    families.build(lora.Config(rank=2, family="ia3"), model)
    with pytest.raises(UsageError, match="already carries"):
        lora.Config(rank=2, family="ia3").build(model)
