"""Laws of the data doctor: every file once with its reason, and what it says of captions, masks and likeness."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from studio import flags, subjects
from studio.commands import check_data
from studio.contact_sheet import BOX, FRAME, VEIL, thumbnail
from studio.data_doctor import Report, examine
from studio.pipelines.data_pictures import Pictures
from studio.pipelines.errors import DataError, UsageError
from studio.pipelines.outline import outline
from studio.pipelines.toy import Tokenizer
from tests import broken_folder
from tests.broken_folder import scene


@dataclass
class Sides:
    pixels: int = 64
    multiple: int = 16


def doctor(folder: Path, **settings: Any) -> Report:
    return examine(Pictures(folder=folder, **settings).look(Sides()), {"tokenizer": Tokenizer()})


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return broken_folder.make(tmp_path_factory.mktemp("data") / "broken")


def test_the_broken_folder_has_twenty_files_and_each_is_listed_once_with_its_reason(broken: Path):
    report = doctor(broken, class_word="fox", masks=True)
    on_disk = [path.name for path in broken.iterdir()]
    listed = [file.name for file in report.files if file.state != "row"]
    assert len(on_disk) == 20
    assert Counter(listed) == Counter(on_disk)
    said = {file.name: (file.state, file.what) for file in report.files}
    for name, (state, part) in broken_folder.EXPECTED.items():
        assert said[name][0] == state, (name, said[name])
        assert part in said[name][1], (name, said[name])
    assert [(file.state, file.name) for file in report.files if file.name not in on_disk] == [("row", "gone.png")]


def test_the_summary_is_plain_numbers_that_add_up(broken: Path):
    report = doctor(broken, class_word="fox", masks=True)
    numbers = report.summary()
    assert all(type(value) in (int, float) for value in numbers.values())
    assert numbers["files"] == 20 == numbers["used"] + numbers["beside"] + numbers["left_out"]
    assert numbers["warnings"] == len(report.dataset.warnings) + len(report.doubts())
    assert {key: numbers[key] for key in ("duplicates", "near_duplicates", "turned", "transparent", "masks")} == {
        "duplicates": 1, "near_duplicates": 1, "turned": 1, "transparent": 1, "masks": 1,
    }  # fmt: skip
    assert (numbers["captions_missing"], numbers["captions_empty"], numbers["captions_cut"]) == (2, 2, 1)
    assert numbers["captions_without_trigger"] == numbers["captions_without_class_word"] == 1


def test_doubts_are_one_line_each_and_nobody_says_them_twice(broken: Path):
    report = doctor(broken, class_word="fox", masks=True)
    said = [*report.dataset.warnings, *report.doubts()]
    assert len(set(said)) == len(said)
    assert not any("\n" in line for line in said)
    everything = " | ".join(said)
    for part in (
        "near.jpg looks like good.jpg",
        "'sks' is not in the caption of near.jpg",
        "'fox' is not in the caption of near.jpg",
        "no caption of their own: good_again.jpg, tiny.png",
        "good.mask.png is black all over",
        "no mask that serves beside alpha.png",
    ):
        assert part in everything, part


def test_no_file_is_opened_again(broken: Path, tmp_path: Path):
    folder = tmp_path / "moved"
    shutil.copytree(broken, folder, symlinks=True)
    dataset = Pictures(folder=folder, masks=True).look(Sides())
    before = examine(dataset).doubts()
    shutil.rmtree(folder)
    assert examine(dataset).doubts() == before


def test_near_duplicates_are_copies_and_other_pictures_are_not(tmp_path: Path):
    first = scene((320, 240), "#8ecbf0", "#5fa55a", (0.3, 0.6), 0.6)
    first.save(tmp_path / "a.png")
    first.save(tmp_path / "b_quality.jpg", quality=40)
    first.resize((200, 150)).save(tmp_path / "c_small.png")
    first.crop((3, 3, 317, 237)).save(tmp_path / "d_trimmed.png")
    first.point(lambda value: min(255, value + 8)).save(tmp_path / "e_brighter.png")
    ImageOps.mirror(first).save(tmp_path / "m_mirrored.png")
    scene((320, 240), "#f2b88a", "#7d6a9c", (0.3, 0.6), 0.6).save(tmp_path / "n_recoloured.png")
    scene((320, 240), "#8ecbf0", "#5fa55a", (0.65, 0.6), 0.9).save(tmp_path / "o_moved.png")
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"p_{colour}.png")
    report = doctor(tmp_path)
    names = [example.name for example in report.dataset.examples]
    assert [names[pair.later] for pair in report.alike] == names[1:5]
    assert all(pair.earlier < pair.later for pair in report.alike)


def test_an_exact_copy_is_said_once_and_is_not_a_near_duplicate(tmp_path: Path):
    for name in "abc":
        scene((64, 64), "#8ecbf0", "#5fa55a", (0.5, 0.5), 0.6).save(tmp_path / f"{name}.png")
    report = doctor(tmp_path)
    assert not report.alike
    assert report.summary()["duplicates"] == 2
    assert sum("is the same picture as a.png" in line for line in report.dataset.warnings) == 2


def test_what_holds_for_every_picture_is_taken_as_meant(tmp_path: Path):
    for name, colour in {"a": "red", "b": "blue"}.items():
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    assert not doctor(tmp_path, class_word="dog").doubts()
    (tmp_path / "a.txt").write_text("a SKS, here")  # capitals and signs aside it is the trigger
    (tmp_path / "b.txt").write_text("he asks")  # and this is not
    assert any("'sks' is not in the caption of b.png" in line for line in doctor(tmp_path).doubts())


def test_mask_coverage_is_the_share_of_white(tmp_path: Path):
    shares = {"a": 0, "b": 32, "c": 64}
    for number, (name, white) in enumerate(shares.items()):
        Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(tmp_path / f"{name}.png")
        mask = Image.new("L", (64, 64), 0)
        mask.paste(255, (0, 0, white, 64))
        mask.save(tmp_path / f"{name}.mask.png")
    report = doctor(tmp_path, masks=True)
    assert [e.mask_seen.light for e in report.dataset.examples if e.mask_seen] == [0, 0.5, 1]
    assert report.summary()["mask_coverage"] == 0.5
    assert [line.split(":")[0] for line in report.masks.doubts()] == [
        "a.mask.png is black all over",
        "c.mask.png is white all over",
    ]
    unused = doctor(tmp_path)
    assert not unused.doubts()  # not to use them is a choice, and no doubt
    assert any("3 masks beside the pictures, not used" in line for line in unused.notes())


def test_the_contact_sheet_shows_the_crop(tmp_path: Path):
    Image.new("RGB", (400, 200), "white").save(tmp_path / "wide.png")
    report = doctor(tmp_path, buckets=False)
    cell = thumbnail(report.dataset.examples[0], "white")
    scale, middle = BOX[0] / 400, BOX[1] // 2
    left = round(100 * scale)
    veiled = round(255 * (1 - VEIL))
    assert cell.getpixel((left // 2, middle)) == pytest.approx((veiled,) * 3, abs=1)
    assert cell.getpixel((left, middle)) == tuple(bytes.fromhex(FRAME[1:]))
    assert cell.getpixel((BOX[0] // 2, middle)) == (255, 255, 255)


def test_the_command(broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sheet = tmp_path / "sheet.png"
    words = [str(broken), "--model", "toy", "--class-word", "fox", "--masks"]
    assert check_data.main([*words, "--contact-sheet", str(sheet)]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name}  " in told for name in broken_folder.EXPECTED)
    assert "trainable: 6 pictures used, 9 files left out" in told
    with Image.open(sheet) as picture:
        assert picture.width > 6 * BOX[0]
    assert check_data.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {file["name"] for file in found["files"]} > broken_folder.EXPECTED.keys()
    assert [picture["name"] for picture in found["pictures"]] == [
        name for name, (state, _) in broken_folder.EXPECTED.items() if state == "used"
    ]
    assert found["pictures"][0]["tokens"]["tokenizer"] == {"count": 6, "limit": 8, "cut": ""}


def test_nothing_usable_is_reported_and_then_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(DataError, match="no usable picture") as error:
        check_data.main([str(tmp_path), "--model", "toy"])
    assert error.value.exit_code == 3
    told = capsys.readouterr().out
    assert "not trainable" in told
    assert "words.png" in told


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "needs a folder"),
        (["x", "--resolution", "9999"], "--resolution = 9999"),
        (["x", "--background", "octarine"], "--background"),
        (["x", "--resolutoin", "64"], "did you mean '--resolution'"),
        (["x", "--trainer", "dreamboth"], "dreambooth"),
        ([".", "--model", "toy", "--contact-sheet", "sheet.jpg"], "ends with .png"),
        ([".", "--model", "toy", "--contact-sheet", "sheet.png"], "among the training pictures"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        check_data.main(words)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_there_is_nothing_to_object_to_in_what_comes_with_the_studio():
    config = subjects.resolve(flags.read([])[0])
    data = config.settings.data.look(outline(config.model))
    report = examine(data, {"tokenizer": Tokenizer()})
    assert [*data.warnings, *report.masks.doubts()] == []
    assert [note.partition(",")[0] for note in report.notes()] == [f"{len(data)} masks beside the pictures"]
