"""CLIP-T, CLIP-I, DINO and SigLIP: published formulas, and what a similarity must not depend on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from studio.pipelines.encoders import base
from studio.pipelines.encoders.dino import dino
from studio.pipelines.errors import DataError
from studio.pipelines.protocols import Scorer
from tests.encoders import FOLDERS
from tests.scorer_cases import CPU, WORDS, built, masked, pictures


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny weights are, made once."""
    return tmp_path_factory.mktemp("similarity")


def scorer(name: str, place: Path) -> Scorer:
    """One scorer by the name in its `about`."""
    file = {"clip-t": "clip_text", "clip-score": "clip_text", "clip-i": "clip_image"}.get(name, name.split("-")[0])
    return next(one for one in built(file, place) if one.about.name == name)


@pytest.fixture(params=["clip-i", "dino"])
def match(request: pytest.FixtureRequest, place: Path) -> Scorer:
    """A similarity to references."""
    return scorer(request.param, place)


def test_clip_t_is_torchmetrics_number(place: Path):
    from torchmetrics.functional.multimodal import clip_score
    from transformers import CLIPModel, CLIPProcessor

    folder = str(built("clip_text", place)[0].about.encoder)
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    features = SimpleNamespace(  # torchmetrics does not know transformers 5's output objects
        get_image_features=lambda *x: model.get_image_features(*x).pooler_output,
        get_text_features=lambda *x: model.get_text_features(*x).pooler_output,
        to=lambda device: features,
        config=model.config,
    )
    images, ours = (pictures(4, 32) * 255).round().byte(), scorer("clip-t", place)
    cosines = ours(images / 255, WORDS)
    with torch.no_grad():
        wanted = [clip_score(*pair, lambda: (features, processor)) for pair in zip(images, WORDS, strict=True)]
    torch.testing.assert_close(100 * cosines.clamp(min=0), torch.stack(wanted), atol=1e-2, rtol=0)  # of 100
    assert (cosines > 0.01).any()


def test_the_conventions_are_two_columns_and_a_factor_of_two_and_a_half(place: Path):
    raw, score = scorer("clip-t", place), scorer("clip-score", place)
    assert raw.about.group != score.about.group
    images = pictures(12, 32)
    prompts = [WORDS[i % 4] for i in range(12)]
    cosine, value = raw(images, prompts), score(images, prompts)
    torch.testing.assert_close(value, 2.5 * cosine.clamp(min=0))
    assert (cosine > 0).any()


def test_a_negative_cosine_is_0_in_convention_b_only(place: Path):
    raw, score = scorer("clip-t", place), scorer("clip-score", place)
    texts = raw.encoder.texts  # type: ignore[attr-defined]
    image = pictures(1, 32)
    texts["its opposite"] = -raw.encoder.image_features(image)[0]  # type: ignore[attr-defined]
    assert float(raw(image, ["its opposite"])) == pytest.approx(-1, abs=1e-5)
    assert float(score(image, ["its opposite"])) == 0


def test_siglip_is_transformers_logit_and_probability(place: Path):
    from transformers import AutoTokenizer, SiglipModel

    cosine, probability = built("siglip", place)
    model = SiglipModel.from_pretrained(cosine.about.encoder).eval()
    tokens = AutoTokenizer.from_pretrained(cosine.about.encoder)(
        list(WORDS), padding="max_length", truncation=True, max_length=16, return_tensors="pt"
    )
    images = pictures(4, 32)
    with torch.no_grad():
        wanted = model(input_ids=tokens["input_ids"], pixel_values=(images - 0.5) / 0.5).logits_per_image.diag()
    scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
    torch.testing.assert_close(cosine(images, WORDS) * scale + bias, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(probability(images, WORDS), wanted.sigmoid(), atol=1e-4, rtol=0)


def test_a_prompt_that_is_cut_is_told_by_the_scorer(place: Path):
    for name in ("clip-t", "clip-score", "siglip"):
        one = scorer(name, place)
        (sentence,) = one.cut([*WORDS[:1], "zebra " * 9])  # type: ignore[attr-defined]
        assert "'zebra zebra" in sentence


def test_another_number_of_prompts_is_refused(place: Path):
    with pytest.raises(DataError, match="clip-t needs one prompt per picture: 1 prompts for 2 pictures"):
        scorer("clip-t", place)(pictures(2, 32), ["a cat"])


def test_a_picture_is_itself(match: Scorer):
    x = pictures(3, 48)
    for picture in x:
        assert float(match(picture[None], references=[picture])) == pytest.approx(1, abs=1e-5)


def test_the_mean_over_all_pairs_is_the_product_of_the_means(match: Scorer):
    x, near = pictures(5, 40), list(pictures(3, 50, seed=7))
    pairs = torch.stack([match(x, references=[reference]) for reference in near])
    torch.testing.assert_close(match(x, references=near), pairs.mean(0), atol=1e-6, rtol=0)
    features = [match.encoder.image_features(some).mean(0) for some in (x, near)]  # type: ignore[attr-defined]
    assert float(pairs.mean()) == pytest.approx(float(features[0] @ features[1]), abs=1e-6)


@pytest.mark.parametrize("name", ["clip-i", "dino", "dino-subject"])
def test_all_references_twice_change_nothing(name: str, place: Path):
    one, near = scorer(name, place), [masked(picture) for picture in pictures(3, 50, seed=7)]
    x = pictures(4, 40)
    torch.testing.assert_close(one(x, references=near * 2), one(x, references=near), atol=1e-6, rtol=0)


def test_the_length_of_features_does_not_count(match: Scorer, monkeypatch: pytest.MonkeyPatch):
    x, near = pictures(3, 40), list(pictures(2, 50, seed=7))
    before = match(x, references=near)
    encoder = match.encoder  # type: ignore[attr-defined]
    look = encoder.look
    monkeypatch.setattr(encoder, "look", lambda x: 7 * look(x))
    encoder.memo = base.Cache(None)
    torch.testing.assert_close(match(x, references=near), before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["dino", "dinov2", "registers", "dinov3"])
def test_the_subjects_patches_are_found_one_by_one(family: str, place: Path):
    from studio.pipelines.scorers.dino import SubjectPatches

    folder = place / f"slow-{family}"
    encoder = dino(str(FOLDERS[family](folder)), "", CPU, torch.float32)
    images, near = pictures(3, 48), [masked(picture) for picture in pictures(2, 64, seed=5)]
    found = SubjectPatches(encoder)(images, references=near)
    features, (side, _) = encoder.patch_features(images)
    for number, picture in enumerate(features):
        means = []
        for reference in near:
            patches = encoder.patch_features([reference])[0][0]
            mask = encoder.loaded.framing.masks([reference[3:]])[0, 0]
            step = len(mask) // side
            best = [
                max(float(patch @ other) for other in picture)
                for at, patch in enumerate(patches)
                if mask[at // side * step :, at % side * step :][:step, :step].mean() > 0.5
            ]
            assert 0 < len(best) < len(patches)
            means.append(sum(best) / len(best))
        assert float(found[number]) == pytest.approx(sum(means) / len(means), abs=1e-5)


def test_a_picture_has_all_patches_of_its_own_subject(place: Path):
    x = pictures(2, 48)
    found = scorer("dino-subject", place)(x, references=[masked(x[0])])
    assert float(found[0]) == pytest.approx(1, abs=1e-5)
    assert float(found[1]) < 0.999


def test_a_mask_smaller_than_half_a_patch_still_counts_and_an_empty_one_is_refused(place: Path):
    x = pictures(2, 48)
    speck = torch.cat([x[0], torch.zeros(1, 48, 48)])
    speck[3, 24:26, 24:26] = 1
    one = scorer("dino-subject", place)
    assert float(one(x, references=[speck])[0]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match="mask of reference picture 2 is empty"):
        one(x, references=[speck, torch.cat([x[1], torch.zeros(1, 48, 48)])])
    with pytest.raises(DataError, match="reference picture 2 has no mask"):
        one(x, references=[speck, x[1]])


def test_clip_text_and_clip_image_look_at_a_picture_once(place: Path, monkeypatch: pytest.MonkeyPatch):
    base.forget()
    text, image = scorer("clip-score", place), scorer("clip-i", place)
    encoder = text.encoder  # type: ignore[attr-defined]
    look, seen = encoder.look, []
    monkeypatch.setattr(encoder, "look", lambda x: [seen.append(len(x)), look(x)][1])
    x = pictures(4, 40)
    text(x, WORDS)
    image(x, references=list(x[:2]))
    assert seen == [4]
