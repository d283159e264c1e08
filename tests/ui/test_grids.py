"""X/Y/Z grids: axes, cells, sheets."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from studio import pictures
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import Guiding
from studio.ui import grids
from studio.ui.grids import Axis, cells, parse, sheets
from studio.ui.recipe_reading import read
from studio.ui.recipes import Recipe

CAT = Recipe(prompt="a red cat", sources=("fox", "style"), strengths=(1.0, 0.5))


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("strength", "0, 0.5,1", "0 0.5 1"),
        ("strength", "0-1 [5]", "0 0.25 0.5 0.75 1"),
        ("strength", "1-0 (0.5)", "1 0.5 0"),
        ("strength.2", "-1-1 (+1)", "-1 0 1"),
        ("steps", "4, 10-50 (+20)", "4 10 30 50"),
        ("seed", "1-3", "1 2 3"),
        ("guidance.w_con", "0.1-0.3 (+0.1)", "0.1 0.2 0.3"),
        ("source", "base, fox@500", "base fox@500"),
    ],
)
def test_values_and_ranges_are_read(name: str, text: str, values: str) -> None:
    assert parse(name, text).values == tuple(values.split())


@pytest.mark.parametrize(
    "axis",
    [
        Axis("words", ("cat", "a cat, asleep", 'say "hi", now', "1-5")),
        Axis("negative", ("", "blurry")),
        Axis("strength", ("0", "0.25", "-1")),
        Axis("guidance.kind", ("cfg", "consistency")),
    ],
)
def test_what_is_written_of_an_axis_is_read_back(axis: Axis) -> None:
    assert parse(**{"name": axis.text["name"], "text": axis.text["values"]}) == axis


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("strenght", "1, 2", "did you mean 'strength'"),
        ("strength", "1", "two values or more"),
        ("strength", "", "two values or more"),
        ("strength", "a, 2", "is no number and no range"),
        ("steps", "1.5, 2", "is no whole number"),
        ("seed", "0-1000", "are 1001 values"),
        ("seed", "1, 1", "twice"),
        ("words", 'a "b, c', "."),
    ],
)
def test_a_mistake_in_an_axis_is_one_line(name: str, text: str, words: str) -> None:
    if words == ".":
        assert len(parse(name, text).values) == 2  # a quote inside a text is a letter
        return
    with pytest.raises(UsageError, match=words) as caught:
        parse(name, text)
    assert "\n" not in str(caught.value)


def test_every_cell_differs_from_the_recipe_in_its_axes_alone() -> None:
    axes = [parse("strength.2", "0, 1"), parse("words", "cat, dog"), parse("seed", "5, 6, 7")]
    found = cells(CAT, axes)
    assert [(one.each[1], one.prompt, one.seed) for one in found] == list(
        product((0, 1), ("a red cat", "a red dog"), (5, 6, 7))
    )
    same = {"strengths": CAT.strengths, "prompt": CAT.prompt, "seed": CAT.seed}
    assert {one.model_copy(update=same) for one in found} == {CAT}
    assert cells(CAT, []) == [CAT]


def test_a_source_takes_the_place_of_all_and_a_kind_forgets_the_numbers_of_another() -> None:
    found = cells(CAT, [parse("strength", "0.5, 1"), parse("source", "base, fox")])
    assert [(one.sources, one.strengths) for one in found[:2]] == [(("base",), (0.5,)), (("fox",), (0.5,))]
    tuned = CAT.model_copy(update={"guidance": Guiding(kind="consistency", w_con=5)})
    kinds = [one.guidance for one in cells(tuned, [parse("guidance.kind", "cfg, consistency, rl")])]
    assert kinds == [Guiding(), Guiding(kind="consistency", w_con=5), Guiding(kind="rl")]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([("seed", "1-20"), ("steps", "1-6")], "20 x 6 = 120 pictures"),
        ([("seed", "1-2"), ("seed", "3-4")], "two axes run along seed"),
        ([("words", "bird, dog")], "does not say 'bird'"),
        ([("strength.3", "0, 1")], "there are 2 sources"),
        ([("guidance.omega", "0, 1")], "does nothing with cfg guidance"),
        ([("guidance.kind", "cfg, magic")], "no such kind"),
        ([("sampler", "ddim, eular")], "did you mean 'euler'"),
        ([("steps", "5, 2000")], "steps = 2000"),
        ([("seed", "1-2"), ("steps", "1-2"), ("strength", "0-1"), ("decor_strength", "0-1")], "three axes"),
    ],
)
def test_grids_that_cannot_be_drawn_are_refused_before_anything_is_drawn(
    axes: list[tuple[str, str]], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        cells(CAT, [parse(*axis) for axis in axes])


def test_sheets_place_each_picture_by_its_labels() -> None:
    axes = [parse("seed", "1-3"), parse("strength", "0, 1"), parse("steps", "5, 6")]
    drawn: list[Image.Image | None] = [
        Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(100, 100 + len(cells(CAT, axes)))
    ]
    found = sheets(axes, drawn)
    assert list(found) == ["steps 5", "steps 6"]
    for depth, sheet in enumerate(found.values()):
        place = {}
        for y in range(sheet.height):
            for x in range(sheet.width):
                red, green, blue = sheet.getpixel((x, y))  # type: ignore[misc]
                if red >= 100 and (green, blue) == (0, 0):
                    place.setdefault(red, (y // 20, x // 20))
        expected = [100 + 4 * column + 2 * row + depth for row in range(2) for column in range(3)]
        assert sorted(place, key=lambda value: place[value]) == expected
    drawn[0] = None
    assert list(sheets(axes, drawn)) == list(found)
    assert sheets(axes, [None] * 12) == {}


def test_labels_that_were_cut_are_still_different() -> None:
    axis = Axis("words", ("x" * 80, "x" * 90))
    assert len(set(axis.labels().values())) == 2


def test_a_dropped_sheet_restores_its_recipe_and_its_axes(tmp_path: Path) -> None:
    axes = [parse("words", 'red, "blue, very"'), parse("guidance.kind", "cfg, rl")]
    path = pictures.save(Image.new("RGB", (4, 4)), tmp_path / "x.png", **grids.about(CAT, axes))
    found = read(path)
    assert found.over(Recipe()) == CAT
    assert [parse(axis["name"], axis["values"]) for axis in found.axes] == axes
