"""What a term of a reward means, and which scorer it names."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from studio.pipelines.errors import UsageError
from studio.pipelines.rewards import Rewards, build
from studio.pipelines.rewards_find import FOLDER, find, literal, numbers
from studio.pipelines.rewards_terms import parse, spelled
from tests.plugins import install
from tests.reward_functions import SCORER
from tests.scorer_cases import CASES, CPU, built

SINGLE = torch.float32


@pytest.mark.parametrize(
    ("text", "weight", "name", "given", "label"),
    [
        ("hps", 1, "hps", {}, "hps"),
        ("0.5*hps", 0.5, "hps", {}, "hps"),
        (" -1 * jpeg_size ", -1, "jpeg_size", {}, "jpeg-size"),
        ("+.5e1*JPEG soft bits", 5, "JPEG soft bits", {}, "jpeg-soft-bits"),
        ("2*embedded-wish(wish=colour=teal)", 2, "embedded-wish", {"wish": "colour=teal"}, None),
        ('ocr( encoder = "a, b" , revision=)', 1, "ocr", {"encoder": "a, b", "revision": ""}, None),
        ("hps-v2.1()", 1, "hps-v2.1", {}, "hps-v2.1"),
        ("3*my.own_rewards:cute", 3, "my.own_rewards:cute", {}, "my.own_rewards:cute"),
        ("-2*https://judge:8/a?key=secret", -2, "https://judge:8/a?key=secret", {}, None),
        ("http://judge/a/", 1, "http://judge/a/", {}, "judge/a"),
        ("http://judge:8001/a", 1, "http://judge:8001/a", {}, "judge:8001/a"),
        ("https://[::1]:8/a", 1, "https://[::1]:8/a", {}, "https://[::1]:8/a"),
    ],
)
def test_a_term_is_weight_name_and_settings(text: str, weight: float, name: str, given: dict[str, str], label: str):
    term = parse(text)
    assert (term.weight, term.name, term.settings) == (weight, name, given)
    assert label is None or term.label == label
    if term.kind != "remote":
        again = parse(term.label)
        assert (again.weight, again.label) == (1, term.label)


def test_judges_on_one_host_are_told_apart_and_no_label_holds_a_key():
    judges = [f"{scheme}://judge{port}/a{query}" for scheme in ("http", "https") for port in ("", ":8", ":9")
              for query in ("", "?style=ink", "?k=a1b2c3")]  # fmt: skip
    terms = [parse(text) for text in Rewards(terms=tuple(judges)).terms]
    assert len({term.label for term in terms}) == len(judges)
    assert not [term for term in terms if "a1b2c3" in term.label + term.said]
    for text in ("ftp://judge/a?k=a1b2c3", "http://judge:port/a?k=a1b2c3"):
        with pytest.raises(ValueError, match="judge") as caught:
            parse(text)
        assert "a1b2c3" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no term of a reward"),
        ("0*hps", "leave the term out"),
        ("1e999*hps", "the weight"),
        ("hps(version)", "is no further setting=value"),
        ("hps(version=v2.0, version=v2.1)", "is no further setting=value"),
        ('hps(version="v2.0)', "is no further setting=value"),
        ("2*3*hps", "is no term"),
        ("os.system('x'):y", "is no term"),
        ("file:///etc/passwd", "http:// or https://"),
        ("ftp://judge/a", "http:// or https://"),
        ("http://", "with a host"),
        ("http://me:word@judge/a", "a name or a password"),
        ("http://judge:port/a", "is no address"),
    ],
)
def test_what_is_no_term_is_refused_with_the_reason(text: str, reason: str):
    with pytest.raises(ValidationError) as caught:
        Rewards(terms=(text,))
    (error,) = caught.value.errors()
    assert reason in error["msg"]
    assert "\n" not in error["msg"]
    assert "word" not in error["msg"] or "password" in error["msg"]


@given(st.text(max_size=40) | st.from_regex(r"[-+]?[0-9.]*\*?[a-zA-Z _:/-]*(\([a-z]=[^)]*\))?", fullmatch=True))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_term_that_its_label_says_again_or_a_sentence(text: str):
    with suppress(ValueError):
        term = parse(text)
        assert term.kind == "remote" or parse(term.label).label == term.label


def test_a_term_that_comes_twice_and_a_target_that_moves_are_refused():
    for terms, more, reason in (
        (("hps", "2*HPS"), {}, "'hps' is given twice"),
        (("hps", "dino"), {"target": 1.0}, "set standardise to no"),
        (("hps",), {"target": 1.0, "standardise": "yes"}, "set standardise to no"),
    ):
        with pytest.raises(ValidationError, match=reason):
            Rewards(terms=terms, **more)
    assert Rewards(terms=("hps(version=v2.0)", "hps")).standardised
    assert not Rewards(terms=("hps",), target=0.3).standardised


@pytest.mark.parametrize("name", CASES)
def test_every_file_says_which_numbers_it_gives(name: str, tmp_path: Path):
    said = literal(FOLDER / f"{name}.py")
    given = [spelled(scorer.about.name) for scorer in built(name, tmp_path)]
    assert given
    assert set(given) <= set(said), f"NUMBERS of {name}.py"
    assert all(numbers()[number] == f"studio.pipelines.scorers.{name}" for number in said)
    assert numbers()[spelled(name)].startswith("studio.pipelines.scorers.")


def test_numbers_are_each_one_files():
    said = [number for path in FOLDER.glob("*.py") for number in literal(path)]
    assert len(said) == len(set(said))
    assert all(number == spelled(number) for number in said)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hsp", "did you mean 'hps'"),
        ("jpeg", "gives jpeg-size, jpeg-soft-bits: name one"),
        (
            "embedded-wish",
            r"embedded_rewards gives embedded-stated: embedded-wish needs wish, e.g. embedded-wish\(wish=colour=teal\)",
        ),
        ("detector", r"detector gives nothing: detector needs label, e.g. detector\(label=dog\)"),
        ("detector(form=present)", r"e.g. detector\(form=present, label=dog\)"),
        ("hps-v2.0", r"hps gives hps-v2.1: hps-v2.0 needs version, e.g. hps-v2.0\(version=v2.0\)"),
        ("jpeg-size(qualty=3)", "no setting 'qualty'; did you mean 'quality'"),
        ("jpeg-size(quality=high)", "quality: Input should be a valid integer"),
        ("jpeg-size(quality=101)", "quality: Input should be less than or equal to 100"),
        ("embedded-wish(wish=color=teal)", "did you mean 'colour'"),
        ("embedded-wish(wish=colour=tael)", "did you mean 'teal'"),
        ("frechet", "one number of a whole set"),
        ("embedded-prompt(encoder=/nowhere)", "no judges in /nowhere"),
    ],
)
def test_what_cannot_be_a_reward_is_refused_in_one_line(text: str, reason: str):
    with pytest.raises(Exception, match=reason) as caught:
        build(Rewards(terms=(text,)), CPU, SINGLE)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code in (2, 6)  # type: ignore[attr-defined]


def test_settings_reach_the_scorer_and_files_stand_for_their_only_number():
    scorer = find(parse("jpeg size(quality=10)"), CPU, SINGLE)
    assert "quality 10" in scorer.about.preprocessing
    for text in ("hps(version=v2.0)", "hps-v2.0(version=v2.0)"):
        assert find(parse(text), CPU, SINGLE).about.name == "hps-v2.0"
    assert find(parse("clip_image"), CPU, SINGLE).about.name == "clip-i"


def test_nothing_wished_for_is_refused():
    with pytest.raises(UsageError, match=r"reward\.terms is empty"):
        build(Rewards(), CPU, SINGLE)


def test_scorers_of_others_come_by_entry_point_and_a_broken_one_costs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(install(tmp_path, "gap", SCORER, "studio.scorers", module="studio_gap_terms"))
    install(tmp_path, "burst", "raise OSError('first\\nsecond')", "studio.scorers")
    install(tmp_path, "hollow", "Config = None", "studio.scorers")
    assert find(parse("2*gap(factor=3)"), CPU, SINGLE).about.better == "lower"
    assert find(parse("jpeg-size"), CPU, SINGLE).about.unit == "kB"
    for name, reason in (("burst", "studio_burst does not import: first second"), ("hollow", "has no 'build'")):
        with pytest.raises(UsageError, match=reason):
            find(parse(name), CPU, SINGLE)


def test_where_strangers_say_what_runs_no_code_is_imported_and_nothing_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STUDIO_ROOTS", str(tmp_path / "open"))
    for text in ("tests.reward_functions:brightness", "http://127.0.0.1/judge"):
        with pytest.raises(UsageError, match="STUDIO_ROOTS"):
            build(Rewards(terms=(text,)), CPU, SINGLE)
    for text in (f"dino(encoder={tmp_path})", f'clip-t(encoder="{tmp_path}/open/../")'):
        (tmp_path / "open").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=r"outside of .* \(STUDIO_ROOTS\)"):
            build(Rewards(terms=(text,)), CPU, SINGLE)
    assert build(Rewards(terms=(f"dino(encoder={tmp_path / 'open'})", "jpeg-size")), CPU, SINGLE).names
