"""Laws of captioners: transformers' own words, the same however pictures are batched; the embedded world read back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.functional import to_pil_image, to_tensor

from studio.caption_kinds import load, names
from studio.caption_pictures import look
from studio.pipelines.assets import assets_folder
from studio.pipelines.captioners import blip, embedded, florence2, loading
from studio.pipelines.captioners.base import Captioner
from studio.pipelines.captioners.wording import sentence
from studio.pipelines.errors import ModelError
from studio.pipelines.scorers._stated import Reader
from studio.world import concepts
from tests import captioners

CPU = torch.device("cpu")
KINDS = {"blip": "Blip", "blip2": "Blip2", "florence2": "Florence2"}
TOKENS = 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("captioners")
    return {name: make(place / name) for name, make in captioners.MADE.items()}


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    """Of three sizes, in the 256 values that a file has."""
    rng = torch.Generator().manual_seed(3)
    sizes = ((40, 50), (64, 64), (30, 20))
    return [torch.randint(0, 256, (3, *size), generator=rng).float() / 255 for size in sizes]


def captioner(name: str, folder: Path, **settings: Any) -> Captioner:
    module = load(name)
    return module.build(module.Config(model=str(folder), tokens=TOKENS, **settings), CPU, torch.float32)


def theirs(name: str, folder: Path, picture: Tensor) -> str:
    """What transformers itself writes, from a Pillow image, without any of our code."""
    model = getattr(transformers, f"{KINDS[name]}ForConditionalGeneration").from_pretrained(folder)
    processor = getattr(transformers, f"{KINDS[name]}Processor").from_pretrained(folder)
    text = {"text": "<CAPTION>"} if name == "florence2" else {}
    inputs = processor(images=to_pil_image(picture), return_tensors="pt", **text)
    ids = model.generate(**inputs, do_sample=False, num_beams=3, max_new_tokens=TOKENS, no_repeat_ngram_size=3)
    return " ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split())


def test_there_are_these_captioners():
    assert set(names()) >= {*KINDS, "embedded"}


@pytest.mark.parametrize("name", KINDS)
def test_a_caption_is_transformers_own(name: str, folders: dict[str, Path], pictures: list[Tensor]):
    found = captioner(name, folders[name])(pictures)
    assert found == [theirs(name, folders[name], picture) for picture in pictures]
    assert len(set(found)) == len(pictures)  # they depend on the pictures


@pytest.mark.parametrize("name", KINDS)
def test_neither_batches_nor_chance_change_a_caption(name: str, folders: dict[str, Path], pictures: list[Tensor]):
    together = captioner(name, folders[name], batch=3)(pictures)
    torch.manual_seed(99)
    assert [captioner(name, folders[name], batch=1)([picture])[0] for picture in pictures] == together
    assert captioner(name, folders[name], batch=2)(pictures[::-1]) == together[::-1]
    assert captioner(name, folders[name])([]) == []


@pytest.mark.parametrize("name", KINDS)
def test_a_comprehensive_caption_is_longer_or_answers_another_question(
    name: str, folders: dict[str, Path], pictures: list[Tensor]
):
    plain, full = (captioner(name, folders[name], style=style) for style in ("plain", "comprehensive"))
    even = [torch.tensor(rgb).view(3, 1, 1).expand(3, 30, 20) for rgb in product((0.0, 1.0), repeat=3)]
    short, long = plain([*pictures, *even]), full([*pictures, *even])
    assert short != long
    if name == "florence2":
        assert florence2.TASKS == {"plain": "<CAPTION>", "comprehensive": "<DETAILED_CAPTION>"}
    else:
        assert sum(map(len, long)) > sum(map(len, short))


def test_building_reads_nothing_and_the_first_call_says_what_is_missing(pictures: list[Tensor], tmp_path: Path):
    wanted = captioner("blip", tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no such folder") as error:
        wanted(pictures)
    hub = blip.build(blip.Config(), CPU, torch.float32)
    with pytest.raises(ModelError, match=rf"captioner {re.escape(hub.id)}: not cached") as other:
        hub(pictures)
    for raised in (error, other):
        assert "for pictures of the embedded world only, take --captioner embedded" in str(raised.value)
        assert "\n" not in str(raised.value)
        assert "scorer" not in str(raised.value)


def test_a_folder_that_does_not_serve_is_refused_in_one_line(
    folders: dict[str, Path], pictures: list[Tensor], tmp_path: Path
):
    with pytest.raises(ModelError, match="a model of type florence2, wanted blip"):
        captioner("blip", folders["florence2"])(pictures)
    half = captioners.blip(tmp_path / "half")
    tensors = load_file(half / "model.safetensors")
    lost = sorted(tensors)[-1]
    save_file({k: v for k, v in tensors.items() if k != lost}, half / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="no fitting weights for"):
        captioner("blip", half)(pictures)
    own = captioners.florence2(tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(ModelError, match=f"wants code of its own, which is not run; use {florence2.MODEL}"):
        captioner("florence2", own)(pictures)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in folders["blip"].glob("*.json"):
        (pickled / file.name).write_bytes(file.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are not read"):
        captioner("blip", pickled)(pictures)


def test_weights_are_read_once(folders: dict[str, Path], pictures: list[Tensor]):
    captioner("blip", folders["blip"])(pictures)
    before = loading.loaded.cache_info()
    captioner("blip", folders["blip"], style="comprehensive")(pictures)
    after = loading.loaded.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("there is a arafed dog that sits", "there is a dog that sits"),
        ("an araffe owl on a araffy car", "an owl on a car"),
        ("yasser arafat in arabia", "yasser arafat in arabia"),
        ("arafed man", "man"),
    ],
)
def test_blips_non_words_go(said: str, told: str):
    assert blip.NOISE.sub(blip.bare, said) == told


def world() -> Iterator[tuple[Path, str]]:
    """Every picture of the benchmark with the background that its caption states."""
    for file in sorted((assets_folder() / "subjects").glob("*/*/*.png")):
        yield file, file.with_suffix(".txt").read_text().split(" background")[0].split()[-1]


def reading(**settings: Any) -> embedded.Embedded:
    return embedded.Embedded(embedded.Config(**settings), CPU)


def test_the_embedded_captioner_reads_colours_and_places_of_drawings_nobody_trained_on():
    files = list(world())
    assert len(files) > 200
    pictures = look([file for file, _ in files], "white")
    captions = reading(style="comprehensive")(pictures)
    colours = [
        f"on {'an' if c == 'orange' else 'a'} {c} background" in s for (_, c), s in zip(files, captions, strict=True)
    ]
    assert sum(colours) >= 0.98 * len(files)
    assert sum("in the center" in s and " and " not in s for s in captions) >= 0.98 * len(files)
    assert not any(embedded.doubt(picture) for picture in pictures)


def test_the_embedded_captioner_reads_scenes_back():
    """Held-out drawings of known concepts, cut out and put on every colour at every place."""
    folder = assets_folder() / "subjects" / "style-fluent-flat" / "train"
    drawings = [Image.open(folder / f"{n:02}.png").convert("RGB") for n in range(1, 7)]
    masks = [Image.open(folder / "masks" / f"{n:02}.png").convert("L") for n in range(1, 7)]
    scenes = list(product(concepts.BACKGROUNDS, ("left", "center", "right")))
    pictures = []
    for number, (colour, side) in enumerate(scenes):
        ground, which = Image.new("RGB", (128, 128), concepts.BACKGROUNDS[colour]), number % len(drawings)
        small, mask = drawings[which].resize((76, 76)), masks[which].resize((76, 76))
        ground.paste(small, ({"left": -4, "center": 26, "right": 56}[side], 26), mask)
        pictures.append(to_tensor(ground))
    found = reading().read(pictures)
    assert sum(row["colour"] == colour for row, (colour, _) in zip(found, scenes, strict=True)) >= 0.95 * len(scenes)
    assert sum(row["position"] == side for row, (_, side) in zip(found, scenes, strict=True)) >= 0.9 * len(scenes)
    assert reading(batch=1).read(pictures[:4]) == found[:4]


def test_a_sentence_states_exactly_the_answers_in_the_worlds_wording():
    known = embedded.judges(None, CPU).attributes.answers
    reader, rng = Reader(known), Random(0)
    for _ in range(300):
        answers = {name: rng.choice(words) if rng.random() < 0.8 else "" for name, words in known.items()}
        answers = {name: "" if word == "none" else word for name, word in answers.items()}
        answers["object"] = answers["object"] or "fox"
        pair = bool(answers["second"])
        wanted = {k: v for k, v in answers.items() if v and not (k == "size" and v == "medium")}
        if pair:  # the side is told by the wording, as left and right
            wanted.pop("position", None)
        assert reader(sentence(answers)) == wanted, sentence(answers)
        short = {k: v for k, v in wanted.items() if k in ("object", "second", "colour")}
        assert reader(sentence(answers, "plain")) == short
    for style in known["style"]:
        assert sentence({"object": "fox", "style": style}).split(" of ")[0] in concepts.STYLES[style][1]


def test_only_what_is_sure_is_said():
    pictures = look([file for file, _ in world()][:40], "white")
    timid, bold = (reading(sure=sure).read(pictures) for sure in (1.0, 0.0))
    for less, more in zip(timid, bold, strict=True):
        assert {k: v for k, v in less.items() if v}.items() <= {k: v for k, v in more.items() if v}.items()
        assert less["object"]
        assert less["colour"]
    said = [sum(map(bool, row.values())) for row in (*timid, *bold)]
    assert sum(said[: len(timid)]) < sum(said[len(timid) :])


def test_a_photograph_is_doubted():
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert "guess" in embedded.doubt(noise)


def test_no_judges_is_a_model_error(tmp_path: Path):
    with pytest.raises(ModelError, match="no judges in"):
        reading(judges=tmp_path)([torch.zeros(3, 8, 8)])


@pytest.mark.parametrize("name", KINDS)
def test_its_usual_network_is_one_commit_whatever_its_branch_becomes(name: str):
    module = load(name)
    config = module.Config()
    who = module.build(config, CPU, torch.float32).id
    assert loading.COMMIT.fullmatch(loading.pinned(config.model, config.revision))
    assert who == f"{config.model}@{loading.PINNED[config.model]}"
    assert loading.pinned(config.model, "v2") == "v2"
    assert loading.pinned("owner/other") == "main"


def test_a_branch_is_named_by_the_commit_that_was_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    commit, place = "a" * 40, tmp_path / "models--owner--other"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert loading.named("owner/other") == "owner/other@main"
    (place / "snapshots" / commit).mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs/main").write_text(commit)
    assert loading.named("owner/other") == f"owner/other@{commit}"
    assert loading.named(str(tmp_path)) == str(tmp_path)
