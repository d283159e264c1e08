"""Scorers made as rewards: colourfulness, diversity, the embedded classifier, a detector and a reader of text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from studio.pipelines.encoders import base, judges
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Scorer
from studio.pipelines.scorers import colourfulness, detector, embedded_rewards, ocr
from tests.scorer_cases import CASES, CPU, built, pictures
from tests.seeing_models import CLASSES

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny weights are, made once."""
    return tmp_path_factory.mktemp("numbers")


# what every reward with a gradient keeps


@pytest.fixture
def ran() -> Iterator[list[nn.Module]]:
    """The layers that have run, in any network."""
    found: list[nn.Module] = []
    hook = nn.modules.module.register_module_forward_hook(lambda layer, given, out: found.append(layer))
    yield found
    hook.remove()


@pytest.mark.parametrize("name", CASES)
def test_only_pictures_get_a_gradient(name: str, place: Path, ran: list[nn.Module]):
    base.forget()
    case = CASES[name]
    for scorer in (one for one in built(name, place) if one.differentiable):
        ran.clear()
        images = case.pictures().requires_grad_()
        scorer(images, case.prompts(), case.references()).sum().backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0
        assert bool(ran) == bool(scorer.about.encoder), scorer.about.name
        # BLIP makes a softmax on the spot, which nobody has set to anything
        assert not any(layer.training for layer in ran if not isinstance(layer, nn.Softmax))
        assert all(p.grad is None and not p.requires_grad for layer in ran for p in layer.parameters())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.encoder])
def test_pictures_of_another_size_get_one_through_the_resize(name: str, place: Path):
    case = CASES[name]
    for scorer in (one for one in built(name, place) if one.differentiable):
        images = pictures(case.count, case.pixels * 2).requires_grad_()
        scorer(images, case.prompts(), case.references()).sum().backward()
        assert images.grad is not None
        edge = case.pixels // 2  # an encoder may cut the borders off
        middle = images.grad[..., edge:-edge, edge:-edge]
        middle = middle[middle.flatten(1).any(1)]  # max(cosine, 0) has none for some
        assert len(middle)
        assert (middle != 0).float().mean() > 0.9, f"{scorer.about.name}: every value counts"


@pytest.mark.parametrize("name", CASES)
def test_black_and_white_have_finite_numbers_and_gradients(name: str, place: Path):
    case = CASES[name]
    for scorer in (one for one in built(name, place) if one.differentiable):
        images = torch.zeros(case.count, 3, case.pixels, case.pixels)
        images[1::2] = 1
        images.requires_grad_()
        found = scorer(images, case.prompts(), case.references())
        found.sum().backward()
        assert found.isfinite().all(), scorer.about.name
        assert images.grad is not None
        assert images.grad.isfinite().all(), scorer.about.name


# colourfulness


def test_colourfulness_is_hasler_and_suesstrunks():
    images = pictures(3, 20)
    red, green, blue = (255 * images.double().numpy()[:, i] for i in range(3))
    rg, yb = red - green, 0.5 * (red + green) - blue
    spread = np.sqrt(rg.std((1, 2)) ** 2 + yb.std((1, 2)) ** 2)
    wanted = spread + 0.3 * np.sqrt(rg.mean((1, 2)) ** 2 + yb.mean((1, 2)) ** 2)
    found = colourfulness.Colourfulness()(images)
    torch.testing.assert_close(found.double(), torch.from_numpy(wanted), atol=1e-3, rtol=1e-5)


def test_grey_is_not_colourful_and_has_no_infinite_gradient():
    grey = torch.rand(2, 1, 8, 8).expand(-1, 3, -1, -1).clone()
    grey[1] = 0.5
    grey.requires_grad_()
    found = colourfulness.Colourfulness()(grey)
    assert found.abs().max() < 1e-3
    (gradient,) = torch.autograd.grad(found.sum(), grey)
    assert gradient.isfinite().all()


def test_nothing_is_more_colourful_than_its_bound():
    half = torch.zeros(1, 3, 8, 8)
    half[:, :2, :, :4] = 1  # yellow
    half[:, 2, :, 4:] = 1  # blue
    assert 0.5 * colourfulness.MOST < colourfulness.Colourfulness()(half).item() <= colourfulness.MOST


# diversity


def test_diversity_is_one_minus_the_mean_cosine_with_the_others(place: Path):
    (scorer,) = built("diversity", place)
    images, prompts = pictures(5, 32), ["a", "b", "a", "a", "c"]
    features = scorer.encoder.image_features(list(images))  # type: ignore[attr-defined]
    cosines = features @ features.T
    found = scorer(images, prompts)
    for row, others in ((0, [2, 3]), (2, [0, 3]), (3, [0, 2])):
        torch.testing.assert_close(found[row], 1 - cosines[row, others].mean(), **CLOSE)
    assert found[[1, 4]].isnan().all()
    same = scorer(images[:1].expand(4, -1, -1, -1), ["a"] * 4)
    torch.testing.assert_close(same, torch.zeros(4), **CLOSE)


# the embedded classifier


def wish(text: str, **more: Any) -> Scorer:
    """embedded-wish."""
    return embedded_rewards.build(embedded_rewards.Config(wish=text, **more), CPU, torch.float32)[1]


@pytest.mark.parametrize("form", ["probability", "log"])
def test_stated_is_the_mean_over_what_the_prompt_states(form: Any):
    stated, colour = embedded_rewards.build(embedded_rewards.Config(wish="colour=teal", form=form), CPU, torch.float32)
    images, net = pictures(3, 64), judges.load().attributes
    logits = net(images * 2 - 1)
    chances = {name: (row.log_softmax(-1) if form == "log" else row.softmax(-1)) for name, row in logits.items()}
    at = {name: {word: i for i, word in enumerate(words)} for name, words in net.answers.items()}
    prompts = ["a fox on a teal background", "a small dog", "nothing that is known"]
    found = stated(images, prompts)
    wanted = (chances["object"][0, at["object"]["fox"]] + chances["colour"][0, at["colour"]["teal"]]) / 2
    torch.testing.assert_close(found[0], wanted, **CLOSE)
    wanted = (chances["object"][1, at["object"]["dog"]] + chances["size"][1, at["size"]["small"]]) / 2
    torch.testing.assert_close(found[1], wanted, **CLOSE)
    assert found[2].isnan()
    torch.testing.assert_close(colour(images), chances["colour"][:, at["colour"]["teal"]], **CLOSE)
    assert stated.about.group != colour.about.group
    assert form in stated.about.group


def test_following_its_gradient_a_picture_gets_the_wished_colour():
    score, x = wish("colour=teal", form="log"), (0.3 + 0.4 * pictures(2, 64)).requires_grad_()
    assert (wish("colour=teal")(x.detach()) < 0.5).all()
    for _ in range(30):
        (gradient,) = torch.autograd.grad(score(x).sum(), x)
        x = (x.detach() + 0.02 * gradient.sign()).clamp(0, 1).requires_grad_()
    assert (wish("colour=teal")(x.detach()) > 0.9).all()


@pytest.mark.parametrize("text", ["teal", "colour", "colour=", "hue=teal", "colour=sky blue pink"])
def test_a_wish_that_nobody_can_judge_is_refused(text: str):
    with pytest.raises(UsageError, match="the judges know") as caught:
        wish(text)
    assert "\n" not in str(caught.value)


# the detector


def test_presence_is_read_off_the_detectors_own_probabilities(place: Path):
    from transformers import YolosForObjectDetection

    folder = CASES["detector"].config(place)["encoder"]
    (scorer,) = built("detector", place)
    images, model = pictures(3, 32), YolosForObjectDetection.from_pretrained(folder)
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = model(pixel_values=(images - mean) / std).logits
    assert logits.shape[-1] == len(CLASSES) + 1
    chance = logits.softmax(-1)[..., CLASSES.index("dog")]
    torch.testing.assert_close(scorer(images), (chance / (1 - chance)).sum(-1).log(), **CLOSE)
    best = chance.amax(-1)
    middle = best.sort().values[:2].mean().item()
    (present,) = built("detector", place, form="present", threshold=middle)
    torch.testing.assert_close(present(images), torch.where(best > middle, best, 0.0), **CLOSE)
    assert (present(images) == 0).sum() == 1
    assert present.about.group != scorer.about.group


def test_a_sigmoid_head_has_no_class_for_nothing(place: Path):
    """RT-DETR and deformable DETR: as many logits as names."""
    (scorer,) = built("detector", place)
    logits = torch.randn(2, 5, len(CLASSES))
    assert torch.equal(scorer.encoder.of(logits, 1), logits[..., 1])  # type: ignore[attr-defined]


def test_a_class_that_the_detector_does_not_know_is_refused(place: Path):
    (scorer,) = built("detector", place, label="dgo")
    with pytest.raises(UsageError, match="knows no 'dgo'; did you mean 'dog'"):
        scorer(pictures(1, 32))
    assert built("detector", place, label="Hot Dog")[0](pictures(1, 32)).isfinite().all()
    assert detector.build(detector.Config(), CPU, torch.float32) == []


# the reader of text


def test_it_reads_what_transformers_reads(place: Path):
    from transformers import AutoTokenizer, VisionEncoderDecoderModel

    folder = CASES["ocr"].config(place)["encoder"]
    (scorer,) = built("ocr", place)
    images = pictures(3, 32)
    model = VisionEncoderDecoderModel.from_pretrained(folder).eval()  # its pooling layer is new and not used
    ids = model.generate(pixel_values=(images - 0.5) / 0.5, max_new_tokens=32, do_sample=False, num_beams=1)
    wanted = AutoTokenizer.from_pretrained(folder).batch_decode(ids, skip_special_tokens=True)
    assert scorer.encoder.written(images) == wanted  # type: ignore[attr-defined]
    text = wanted[0].replace('"', "")[:6]
    found = scorer(images, [f'a sign with "{text}"', "no quotes", '"  "'])
    assert found[0].item() == pytest.approx(ocr.likeness(wanted[0], text))
    assert found[1:].isnan().all()


@pytest.mark.parametrize(
    ("seen", "wanted", "likeness"),
    [("OPEN", "open", 1), ("o p e n", "Open", 1), ("", "open", 0), ("opan", "open", 0.75), ("much too long", "no", 0)],
)
def test_likeness_counts_wrong_letters(seen: str, wanted: str, likeness: float):
    assert ocr.likeness(seen, wanted) == pytest.approx(likeness)


def test_what_is_quoted_counts():
    assert ocr.quoted('a sign that says "open" beside \u201cnever closed\u201d') == "open never closed"
    assert ocr.quoted("the dog's sign") == ""


@given(*[st.text("abc", max_size=6)] * 3)
@settings(max_examples=150, deadline=None)
def test_edit_distance_is_a_distance(a: str, b: str, c: str):
    assert ocr.distance(a, b) == ocr.distance(b, a)
    assert (ocr.distance(a, b) == 0) == (a == b)
    assert ocr.distance(a, c) <= ocr.distance(a, b) + ocr.distance(b, c)
    assert abs(len(a) - len(b)) <= ocr.distance(a, b) <= max(len(a), len(b))
    assert ocr.distance(a + "x", b + "x") == ocr.distance(a, b)
    assert not math.isnan(ocr.distance(a, b))
