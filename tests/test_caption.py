"""Laws of `studio caption`: every picture accounted for, nothing overwritten unasked, nothing lost when asked."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from studio import cli
from studio.caption import Captioning
from studio.caption_rows import Row
from studio.caption_show import run
from studio.caption_wish import Wish
from studio.pipelines.data_pictures import Dataset, Pictures
from studio.pipelines.errors import DataError

SKS = Wish(trigger="sks", class_word="dog")


class Sides:
    pixels, multiple = 64, 16


class Sizes:
    """A captioner that says how large a picture is, and which colour its first corner has."""

    nouns = ("poodle",)

    def __call__(self, pictures: Sequence[Tensor]) -> list[str]:
        corners = [tuple(int(v) for v in (picture[:, 0, 0] * 255).round()) for picture in pictures]
        return [f"a dog, {p.shape[2]} by {p.shape[1]}, {c}" for p, c in zip(pictures, corners, strict=True)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of every kind: bare, captioned, with an empty caption, broken, hidden, with a row, in a subfolder."""
    place = tmp_path / "data"
    (place / "sub").mkdir(parents=True)
    (place / "masks").mkdir()
    for name in ("bare", "said", "empty", "row", ".hidden"):
        Image.new("RGB", (40, 30), (250, 0, 0)).save(place / f"{name}.png")
    Image.new("RGB", (40, 30), (9, 9, 9)).save(place / "masks" / "bare.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(place / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), (0, 0, 250)).save(place / "sub" / "turned.jpg", exif=exif)
    (place / "broken.png").write_bytes(b"\x89PNG no picture")
    (place / "said.txt").write_text("my own words\n")
    (place / "empty.txt").write_text(" \n")
    (place / "notes.md").write_text("not a picture")
    (place / "metadata.jsonl").write_text(json.dumps({"file_name": "row.png", "text": "as the row says"}) + "\n")
    return place


def caption(folder: Path, wish: Wish = SKS, captioner: Sizes | None = None) -> dict[str, Row]:
    return {row.name: row for row in Captioning(folder, captioner or Sizes(), wish)}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trained(folder: Path) -> Dataset:
    return Pictures(folder=folder, trigger="sks", class_word="dog").look(Sides())


def test_every_picture_is_captioned_kept_or_left_out_with_a_reason(folder: Path):
    before, rows = content(folder), caption(folder)
    states = {name: (row.state, row.reason) for name, row in rows.items()}
    assert states.pop(".hidden.png") == ("left out", "hidden")
    assert states.pop("broken.png") == ("left out", "not a picture that can be read")
    assert states.pop("row.png")[0] == states.pop("said.png")[0] == "kept"
    assert states == dict.fromkeys(("bare.png", "clear.png", "empty.png", "sub/turned.jpg"), ("written", ""))
    after = content(folder)
    new = {"bare.txt", "clear.txt", "empty.txt", "sub/turned.txt"}
    assert {name for name in after if after[name] != before.get(name)} == new
    assert before.keys() <= after.keys()


def test_what_is_written_is_what_training_reads(folder: Path):
    rows = caption(folder)
    read = {example.name: example.caption for example in trained(folder).examples}
    assert read == {name: row.caption for name, row in rows.items() if row.state != "left out"}
    assert (read["said.png"], read["row.png"]) == ("my own words", "as the row says")
    place = Wish(trigger="{trigger}", class_word="{class_word}", force=True)
    assert caption(folder, place)["bare.png"].caption.startswith("a photo of {trigger} {class_word}, a dog")
    assert {e.name: e.caption for e in trained(folder).examples}["bare.png"].startswith("a photo of sks dog, a dog")


def test_pictures_are_read_as_for_training(folder: Path):
    rows = caption(folder)
    assert rows["sub/turned.jpg"].caption.startswith("a sks dog, 30 by 40")
    assert rows["clear.png"].caption == "a sks dog, 8 by 8, (255, 255, 255)"
    assert caption(folder, Wish(background="red", force=True))["clear.png"].caption.endswith("(255, 0, 0)")
    assert (rows["bare.png"].twin, rows["said.png"].twin) == ("a dog, 40 by 30, (250, 0, 0)", "")


def test_a_dry_run_shows_what_a_run_writes_and_writes_nothing(folder: Path):
    before = content(folder)
    dry = caption(folder, Wish("sks", "dog", force=True, dry_run=True))
    assert content(folder) == before
    wet = caption(folder, Wish("sks", "dog", force=True))
    assert {row.state for row in dry.values()} == {"planned", "kept", "left out"}
    assert {n: (r.caption, r.file, r.before) for n, r in dry.items()} == {
        n: (r.caption, r.file, r.before) for n, r in wet.items()
    }


def test_a_second_call_keeps_everything(folder: Path):
    caption(folder)
    before = content(folder)
    assert {row.state for row in caption(folder).values()} == {"kept", "left out"}
    assert content(folder) == before


def test_what_force_replaces_is_in_a_zip_that_puts_it_back(folder: Path):
    (folder / "said.txt").write_bytes("caf\xe9\r\n".encode("latin-1"))
    (folder / "sub" / "turned.caption").write_text("the other ending")
    before = content(folder)
    kept = caption(folder, Wish(trigger="sks", class_word="dog", dry_run=True))
    assert kept["said.png"].reason == "its text file cannot be read as text"
    work = Captioning(folder, Sizes(), Wish("sks", "dog", force=True))
    rows = {row.name: row for row in work}
    assert rows["said.png"].before == r"caf\xe9"
    assert (rows["sub/turned.jpg"].file, rows["row.png"].state) == ("sub/turned.caption", "kept")
    assert work.backup is not None
    assert work.backup.parent == folder
    assert {example.caption for example in trained(folder).examples} >= {row.caption for row in rows.values()} - {""}
    with zipfile.ZipFile(work.backup) as archive:
        archive.extractall(folder)
    after = content(folder)
    assert {name: after[name] for name in before} == before
    again = Captioning(folder, Sizes(), Wish("sks", "dog", force=True))
    assert list(again)
    assert again.backup not in (None, work.backup)
    same = Captioning(folder, Sizes(), Wish("sks", "dog", force=True))
    assert {row.state for row in same} == {"kept", "left out"}
    assert same.backup is None


def test_an_interrupted_call_keeps_what_is_done_and_the_next_goes_on(tmp_path: Path):
    for number in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:02}.png")

    class Impatient(Sizes):
        calls = 0

        def __call__(self, pictures: Sequence[Tensor]) -> list[str]:
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().__call__(pictures)

    with pytest.raises(KeyboardInterrupt):
        run(Captioning(tmp_path, Impatient(), SKS, batch=2))
    assert len(list(tmp_path.glob("*.txt"))) == 2
    rows = caption(tmp_path)
    assert [row.state for row in rows.values()].count("written") == 3


def test_links_that_lead_out_are_never_written_through(folder: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("keep me")
    Image.new("RGB", (8, 8)).save(outside / "far.png")
    (folder / "linked").symlink_to(outside)
    (folder / "bare.txt").symlink_to(outside / "secret")
    (folder / "clear.txt").symlink_to(outside / "nothing")
    (folder / f".caption-{os.getpid()}.part").symlink_to(outside / "secret")
    before = content(outside)
    rows = caption(folder, Wish("sks", "dog", force=True))
    assert content(outside) == before
    assert {rows[name].state for name in ("bare.png", "clear.png", "linked/far.png")} == {"left out"}
    assert "leads out of the folder" in rows["linked/far.png"].reason
    assert rows["empty.png"].state == "written"


def test_two_pictures_with_one_name_share_their_caption_aloud(tmp_path: Path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    rows = caption(tmp_path)
    assert (rows["a.jpg"].state, rows["a.png"].state) == ("written", "left out")
    assert rows["a.png"].reason == "a.txt is the caption of a.jpg too"


def test_what_somebody_writes_meanwhile_is_left_alone(folder: Path):
    class Slow(Sizes):
        def __call__(self, pictures: Sequence[Tensor]) -> list[str]:
            (folder / "bare.txt").write_text("by hand")
            (folder / "said.txt").write_text("by hand too")
            return super().__call__(pictures)

    rows = caption(folder, Wish(force=True), Slow())
    assert rows["bare.png"].reason == "bare.txt was written meanwhile, and is left as it is"
    assert rows["said.png"].state == "left out"
    assert (folder / "bare.txt").read_text() + (folder / "said.txt").read_text() == "by handby hand too"


def test_a_file_that_cannot_be_written_costs_its_picture_only(folder: Path):
    class Rude(Sizes):
        def __call__(self, pictures: Sequence[Tensor]) -> list[str]:
            shutil.rmtree(folder / "sub", ignore_errors=True)
            return super().__call__(pictures)

    rows = caption(folder, captioner=Rude())
    assert rows["sub/turned.jpg"].reason.startswith("cannot be written: ")
    assert rows["bare.png"].state == "written"


def test_only_a_folder_without_any_caption_is_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run(Captioning(folder, Sizes(), SKS))
    run(Captioning(folder, Sizes(), SKS))
    assert "0 captions written; 6 kept (--force makes them anew); 2 left out" in capsys.readouterr().out
    poor = tmp_path / "poor"
    poor.mkdir()
    (poor / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no picture in .* could be captioned: a.png: not a picture"):
        run(Captioning(poor, Sizes(), SKS))
    assert "a.png" in capsys.readouterr().out


def test_a_kohya_folder_brings_its_words_and_a_subfolder_can_be_left_out(tmp_path: Path):
    for name in ("10_zwx cat", "1_dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    rows = caption(tmp_path, Wish("sks", "dog", dry_run=True))
    assert rows["10_zwx cat/a.png"].caption.startswith("a photo of zwx cat, a dog")
    assert rows["1_dog/a.png"].caption.startswith("a sks dog")
    flat = caption(tmp_path, Wish("sks", "dog", recursive=False))
    assert {row.reason for row in flat.values()} == {"in a subfolder"}
    one = caption(tmp_path / "1_dog" / "a.png")
    assert one["a.png"].state == "written"


@pytest.mark.parametrize(
    ("wish", "whole"),
    [
        (Wish(), "a dog in snow"),
        (SKS, "a sks dog in snow"),
        (Wish("sks", "dog", suffix=", studio light"), "a sks dog in snow, studio light"),
        (Wish("sks", "dog", prefix="a close-up of"), "a close-up of a sks dog in snow"),
        (Wish("sks", "dog", prefix="{trigger} {class_word},"), "sks dog, a dog in snow"),
        (Wish("sks", "", suffix="in sks style"), "a dog in snow in sks style"),
        (Wish(prefix="a\nb\x07"), "a b a dog in snow"),
    ],
)
def test_words_around_a_caption(wish: Wish, whole: str):
    assert wish.sentence("a dog in snow", (wish.trigger, wish.class_word)) == whole


def test_the_command_captions_the_embedded_world_offline(folder: Path, capsys: pytest.CaptureFixture[str]):
    words = ["caption", str(folder), "--captioner", "embedded", "--trigger", "sks", "--class-word", "dog"]
    before = content(folder)
    assert cli.run([*words, "--dry-run", "--json"]) == 0
    *rows, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 8
    assert last["summary"] == {
        "written": 0, "planned": 4, "kept": 2, "left_out": 2, "backup": None, "warnings": [],
        "captioner": "embedded judges",
    }  # fmt: skip
    assert content(folder) == before
    assert cli.run([*words, "--style", "comprehensive"]) == 0
    shown = capsys.readouterr()
    for row in rows:
        assert row["name"] in shown.out
    assert "sks dog" in (folder / "bare.txt").read_text()
    assert "red background" in (folder / "bare.txt").read_text()
    assert cli.run([*words, "--force"]) == 0
    assert "what was replaced is in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("", 2, "caption needs a folder of pictures"),
        ("DATA --captioner blib", 2, "there is no captioner 'blib'; did you mean 'blip'"),
        ("DATA --class-word dog", 2, "--class-word needs --trigger"),
        ("DATA --captioner embedded --beams 3", 2, "studio caption has no setting '--beams'"),
        ("DATA --beams 99", 2, "--beams = 99: should be less than or equal to 16"),
        ("DATA --style fancy", 2, "fancy"),
        ("DATA --background mauvish", 2, "--background = 'mauvish'"),
        ("NOWHERE", 3, "no such folder"),
        ("EMPTY", 3, "is an empty folder"),
        ("DATA", 6, "take --captioner embedded"),
        ("DATA --model NOWHERE", 6, "no such folder, and not a hub id"),
    ],
)
def test_a_mistake_is_one_line(line: str, code: int, said: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder.parent / "empty").mkdir()
    places = {"DATA": str(folder), "EMPTY": str(folder.parent / "empty"), "NOWHERE": str(folder.parent / "nowhere")}
    before = content(folder)
    assert cli.run(["caption", *(places.get(word, word) for word in line.split())]) == code
    err = capsys.readouterr().err.strip().splitlines()
    assert said in err[-1]
    assert "--data" not in err[-1]  # which this command does not have
    assert err[-1].startswith("studio: error: ")
    assert content(folder) == before
