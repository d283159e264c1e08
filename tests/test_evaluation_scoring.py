"""Scoring: a scorer that fails costs its column, sets and prompts stay together, numbers lead back to pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from studio.evaluation import bootstrap, scoring
from studio.evaluation.gallery import Drawn
from studio.evaluation.measuring import Measured, assemble, interval, judge
from studio.evaluation.panel import Panel, panel
from studio.evaluation.records import Made, Source
from studio.evaluation.references import Material, gather
from studio.evaluation.sets import PromptSet, wanted
from studio.pipelines.errors import DataError, UsageError
from studio.pipelines.protocols import About

SETS = [
    PromptSet(name="recontext", prompts=tuple(f"a {{subject}} number {n}" for n in range(20))),
    PromptSet(name="class", prompts=("a {subject}", "a tall {subject}"), trigger=False),
]
SEEDS = [1, 2, 3]
SHARE = (0.0, 1.0)
BASE, MINE = Source("base", "toy", class_word="dog"), Source("mine", "toy", "a.safetensors", 1, 0, "sks", "dog")


class Brightness:
    """The mean value; may notice how it is called, and break after some calls."""

    differentiable = False

    def __init__(
        self,
        name: str = "brightness",
        per: str = "picture",
        breaks: int = 99,
        needs: Sequence[str] = (),
        bounds: tuple[float, float] | None = None,
    ) -> None:
        self.about = About(name, "", "", f"{name}: mean", per=per, needs=tuple(needs), bounds=bounds)  # type: ignore[arg-type]
        self.calls: list[list[str]] = []
        self.breaks = breaks

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        self.calls.append(list(prompts))
        if len(self.calls) > self.breaks:
            raise RuntimeError("the weights\nwent away")
        values = images.mean((1, 2, 3))
        if references is not None:
            values = values - torch.stack([one[:3].mean() for one in references]).mean()
        return values if self.about.per == "picture" else values.nanmean().expand(len(images))


def drawn(source: Source, number: int, lost: Sequence[int] = ()) -> Drawn:
    """Random pictures of a source."""
    rows = wanted(SETS, SEEDS, source.trigger, "dog")
    generator = torch.Generator().manual_seed(number)
    pictures: list[Tensor | None] = [torch.randint(256, (3, 4, 4), generator=generator).byte() for _ in rows]
    for row in lost:
        pictures[row] = None
    made = [
        Made(f"{source.label}-{n}.png", source.label, r.set, r.template, r.prompt, r.plain, r.seed)
        for n, r in enumerate(rows)
    ]
    return Drawn(source, rows, made, pictures, frozenset({"class"}))


def test_every_number_is_the_mean_of_its_pictures():
    gallery = [drawn(BASE, 0), drawn(MINE, 1, lost=[4])]
    found = assemble(judge(gallery, Panel([Brightness()]), Material()))
    assert {(s.source, s.set) for s in found.scores} == {
        (n, s) for n in ("base", "mine") for s in ("", "recontext", "class")
    }
    whole = {made.file: picture for one in gallery for made, picture in zip(one.made, one.pictures, strict=True)}
    for score in found.scores:
        seen = [whole[found.pictures[index].file] for index in score.pictures]
        means = [math.nan if one is None else float(one.float().mean() / 255) for one in seen]
        assert score.values == pytest.approx(means, abs=1e-6, nan_ok=True)
        assert score.value == pytest.approx(np.nanmean(means), abs=1e-6)
        assert score.n == sum(one is not None for one in seen)
        assert all(found.pictures[index].source == score.source for index in score.pictures)
        assert all(score.set in ("", found.pictures[index].set) for index in score.pictures)


def test_the_whole_is_what_calls_the_subject():
    found = assemble(judge([drawn(MINE, 1)], Panel([Brightness()]), Material()))
    score = found.score("brightness", "mine")
    assert score is not None
    assert {found.pictures[index].set for index in score.pictures} == {"recontext"}


def test_differences_are_paired_with_the_base_model():
    base, mine = drawn(BASE, 0, lost=[7]), drawn(MINE, 1, lost=[4])
    found = assemble(judge([base, mine], Panel([Brightness()]), Material()))
    score, other = found.score("brightness", "mine"), found.score("brightness", "base")
    assert score is not None
    assert other is not None
    gaps = [a - b for a, b in zip(score.values, other.values, strict=True)]
    assert score.change == pytest.approx(np.nanmean(gaps))
    assert score.base == other.value
    assert score.change_low is not None
    assert score.change_high is not None
    assert score.change_low <= score.change <= score.change_high
    assert other.base is None
    assert other.change is None


def test_equal_pictures_differ_by_exactly_nothing():
    same = drawn(BASE, 0)
    mine = replace(drawn(MINE, 0), pictures=same.pictures)
    found = assemble(judge([same, mine], Panel([Brightness()]), Material()))
    for score in found.scores:
        if score.source == "mine":
            assert (score.change, score.change_low, score.change_high) == (0.0, 0.0, 0.0)


def test_a_scorer_that_breaks_on_the_way_costs_its_column_alone():
    seats = Panel([Brightness("first"), Brightness("second", breaks=2), Brightness("third")])
    found = judge([drawn(BASE, 0), drawn(MINE, 1)], seats, Material())
    assert {column.about.name for one in found for column in one.columns} == {"first", "third"}
    assert seats.notes == ["no second: RuntimeError: the weights went away"]
    assert [scorer.about.name for scorer in seats.scorers] == ["first", "third"]


def test_prompts_that_an_encoder_cuts_off_are_said_once():
    class Short(Brightness):
        def cut(self, prompts: Sequence[str]) -> list[str]:
            return [f"the end of {prompt!r} is not read" for prompt in prompts if len(prompt) > 14]

    seats = Panel([Short("short"), Short("other")])
    judge([drawn(BASE, 0), drawn(MINE, 1)], seats, Material())
    assert seats.notes == [f"the end of 'a dog number {n}' is not read" for n in range(10, 20)]


def test_pictures_of_a_prompt_stay_together_and_sets_apart():
    scorer = Brightness(per="prompt")
    list(scoring.columns(scorer, drawn(MINE, 1), Material(), None))
    owner = [{prompt: number for number, prompts in enumerate(scorer.calls) for prompt in prompts}]
    assert all(len([c for c in scorer.calls if prompt in c]) == 1 for prompt in owner[0])
    assert max(map(len, scorer.calls)) < scoring.BATCH + len(SEEDS)
    assert len(scorer.calls) == 3  # 60 pictures in two batches, and the class set


def test_a_number_of_the_whole_set_has_no_interval_unless_its_scorer_gives_one():
    class Measuring(Brightness):
        def interval(self, images: Tensor, references: Sequence[Tensor] | None) -> tuple[float, float]:
            return 0.25, 0.75

    gallery = [drawn(BASE, 0), drawn(MINE, 1)]
    scorers = [Brightness("plain", "set"), Measuring("told", "set", needs=["references"])]
    found = assemble(judge(gallery, Panel(scorers), Material()))
    plain, told = (found.score(name, "mine") for name in ("plain", "told"))
    assert plain is not None
    assert math.isnan(plain.low)
    assert math.isnan(plain.high)
    assert told is not None
    assert (told.low, told.high) == (0.25, 0.75)
    base = gallery[0].batch(gallery[0].rows(None)).mean()  # a distance of sets is to the base model's pictures
    assert told.value == pytest.approx(float(gallery[1].batch(gallery[1].rows(None)).mean() - base), abs=1e-6)
    assert found.score("told", "base") is None


def test_a_base_measured_before_is_not_scored_again():
    scorer = Brightness()
    base = judge([drawn(BASE, 0)], Panel([scorer]), Material())[0]
    before = len(scorer.calls)
    mine = judge([drawn(MINE, 1)], Panel([scorer]), Material(), known=[base])[0]
    assert len(scorer.calls) == 2 * before
    assert mine.base is base
    score = assemble([base, mine]).score("brightness", "mine")
    assert score is not None
    assert score.change is not None


def test_names_of_scorers_and_their_settings_are_checked():
    with pytest.raises(UsageError, match="did you mean 'jpeg'"):
        panel(["jpge"], "toy")
    with pytest.raises(UsageError, match="did you mean 'quality'"):
        panel(["jpeg"], "toy", options={"jpeg": {"qualty": "3"}})
    assert len(panel(["jpeg", "jpeg"], "toy").scorers) == len(panel(["jpeg"], "toy").scorers) > 0


def test_an_encoder_that_cannot_be_had_is_a_note(tmp_path: Path):
    seats = panel(["clip_text", "jpeg"], "toy", options={"clip_text": {"encoder": str(tmp_path / "nowhere")}})
    found = judge([drawn(MINE, 1)], seats, Material())
    names = {column.about.name for column in found[0].columns}
    assert names
    assert not {name for name in names if "clip" in name}
    assert any("nowhere" in note and "\n" not in note for note in seats.notes)


def folder(place: Path, *numbers: int, mask: tuple[int, int] | None = None) -> Path:
    """Pictures of noise, the first with a mask."""
    place.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        noise = np.random.default_rng(number).integers(0, 255, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place / f"{number}.png")
    if mask:
        (place / "masks").mkdir()
        Image.new("L", mask, 255).save(place / "masks" / f"{numbers[0]}.png")
    return place


def test_references_are_never_training_pictures_where_there_are_others(tmp_path: Path):
    data = folder(tmp_path / "data", 0, 1, 2, 3)
    found = gather(folder(tmp_path / "more", 2, 7, 8), data)
    assert found.names == ["7.png", "8.png"]
    assert "1 of 3 references are training pictures" in found.notes[0]
    assert not found.trained_on
    alone = gather(None, data)
    assert (alone.trained_on, len(alone.references)) == (True, 4)
    assert "--references" in alone.notes[0]
    assert gather(folder(tmp_path / "same", 1), data).notes[0].startswith("all references are training pictures")


def test_one_reference_is_enough_and_said(tmp_path: Path):
    found = gather(folder(tmp_path / "one", 5), None)
    assert len(found.references) == 1
    assert "one reference alone" in found.notes[0]


def test_a_mask_is_the_fourth_channel_and_must_fit(tmp_path: Path):
    found = gather(folder(tmp_path / "good", 1, 2, mask=(8, 10)), None)
    assert [len(one) for one in found.references] == [4, 3]
    assert found.references[0].shape[-2:] == (20, 16)
    with pytest.raises(DataError, match="is 16x20 and its mask 20x16") as error:
        gather(folder(tmp_path / "bad", 1, mask=(20, 16)), None)
    assert "\n" not in str(error.value)


def test_references_that_are_none_are_said(tmp_path: Path):
    place = folder(tmp_path / "some", 1)
    (place / "2.png").write_bytes(b"no picture")
    assert any("2.png is no reference" in note for note in gather(place, None).notes)
    (place / "1.png").unlink()
    with pytest.raises(DataError, match="no picture in"):
        gather(place, None)


def test_references_of_the_embedded_world_stand_on_the_prompts_background():
    cut = torch.cat([torch.zeros(3, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])])
    material = Material(references=[cut], embedded=True)
    ground = material.ground("a fox on a white background")
    seen = material.near(ground)[0]
    assert ground == "white"
    assert seen[:3, 0, 0].max() == 0
    assert seen[:3, 1, 1].min() > 0.95
    assert material.ground("a fox") == ""
    assert Material(references=[cut]).ground("a fox on a white background") == ""


def test_measured_without_a_base_has_no_change():
    one = Measured(drawn(MINE, 1))
    one.columns = list(scoring.columns(Brightness(), one.drawn, Material(), None))
    score = assemble([one]).scores[0]
    assert score.base is None
    assert bootstrap.interval(score.values, [made.template for made in one.drawn.made[:60]]).value == score.value


def about(bounds: tuple[float, float] | None = None, per: str = "picture") -> About:
    return About("some", "", "", "some", per=per, bounds=bounds)  # type: ignore[arg-type]


def test_an_interval_stays_within_its_bounds_and_only_there():
    values, prompts = (1.0, 1.0, 0.0, 1.0), range(4)
    free = interval(about(), values, prompts, None)
    assert free == bootstrap.interval(values, prompts)  # that values lie in 0..1 by chance is no bound
    assert free.high > 1
    held = interval(about(SHARE), values, prompts, SHARE)
    assert held == free._replace(low=max(0.0, free.low), high=1.0)
    few = interval(about((1.0, math.inf)), (1.0, 1.1, 3.0), range(3), (1.0, math.inf))
    assert few.low == 1.0
    assert few.high > 3
    above = interval(about((-1.0, 1.0)), (1.0000001, 1.0000001), (0, 1), (-1.0, 1.0))
    assert above.low <= above.value <= above.high


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_few_equal_shares_are_no_certainty(value: float):
    widths = []
    for prompts in (2, 6, 40):
        seen = interval(about(SHARE), [value] * 4 * prompts, [n // 4 for n in range(4 * prompts)], SHARE)
        assert 0 <= seen.low <= value <= seen.high <= 1
        widths.append(seen.high - seen.low)
        if value == 0:
            assert (1 - seen.high) ** prompts == pytest.approx(0.05)  # so often nothing is seen of such a share
    assert widths[0] > widths[1] > widths[2] > 0
    assert interval(about((0.0, 2.0)), [value] * 8, range(8), (0.0, 2.0)).high == value  # no share: a measured constant


def test_a_difference_of_shares_is_certain_only_between_equal_pictures():
    class Nothing(Brightness):
        def __call__(
            self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
        ) -> Tensor:
            return torch.zeros(len(images))

    base, other = drawn(BASE, 0), drawn(MINE, 1)
    ends = []
    for mine in (replace(drawn(MINE, 0), pictures=base.pictures), other):
        found = assemble(judge([base, mine], Panel([Nothing("flag", bounds=SHARE)]), Material()))
        score = found.score("flag", "mine", "recontext")
        assert score is not None
        assert (score.value, score.change) == (0.0, 0.0)
        assert score.change_high is not None
        assert score.change_low == -score.change_high
        ends.append(score.change_high)
    assert ends[0] == 0
    assert 0 < ends[1] < 0.2


def test_one_prompt_says_nothing_of_a_number_that_is_made_of_all_its_pictures():
    alone = [PromptSet(name="recontext", prompts=("a {subject}",))]
    rows = wanted(alone, [1, 2], "sks", "dog")
    pictures = list(drawn(MINE, 1).pictures[:2])
    made = [Made("", "", one.set, one.template, one.prompt, one.plain, one.seed) for one in rows]
    gallery = [Drawn(source, rows, made, pictures) for source in (BASE, MINE)]
    gallery[1].pictures[0] = drawn(MINE, 2).pictures[0]
    for per, known in (("picture", True), ("prompt", False)):
        found = assemble(judge(gallery, Panel([Brightness(per=per)]), Material()))
        score = found.score("brightness", "mine")
        assert score is not None
        assert score.change_low is not None
        assert math.isfinite(score.low) == math.isfinite(score.change_low) == known


def test_a_subject_without_references_costs_no_other_its_column():
    seats, near = Panel([Brightness("near", needs=["references"]), Brightness()]), torch.zeros(3, 4, 4)
    bare = judge([drawn(BASE, 0), drawn(MINE, 1)], seats, Material())
    known = judge([drawn(BASE, 0), drawn(MINE, 1)], seats, Material(references=[near]))
    assert {column.about.name for one in bare for column in one.columns} == {"brightness"}
    assert {column.about.name for one in known for column in one.columns} == {"near", "brightness"}
    assert not seats.notes


class Angle:
    """An image encoder whose feature turns with the brightness."""

    id, preprocessing = "angle", "none"

    def image_features(self, pictures: Sequence[Tensor]) -> Tensor:
        turn = torch.stack([picture.mean() for picture in pictures]) * math.pi / 2
        return torch.stack([turn.cos(), turn.sin()], -1)


def test_the_leak_is_as_uncertain_as_what_the_trigger_adds():
    base, mine = drawn(BASE, 0), drawn(MINE, 1)
    base.pictures = dimmed(base, [4] * 66)
    mine.pictures = dimmed(mine, [1] * 60 + [3] * 6)  # bright where the trigger calls, half way without it
    found = assemble(judge([base, mine], Panel(eye=Angle()), Material(references=[torch.ones(3, 4, 4)])))
    leak, bare = (found.score(name, "mine", "class") for name in ("leak", "leak-identity"))
    identity = found.score("identity", "mine")
    assert leak is not None
    assert bare is not None
    assert identity is not None
    assert identity.change is not None
    assert leak.value == pytest.approx(bare.value / identity.change, abs=1e-5)
    assert leak.low < leak.value < leak.high
    known = (bare.high - bare.low) / identity.change  # as if what the trigger adds were known
    assert leak.high - leak.low > known
    assert {score.source for score in found.scores if score.about.name == "leak"} == {"mine"}


def dimmed(one: Drawn, by: Sequence[int]) -> list[Tensor | None]:
    """The pictures with their values divided."""
    return [picture // share if picture is not None else None for picture, share in zip(one.pictures, by, strict=True)]
