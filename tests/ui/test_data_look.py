"""What the page says of a folder is what training sees, and captions typed on the page are what training reads."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from studio.pipelines.data_pictures import Pictures
from studio.pipelines.errors import DataError, UsageError
from studio.ui import data_look, data_uploads, train_look
from studio.ui import draft as drafts
from studio.ui.place import Place, guest, home

COLOURS = {"a.png": "red", "b.jpg": "blue", "sub/c.png": "green"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return home(tmp_path / "runs", (tmp_path,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures: one with a caption, one without, one with a caption that lacks the trigger."""
    where = tmp_path / "photos"
    (where / "sub").mkdir(parents=True)
    for number, (name, colour) in enumerate(COLOURS.items()):
        picture = Image.new("RGB", (96, 64), colour)
        picture.paste("white", (8 * number, 4, 40 + 8 * number, 30))
        picture.save(where / name)
    (where / "a.txt").write_text("a sks dog\n")
    (where / "sub" / "c.caption").write_text("a dog on grass\n")
    (where / "notes.pdf").write_bytes(b"%PDF")
    return where


def pictures(folder: Path, **more: object) -> Pictures:
    return Pictures.model_validate({"folder": folder, "class_word": "dog", **more})


def test_what_is_said_is_what_training_sees(folder: Path) -> None:
    found = data_look.look(pictures(folder), "toy")
    by_name = {one.name: one for one in found.pictures}
    assert set(by_name) == set(COLOURS)
    assert (by_name["a.png"].caption, by_name["a.png"].source) == ("a sks dog", "text file")
    assert by_name["b.jpg"].source == "the prompt"
    assert by_name["b.jpg"].caption == "a photo of sks dog"
    assert found.missing == ("sub/c.png",)
    assert "trigger is missing" in by_name["sub/c.png"].line
    assert any("trigger" in text and "sub/c.png" in text for text in found.warnings)
    assert [name for name, _ in found.left_out] == ["notes.pdf"]
    assert found.trainable
    thumb = found.thumbnail(0)
    assert thumb.size == (200, 150)
    assert "of" in by_name["a.png"].tokens


def test_cut_captions_and_masks(folder: Path) -> None:
    (folder / "a.txt").write_text("sks dog " + "word " * 400 + "end")
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    mask.save(folder / "a_mask.png")
    found = data_look.look(pictures(folder, masks=True), "toy")
    first = next(one for one in found.pictures if one.name == "a.png")
    assert found.cut == ("a.png",)
    assert first.cut.endswith("end")
    assert first.mask == pytest.approx(0.5, abs=0.02)
    assert "50% white" in first.line


def test_captions_written_are_captions_read(folder: Path, place: Place) -> None:
    data = pictures(folder)
    before = {one.name: one.caption for one in data_look.look(data, "toy").pictures}
    rows = [[name, f"  a {name[0]}\nsks dog "] if name != "b.jpg" else [name, text] for name, text in before.items()]
    changed = data_look.edited(before, rows)
    assert changed == {"a.png": "a a sks dog", "sub/c.png": "a s sks dog"}
    stamp = data_look.stamp(data, "toy")
    assert data_look.write(place, data, changed) == ["a.png", "sub/c.png"]
    assert data_look.stamp(data, "toy") != stamp
    after = {one.name: one.caption for one in data_look.look(data, "toy").pictures}
    assert after == {**before, **changed}
    assert (folder / "sub" / "c.caption").read_text() == "a s sks dog\n"
    assert not (folder / "sub" / "c.txt").exists(), "the file that is there is written, not a second one"
    with zipfile.ZipFile(next(folder.glob(".captions-*.zip"))) as old:
        assert old.read("a.txt") == b"a sks dog\n"
    assert data_look.edited(after, [[name, text] for name, text in after.items()]) == {}


def test_all_captions_or_none(folder: Path, place: Place) -> None:
    data = pictures(folder)
    for bad, said in (({"gone.png": "a cat"}, "gone.png"), ({"b.jpg": " "}, "empty"), ({"b.jpg": "x" * 5000}, "5000")):
        with pytest.raises(DataError, match=said):
            data_look.write(place, data, {"a.png": "a cat", **bad})
    (folder / "a.jpg").write_bytes((folder / "b.jpg").read_bytes())
    with pytest.raises(DataError, match="too"):  # a.png and a.jpg share a.txt
        data_look.write(place, data, {"a.png": "a cat", "a.jpg": "a dog"})
    (folder / "a.jpg").unlink()
    (folder / "metadata.jsonl").write_text('{"file_name": "b.jpg", "text": "a dog by day"}\n')
    with pytest.raises(DataError, match="metadata"):
        data_look.write(place, data, {"a.png": "a cat", "b.jpg": "a dog by night"})
    assert (folder / "a.txt").read_text() == "a sks dog\n"
    with pytest.raises(DataError, match="no picture"):
        data_look.edited({"a.png": "x"}, [["../a.png", "y"]])


def test_only_ones_own_folders(folder: Path, place: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="outside"):
        data_look.write(home(tmp_path / "other", (tmp_path / "other",)), pictures(folder), {"a.png": "a cat"})
    data, _ = train_look.pictures(drafts.put(drafts.fresh(), {"data.folder": "subject:fox"}), place)
    with pytest.raises(UsageError, match="example"):
        data_look.write(place, data, {"any.png": "a cat"})
    with pytest.raises(UsageError, match="signed-in"):
        data_look.write(guest(tmp_path, "", writable=True, zero_gpu=False), pictures(folder), {"a.png": "a cat"})


def test_the_answer_comes_once_and_again_when_the_folder_changes(folder: Path, place: Place) -> None:
    looks = train_look.Looks()
    draft = drafts.put(drafts.fresh(), {"model": "toy", "data.folder": str(folder), "data.class_word": "dog"})
    first = train_look.answer(draft, place, looks)
    assert first is not None
    assert (first.count, len(first.thumbnails), first.pages) == (3, 3, 1)
    assert "notes.pdf" in first.words
    assert train_look.answer(drafts.put(draft, {"steps": 3}), place, looks, 1, first.stamp) is None
    (folder / "b.txt").write_text("a sks dog at sea")
    second = train_look.answer(draft, place, looks, 1, first.stamp)
    assert second is not None
    assert second.shown["b.jpg"] == "a sks dog at sea"
    nowhere = train_look.answer(drafts.put(draft, {"data.folder": str(folder / "no")}), place, looks)
    assert nowhere is not None
    assert "no such folder" in nowhere.words.lower()
    away = train_look.answer(drafts.put(draft, {"data.folder": "/etc"}), place, looks)
    assert away is not None
    assert "outside" in away.words


def test_uploads(folder: Path, place: Place, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [*sorted(folder.rglob("*.*")), tmp_path / "broken.png"]
    taken, refused, _ = data_uploads.receive(place, files)
    assert taken.parent == place.uploads
    assert {path.name for path in taken.iterdir()} == {"a.png", "a.txt", "b.jpg", "c.png", "c.caption"}
    assert sorted(one.name for one in refused) == ["broken.png", "notes.pdf"]
    said = train_look.not_taken(refused)
    assert all(word in said for word in ("broken.png", "save it anew", "notes.pdf", "captions as .txt")), said
    assert data_look.look(pictures(taken), "toy").trainable
    again, _, _ = data_uploads.receive(place, [folder / "a.txt"], taken)
    assert again == taken, "a caption that is dropped later goes beside its picture"
    elsewhere, _, _ = data_uploads.receive(place, [folder / "a.png"], folder)
    assert elsewhere.parent == place.uploads, "nothing is added to folders that are no uploads"
    for none in ([], [tmp_path / "broken.png"]):
        with pytest.raises(data_uploads.NothingTaken, match="no picture") as nothing:
            data_uploads.receive(place, none)
        assert [one.name for one in nothing.value.refused] == [path.name for path in none]
    with pytest.raises(UsageError, match="signed-in"):
        data_uploads.receive(guest(tmp_path, "", writable=True, zero_gpu=False), files)


def test_captions_come_back_out_of_the_zip_that_keeps_them(folder: Path, place: Place) -> None:
    data_look.write(place, pictures(folder), {"a.png": "a red sks dog", "sub/c.png": "a green sks dog"})
    kept = next(folder.glob(".captions-*.zip"))
    found = data_look.look(pictures(folder), "toy")
    assert dict(found.left_out)[kept.name] == data_look.EARLIER
    taken, refused, _ = data_uploads.receive(place, [folder / "a.png", kept])
    assert (taken / "a.txt").read_text() == "a sks dog\n"
    assert [one.name for one in refused] == [kept.name]
    assert "c.caption in it has no picture" in refused[0].reason
    (taken / "a.txt").write_text("another\n")
    assert data_uploads.receive(place, [kept], taken)[0] == taken, "alone it is for the pictures that are there"
    assert (taken / "a.txt").read_text() == "a sks dog\n"
    newer, refused, _ = data_uploads.receive(place, [folder / "a.png", folder / "a.txt", kept])
    assert (newer / "a.txt").read_text() == "a red sks dog\n", "the file itself is newer than the zip"
    assert "a.txt in it was passed over" in refused[0].reason


def test_zips_of_something_else(folder: Path, place: Place, tmp_path: Path) -> None:
    zips = {"text.zip": "damaged", "other.zip": "captions only", "large.zip": "more than captions", "up.zip": ""}
    (tmp_path / "text.zip").write_text("no zip")
    for name, entry, text in (
        ("other.zip", "run.exe", "x"), ("large.zip", "a.txt", "x" * 2**21), ("up.zip", "../../a.txt", "a sks dog")
    ):  # fmt: skip
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(entry, text)
    taken, refused, _ = data_uploads.receive(place, [folder / "a.png", *(tmp_path / name for name in zips)])
    assert {path.name for path in taken.iterdir()} == {"a.png", "a.txt"}
    assert not list(place.uploads.parent.rglob("../a.txt"))
    assert {one.name for one in refused} == {name for name, word in zips.items() if word}
    assert all(zips[one.name] in one.reason for one in refused)


def test_two_files_of_one_name_are_not_one(folder: Path, place: Place, tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes((folder / "a.png").read_bytes())
    (tmp_path / "a_b.png").write_bytes((folder / "sub" / "c.png").read_bytes())
    taken, refused, _ = data_uploads.receive(place, [tmp_path / "a b.png", tmp_path / "a_b.png"])
    assert [one.name for one in refused] == ["a_b.png"]
    assert (taken / "a_b.png").read_bytes() == (folder / "a.png").read_bytes()


def test_remedies_are_the_pages_own(
    folder: Path, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a_mask.png").write_bytes((folder / "a.png").read_bytes())
    draft = drafts.put(drafts.fresh(), {"model": "toy", "data.folder": str(folder)})
    found = train_look.answer(draft, place, train_look.Looks())
    assert found is not None
    assert "1 mask beside the pictures, not used: tick 'Learn only where masks are white'" in found.words
    assert "under 'Class word'" in found.words
    assert "masks = true" not in found.words
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    reason = data_uploads.unfit(folder / "b.jpg")
    assert reason.endswith("million pixels: make it smaller")
