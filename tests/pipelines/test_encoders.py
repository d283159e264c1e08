"""Image and text encoders: transformers' own numbers, remembered, differentiable, and refused when files are bad."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.pipelines import pickles
from studio.pipelines.encoders import base, framing
from studio.pipelines.encoders.clip import clip
from studio.pipelines.encoders.dino import dino
from studio.pipelines.encoders.siglip import siglip
from studio.pipelines.errors import DataError, ModelError
from tests.encoders import FOLDERS
from tests.scorer_cases import CPU, pictures

FACTORIES: dict[str, Callable[..., base.Encoder]] = {"clip": clip, "siglip": siglip}
UNRESIZED = {"clip": 32, "dino": 256, "dinov2": 40, "registers": 32, "dinov3": 32, "siglip": 32}
TOKENS = {"dino": 1, "dinov2": 1, "registers": 5, "dinov3": 4}  # before the patches'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one folder of weights for each of FOLDERS."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, make in FOLDERS.items():
        make(folder / name)
    return folder


def encoder(place: Path, name: str) -> base.Encoder:
    """A fresh encoder: nothing remembered."""
    base.forget()
    return FACTORIES.get(name, dino)(str(place / name), "", CPU, torch.float32)


def bytes_of(picture: Tensor) -> Image.Image:
    return Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy())


def from_bytes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def transformers_pixels(place: Path, name: str, images: list[Image.Image]) -> Tensor:
    """What transformers' own processor makes of pictures; the first DINO's protocol is not in its config."""
    from transformers import AutoImageProcessor

    options: dict[str, Any] = {}
    folder = place / ("dinov2" if name == "dino" else name)
    if name == "dino":
        options = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, **options)(
        images, return_tensors="pt"
    ).pixel_values


@pytest.mark.parametrize("name", FOLDERS)
def test_pictures_that_need_no_resize_give_transformers_features(place: Path, name: str):
    import transformers

    images = [bytes_of(picture) for picture in pictures(3, UNRESIZED[name])]
    pixels = transformers_pixels(place, name, images)
    kinds = {"clip": "CLIPModel", "siglip": "SiglipModel"}
    folder = place / name
    model = getattr(transformers, kinds.get(name, "AutoModel")).from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        if name in kinds:
            wanted = model.get_image_features(pixel_values=pixels).pooler_output
        else:
            wanted = model(pixels).last_hidden_state[:, 0]
    found = encoder(place, name).image_features([from_bytes(image) for image in images])
    torch.testing.assert_close(found, wanted / wanted.norm(dim=-1, keepdim=True), atol=1e-4, rtol=0)
    assert (found[0] - found[1]).norm() > 0.01  # or the comparison says nothing


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_texts_give_transformers_features(place: Path, name: str):
    import transformers

    kind = {"clip": "CLIPModel", "siglip": "SiglipModel"}[name]
    model = getattr(transformers, kind).from_pretrained(place / name, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / name, local_files_only=True)
    prompts = ["a cat", "the red dog"]
    tokens = tokenizer(prompts, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        mask = {"attention_mask": tokens["attention_mask"]} if name == "clip" else {}
        wanted = model.get_text_features(tokens["input_ids"], **mask).pooler_output
    found = encoder(place, name).text_features([*prompts, prompts[0]])
    torch.testing.assert_close(found[:2], wanted / wanted.norm(dim=-1, keepdim=True), atol=1e-4, rtol=0)
    assert torch.equal(found[2], found[0])


@pytest.mark.parametrize("name", TOKENS)
def test_patches_are_the_tokens_after_class_and_registers(place: Path, name: str):
    one = encoder(place, name)
    found, grid = one.patch_features(pictures(2, UNRESIZED[name]))
    states = one.loaded.model(one.loaded.framing(list(pictures(2, UNRESIZED[name])))).last_hidden_state
    side = one.loaded.framing.square // one.loaded.model.config.patch_size
    assert grid == (side, side)
    assert states.shape[1] == TOKENS[name] + side * side == TOKENS[name] + found.shape[1]
    wanted = torch.nn.functional.normalize(states[:, TOKENS[name] :], dim=-1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("mode", "filter"), [("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR)])
@pytest.mark.parametrize("shape", [(90, 61), (61, 90), (33, 200), (20, 20)])
def test_resizing_is_pils_within_rounding(mode: Any, filter: int, shape: tuple[int, int]):
    image = bytes_of(pictures(1, 200)[0][:, : shape[0], : shape[1]])
    short = 40 / min(shape)
    small = image.resize((int(shape[1] * short), int(shape[0] * short)), filter)
    left, top = ((length - 32) // 2 for length in small.size)
    wanted = from_bytes(small.crop((left, top, left + 32, top + 32)))
    found = framing.prepare([from_bytes(image)], 40, 32, (0, 0, 0), (1, 1, 1), mode)[0]
    assert (found - wanted).abs().max() < 2 / 255  # PIL rounds to bytes after each of its two passes
    assert (found - wanted).abs().mean() < 0.5 / 255


def test_a_fourth_channel_and_other_sizes_beside_it_change_nothing():
    small, large = pictures(1, 40)[0], pictures(1, 70)[0]
    prepare = framing.Framing(32, 32, *framing.IMAGENET)
    both = prepare([torch.cat([small, small[:1]]), large])
    torch.testing.assert_close(both, torch.cat([prepare([small]), prepare([large])]))


def test_a_mask_is_cut_as_its_picture_is():
    picture = torch.zeros(3, 90, 61)
    picture[:, 40:70, 10:50] = 1
    cut = framing.Framing(40, 32, (0.0,) * 3, (1.0,) * 3)
    torch.testing.assert_close(cut.masks([picture[:1]]), cut([picture])[:, :1])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"size": 32}, framing.Framing(32, 224, *framing.IMAGENET)),
        ({"size": {"shortest_edge": 40}, "crop_size": 30}, framing.Framing(40, 30, *framing.IMAGENET)),
        ({"do_center_crop": False, "resample": 2}, framing.Framing(256, None, *framing.IMAGENET, mode="bilinear")),
        ({"do_center_crop": None}, framing.Framing(256, 224, *framing.IMAGENET)),
        ({"image_mean": [0, 0, 0], "crop_size": None}, framing.Framing(256, 224, (0.0,) * 3, framing.IMAGENET[1])),
    ],
)
def test_a_preprocessors_settings_are_read(settings: dict[str, Any], wanted: framing.Framing):
    assert framing.Framing(256, 224, *framing.IMAGENET).read(settings) == wanted


@pytest.mark.parametrize("settings", [{"size": {"longest_edge": 2}}, {"resample": 7}, {"crop_size": [1, 2]}])
def test_a_preprocessor_of_an_unknown_kind_is_refused(settings: dict[str, Any]):
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        framing.Framing(256, 224, *framing.IMAGENET).read(settings)


@pytest.mark.parametrize("name", FOLDERS)
def test_nan_pictures_are_nan_rows_and_the_others_are_as_without_them(place: Path, name: str):
    x = pictures(3, 48)
    hurt = x.clone()
    hurt[1, 0, 0, 0] = torch.nan  # in a corner that may be cut off
    one = encoder(place, name)
    found, wanted = one.image_features(hurt), encoder(place, name).image_features(x)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]], atol=1e-5, rtol=0)


def test_a_picture_is_looked_at_once_and_its_features_do_not_change(place: Path, monkeypatch: pytest.MonkeyPatch):
    one, seen = encoder(place, "clip"), []
    look = one.look
    monkeypatch.setattr(one, "look", lambda x: [seen.append(len(x)), look(x)][1])
    x = pictures(5, 40)
    first = one.image_features(x)
    again = one.image_features([x[4], x[0], x[0], pictures(1, 40, seed=3)[0]])
    assert seen == [5, 1]
    assert torch.equal(again[:3], first[[4, 0, 0]])


def test_features_are_made_in_batches_that_do_not_change_them(place: Path):
    x = pictures(base.BATCH + 3, 40)
    one = encoder(place, "clip")
    together = one.image_features(x)
    alone = torch.cat([encoder(place, "clip").image_features(x[i : i + 1]) for i in (0, base.BATCH + 2)])
    torch.testing.assert_close(together[[0, -1]], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_gradient_reaches_every_pixel_that_is_seen(place: Path, name: str):
    x = pictures(2, UNRESIZED[name]).requires_grad_()
    one = encoder(place, name)
    one.image_features(x.detach())  # what is remembered must not be handed out
    one.image_features(x)[:, 0].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[:, :, 16:-16:3, 16:-16:3] != 0).all() if UNRESIZED[name] > 32 else x.grad.abs().sum() > 0


def test_one_encoder_for_all_who_ask_for_the_same(place: Path):
    first = encoder(place, "clip")
    assert clip(str(place / "clip"), "", CPU, torch.float16) is first  # float32 on a CPU, whatever is asked for
    assert clip(str(place / "clip"), "other", CPU, torch.float32) is not first
    assert encoder(place, "clip") is not first


def test_half_precision_only_beside_the_cpu():
    assert base.precision(torch.device("cpu"), torch.bfloat16) == torch.float32
    assert base.precision(torch.device("cuda"), torch.float16) == torch.float16


@pytest.mark.parametrize("name", FOLDERS)
def test_half_precision_is_near_full_precision(place: Path, name: str):
    full, half = encoder(place, name), type(encoder(place, name))(str(place / name), "", CPU, torch.float32)
    half.dtype = torch.bfloat16
    x = pictures(2, 48)
    assert next(half.loaded.model.parameters()).dtype == torch.bfloat16
    found = half.image_features(x)
    assert found.dtype == torch.float32
    assert ((found * full.image_features(x)).sum(-1) > 0.99).all()
    if half.loaded.tokenizer is not None:
        assert float(half.text_features(["a cat"])[0] @ full.text_features(["a cat"])[0]) > 0.99


def test_prompts_that_are_cut_are_named_with_how_much_is_lost(place: Path):
    one = encoder(place, "clip")
    long = "zzz " * 20
    (sentence,) = one.cut(["a cat", long, long])
    lost = len(one.loaded.tokenizer(long, truncation=False, verbose=False).input_ids) - 16
    assert lost > 0
    assert f"reads 16 tokens: the last {lost} of 'zzz" in sentence
    assert torch.equal(one.text_features([long]), one.text_features([long + "zzz"]))


@pytest.mark.parametrize("source", ["nobody/absent-encoder", "./no-such-folder", "/no/such/folder"])
def test_an_encoder_that_is_not_there_is_refused_in_seconds(source: str):
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"absent-encoder@main: not cached|no such folder") as caught:
        clip(source, "", CPU, torch.float32).image_features(pictures(1, 32))
    assert time.monotonic() - start < 10
    assert "leave the scorer out" in str(caught.value)
    assert "\n" not in str(caught.value)


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def another_kind(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def only_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def another_size(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 64, "crop_size": 64}))


def no_tokenizer(folder: Path) -> None:
    (folder / "merges.txt").unlink()


def no_configuration(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": {"hidden_size": "wide"}}))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (cut_short, "damaged or incomplete"),
        (lose_a_tensor, "no fitting weights for visual_projection.weight"),
        (another_kind, "a model of type bert, wanted clip"),
        (only_a_pickle, "--allow-pickle"),
        (another_size, "pictures of 64 px for an encoder of 32 px"),
        (no_tokenizer, "no tokenizer in it"),
        (no_configuration, "cannot be loaded"),
    ],
)
def test_bad_files_are_refused_in_one_line(place: Path, tmp_path: Path, harm: Callable[[Path], None], reason: str):
    folder = Path(shutil.copytree(place / "clip", tmp_path / "harmed"))
    harm(folder)
    with pytest.raises(ModelError, match=reason) as caught:
        clip(str(folder), "", CPU, torch.float32).image_features(pictures(1, 32))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_read_where_a_person_allows_it(place: Path, tmp_path: Path):
    folder = Path(shutil.copytree(place / "clip", tmp_path / "pickled"))
    only_a_pickle(folder)
    with pickles.allowed():
        found = clip(str(folder), "", CPU, torch.float32).image_features(pictures(1, 32))
    torch.testing.assert_close(found, encoder(place, "clip").image_features(pictures(1, 32)))


def test_references_must_be_there_and_be_numbers():
    for nothing in (None, [], torch.zeros(0, 3, 8, 8)):
        with pytest.raises(DataError, match="clip-i needs reference pictures"):
            base.given(nothing, "clip-i")
    with pytest.raises(DataError, match="reference picture 2 holds values that are no numbers"):
        base.given([torch.zeros(3, 8, 8), torch.full((3, 8, 8), torch.nan)], "clip-i")
