"""report.html and the model card: whole in themselves, true to the evaluation, safe to open and safe to hand on."""

from __future__ import annotations

import ast
import base64
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from studio.choice import Marks, Ranking, Scale
from studio.choice_file import Ledger
from studio.commands.evaluate import Options
from studio.commands.form import parse
from studio.evaluate import Request
from studio.evaluation import (
    again,
    model_card,
    page,
    page_checkpoints,
    page_private,
    page_tables,
    page_verdict,
    page_words,
    plots,
)
from studio.evaluation.page_kinds import twins
from studio.evaluation.page_pictures import Album
from studio.evaluation.page_roles import cast, gain, headline, role, tone
from studio.evaluation.records import Evaluation, Made, Pair, Score, Source
from studio.pipelines.adapters import writing
from studio.pipelines.protocols import About

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>```\n---\n| {{ 7 * 7 }}"
BASE = Source("base", "embedded", "", class_word="fox")
OURS = Source("rex", "embedded", "adapter.safetensors", trigger="sks", class_word="fox")
IDENTITY = About("identity", "dino@main", "224 px", "identity: mean cosine", needs=("references",))
ACCURACY = About("prompt-accuracy", "embedded judges", "64 px", "prompt-accuracy: share")
COPIES = About("copies", "dino@main", "224 px", "copies: share", "lower")
SETS = ("recontext", "class")
NAN = float("nan")


class Read(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def score(about: About, source: str, of: str, value: float, rows: tuple[int, ...] = (), **more: Any) -> Score:
    return Score(about, source, of, value, value - 0.02, value + 0.02, len(rows), rows, (value,) * len(rows), **more)


def draw(file: Path, seed: int, side: int = 8) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(file)


def evaluation(folder: Path, *others: Source, side: int = 8, words: str = "a {subject} in the snow") -> Evaluation:
    """Two sets, one prompt each, two seeds, and three scores of everyone."""
    found = Evaluation(sources=[BASE, *(others or (OURS,))])
    for source in found.sources:
        for name in SETS:
            for seed in (1000, 1001):
                file = f"pictures/{source.label}/{name}-00-{seed}.png"
                draw(folder / file, len(found.pictures), side)
                asked = words.replace("{subject}", f"{source.trigger} fox".strip())
                found.pictures.append(Made(file, source.label, name, words, asked, asked, seed))
    for number, source in enumerate(found.sources):
        for about, value in ((IDENTITY, 0.41), (ACCURACY, 0.93), (COPIES, 0.125)):
            for of in ("", *SETS):
                rows = tuple(
                    i
                    for i, made in enumerate(found.pictures)
                    if made.source == source.label and made.set == (of or "recontext")
                )
                up = 0.1 * number
                change = {"base": value, "change": up, "change_low": up - 0.04, "change_high": up + 0.04}
                found.scores.append(score(about, source.label, of, value + up, rows, **(change if number else {})))
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A run's folder with its training pictures beside it."""
    for number in range(3):
        draw(tmp_path / "data" / f"{number}.png", 100 + number)
    return tmp_path / "run"


def full(home: Path) -> Evaluation:
    """Everything an evaluation may hold."""
    found = evaluation(home / "evaluation")
    found.pairs = [Pair(4, "0.png", 0.91), Pair(5, "1.png", 0.72)]
    found.references, found.notes = ["2.png"], ["no blip: not there"]
    found.settings = {
        "steps": 20,
        "guidance_scale": 4.0,
        "seeds": [1000, 1001],
        "missing": {found.pictures[4].file: ["snow"]},
    }
    found.config = {"run": "rex", "trainer": "dreambooth", "settings.data.folder": str(home.parent / "data")}
    return found


def render(found: Evaluation, home: Path, **more: Any) -> Read:
    return Read(page.write(found, home / "evaluation", home / "report.html", **more).read_text("utf-8"))


def front_matter(card: Path) -> dict[str, Any]:
    return yaml.safe_load(card.read_text("utf-8").split("---\n")[1])


def test_the_page_needs_nothing_beside_itself(home: Path):
    seen = render(full(home), home)
    assert not {tag for tag, _ in seen.tags} & {"script", "link", "iframe", "object", "embed", "base", "form", "video"}
    for _, attrs in seen.tags:
        assert all(attrs[key].startswith("data:image/") for key in ("src", "srcset", "poster", "data") if key in attrs)
        assert all(attrs[key].startswith("#") for key in ("href", "xlink:href", "action") if key in attrs)
        assert not [key for key in attrs if key.startswith("on")]
    text = (home / "report.html").read_text("utf-8")
    assert not re.search(r"url\(|@import|https?://|image-set|expression\(", text.replace("data:image", ""))
    assert any("default-src 'none'" in attrs.get("content", "") for attrs in seen.all("meta"))


def test_the_page_is_whole(home: Path):
    seen = render(full(home), home)
    assert len(seen.all("img")) == 3 + 8 + 4  # top of the page, sets, pairs
    assert all(img["alt"] and int(img["width"]) and int(img["height"]) for img in seen.all("img"))
    assert {"rex: a sks fox in the snow, seed 1000", "training picture 0.png"} <= {
        img["alt"] for img in seen.all("img")
    }
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in seen.all("a")} <= set(ids)
    assert len(seen.all("h1")) == 1
    for words in ("not to be seen: snow", "similarity 0.910", "no blip: not there", "settings.data.folder"):
        assert words in seen.text


def test_every_score_is_on_the_page_and_on_the_card(home: Path):
    found = full(home)
    extra = About("kid", "", "", "kid: x", "lower", "set")
    for number, of in enumerate(("", *SETS)):
        found.scores.append(score(extra, "rex", of, 0.00317 + number * 0.001))
    seen = render(found, home)
    for one in found.scores:
        digits = page_words.places(*(other for other in found.scores if other.about == one.about))
        for value in filter(None, (one.value, one.low, one.high, one.base)):
            assert page_words.number(value, digits) in seen.text
        if one.change is not None:
            assert page_words.number(one.change, digits, sign=True) in seen.text
    card = model_card.write(found, home / "evaluation", home / "README.md").read_text("utf-8")
    assert all(name in card for name in ("identity", "prompt-accuracy", "copies", "kid", "0.510", "(0.490 to 0.530)"))


def test_numbers_of_two_groups_never_stand_in_one_table(home: Path):
    found = full(home)
    other = replace(IDENTITY, group="identity: mean cosine with training pictures")
    found.scores.append(score(other, "rex", "", 0.777))
    seen = (render(found, home), (home / "report.html").read_text("utf-8"))[1]
    cards = re.findall(r"<article>.*?</article>", seen, re.DOTALL)
    assert len(cards) == 4
    assert [card.count("0.777") for card in cards if "0.777" in card and "0.510" in card] == []


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_number_that_is_none_is_a_dash(home: Path, value: float):
    found = Evaluation(sources=[BASE, OURS], scores=[Score(IDENTITY, "rex", "", value, value, value, 0, base=value)])
    seen = render(found, home)
    assert '<span class="v">-</span>' in (home / "report.html").read_text("utf-8")
    assert "nan" not in seen.text.lower().split()
    assert "inf" not in seen.text.lower().split()
    assert page_words.number(value, 3) == "-"


@pytest.mark.parametrize("sources", [[], [BASE], [OURS], [BASE, OURS]])
def test_an_evaluation_without_anything_in_it(home: Path, sources: list[Source]):
    assert "Nothing was scored." in render(Evaluation(sources=sources), home).text
    card = model_card.write(Evaluation(sources=sources), home / "evaluation", home / "README.md")
    assert front_matter(card)["library_name"] == "diffusers"


def test_strangers_words_stay_words(home: Path):
    ours = replace(OURS, label=f"x{HOSTILE}", trigger=HOSTILE)
    found = evaluation(home / "evaluation", replace(OURS, label="x"), words=f"{HOSTILE} {{subject}}")
    found.sources[1] = ours
    found.pictures = [replace(p, source=ours.label, set=HOSTILE) if p.source == "x" else p for p in found.pictures]
    found.scores = [replace(s, source=ours.label) if s.source == "x" else s for s in found.scores]
    found.scores.append(score(About(HOSTILE, HOSTILE, HOSTILE, HOSTILE), ours.label, HOSTILE, 0.5))
    found.notes, found.references = [HOSTILE], [HOSTILE]
    found.pairs = [Pair(4, HOSTILE, 0.5)]
    found.settings = {HOSTILE: HOSTILE, "choice": {"label": ours.label, "reason": HOSTILE}}
    found.config = {"run": HOSTILE, "trainer": HOSTILE, "steps": HOSTILE}
    seen = render(found, home)
    assert not seen.all("script")
    assert not [attrs for attrs in seen.all("img") if "onerror" in attrs or not attrs["src"].startswith("data:")]
    assert "<script>alert(1)</script>" in seen.text
    assert "{{ 7 * 7 }}" in seen.text
    card = model_card.write(found, home / "evaluation", home / "README.md")
    assert HOSTILE.split("`")[0] in front_matter(card)["instance_prompt"]
    body = card.read_text("utf-8").split("---\n", 2)[2]
    unescaped = re.sub(r"\\.", "", body)  # without what a backslash makes a letter
    assert "<script>" not in re.sub(r"```.*?```|`[^`]*`", "", unescaped, flags=re.DOTALL)
    (program,) = re.findall(r"^```python\n(.*?)^```$", body, re.DOTALL | re.MULTILINE)
    ast.parse(program)
    table = [line for line in body.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}


def test_the_page_keeps_to_its_size_and_says_what_is_left_out(home: Path):
    found = evaluation(home / "evaluation", side=256)
    out = page.write(found, home / "evaluation", home / "report.html", most=page.TEXT + 100_000)
    seen = Read(out.read_text("utf-8"))
    assert out.stat().st_size <= page.TEXT + 100_000
    pictures = sum(len(img["src"]) for img in seen.all("img"))
    assert 0 < pictures <= 100_000
    assert re.search(r"\d pictures? left out to keep this page small", seen.text)


def test_an_album_counts_every_use_of_a_picture(tmp_path: Path):
    draw(tmp_path / "a.png", 0, 64)
    album = Album(10**6)
    album.fill([tmp_path / "a.png"] * 3)
    found = album[tmp_path / "a.png"]
    assert found is not None
    assert album.uses == 3 * len(found.uri)
    assert album.missing([tmp_path / "a.png"]) == ""


def test_the_same_evaluation_gives_the_same_bytes(home: Path):
    found = full(home)
    (home / "evaluation" / "evaluation.json").write_text(found.to_json())
    again = Evaluation.read(home / "evaluation" / "evaluation.json")
    pages = [
        page.write(one, home / "evaluation", home / f"{n}.html").read_bytes() for n, one in enumerate((found, again))
    ]
    cards = [
        model_card.write(one, home / "evaluation", home / f"{n}.md").read_bytes()
        for n, one in enumerate((found, again))
    ]
    assert pages[0] == pages[1]
    assert cards[0] == cards[1]


def test_nothing_of_the_machine_is_told(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("getpass.getuser", lambda: "annasmith")
    monkeypatch.setenv("HF_TOKEN", "hf_PlantedPlantedPlanted12345")
    place = home.parent / "wedding of anna smith" / "base.safetensors"
    found = full(home)
    found.sources = [replace(source, model=str(place)) for source in found.sources]
    found.notes = [f"{place}: not there, says annasmith with hf_PlantedPlantedPlanted12345"]
    found.config |= {
        "runs": str(home.parent),
        "model": str(place),
        "windows": "C:\\Users\\annasmith\\x",
        "far": "~/x/y",
    }
    found.settings |= {"command": f"studio evaluate {home}", "models": {str(place): {"folder": str(place)}}}
    found.pairs.append(Pair(6, str(home.parent / "data" / "2.png"), 0.5))
    (home / "env.json").write_text(
        '{"python": "3", "command": ["/home/annasmith/x"], "device": {"cpu": "/home/annasmith"}}'
    )
    page.write(found, home / "evaluation", home / "report.html")
    card = model_card.write(found, home / "evaluation", home / "README.md")
    for file in (home / "report.html", card):
        text = re.sub(r"data:image[^\"]*", "", file.read_text("utf-8"))
        for secret in (str(home.parent), str(home.parent.parent), "annasmith", "wedding", "hf_Planted", "Users"):
            assert secret not in text, (file.name, secret)
    assert front_matter(card)["base_model"] == "base.safetensors"
    assert 'from_single_file("base.safetensors")' in card.read_text("utf-8")


def test_pictures_go_without_what_is_written_in_them(home: Path):
    found = full(home)
    first = home / "evaluation" / found.pictures[4].file
    with Image.open(first) as picture:
        exif = picture.getexif()
        exif[0x010E] = "planted in the picture"
        picture.save(first, exif=exif)
    found.pictures[5] = replace(found.pictures[5], file="../../outside.png")
    draw(home.parent / "outside.png", 7)
    for img in render(found, home).all("img"):
        data = base64.b64decode(img["src"].partition(",")[2])
        assert b"planted" not in data
        with Image.open(BytesIO(data)) as picture:
            assert not picture.getexif()
    assert "1 picture could not be read" in (home / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("better", "change", "expected"),
    [("higher", (0.2, 0.1, 0.3), "better"), ("higher", (-0.2, -0.3, -0.1), "worse"),
     ("lower", (-0.2, -0.3, -0.1), "better"),
     ("lower", (0.2, 0.1, 0.3), "worse"), ("higher", (0.2, -0.1, 0.5), "same"), ("lower", (0.2, NAN, NAN), "")],
)  # fmt: skip
def test_a_claim_needs_its_whole_interval_on_one_side(better: Any, change: tuple[float, float, float], expected: str):
    about = replace(IDENTITY, better=better)
    one = Score(
        about, "rex", "", 0.5, 0.4, 0.6, 9, base=0.3, change=change[0], change_low=change[1], change_high=change[2]
    )
    assert tone(one) == expected
    assert (gain(one) is None) == (expected == "")
    (found,) = page_words.facts(Evaluation(sources=[BASE, OURS], scores=[one]), cast(Evaluation(sources=[BASE, OURS])))
    said = page_verdict.verdict([found])[1]
    assert said.startswith("It learned") == (expected == "better")


def test_questions_are_answered_by_the_scores_made_for_them():
    names = {
        "identity": ("identity", "identity-max", "dino", "dino-subject", "clip-i", "embedded-traits"),
        "prompt": ("prompt-accuracy", "clip-t", "clip-score", "siglip", "blip-itc", "blip2-itc", "f-clipscore"),
        "diversity": ("diversity", "vendi", "lpips"),
        "copy": ("copies", "copy-similarity"),
        "drift": ("drift",),
        "leak": ("leak", "leak-identity"),
        "rest": ("aesthetic", "pickscore", "image-reward", "jpeg size", "fid"),
    }  # fmt: skip
    assert {name: role(name).key for row in names.values() for name in row} == {
        n: k for k, row in names.items() for n in row
    }
    for key, row in names.items():
        scores = [score(replace(IDENTITY, name=name), "rex", "", 0.5) for name in reversed(row)]
        if key != "rest":
            best = headline(Evaluation(scores=scores), key, "rex")
            assert best is not None
            assert best.about.name == row[0]


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    for ways in ((1, 1), (1, -1), (-1, 1)):
        rows = rng.integers(0, 6, (30, 2)) / 5
        points = [plots.Point(str(n), (x, x, x), (y, y, y)) for n, (x, y) in enumerate(rows)]
        best = plots.front(points, *ways)

        def beats(a: plots.Point, b: plots.Point, ways: tuple[int, int] = ways) -> bool:
            gains = [(mine - other) * way for mine, other, way in zip(a.at, b.at, ways, strict=True)]
            return min(gains) >= 0 and max(gains) > 0

        assert not [b for b in best for a in points if beats(a, b)]
        assert all(any(beats(a, p) for a in points) for p in points if p not in best)


@pytest.mark.parametrize("values", [[], [0.0], [NAN], [3.0, 3.0], [-1e-9, 1e-9], [1e7, 2e7], [0.31, 0.94]])
def test_a_scale_has_room_for_its_values_and_a_few_round_ticks(values: list[float]):
    axis = plots.scale(values, 0, 100)
    assert all(0 <= axis(value) <= 100 for value in plots.finite(values))
    assert 1 <= len(plots.ticks(axis)) <= 6
    assert all(axis.low <= tick <= axis.high for tick in plots.ticks(axis))


def test_checkpoints_and_strengths_get_curves_a_front_and_a_grid(home: Path):
    steps = [
        replace(OURS, label=f"s{n}x{x:g}", file="", step=n, strength=x) for n in (100, 200, 300) for x in (0.5, 1.0)
    ]
    found = evaluation(home / "evaluation", *steps)
    found.settings["choice"] = {"step": 200, "strength": 1.0, "reason": "identity no longer rises"}
    seen = render(found, home)
    text = (home / "report.html").read_text("utf-8")
    assert "Recommended: s200x1, step 200, strength 1. Identity no longer rises." in seen.text
    assert text.count('class="plot curve"') == 3
    assert text.count('class="plot pareto"') == 1
    assert len(re.findall(r'<figure class="shot picked">', text)) == 1
    assert "5 other sources are compared in the tables" in seen.text


def test_what_a_run_chose_while_it_trained_is_shown_beside_its_evaluation(home: Path):
    found, ledger = full(home), Ledger("exam", Scale((0.4, 0.9)))
    ledger.about = {"judge": "judges", "prompts": ["a {subject} on ice", "a {subject} at sea"]}
    for step in (100, 200):
        ledger.put(Marks(step, 1.0, (0.5, 0.6, 0.5, step / 500), (1.0, 0.5, 1.0, 1.0), 0.01))
        ledger.table.append({"step": step, "strength": 1.0})
        draw(home / "choice" / "pictures" / f"{step:06}-1" / "choice-00-500.png", step)
    ledger.picked = {"step": 100, "strength": 1.0, "reason": "step 100: the earliest of equals"}
    (home / "choice.json").write_text(ledger.to_json())
    seen = render(found, home)
    assert "Recommended: step 100: the earliest of equals." in seen.text
    assert {f"step {step}: a sks fox on ice, seed 500" for step in (100, 200)} <= {
        img["alt"] for img in seen.all("img")
    }
    (home / "choice.json").write_text("{")
    assert "Recommended" not in render(found, home).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("/srv/a b/c.png", "…/c.png"), ("see /srv/pics/a.png now", "see …/a.png now"), ("clip-t: openai/clip@main", None),
     ("https://hub/x", None), ("~/x", "…/x"), ("a dog and/or cat", None)],
)  # fmt: skip
def test_a_path_keeps_its_last_part(text: str, expected: str | None):
    assert page_private.clean(text) == (expected or text)


@pytest.mark.parametrize(
    ("model", "name", "licence"),
    [("stable-diffusion-v1-5/stable-diffusion-v1-5", None, "creativeml-openrail-m"), ("./models/sd15/", "sd15", None),
     ("/srv/x/model.safetensors", "model.safetensors", None), ("embedded", "embedded", "apache-2.0"),
     ("someone/unknown", None, None),
     ("black-forest-labs/FLUX.1-schnell", None, "apache-2.0"), ("C:\\m\\b.safetensors", "b.safetensors", None)],
)  # fmt: skip
def test_a_base_model_is_called_by_its_hub_id_or_its_file(
    home: Path, model: str, name: str | None, licence: str | None
):
    found = Evaluation(sources=[replace(OURS, model=model)])
    about = front_matter(model_card.write(found, home / "evaluation", home / "README.md"))
    assert about["base_model"] == (name or model)
    assert about.get("license") == licence
    assert about["instance_prompt"] == "sks fox"


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two colours."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_in_light_and_dark():
    style = (Path(page.__file__).parent / "report.css").read_text("utf-8")
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part)) for part in style.split("@media (prefers-color-scheme")[:2]
    ]
    assert len(themes) == 2
    for theme in themes:
        for ground in ("paper", "card", "wash"):
            for ink in ("ink", "soft", "accent", "good", "bad"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)


def beside(name: str, change: float, wide: float = 0.01, n: int = 96, **more: Any) -> Score:
    """A score with its change beside a base model at 0.5."""
    about = About(name, "judges", "", f"{name}: x", **more)
    ends = {"change": change, "change_low": change - wide, "change_high": change + wide}
    value = 0.5 + change
    return Score(about, "rex", "", value, value - 0.02, value + 0.02, n, base=0.5, **ends)


def absolute(name: str, value: float, low: float) -> Score:
    """A score without a base, as drift and leak are."""
    return Score(About(name, "judges", "", f"{name}: x", "lower"), "rex", "class", value, low, 2 * value - low, 24)


def words(*scores: Score) -> tuple[list[page_words.Fact], str, str, str]:
    """Facts, tone, verdict and warning of some scores."""
    found = Evaluation(sources=[BASE, OURS], scores=list(scores))
    facts = page_words.facts(found, cast(found))
    return facts, *page_verdict.verdict(facts), page_verdict.warning(facts)


def test_the_summary_names_every_number_that_falls_and_praises_nothing_that_is_only_not_shown():
    rises, unclear = beside("identity", 0.1), beside("prompt-accuracy", -0.047, 0.07)
    falls = [beside("caption-recall", -0.27), beside("embedded-attributes", -0.29)]
    facts, kind, verdict, _ = words(rises, unclear, *falls, beside("embedded-prompt", 0.005, 0.02))
    assert kind == "mixed"
    assert (
        "prompt-accuracy is not shown to be worse, but caption-recall and embedded-attributes clearly fall" in verdict
    )
    assert "caption-recall \N{MINUS SIGN}0.270 and embedded-attributes \N{MINUS SIGN}0.290" in facts[1].sentence
    assert "embedded-prompt" not in facts[1].sentence
    for found in (words(rises, unclear), words(rises, unclear, *falls)):
        assert not re.search("as well|and still does|good", " ".join([found[2], found[0][1].sentence]))
    assert "is not shown to follow prompts worse" in words(rises, unclear)[2]


@pytest.mark.parametrize(("wide", "n", "good"), [(0.01, 96, True), (0.01, 8, False), (0.03, 96, False)])
def test_as_good_is_said_only_of_many_pictures_and_a_narrow_interval(wide: float, n: int, good: bool):
    facts, _, verdict, _ = words(beside("identity", 0.1), beside("prompt-accuracy", 0.0, wide, n))
    assert ("as well as the base model, within 3%" in facts[1].sentence) == good == ("and still does" in verdict)


def test_drift_and_leak_are_held_against_nothing_since_the_base_model_has_none():
    rises = beside("identity", 0.1)
    facts, kind, _, warning = words(rises, absolute("drift", 0.14, 0.1), absolute("leak", 1.05, 0.7))
    assert [fact.tone for fact in facts] == ["better", "worse", "worse"]
    assert kind == "mixed"
    assert "drifted" in facts[1].claim
    assert warning == (
        "Worse than with the base model: prior drift and trigger leak. It acts as much without its trigger as with it."
    )
    assert words(rises, absolute("leak", 0.6, 0.5))[3].endswith("much of the subject still appears.")
    assert words(rises, absolute("leak", 0.2, 0.1))[3].endswith("the subject still appears.")
    assert words(rises, absolute("leak", 0.2, -0.1))[3] == ""
    assert words(rises, absolute("leak", NAN, NAN))[0][1].tone == ""


@pytest.mark.parametrize("leak", [0.1, 1.05])
def test_a_card_says_at_once_that_the_adapter_acts_without_its_trigger(home: Path, leak: float):
    found = full(home)
    found.scores.append(absolute("leak", leak, leak - 0.05))
    card = model_card.write(found, home / "evaluation", home / "README.md").read_text("utf-8")
    assert ("says `sks fox`, and acts without the trigger too." in card) == (leak > 1)


def twice(found: Evaluation) -> Evaluation:
    """Identity taken again under another name, with the rounding of another way to it."""
    name = replace(IDENTITY, name="embedded-traits", group="embedded-traits: mean cosine")
    random = np.random.default_rng(0)
    for row in [score for score in found.scores if score.about == IDENTITY]:
        values = tuple(random.uniform(0, 1, len(row.values)).tolist())
        found.scores.remove(row)
        found.scores.append(replace(row, values=values))
        found.scores.append(replace(row, about=name, values=tuple(value + 1e-8 for value in values)))
    return found


def test_a_number_that_is_another_one_over_again_is_shown_once_and_named(home: Path):
    found = twice(full(home))
    assert list(twins(found.scores)) == [("embedded-traits", "embedded-traits: mean cosine")]
    assert not twins(full(home).scores)  # one number all over is no sign
    text = (render(found, home), (home / "report.html").read_text("utf-8"))[1]
    cards = re.findall(r"<article>.*?</article>", text, re.DOTALL)
    assert len(cards) == 3
    assert "embedded-traits gives the same numbers" in cards[0]
    assert text.count("embedded-traits") == 1


def test_a_table_names_the_pictures_of_its_rows(home: Path):
    found = full(home)
    for _, metrics in page_tables.metrics(found, cast(found)):
        for metric in metrics:
            assert metric.trace == "base from pictures 1\N{EN DASH}2; rex from pictures 5\N{EN DASH}6"
    assert page_tables.ranges([*range(1, 94, 4)]) == "1\N{EN DASH}93 (24 of them)"


def chosen(home: Path, picked: tuple[int, float] | None) -> Evaluation:
    """An evaluation of a run that recommends step 100 at strength 0.8. picked: what its file holds."""
    found = full(home)
    found.config |= {"settings.steps": 200, "settings.previews.steps": 12}
    ledger = Ledger("exam", Scale((0.4, 0.9)))
    ledger.picked = {"step": 100, "strength": 0.8, "reason": "step 100 at strength 0.8: best"}
    (home / "choice.json").write_text(ledger.to_json())
    header = {"step": str(picked[0]), "strength": f"{picked[1]:g}"} if picked else {}
    writing.write({"x": torch.zeros(1)}, home / "adapter.safetensors", header)
    return found


@pytest.mark.parametrize(
    ("picked", "said"),
    [(None, "The numbers here are not about it, but about step 200 at strength 1;"),
     ((100, 0.8), "The numbers here are about it: step 100 at strength 0.8, which is what the adapter's file holds."),
     ((50, 1.2), "The numbers here are not about it, but about step 50 at strength 1.2, which is what")],
)  # fmt: skip
def test_page_and_card_say_what_is_recommended_and_what_the_numbers_are_about(home: Path, picked: Any, said: str):
    found = chosen(home, picked)
    card = model_card.write(found, home / "evaluation", home / "README.md").read_text("utf-8")
    for text in (render(found, home).text, card):
        assert "Recommended: step 100 at strength 0.8: best." in text
        assert said in text
    found.settings["adapters"] = {"rex": {"step": "100", "strength": "0.8"}}  # as the file was when it was drawn
    assert "The numbers here are about it: step 100 at strength 0.8" in render(found, home).text


def test_of_several_strengths_the_one_that_is_the_recommended_one_is_meant(home: Path):
    found = chosen(home, None)
    others = [replace(OURS, label=f"rex @ {x:g}", strength=x) for x in (0.8, 1.2)]
    more = evaluation(home / "evaluation", OURS, *others)
    found.sources, found.pictures, found.scores = more.sources, more.pictures, more.scores
    ledger = Ledger.read(home / "choice.json")
    ledger.picked |= {"step": 200}
    (home / "choice.json").write_text(ledger.to_json())
    assert "The numbers here are about it: step 200 at strength 0.8." in render(found, home).text


def test_without_a_run_nothing_is_said_to_be_recommended(home: Path):
    seen = render(full(home), home).text
    assert "Recommended" not in seen
    assert "The numbers here are" not in seen


def test_the_page_shows_the_numbers_of_choice_json(home: Path):
    random, ledger = np.random.default_rng(0), Ledger("exam", Scale((0.4, 0.9)))
    ledger.about = {"judge": "judges", "prompts": [f"a {{subject}} at {place}" for place in range(4)]}
    for order in ((0, 1.0), (100, 1.0), (200, 0.8), (200, 1.0), (300, 1.0)):
        ledger.put(Marks(*order, *(tuple(random.uniform(0.5, 1, 16).tolist()) for _ in range(2)), 0.01))
    gone = ledger.marks.pop((300, 1.0))  # its checkpoint is not kept
    final = Ranking([one for one in ledger.marks.values() if one.step], ledger.scale, 4)
    ledger.rank(final)
    ledger.put(gone.first(8))
    home.mkdir(exist_ok=True)
    (home / "choice.json").write_text(ledger.to_json())
    found = page_checkpoints.read(home, OURS)
    assert found is not None
    assert [source.label for source in found.sources[1:]] == ["step 100", "step 200 at strength 0.8", "step 200"]
    for source, row in zip(found.sources[1:], ledger.table, strict=True):
        for name, key in (("identity", "identity"), ("prompt accuracy", "prompt"), ("points", "points")):
            told = found.score(name, source.label)
            assert told is not None
            assert (round(told.value, 4), told.n) == (row[key], row["pictures"])


def test_a_command_says_what_was_asked_and_can_be_given_again():
    request = Request(
        quick=True, scorers=("personal", "clip_text"), sets=("class",), references=Path("my files/refs"), steps=12,
        strengths=(0.5, 1.0), out=Path("out dir"), prompts=Path("own.toml"), class_word="fox",
        options={"dino": {"encoder": "there"}},
    )  # fmt: skip
    line = shlex.split(again.command(["runs/rex", "a.safetensors"], request))
    assert line[:4] == ["studio", "evaluate", "runs/rex", "a.safetensors"]
    options = parse(Options, line[2:], "evaluate")
    assert options.sources == ("runs/rex", "a.safetensors")
    for name in ("quick", "references", "steps", "out", "prompts", "class_word"):
        assert getattr(options, name) == getattr(request, name)
    assert (options.scorers, options.sets, options.strength) == ("personal,clip_text", "class", (0.5, 1.0))
    assert options.option == ("dino.encoder=there",)
    assert again.command(["rex"], Request()) == "studio evaluate rex"


def test_a_card_repeats_the_command_without_the_places_of_this_machine(home: Path):
    found = full(home)
    assert "evaluation again" not in model_card.write(found, home / "evaluation", home / "README.md").read_text("utf-8")
    found.settings["command"] = again.command(["runs/rex"], Request(quick=True, references=Path("/srv/my own/refs")))
    card = model_card.write(found, home / "evaluation", home / "README.md").read_text("utf-8")
    assert "studio evaluate runs/rex --references '\N{HORIZONTAL ELLIPSIS}/refs' --quick\n" in card
    assert "/srv" not in card


def test_error_bars_that_would_hide_the_points_are_left_out(home: Path):
    some = [plots.Point(str(n), (n, -50, 50), (n, -50, 50)) for n in range(plots.MANY + 1)]
    assert 'class="bar' in plots.pareto(some[:-1], ("x", "y"))
    drawn = plots.pareto(some, ("x", "y"))
    assert 'class="bar' not in drawn
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    assert max(places) - min(places) > 250


@pytest.mark.parametrize("text", ["with --pick it", "a -- b", "<b>--pick</b>", "--pick", ""])
def test_a_flag_is_kept_on_one_line_and_the_words_stay(text: str):
    assert Read(str(page.whole(text))).text.replace(" ", "") == text.replace(" ", "")
    assert "<b>" not in page.whole(text)
    assert ('<span class="flag">--pick</span>' in page.whole(text)) == ("--pick" in text)


@pytest.mark.parametrize(
    "header", [{"step": "soon"}, {"strength": "2"}, {"step": "5", "strength": "x"}, {"step": None}]
)
def test_a_header_that_says_nothing_clear_is_no_checkpoint(home: Path, header: dict[str, Any]):
    found = chosen(home, None)
    found.settings["adapters"] = {"rex": header}
    assert "but about step 200 at strength 1;" in render(found, home).text
