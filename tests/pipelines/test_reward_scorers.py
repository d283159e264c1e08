"""Preference, reward and matching scorers: the same tensors give the published number, by plain computation."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studio.pipelines import pickles
from studio.pipelines.encoders import attribution, base
from studio.pipelines.encoders.affine import folded
from studio.pipelines.encoders.framing import OPENAI
from studio.pipelines.errors import DataError, ModelError
from studio.pipelines.protocols import Scorer
from tests import reward_models, reward_reference
from tests.scorer_cases import CASES, WORDS, built, pictures

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
PAIRED = ("blip", "blip2", "image_reward")
OURS = ("aesthetic", "pickscore", "hps", "f_clipscore", *PAIRED)
READING = [name for name in OURS if name != "aesthetic"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny weights are, made once."""
    return tmp_path_factory.mktemp("rewards")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing remembered from another test."""
    base.forget()
    yield
    base.forget()


def prepared(images: Tensor) -> Tensor:
    """Pictures of the encoder's own side: mean and deviation are all that happens to them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in OPENAI)
    return (images - mean) / std


def tokens(folder: str, prompts: Any, **options: Any) -> Any:
    """What the tokenizer in a folder makes of prompts."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(list(prompts), padding=True, return_tensors="pt", **options)


# the published numbers


def test_the_folded_head_is_the_published_mlp():
    layers: list[nn.Module] = []
    for inputs, outputs, rate in ((768, 1024, 0.2), (1024, 128, 0.2), (128, 64, 0.1), (64, 16, None), (16, 1, None)):
        layers += [nn.Linear(inputs, outputs), *([nn.Dropout(rate)] if rate else [])]
    mlp = nn.Sequential(*layers).eval()
    state = {f"layers.{name}": tensor * 3 for name, tensor in mlp.state_dict().items()}
    mlp.load_state_dict({name.removeprefix("layers."): tensor for name, tensor in state.items()})
    features = F.normalize(torch.randn(64, 768), dim=-1)
    weight, bias = folded(state)
    torch.testing.assert_close(features @ weight + bias, mlp(features).squeeze(-1), **CLOSE)


def test_aesthetic_is_the_mlp_on_the_unit_clip_feature(place: Path):
    from transformers import CLIPModel

    (scorer,) = built("aesthetic", place)
    settings = CASES["aesthetic"].config(place)
    model = CLIPModel.from_pretrained(settings["encoder"])
    with torch.no_grad():
        features = F.normalize(model.get_image_features(prepared(pictures(4, 32))).pooler_output, dim=-1)
    wanted = reward_reference.head(reward_models.head_state(), "", features)
    torch.testing.assert_close(scorer(pictures(4, 32)), wanted, **CLOSE)


def test_pickscore_is_clips_own_logit(place: Path):
    from transformers import CLIPModel

    (scorer,) = built("pickscore", place)
    folder = CASES["pickscore"].config(place)["encoder"]
    with torch.no_grad():
        out = CLIPModel.from_pretrained(folder)(**tokens(folder, WORDS), pixel_values=prepared(pictures(4, 32)))
    torch.testing.assert_close(scorer(pictures(4, 32), WORDS), out.logits_per_image.diagonal(), **CLOSE)


def test_hps_is_open_clips_cosine(place: Path):
    from open_clip import get_tokenizer
    from open_clip.model import CLIP

    (scorer,) = built("hps", place)
    model = CLIP(**reward_models.HPS).eval()
    model.load_state_dict(reward_models.hps_state())
    with torch.no_grad():
        image = model.encode_image(prepared(pictures(4, 32)), normalize=True)
        text = model.encode_text(get_tokenizer("ViT-H-14")(list(WORDS)), normalize=True)
    torch.testing.assert_close(scorer(pictures(4, 32), WORDS), (image * text).sum(-1), **CLOSE)


def test_hps_has_the_shape_of_vit_h_14():
    """The configuration read off the tensors is open_clip's for the real model."""
    from accelerate import init_empty_weights
    from open_clip import get_model_config
    from open_clip.model import CLIP

    from studio.pipelines.encoders.hps import configured

    wanted = get_model_config("ViT-H-14")
    with init_empty_weights():
        state = CLIP(**wanted).state_dict()
    assert configured(state) == wanted


def test_image_reward_is_its_release(place: Path):
    (scorer,) = built("image_reward", place)
    folder = Path(CASES["image_reward"].config(place)["encoder"])
    state = load_file(folder / "ImageReward.safetensors")
    read = tokens(str(folder), WORDS, truncation=True, max_length=35)
    with torch.no_grad():
        wanted = reward_reference.image_reward(state, prepared(pictures(4, 32)), read.input_ids, read.attention_mask)
    found = scorer(pictures(4, 32), WORDS)
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert found.std() > 1e-3


@pytest.mark.parametrize("name", ["blip", "blip2"])
def test_matching_scores_are_transformers_own(place: Path, name: str):
    from transformers import Blip2ForImageTextRetrieval, BlipForImageTextRetrieval

    scorers = {scorer.about.name: scorer for scorer in built(name, place)}
    folder = CASES[name].config(place)["encoder"]
    kind, head = {
        "blip": (BlipForImageTextRetrieval, "use_itm_head"),
        "blip2": (Blip2ForImageTextRetrieval, "use_image_text_matching_head"),
    }[name]
    model, read = kind.from_pretrained(folder).eval(), tokens(folder, WORDS)
    given = {"pixel_values": prepared(pictures(4, 32)), **read}
    given.pop("token_type_ids", None)
    with torch.no_grad():
        cosines, logits = (model(**given, **{head: use})[0] for use in (False, True))
    found = {number: scorers[f"{name}-{number}"](pictures(4, 32), WORDS) for number in ("itc", "itm")}
    torch.testing.assert_close(found["itc"], cosines.diagonal(), **CLOSE)
    torch.testing.assert_close(found["itm"], logits.softmax(-1)[:, 1], **CLOSE)
    assert min(found["itc"].std(), found["itm"].std()) > 1e-3


# F-CLIPScore


def by_hand(folder: str, image: Tensor, prompt: str) -> tuple[float, list[float]]:
    """The cosine, and the share of each token between start and end, by a second, unfrozen, eager model."""
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder, attn_implementation="eager")
    read = tokens(folder, [attribution.PREFIX + prompt])
    out = model(**read, pixel_values=prepared(image.unsqueeze(0)), output_attentions=True)
    cosine = (out.image_embeds * out.text_embeds).sum()
    kept = out.text_model_output.attentions[-3:]
    total = sum(g * a for g, a in zip(torch.autograd.grad(cosine, kept), kept, strict=True)) / len(kept)
    return float(cosine.detach()), total.mean(1)[0, -1, 1:-1].tolist()


def test_f_clipscore_is_its_formula(place: Path):
    (scorer,) = built("f_clipscore", place, threshold=0)
    folder = CASES["f_clipscore"].config(place)["encoder"]
    images = pictures(4, 32)
    for image, prompt, words, score in zip(
        images, WORDS, scorer.words(images, WORDS), scorer(images, WORDS), strict=True
    ):
        cosine, shares = by_hand(folder, image, prompt)
        counts = [len(tokens(folder, [word]).input_ids[0]) - 2 for word in prompt.split()]
        behind = iter(shares[-sum(counts) :])
        means = [sum(next(behind) for _ in range(count)) / count for count in counts]
        assert [word for word, _ in words] == prompt.split()
        assert [share for _, share in words] == [pytest.approx(mean, rel=1e-3, abs=1e-6) for mean in means]
        wanted = sum(mean for mean in means if mean < 0) * (1 - max(cosine, 0))
        assert float(score) == pytest.approx(wanted, rel=1e-3, abs=1e-6)
        assert max(map(abs, means)) > 1e-4


def test_f_clipscore_of_the_releases_example(place: Path):
    """Its README's shares of "a cup of coke" before a cup of coffee: "a" is negative, but above the threshold."""
    (scorer,) = built("f_clipscore", place)
    coke = [("a", -3.6835670471191406e-05), ("cup", 2.104e-4), ("of", 5.716e-05), ("coke", -0.0004444122314453125)]
    coffee = [("a", -3.0338764190673828e-05), ("cup", 4.75e-5), ("of", 1.73e-6), ("coffee", 1.378e-4)]
    assert scorer.against(coke) == -0.0004444122314453125
    assert scorer.against(coffee) == 0


def test_f_clipscore_is_at_most_0_and_only_the_picture_tower_keeps_its_attention(place: Path):
    (scorer,) = built("f_clipscore", place)
    model = scorer.encoder.loaded.model
    before = [tower.config._attn_implementation for tower in (model.text_model, model.vision_model)]
    assert (scorer(pictures(4, 32), WORDS) <= 0).all()
    with attribution.watched(model.text_model):
        assert model.text_model.config._attn_implementation == "eager"
        assert model.vision_model.config._attn_implementation == before[1]
    assert [tower.config._attn_implementation for tower in (model.text_model, model.vision_model)] == before
    assert not model.text_model.embeddings._forward_hooks


def test_words_that_are_not_read_have_no_share_and_punctuation_is_no_word(place: Path):
    (scorer,) = built("f_clipscore", place)
    shares = torch.tensor([9.0, 0.5, 1.0, 2.0, 3.0, 9.0, 9.0])
    text = attribution.PREFIX + "cat's hat, a dog"
    start = len(attribution.PREFIX)
    spans = [
        (0, 0),
        (0, 1),
        (start, start + 3),
        (start + 3, start + 5),
        (start + 6, start + 9),
        (start + 9, start + 10),
    ]
    found = attribution.words(text, shares, [*spans, (0, 0)])
    assert found[:2] == [("cat's", 1.5), ("hat", 3.0)]
    assert [word for word, _ in found] == ["cat's", "hat", "a", "dog"]
    assert all(share != share for _, share in found[2:])
    assert scorer.against(found) == 0


# what all of them keep


@pytest.mark.parametrize("name", READING)
def test_prompts_that_are_too_long_are_cut_and_said(place: Path, name: str):
    long = "a red dog on the cat " * 20
    for scorer in built(name, place):
        (said,) = scorer.cut([long, WORDS[0], long])
        assert "reads" in said
        assert "a red dog on the cat" in said
        images = pictures(2, 32)
        torch.testing.assert_close(scorer(images, [long] * 2), scorer(images, [long + "with a hat"] * 2), **CLOSE)


@pytest.mark.parametrize("name", OURS)
def test_weights_are_frozen_and_black_and_white_are_scored(place: Path, name: str):
    flat = torch.stack([torch.zeros(3, 40, 56), torch.ones(3, 40, 56)])
    for scorer in built(name, place):
        found = scorer(flat, ["a cat"] * 2)
        assert found.isfinite().all()
        model = scorer.encoder.loaded.model
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", ["pickscore", "hps"])
def test_a_prompt_is_read_once(place: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    (scorer,) = built(name, place)
    read: list[int] = []
    real = scorer.encoder.read
    monkeypatch.setattr(scorer.encoder, "read", lambda given: read.append(len(given["input_ids"])) or real(given))
    scorer(pictures(4, 32), ["a cat", "a dog", "a cat", "a cat"])
    scorer(pictures(2, 32, seed=1), ["a dog", "a cat"])
    assert sum(read) == 2


@pytest.mark.parametrize("name", ["blip", "blip2"])
def test_both_numbers_of_a_pair_come_from_one_look(place: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    scorers = built(name, place)
    encoder = scorers[0].encoder
    assert scorers[1].encoder is encoder
    looked: list[int] = []
    real = encoder.numbers
    monkeypatch.setattr(encoder, "numbers", lambda x, prompts: looked.append(len(x)) or real(x, prompts))
    for scorer in scorers:
        scorer(pictures(4, 32), WORDS)
    scorers[0](pictures(4, 32), WORDS[::-1])  # other pairs of the same pictures
    assert looked == [4, 4]


def test_blip_and_blip2_and_both_versions_of_hps_are_never_in_one_column(place: Path):
    abouts = [scorer.about for name in ("blip", "blip2", "hps") for scorer in built(name, place)]
    abouts += [scorer.about for scorer in built("hps", place, version="v2.0")]
    assert [about.name for about in abouts] == [
        "blip-itc", "blip-itm", "blip2-itc", "blip2-itm", "hps-v2.1", "hps-v2.0"
    ]  # fmt: skip
    assert len({about.group for about in abouts}) == len(abouts)
    (code,) = [about for about in abouts if "ClassDiffusion" in about.group]
    assert code.name == "blip-itc"


# files


def published(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """A copy of a scorer's weights in the pickle that they are published as, and the settings for it."""
    file, state, setting, keep = {
        "hps": ("HPS_v2.1_compressed.pt", {"state_dict": reward_models.hps_state(), "epoch": 3}, "encoder", None),
        "image_reward": ("ImageReward.pt", None, "encoder", "ImageReward.safetensors"),
        "aesthetic": ("aesthetic-model.pth", reward_models.head_state(), "head", None),
    }[name]
    source, target = Path(CASES[name].config(folder)[setting]), folder / f"published-{name}"
    if not target.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
        torch.save(state or load_file(source / str(keep)), target / file)
    return target / file, {setting: str(target)}


@pytest.mark.parametrize("name", ["hps", "image_reward", "aesthetic"])
def test_the_published_pickle_is_refused_or_with_leave_the_same_number(place: Path, name: str):
    wanted = built(name, place)[0](pictures(4, 32), WORDS)
    file, settings = published(place, name)
    base.forget()
    (scorer,) = built(name, place, **settings)
    with pytest.raises(ModelError, match=r"convert it to \.safetensors") as refused:
        scorer(pictures(4, 32), WORDS)
    assert str(file) in str(refused.value)
    with pickles.allowed():
        torch.testing.assert_close(scorer(pictures(4, 32), WORDS), wanted, **CLOSE)
    base.forget()
    (named,) = built(name, place, **{next(iter(settings)): str(file)})
    with pytest.raises(ModelError, match="pickled weights are not read"):
        named(pictures(4, 32), WORDS)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os; os.environ['CAUGHT'] = 'yes'",)


def test_a_pickle_with_code_in_it_runs_none_even_with_leave(place: Path, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("CAUGHT", "no")
    file = tmp_path / "HPS_v2.1_compressed.pt"
    file.write_bytes(pickle.dumps({"state_dict": Trap()}))
    (scorer,) = built("hps", place, encoder=str(file))
    with pickles.allowed(), pytest.raises(ModelError) as refused:
        scorer(pictures(4, 32), WORDS)
    assert "\n" not in str(refused.value)
    import os

    assert os.environ["CAUGHT"] == "no"


@pytest.mark.parametrize("name", ["hps", "image_reward"])
@pytest.mark.parametrize("change", ["less", "more", "shape"])
def test_weights_of_another_network_are_refused(place: Path, tmp_path: Path, name: str, change: str):
    source = Path(CASES[name].config(place)["encoder"])
    shutil.copytree(source, tmp_path / "other")
    (file,) = (tmp_path / "other").glob("*.safetensors")
    state = load_file(file)
    key = {"hps": "ln_final.weight", "image_reward": "blip.text_encoder.encoder.layer.1.output.dense.bias"}[name]
    if change == "less":
        del state[key]
    else:
        state[key if change == "shape" else f"{key}.extra"] = torch.zeros(5)
    save_file(state, file)
    (scorer,) = built(name, place, encoder=str(tmp_path / "other"))
    with pytest.raises(ModelError, match="another network") as refused:
        scorer(pictures(2, 32), WORDS[:2])
    assert key in str(refused.value) or key.removeprefix("blip.text_encoder.") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_head_that_does_not_fit_is_refused(place: Path, tmp_path: Path):
    for state, said in (
        (reward_models.head_state(inputs=20), "20 numbers"),
        ({"weight": torch.zeros(1, 24), "bias": torch.zeros(1)}, "wanted"),
        (reward_models.head_state(widths=(40, 24, 16, 8, 2)), "one number"),
    ):
        save_file(state, tmp_path / "head.safetensors")
        (scorer,) = built("aesthetic", place, head=str(tmp_path / "head.safetensors"))
        with pytest.raises(ModelError, match=said):
            scorer(pictures(2, 32))


@pytest.mark.parametrize(
    ("name", "setting"),
    [*((name, CASES[name].encoder) for name in OURS), ("aesthetic", "head")],
)
def test_a_folder_without_the_weights_is_said(place: Path, tmp_path: Path, name: str, setting: str):
    for scorer in built(name, place, **{setting: str(tmp_path)}):
        with pytest.raises(ModelError) as caught:
            scorer(pictures(2, 32), WORDS[:2])
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_reward_model_without_a_tokenizer_says_where_to_put_one(place: Path, tmp_path: Path):
    """Offline: the weights are here, the tokenizer that they were published without is not."""
    for name in ("pickscore", "image_reward"):
        source = Path(CASES[name].config(place)["encoder"])
        target = tmp_path / name
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("tokenizer*", "vocab*", "merges*", "special*"))
        (scorer,) = built(name, place, encoder=str(target))
        with pytest.raises(ModelError, match=r"laion/CLIP|bert-base-uncased"):
            scorer(pictures(2, 32), WORDS[:2])


@pytest.mark.parametrize("name", READING)
def test_as_many_prompts_as_pictures(place: Path, name: str):
    for scorer in built(name, place):
        with pytest.raises(DataError, match="3 prompts for 2 pictures"):
            scorer(pictures(2, 32), WORDS[:3])


def test_a_reward_is_a_reward_of_the_picture_it_is_for(place: Path):
    """A step along the gradient raises each differentiable score: what reward learning relies on."""
    scorers: list[Scorer] = [scorer for name in OURS for scorer in built(name, place)]
    for scorer in (scorer for scorer in scorers if scorer.differentiable):
        images = (0.25 + 0.5 * pictures(2, 32)).requires_grad_()
        before = scorer(images, WORDS[:2])
        (gradient,) = torch.autograd.grad(before.sum(), images)
        step = 1e-3 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        assert (scorer(images.detach() + step, WORDS[:2]) > before).all(), scorer.about.name


@pytest.mark.parametrize("name", OURS)
def test_half_precision_says_nearly_the_same(place: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    """As on an accelerator: every tensor meets one of its own precision, and the last formula is computed in single."""
    whole = [scorer(pictures(4, 32), WORDS) for scorer in built(name, place)]
    base.forget()
    monkeypatch.setattr(base, "precision", lambda device, dtype: torch.float16)
    for scorer, wanted in zip(built(name, place), whole, strict=True):
        found = scorer(pictures(4, 32), WORDS)
        assert scorer.encoder.dtype is torch.float16
        assert found.dtype is torch.float32
        torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)
