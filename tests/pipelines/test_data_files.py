"""Laws of reading a folder: every layout, every file once, and hostile files."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from studio.pipelines import data_check, data_walk, layouts
from studio.pipelines.data import Dataset, Pictures
from studio.pipelines.errors import DataError, UsageError


@dataclass
class Sides:
    pixels: int = 64
    multiple: int = 8


def paint(path: Path, size: tuple[int, int] = (64, 64), colour: str = "teal", mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)
    return path


def read(folder: Path, **settings) -> Dataset:
    return Pictures(folder=folder, **settings).read(Sides())


def captions(dataset: Dataset) -> dict[str, str]:
    return {example.name: example.caption for example in dataset.examples}


def reasons(dataset: Dataset) -> dict[str, str]:
    return {rejected.path.name: rejected.reason for rejected in dataset.rejected}


def test_flat_folder_and_single_picture(tmp_path):
    for colour in ("red", "green"):
        paint(tmp_path / f"{colour}.png", colour=colour)
    flat = read(tmp_path, trigger="zwx", class_word="dog")
    assert flat.layout == "flat"
    assert captions(flat) == dict.fromkeys(("green.png", "red.png"), "a photo of zwx dog")
    (tmp_path / "red.txt").write_text("{trigger} on grass")
    single = read(tmp_path / "red.png")
    assert captions(single) == {"red.png": "sks on grass"}
    assert not single.rejected


def test_sidecars(tmp_path):
    for name in "abcdef":
        paint(tmp_path / f"{name}.jpg", colour=f"#{name * 6}")
    (tmp_path / "a.txt").write_text("a {trigger}\n {class_word} ")
    (tmp_path / "b.caption").write_text("from caption")
    (tmp_path / "c.txt").write_text("kept")
    (tmp_path / "c.caption").write_text("second")
    (tmp_path / "d.txt").write_text(" \n")
    (tmp_path / "e.txt").write_bytes("größe".encode("utf-16"))
    (tmp_path / "f.txt").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "lost.txt").write_text("nobody's")
    dataset = read(tmp_path, class_word="cat", prompt="{trigger}")
    expected = ("a sks cat", "from caption", "kept", "sks", "größe", "sks")
    assert tuple(captions(dataset).values()) == expected
    assert reasons(dataset) == {
        "c.caption": "a second caption; c.txt was used",
        "lost.txt": "no picture has this name",
    }
    assert any("d.txt is empty" in note for note in dataset.warnings)
    assert any("f.txt cannot be read" in note for note in dataset.warnings)


def test_kohya(tmp_path):
    paint(tmp_path / "10_sks dog" / "a.png")
    paint(tmp_path / "2_zwx brown cat" / "b.png", colour="red")
    paint(tmp_path / "0_off" / "c.png", colour="blue")
    paint(tmp_path / "20240101_holiday" / "d.png", colour="lime")
    dataset = read(tmp_path)
    assert dataset.layout == "kohya"
    assert [(e.repeats, e.caption) for e in dataset.examples] == [
        (10, "a photo of sks dog"),
        (1, "a photo of sks"),
        (2, "a photo of zwx brown cat"),
    ]
    assert reasons(dataset) == {"c.png": "its folder's name says 0 repeats"}
    inner = read(tmp_path / "10_sks dog", trigger="x")
    assert inner.examples[0].repeats == 1
    assert any("give the folder that holds it" in note for note in inner.warnings)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_imagefolder(tmp_path, kind):
    for name in ("a", "b", "c"):
        paint(tmp_path / "train" / f"{name}.png", colour=f"#{name * 6}")
    (tmp_path / "train" / "a.txt").write_text("not this")
    rows = {
        "jsonl": '{"file_name": "a.png", "text": "an {trigger}, seen"}\n\n'
        '{"file_name": "gone.png", "text": "x"}\n'
        '{"file_name": "../up.png"}\nbroken\n{"file_name": "b.png", "caption": "bee", "weight": 0.5}\n'
        '{"file_name": "a.png", "text": "again"}\n',
        "csv": 'file_name,text,weight\na.png,"an {trigger}, seen",\n'
        "gone.png,x,\n../up.png,x,\n,y,\nb.png,bee,0.5\na.png,z,\n",
    }
    (tmp_path / "train" / f"metadata.{kind}").write_text(rows[kind])
    dataset = read(tmp_path)
    assert dataset.layout == "imagefolder"
    assert list(captions(dataset).values()) == ["an sks, seen", "bee", "a photo of sks"]
    assert [e.weight for e in dataset.examples] == [1, 0.5, 1]
    said = " | ".join(reasons(dataset).values())
    for part in (
        "no such picture",
        "outside the folder",
        "not a row with a file_name",
        "again",
        "metadata row",
    ):
        assert part in said, part
    assert "gone.png" in reasons(dataset)


@pytest.mark.parametrize(
    "row",
    [
        '{"file_name": "a.png", "repeats": 1e400}',
        '{"file_name": "a.png", "repeats": 1.5}',
        '{"file_name": "a.png", "weight": NaN}',
        '{"file_name": "a.png", "weight": [1]}',
        '{"file_name": "\\ud800.png"}',
        '{"file_name": ["a.png"]}',
        '"a.png"',
        "[" * 100_000,
    ],
)
def test_hostile_rows_are_refused_and_the_picture_is_used(tmp_path, row):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png", colour="red")
    (tmp_path / "metadata.jsonl").write_text(row + '\n{"file_name": "b.png", "text": "bee", "weight": 0}')
    dataset = read(tmp_path)
    assert [(e.caption, e.repeats, e.weight) for e in dataset.examples] == [
        ("a photo of sks", 1, 1),
        ("bee", 1, 0),
    ]
    assert len(dataset.rejected) == 1


def test_masks_in_every_spelling(tmp_path):
    for name, mask in {
        "a": "a.mask.png",
        "b": "b_mask.png",
        "c": "c-masklabel.png",
        "d": "masks/d.png",
        "e": "masks/e_mask.png",
    }.items():
        paint(tmp_path / f"{name}.jpg", colour=f"#{name * 6}")
        paint(tmp_path / mask, mode="L")
    paint(tmp_path / "carnival_mask.png", colour="gold")
    paint(tmp_path / "z.mask.png")
    paint(tmp_path / "masks" / "a.png")
    paint(tmp_path / "f.jpg", (64, 32), "pink")
    paint(tmp_path / "f_mask.png", (32, 64))
    dataset = read(tmp_path, masks=True)
    masked = {e.name: e.mask for e in dataset.examples}
    assert all(masked[f"{name}.jpg"] for name in "abcde")
    assert masked["carnival_mask.png"] is masked["f.jpg"] is None
    assert {r.path.relative_to(tmp_path).as_posix() for r in dataset.rejected} == {
        "masks/a.png",
        "z.mask.png",
        "f_mask.png",
    }


def hostile(folder: Path) -> None:
    paint(folder / "good.png", colour="gold")
    whole = paint(folder / "whole.jpg", (200, 200), quality=95).read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("I am no picture")
    (folder / "zero.png").touch()
    (folder / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    paint(folder / "tiny.png", (1, 1))
    paint(folder / "tall.png", (1, 5000))
    paint(folder / "grün 画像 🐱.png", colour="#123456")
    paint(folder / 'it\'s "quoted"\nand broken.png', colour="#654321")
    (folder / ".hidden.png").write_bytes(whole)
    (folder / ".git" / "deep").mkdir(parents=True)
    (folder / ".git" / "deep" / "x.png").write_bytes(whole)
    (folder / "notes.md").write_text("notes")
    (folder / "loop").symlink_to(folder)
    (folder / "self.png").symlink_to("self.png")
    (folder / "dead.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    paint(folder / "folder.png" / "in.png", colour="lime")


def test_every_file_is_listed_once(tmp_path):
    hostile(tmp_path)
    (tmp_path / "good.txt").write_text("a good one")
    dataset = read(tmp_path)
    entries = Path(tmp_path).rglob("*")
    real = [p for p in entries if p.is_symlink() or not p.is_dir()]
    listed = [e.path for e in dataset.examples] + list(dataset.known) + [r.path for r in dataset.rejected]
    assert Counter(listed) == Counter(dict.fromkeys([p for p in real if "loop" not in p.parts[:-1]], 1))


def test_hostile_files_are_rejected_with_a_reason(tmp_path):
    hostile(tmp_path)
    dataset = read(tmp_path)
    said = reasons(dataset)
    for name, part in {
        "truncated.jpg": "truncated",
        "text.png": "not a picture",
        "zero.png": "empty file",
        "script.png": "not a picture",
        ".hidden.png": "hidden",
        "x.png": "hidden",
        "notes.md": "not a picture",
        "loop": "a link back",
        "self.png": "a link to nothing",
        "dead.png": "a link to nothing",
        "pipe.png": "not a regular file",
    }.items():
        assert part in said.pop(name), name
    assert not said
    assert {"tiny.png", "tall.png", "grün 画像 🐱.png", "folder.png/in.png"} <= captions(dataset).keys()
    assert any("tiny.png is small" in note for note in dataset.warnings)
    assert any("tall.png: the crop" in note for note in dataset.warnings)
    assert not any("\n" in note for note in dataset.warnings)


def test_bombs_and_closed_files_are_rejected(tmp_path, monkeypatch):
    paint(tmp_path / "a.png", colour="red")
    paint(tmp_path / "bomb.png", (100, 100), colour="blue")
    paint(tmp_path / "big.png", (75, 75), colour="blue")
    paint(tmp_path / "closed.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    reading = data_check.read_bytes

    def guarded(path: Path) -> bytes:
        if path.name == "closed.png":
            raise PermissionError(13, "Permission denied")
        return reading(path)

    monkeypatch.setattr(data_check, "read_bytes", guarded)
    dataset = read(tmp_path)
    assert list(captions(dataset)) == ["a.png"]
    assert "Permission denied" in reasons(dataset)["closed.png"]
    assert all("decompression bomb" in reasons(dataset)[name] for name in ("bomb.png", "big.png"))


@pytest.mark.parametrize("case", ["none", "missing", "empty", "useless", "text"])
def test_nothing_to_train_on_is_one_line(tmp_path, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "useless").mkdir()
    (tmp_path / "useless" / "a.txt").write_text("words")
    (tmp_path / "useless" / "b.png").write_text("words")
    (tmp_path / "text").write_text("words")
    with pytest.raises(DataError) as error:
        read(None if case == "none" else tmp_path / case)
    message = str(error.value)
    assert "\n" not in message
    assert error.value.exit_code == 3
    assert {"missing": "no such folder", "empty": "empty", "useless": "2 rejected", "none": "--data"}.get(
        case, ""
    ) in message


def test_fingerprint_follows_content_not_place(tmp_path):
    for name, colour in {"a.png": "red", "b.png": "blue"}.items():
        paint(tmp_path / "one" / name, colour=colour)
        paint(tmp_path / "two" / name, colour=colour)
    first, moved = read(tmp_path / "one"), read(tmp_path / "two")
    assert first.fingerprint() == moved.fingerprint()
    assert [e.id for e in first.examples] == [e.id for e in moved.examples]
    changed = [read(tmp_path / "one", flip=True)]
    (tmp_path / "one" / "a.txt").write_text("words")
    changed.append(read(tmp_path / "one"))
    paint(tmp_path / "two" / "b.png", colour="green")
    changed.append(read(tmp_path / "two"))
    assert len({first.fingerprint(), *(dataset.fingerprint() for dataset in changed)}) == 4


def test_wrong_settings_are_refused(tmp_path):
    paint(tmp_path / "a.png")
    with pytest.raises(UsageError, match="use 96 or 104"):
        read(tmp_path, resolution=100)
    for wrong in ({"background": "octarine"}, {"prompt": "a {class}"}, {"caption_dropout": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Pictures(**wrong)


def test_a_listing_opens_no_picture(tmp_path, monkeypatch):
    paint(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", None)
    assert [found.name for found in layouts.scan(tmp_path).found] == ["a.png"]


def test_a_key_that_means_nothing_is_said(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a", "mask": "m.png", "lable": 1}\n')
    found = layouts.scan(tmp_path)
    assert [note for note in found.warnings if "lable, mask" in note]


def test_pictures_that_show_nothing_are_warned_of(tmp_path):
    paint(tmp_path / "even.png")
    paint(tmp_path / "noisy.jpg", colour="#123456", quality=40)
    Image.new("RGBA", (64, 64), (9, 9, 9, 0)).save(tmp_path / "glass.png")
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "seen.png")
    half = Image.new("RGBA", (64, 64), (9, 9, 9, 255))
    half.paste((0, 0, 0, 0), (0, 0, 32, 64))
    half.save(tmp_path / "half.png")
    warned = {line.partition(" is ")[0]: line for line in read(tmp_path).warnings if " all over" in line}
    assert warned.keys() == {"even.png", "noisy.jpg", "glass.png"}
    assert "transparent all over" in warned["glass.png"]


@pytest.mark.parametrize(
    ("settings", "sidecar", "told"),
    [
        ({"trigger": ""}, "", True),
        ({"trigger": "", "class_word": "dog"}, "", False),
        ({"trigger": "zwx"}, "", False),
        ({"trigger": ""}, "a red teapot", False),
        ({"trigger": "", "prompt": "a red teapot"}, "", False),
    ],
    ids=str,
)
def test_a_prompt_that_calls_nothing_is_warned_of(tmp_path, settings, sidecar, told):
    paint(tmp_path / "a.png")
    if sidecar:
        (tmp_path / "a.txt").write_text(sidecar)
    warnings = " | ".join(read(tmp_path, **settings).warnings)
    assert ("nothing in the prompt calls the subject" in warnings) == told
    assert "has the trigger ''" not in warnings


@pytest.mark.parametrize(
    ("settings", "sidecar", "told"),
    [
        ({}, "", True),
        ({"class_word": "dog"}, "", False),
        ({"trigger": ""}, "", False),  # then nothing calls the subject, which is said instead
        ({}, "a photo of sks teapot", False),
        ({"prompt": "{trigger}"}, "", False),
    ],
    ids=str,
)
def test_a_subject_without_a_class_is_warned_of(tmp_path, settings, sidecar, told):
    paint(tmp_path / "a.png")
    if sidecar:
        (tmp_path / "a.txt").write_text(sidecar)
    assert ("no class word" in " | ".join(read(tmp_path, **settings).warnings).replace("no trigger and no", "")) == told


def test_the_systems_own_folders_and_endless_ones_are_refused(tmp_path, monkeypatch):
    began = time.monotonic()
    for folder in data_walk.SYSTEM:
        with pytest.raises(DataError, match="the system's own"):
            read(folder)
    (tmp_path / "link").symlink_to("/proc/self", target_is_directory=True)
    with pytest.raises(DataError, match="the system's own"):
        read(tmp_path / "link")
    paint(tmp_path / "a.png")
    assert reasons(read(tmp_path)) == {"link": "the system's own"}
    monkeypatch.setattr(data_walk, "MOST_FILES", 5)
    for number in range(6):
        paint(tmp_path / "many" / f"{number}.png")
    with pytest.raises(DataError, match="holds more than 5 files"):
        read(tmp_path / "many")
    assert time.monotonic() - began < 5
