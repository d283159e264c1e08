"""Laws of the personal measures: identity, diversity, copies, drift, leak, attributes, captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from studio import subjects
from studio.evaluation import personal, personal_align, personal_copies, personal_prior, personal_words
from studio.evaluation.personal import Eye, Measured
from studio.evaluation.personal_wishes import wishes
from studio.pipelines.encoders.embedded import embedded
from studio.pipelines.errors import DataError
from tests.scorer_cases import pictures

CPU = torch.device("cpu")


class Pixels:
    """A small picture's pixels, each channel less its mean."""

    id, preprocessing = "pixels", "to 16x16 px"

    def image_features(self, pictures: Sequence[Tensor]) -> Tensor:
        """Unit features `[B, 768]`."""
        small = [F.interpolate(p[None].float(), (16, 16), mode="bilinear", antialias=True)[0] for p in pictures]
        x = torch.stack(small).flatten(2)
        return F.normalize((x - x.mean(2, keepdim=True)).flatten(1), dim=1)


class Letters:
    """Counts of letters as text features."""

    id = "letters"

    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit features `[B, 26]`."""
        counts = [[prompt.count(chr(97 + i)) + 1e-6 for i in range(26)] for prompt in prompts]
        return F.normalize(torch.tensor(counts), dim=1)


EYES: dict[str, Callable[[], Eye]] = {"pixels": Pixels, "traits": lambda: embedded(CPU, attributes=True)}


@pytest.fixture(params=EYES)
def eye(request: pytest.FixtureRequest) -> Eye:
    """An encoder."""
    return EYES[request.param]()


@cache
def drawings(name: str, part: str) -> list[Tensor]:
    """The pictures of an embedded subject."""
    folder = subjects.folder(name) / part
    return [subjects.read(file) for file in sorted(folder.glob("*.png"))]


def near(values: Sequence[float], wanted: float) -> bool:
    """Whether all values are this one."""
    return all(value == pytest.approx(wanted, abs=1e-5) for value in values)


def test_identity_of_a_picture_with_itself_is_one_and_references_have_no_order(eye: Eye):
    x, references = list(pictures(3, 48)), list(pictures(4, 40, seed=5))
    alone = personal.identity(eye, x[:1], x[:1])
    assert [found.about.name for found in alone] == ["identity", "identity-max"]
    assert all(near(found.values, 1) for found in alone)
    mean, most = personal.identity(eye, x, references)
    assert all(a <= b + 1e-6 for a, b in zip(mean.values, most.values, strict=True))
    for back, forth in zip(personal.identity(eye, x[::-1], references[::-1]), (mean, most), strict=True):
        assert back.values[::-1] == pytest.approx(forth.values, abs=1e-5)
    assert mean.about.better == "higher"
    assert mean.about.group != most.about.group


def test_references_that_were_trained_on_stand_apart(eye: Eye):
    x = list(pictures(2, 48))
    trained = personal.identity(eye, x, x, training=True)
    assert all("training pictures" in found.about.group for found in trained)
    assert {found.about.group for found in trained}.isdisjoint(f.about.group for f in personal.identity(eye, x, x))


def test_no_reference_and_a_broken_one_are_refused(eye: Eye):
    x = pictures(2, 48)
    with pytest.raises(DataError, match="no reference pictures of the subject"):
        personal.identity(eye, list(x), [])
    with pytest.raises(DataError, match="reference picture 2 holds values that are no numbers"):
        personal.identity(embedded(CPU), list(x), [x[0], torch.full((3, 8, 8), torch.nan)])


def test_a_nan_picture_costs_its_own_value_alone():
    eye, x = embedded(CPU, attributes=True), pictures(3, 48)
    hurt = x.clone()
    hurt[1, 0, 0, 0] = torch.nan
    for whole, part in zip(
        personal.identity(eye, list(x), [x[0]]), personal.identity(eye, list(hurt), [x[0]]), strict=True
    ):
        assert [math.isnan(value) for value in part.values] == [False, True, False]
        assert part.values[::2] == pytest.approx(whole.values[::2])
    found = personal_copies.copies(eye, list(hurt), personal_copies.shelf(eye, [x[0]], ["x"]))
    assert math.isnan(found.similarity.values[1])
    assert math.isnan(found.flagged.values[1])
    assert [pair.picture for pair in found.pairs] == [0, 2]


def test_a_mask_of_another_size_is_refused_in_one_line():
    picture = torch.rand(3, 20, 30)
    assert personal.masked(picture, None) is picture
    assert personal.masked(picture, torch.ones(1, 20, 30)).shape == (4, 20, 30)
    with pytest.raises(DataError, match="^the mask is 20x30 px and its picture 30x20 px: [^\n]*$"):
        personal.masked(picture, torch.ones(1, 30, 20))


def test_diversity_is_the_mean_over_pairs_of_a_prompt(eye: Eye):
    x = list(pictures(5, 48))
    found = personal.diversity(eye, x, ["a", "b", "a", "a", "alone"])
    features = eye.image_features(x).double()
    pairs = [1 - float(features[i] @ features[j]) for i, j in ((0, 2), (0, 3), (2, 3))]
    assert sum(found.values[i] for i in (0, 2, 3)) / 3 == pytest.approx(sum(pairs) / 3, abs=1e-5)
    assert math.isnan(found.values[1])
    assert math.isnan(found.values[4])
    assert personal.diversity(eye, [x[0]] * 3, ["a"] * 3).values == (0, 0, 0)
    with pytest.raises(DataError, match="5 pictures, 1 prompts"):
        personal.diversity(eye, x, ["a"])


def test_drift_of_equal_pictures_is_nothing_and_of_others_something(eye: Eye):
    x, y = list(pictures(3, 48)), list(pictures(3, 48, seed=4))
    assert personal_prior.drift(eye, x, x).values == (0, 0, 0)
    found = personal_prior.drift(eye, x, y)
    assert min(found.values) > 0.001
    assert found.values == pytest.approx(personal_prior.drift(eye, y, x).values, abs=1e-6)
    assert found.about.better == "lower"
    with pytest.raises(DataError, match="3 pictures and 2 pictures of the base model"):
        personal_prior.drift(eye, x, y[:2])


def identity_of(*values: float) -> Measured:
    """An identity with these values."""
    return Measured(personal.about("identity", "mean cosine", Pixels()), values)


def test_leak_is_what_comes_without_the_trigger_by_what_the_trigger_brings():
    base, called = identity_of(0.3, 0.4), identity_of(0.7, 0.8)
    share, bare = personal_prior.leak(called, base, base, base)
    assert near(share.values, 0)
    assert near(bare.values, 0)
    share, bare = personal_prior.leak(called, base, called, base)
    assert near(share.values, 1), "without the trigger as with it"
    assert near(bare.values, 0.4)
    share, _ = personal_prior.leak(called, base, identity_of(0.3, 0.6), base)
    assert share.mean == pytest.approx(0.25)
    assert share.mean == pytest.approx(personal_prior.clamped(share))
    assert "adds 0.100 of identity, with it 0.400" in share.notes[0]
    share, _ = personal_prior.leak(called, base, identity_of(0.0, 0.1), base)
    assert (share.mean, personal_prior.clamped(share)) == (pytest.approx(-0.75), 0)


def test_leak_is_not_defined_where_the_trigger_brings_nothing():
    base, silent = identity_of(0.3, 0.4), identity_of(0.35, 0.45)
    share, bare = personal_prior.leak(identity_of(0.31, 0.4), base, silent, base)
    assert all(map(math.isnan, share.values))
    assert math.isnan(personal_prior.clamped(share))
    assert "the trigger adds 0.005 of identity" in share.notes[0]
    assert near(bare.values, 0.05), "how much comes uncalled is known all the same"
    with pytest.raises(DataError, match="2 pictures and 1 identities of the base model"):
        personal_prior.leak(base, base, silent, identity_of(0.3))
    other = Measured(personal.about("identity-max", "largest cosine", Pixels()), base.values)
    with pytest.raises(DataError, match="identities of one kind"):
        personal_prior.leak(base, base, silent, other)


def cropped(picture: Tensor, rng: Random) -> Tensor:
    """A crop of a half to nearly all of a picture, mirrored or not, at 64 px, slightly noisy."""
    height, width = picture.shape[-2:]
    share = rng.uniform(0.5, 0.95)
    h, w = int(height * share), int(width * share)
    top, left = rng.randint(0, height - h), rng.randint(0, width - w)
    found = picture[:, top : top + h, left : left + w]
    found = found.flip(-1) if rng.random() < 0.5 else found
    found = F.interpolate(found[None], (64, 64), mode="bilinear", antialias=True)[0]
    return (found + 0.01 * torch.randn(found.shape, generator=torch.Generator().manual_seed(h))).clamp(0, 1)


@pytest.mark.parametrize("name", ["cat", "owl"])
def test_copies_and_crops_of_training_pictures_are_found_and_other_pictures_are_not(eye: Eye, name: str):
    training, references = drawings(name, "train"), drawings(name, "reference")
    names = [f"{number:02}.png" for number in range(1, len(training) + 1)]
    shelf = personal_copies.shelf(eye, training, names, references)
    assert 0.5 < shelf.usual < shelf.bound < 0.99

    exact = personal_copies.copies(eye, training, shelf)
    assert near(exact.similarity.values, 1)
    assert set(exact.flagged.values) == {1.0}
    assert [pair.training for pair in exact.pairs] == names

    rng = Random(name)
    parts = [cropped(picture, rng) for picture in training for _ in range(2)]
    crops = personal_copies.copies(eye, parts, shelf, numbered=range(100, 110))
    assert min(crops.similarity.values) > 0.975
    assert crops.flagged.mean == 1
    assert [pair.training for pair in crops.pairs] == [each for each in names for _ in range(2)]
    assert [pair.picture for pair in crops.pairs] == list(range(100, 110))
    assert "10 of 10 pictures look like copies" in crops.similarity.notes[-1]

    other = {"cat": "dragon", "owl": "fox"}[name]
    strangers = personal_copies.copies(eye, [*references, *drawings(other, "train")], shelf)
    assert strangers.flagged.mean == 0
    assert max(strangers.similarity.values) <= shelf.usual + 0.05


def test_a_picture_that_holds_a_training_picture_is_found_too():
    eye, training = Pixels(), drawings("cat", "train")
    shelf = personal_copies.shelf(eye, training, list("abcde"), drawings("cat", "reference"))
    wider = F.pad(training[2], (20, 10, 12, 18), value=0.5)
    found = personal_copies.copies(eye, [wider], shelf)
    assert found.pairs[0].training == "c"
    assert found.flagged.values == (1.0,)


def test_the_bound_says_where_it_comes_from():
    eye, training = Pixels(), drawings("cat", "train")
    one = personal_copies.shelf(eye, training[:1], ["a"])
    assert (one.bound, math.isnan(one.usual)) == (personal_copies.USUAL, True)
    assert "a guess" in one.note
    twice = personal_copies.shelf(eye, [training[0], training[0]], ["a", "b"])
    assert math.isnan(twice.usual), "the same picture twice says nothing of different ones"
    two = personal_copies.shelf(eye, training[:2], ["a", "b"])
    assert two.bound == pytest.approx((1 + two.usual) / 2)
    assert personal_copies.shelf(eye, training[:2], ["a", "b"], training[2:]).usual >= two.usual
    with pytest.raises(DataError, match="no reference pictures"):
        personal_copies.shelf(eye, [], [])
    with pytest.raises(DataError, match="2 pictures, 1 names"):
        personal_copies.shelf(eye, training[:2], ["a"])


def test_a_crop_is_found_where_it_was_cut():
    picture = F.interpolate(
        torch.rand(1, 3, 12, 18, generator=torch.Generator().manual_seed(1)), (120, 180), mode="bilinear"
    )[0]
    box = (0.25, 0.1, 0.6, 0.6)
    part = personal_align.cut(picture, box).flip(-1)
    ours, theirs = personal_align.shrunk(part), personal_align.shrunk(picture)
    match = personal_align.matches([ours], [theirs])
    assert bool(match.mirrored[0, 0])
    found = personal_align.refined(ours, theirs, match, 0, 0)
    mirrored = (box[0], 1 - box[1] - box[3], box[2], box[3])
    assert found.training == pytest.approx(mirrored, abs=0.05)
    assert found.picture == personal_align.WHOLE
    flat = personal_align.matches([torch.full((3, 40, 40), 0.4)], [torch.full((3, 60, 60), 0.4)])
    assert float(flat.score.max()) < 0.01, "flat colour matches nothing"


def test_prompt_accuracy_counts_the_attributes_that_were_wished():
    read = [{"colour": "blue", "size": "small"}, {"colour": "red", "size": "large"}, {"colour": "red", "size": "large"}]
    found = personal_words.accuracy(read, [{"colour": "blue"}, {"colour": "red", "size": "small"}, {}], "judges")
    assert found.values[:2] == (1, 0.5)
    assert math.isnan(found.values[2])
    assert found.mean == 0.75
    with pytest.raises(DataError, match="wishes 'style', which the judge does not read; it reads colour, size"):
        personal_words.accuracy(read[:1], [{"style": "noto"}], "judges")
    with pytest.raises(DataError, match="3 pictures were read and 1"):
        personal_words.accuracy(read, [{}], "judges")


def test_wishes_of_the_benchmark_s_prompts_are_those_it_states():
    for text, stated in subjects.prompts().items():
        found = wishes(text.format(subject="hedgehog"), "hedgehog")
        assert stated.items() <= found.items(), text
        assert "object" not in found
    assert wishes("a cat and an apple on a blue background", "cat") == {"second": "apple", "colour": "blue"}
    assert wishes("a cat and an apple on a blue background") == {"object": "cat", "second": "apple", "colour": "blue"}


def test_the_judges_read_what_the_benchmark_s_references_show():
    from studio.pipelines.encoders.embedded import judges

    x = torch.stack(drawings("cat", "reference")) * 2 - 1
    texts = sorted((subjects.folder("cat") / "reference").glob("*.txt"))
    wanted = [wishes(file.read_text("utf-8").format(trigger="", class_word="cat"), "cat") for file in texts]
    read = judges(Path(subjects.folder("cat")).parents[1] / "judges", CPU).read(x)
    assert personal_words.accuracy(read, wanted, "embedded judges").mean >= 0.8


def test_a_prompt_that_comes_back_word_by_word_is_whole():
    prompts = ["a photo of a cat on a red chair", "two foxes near the sea"]
    alike, words = personal_words.round_trip(prompts, prompts, Letters(), "mirror")
    assert near(alike.values, 1)
    assert words.values == (1, 1)
    said = ["Some cats on chairs.", ""]
    alike, words = personal_words.round_trip(said, prompts, Letters(), "half")
    assert alike.values[0] < 1
    assert words.values[0] == pytest.approx(2 / 3)
    assert math.isnan(alike.values[1])
    assert math.isnan(words.values[1])
    assert personal_words.recall("fox, berries, glass", "a fox with a berry and glass") == 1
    assert math.isnan(personal_words.recall("a cat", "a picture of the"))
    with pytest.raises(DataError, match="1 captions and 2 prompts"):
        personal_words.round_trip(["a"], prompts, Letters(), "half")


def test_a_captioner_sees_no_nan_picture_and_may_not_lose_one():
    x = list(pictures(3, 8))
    x[1] = torch.full_like(x[1], torch.nan)
    assert personal_words.describe(lambda seen: [f"{len(seen)} seen"] * len(seen), x) == ["2 seen", "", "2 seen"]
    with pytest.raises(DataError, match="1 captions for 2 pictures"):
        personal_words.describe(lambda seen: ["a"], x)
