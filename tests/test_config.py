"""Flags, files and defaults end in one object, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomlkit
from pydantic import ValidationError

from studio import flags, registry
from studio.config import RunConfig, flat, from_toml, make, to_toml, update_toml
from studio.mistakes import keys
from studio.pipelines import assets
from studio.pipelines.errors import UsageError


def config(*args: str) -> RunConfig:
    return flags.read(args)[0]


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", registry.names("trainers"))
def test_toml_written_and_read_gives_an_equal_config(name: str, tmp_path: Path):
    before = make(name)
    assert from_toml(written(tmp_path, to_toml(before))) == before


@pytest.mark.parametrize("name", registry.names("trainers"))
def test_a_written_file_has_every_setting_with_its_description(name: str):
    text = to_toml(make(name))
    table = tomlkit.parse(text).unwrap()
    for key, field in type(make(name).settings).model_fields.items():
        assert key in table[name]
        assert " ".join((field.description or "?").split()) in text


@pytest.mark.parametrize(
    "trigger", ['a "quoted" one', "two\nlines", "tab\t", "snow ☃", "back\\slash", "'", "# no comment", ""]
)
def test_any_text_survives_a_file(trigger: str, tmp_path: Path):
    before = make(flags={"settings": {"data": {"trigger": trigger}}})
    assert from_toml(written(tmp_path, to_toml(before))) == before


def test_flags_and_file_end_in_the_same_object(tmp_path: Path):
    file = written(
        tmp_path, '[dreambooth]\nlr = 2e-4\n[dreambooth.adapter]\nrank = 4\n[dreambooth.data]\nfolder = "dog"'
    )
    assert config("dreambooth", "--data", "dog", "--lr", "2e-4", "--rank", "4") == config(str(file))


def test_nothing_at_all_is_the_demo():
    assert config() == from_toml(flags.demo())
    assert config().model == "embedded"


def test_later_layers_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    advice = {"settings": {"lr": 3e-3, "steps": 7, "batch": 2}, "dreambooth": {"steps": 8}}
    monkeypatch.setattr(assets, "recommended", lambda model: advice if model == "toy" else {})
    file = written(tmp_path, 'model = "toy"\n[dreambooth]\nsteps = 9\nclip = 0.5')
    settings = config(str(file), "--clip", "0.25").settings
    assert (settings.lr, settings.batch, settings.steps, settings.clip) == (3e-3, 2, 9, 0.25)
    assert config("dreambooth", "--model", "toy").settings.steps == 8
    assert config("dreambooth", "--model=toy", "--steps", "3").settings.steps == 3
    assert config("dreambooth", "--model", "another").settings.steps == make().settings.steps


def test_every_alias_names_a_setting():
    known = {key.replace("_", "-") for key in keys(type(make().settings))}
    assert set(flags.ALIASES.values()) <= known


def test_a_flag_for_every_setting(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        config("dreambooth", "--help")
    assert not end.value.code
    text = capsys.readouterr().out
    plain = [key for key in flat(make()) if key != "trainer"]
    assert all(f"--{key.removeprefix('settings.').replace('_', '-')}" in text for key in plain)


def test_updating_keeps_comments_order_and_dotted_keys(tmp_path: Path):
    text = '# mine\nmodel = "toy"  # small\n\n[dreambooth]\n# slow\nlr = 1e-4\nadapter.rank = 4\n' + "clip = 1.0 # hard"
    new = make(flags={"model": "toy", "seed": 5, "settings": {"lr": 2e-4, "adapter": {"rank": 4}}})
    updated = update_toml(text, new)
    for kept in ("# mine", '"toy"  # small', "# slow", "clip = 1.0 # hard"):
        assert kept in updated
    assert updated.index("# slow") < updated.index("adapter") < updated.index("clip")
    assert from_toml(written(tmp_path, updated)) == new
    assert update_toml(updated, new) == updated


def test_updating_an_inline_table_stays_toml(tmp_path: Path):
    new = make(flags={"settings": {"adapter": {"rank": 2}}})
    updated = update_toml("[dreambooth]\nadapter = {rank = 4, alpha = 2.0} # short\n", new)
    assert from_toml(written(tmp_path, updated)) == new


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[dreambooth]\nrnak = 3", r"\[dreambooth\] has no setting 'rnak'; did you mean 'adapter.rank'\?"),
        (
            "[dreambooth.adapter]\nrnk = 3",
            r"\[dreambooth.adapter\] has no setting 'rnk'; did you mean 'adapter.rank'\?",
        ),
        ("sede = 3", "has no setting 'sede'; did you mean 'seed'"),
        ("[dreambooth]\nsteps = 0", r"\[dreambooth\] steps = 0: .*greater than or equal to 1"),
        ("[dreambooth]\nlr = 'fast'", r"\[dreambooth\] lr = 'fast': .*number"),
        ("[dreambooth]\nadapter = 3", r"\[dreambooth\] adapter = 3"),
        ("seed = -1", "seed = -1: .*greater than or equal to 0"),
        ("trainer = 'dreamboth'", "did you mean 'dreambooth'"),
        ("trainer = 'dreambooth'\n[dco]\nbeta = 1", r"there is a table \[dco\], but trainer = 'dreambooth'"),
        ("[dreambooth", "not TOML"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(tmp_path: Path, text: str, line: str):
    file = written(tmp_path, text)
    with pytest.raises(UsageError, match=line) as caught:
        from_toml(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--rnak", "3"], "did you mean '--rank'"),
        (["--adapter.rnak=3"], "did you mean '--adapter.rank'"),
        (["--steps", "0"], r"--steps = 0: .*greater than or equal to 1"),
        (["--rank", "0"], r"--adapter.rank = 0: .*greater than or equal to 1"),
        (["--steps", "many"], "--steps = 'many'"),
        (["--seed", "-1"], "seed = -1: .*greater than or equal to 0"),
        (["stray"], "stray"),
        (["--steps"], "--steps"),
        (["--precision", "fp12"], "fp12"),
    ],
)
def test_a_mistake_in_a_flag_is_one_line_that_names_it(args: list[str], line: str):
    with pytest.raises(UsageError, match=line) as caught:
        config("dreambooth", *args)
    assert "\n" not in str(caught.value)
    assert "│" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00broken"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None):
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"run\.toml"):
        from_toml(path)


def test_a_config_is_frozen():
    with pytest.raises(ValidationError):
        make().seed = 3  # type: ignore[misc]


def test_settings_of_another_trainer_are_refused():
    from studio.trainers.base import Settings

    with pytest.raises(UsageError, match="not one of the trainer's"):
        RunConfig(trainer="dreambooth", settings=Settings())


def test_resolved_paths_are_absolute_and_schemes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    found = config("dreambooth", "--data", "dog", "--model", "weights").resolved("name", Path("runs"))
    assert found.settings.data.folder == tmp_path / "dog"
    assert found.model == str(tmp_path / "weights")
    assert found.runs == tmp_path / "runs"
    demo = config("dreambooth", "--data", "subject:fox").resolved("name", Path("runs"))
    assert str(demo.settings.data.folder) == "subject:fox"


@pytest.mark.parametrize(
    ("args", "subject"),
    [
        (["--data", "my dogs/Rex 2/"], "rex-2"),
        (["--data", "subject:fox"], "fox"),
        (["--class-word", "dog"], "dog"),
        ([], "pictures"),
    ],
)
def test_the_subject_is_what_the_data_is_called(args: list[str], subject: str):
    assert config("dreambooth", *args).subject() == subject


def test_a_mistake_between_two_settings_names_them_and_no_flag():
    with pytest.raises(UsageError) as caught:
        config("tlora", "--adapter.rank", "4", "--adapter.r-min", "9")
    assert str(caught.value).startswith("r_min is 9")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--sampler-steps", "3"], ("lcm", 3, 1.0)),
        (["--sampler=tcd", "--sampler_steps=2"], ("tcd", 2, 1.0)),
        (["--sampler-steps", "3", "--previews.steps", "6"], ("lcm", 6, 1.0)),
        (["--previews.sampler", "auto"], ("auto", 4, 1.0)),
    ],
)
def test_previews_follow_the_flags_that_say_how_a_run_draws(args: list[str], expected: tuple[str, int, float]):
    previews = config("rlcm", "--reward.terms", "jpeg-size", *args).settings.previews
    assert (previews.sampler, previews.steps, previews.guidance_scale) == expected


def test_a_wrong_sampler_is_told_by_the_flag_that_it_came_with():
    with pytest.raises(UsageError, match=r"^--sampler-steps = 1: "):
        config("rlcm", "--reward.terms", "jpeg-size", "--sampler-steps", "1")
