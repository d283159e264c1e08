"""What strangers' files and a person's secrets cannot do here; the list is .github/SECURITY.md's."""

from __future__ import annotations

import ast
import json
import os
import pickle
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from studio import cli, flags, pictures
from studio.config import from_toml, make
from studio.pipelines import assets, backbone, checkpoints, model_files, pickles
from studio.pipelines.adapters import files, reading
from studio.pipelines.confine import inside
from studio.pipelines.data_check import check
from studio.pipelines.data_pictures import Pictures
from studio.pipelines.errors import DataError, ModelError, UsageError
from studio.secrets import HIDDEN, redact
from studio.store import Store
from studio.train import train, trusted
from tests.sources import module_name, sources

OURS = [path for path in sources() if "world" not in path.parts]  # the world builder loads what it has just made
FORBIDDEN = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads", "yaml.load"}


def calls(path: Path) -> list[tuple[str, dict[str, str]]]:
    """(dotted name, keyword arguments as source) of every call in a file."""
    found = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    return [(ast.unparse(n.func), {k.arg: ast.unparse(k.value) for k in n.keywords if k.arg}) for n in found]


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_nothing_reaches_a_shell_or_runs_what_it_reads(path: Path) -> None:
    for name, given in calls(path):
        assert name not in FORBIDDEN, name
        assert given.get("shell", "False") == "False"
        assert given.get("trust_remote_code", "False") == "False"
        assert not name.endswith("torch.load") or given.get("weights_only") == "True"
        assert not name.startswith("os.exec")
        assert not name.startswith("os.spawn")


def test_networks_are_loaded_from_safetensors_only() -> None:
    loads = [(path.stem, name, given) for path in OURS for name, given in calls(path)]
    opened = {(where, name) for where, name, _ in loads if name.endswith((".from_pretrained", ".download"))}
    known = {("checkpoints", "pipeline.from_pretrained"), ("hub", "DiffusionPipeline.download")}
    # encoders/files.py puts use_safetensors into its options; a processor has no weights
    known |= {("files", "kind.from_pretrained"), ("loading", "processor.from_pretrained")}
    weightless = ("Tokenizer.from_pretrained", "config_class.from_pretrained")
    doors = {(where, name) for where, name in opened - known if not name.endswith(weightless)}
    assert not doors, "a new door: give it use_safetensors"


class Bomb:
    """Opening its pickle makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", sorted(pickles.SUFFIXES))
def test_pickled_weights_are_refused_unless_a_person_insists(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    torch.save({"unet.x.lora_A.weight": torch.ones(2)}, file)
    for door in (lambda: files.header(file), lambda: checkpoints.find(str(file))):
        with pytest.raises(ModelError, match=r"pickle can run code .* --allow-pickle"):
            door()
    with pickles.allowed():
        assert set(reading._open(file)[0]) == {"unet.x.lora_A.weight"}
    with pytest.raises(ModelError):
        files.header(file)


def test_an_allowed_pickle_still_runs_nothing(tmp_path: Path) -> None:
    file, proof = tmp_path / "weights.pt", tmp_path / "proof"
    file.write_bytes(pickle.dumps({"a": Bomb(proof)}))
    with pickles.allowed(), pytest.raises(ModelError):
        files.header(file)
    assert not proof.exists()


def test_a_config_cannot_allow_pickles(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    for text in ("allow_pickle = true", "[dreambooth]\nallow_pickle = true"):
        path.write_text(text)
        with pytest.raises(UsageError, match="no setting 'allow_pickle'"):
            from_toml(path)


def test_a_model_folder_cannot_name_code_or_files_elsewhere(tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["os", "system"]}
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="code of its own"):
        model_files.check_libraries(tmp_path, ())
    shards = tmp_path / "unet" / "x.safetensors.index.json"
    for name in ("../../x.safetensors", "/etc/passwd", "weights.bin"):
        shards.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ModelError, match="not a .safetensors file beside it"):
            model_files.tensors_on_disk(tmp_path / "unet")
    shards.unlink()
    torch.save({}, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match="--allow-pickle"):
        model_files.tensors_on_disk(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text(json.dumps({"../unet": ["diffusers", "UNet2DConditionModel"]}))
    with pytest.raises(ModelError, match="no component's name"):
        list(model_files.component_weights(tmp_path))


def test_a_models_advice_cannot_name_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "model_path", lambda model: tmp_path)
    (tmp_path / "studio.toml").write_text('[settings.data]\nfolder = "/home"')
    with pytest.raises(UsageError, match="a model may not name files"):
        make(flags={"model": "x"})


HEADERS = {
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "a nested header": (lambda text: struct.pack("<Q", len(text)) + text)(b"[" * 10**6),
    "offsets past the end": (lambda text: struct.pack("<Q", len(text)) + text)(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "a shape larger than its bytes": (lambda text: struct.pack("<Q", len(text)) + text + bytes(8))(
        b'{"a":{"dtype":"F32","shape":[9999999999,9999999999],"data_offsets":[0,8]}}'
    ),
    "a shape of nothing": (lambda text: struct.pack("<Q", len(text)) + text)(
        b'{"a":{"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[0,0]}}'
    ),
}


@pytest.mark.parametrize("what", HEADERS)
def test_header_bombs_are_one_line(what: str, tmp_path: Path) -> None:
    file, model, began = tmp_path / "x.safetensors", backbone.load("toy"), time.monotonic()
    file.write_bytes(HEADERS[what])
    for door in (lambda: files.load(model, file), lambda: checkpoints.find(str(file))):
        with pytest.raises(ModelError) as error:
            door()
        assert "\n" not in str(error.value)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("field", [reading.HEADER, reading.OURS])
@pytest.mark.parametrize(
    "value", ["[" * 10**5, "[]", "{", '{"unet.lora_alpha": -1}', '{"unet.lora_alpha": []}', "9" * 5000]
)
def test_damaged_metadata_is_one_line(field: str, value: str, tmp_path: Path) -> None:
    file, model = tmp_path / "x.safetensors", backbone.load("toy")
    name = "unet.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.zeros(2, 16), f"{name}.lora_B.weight": torch.zeros(16, 2)}
    save_file(tensors, file, metadata={field: value})
    with pytest.raises(ModelError) as error:
        files.load(model, file)
    assert "\n" not in str(error.value)
    assert model.adapter is None


def test_a_pattern_from_a_file_is_no_regular_expression(tmp_path: Path) -> None:
    """peft runs alpha patterns as expressions: this one would take until the end of the world."""
    file, model, name = tmp_path / "x.safetensors", backbone.load("toy"), "unet.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.zeros(2, 16), f"{name}.lora_B.weight": torch.zeros(16, 2)}
    header = {"unet.alpha_pattern": {r"(([a-z0-9_.])+)+!": 4, "^attn1.to_q": 6}, "unet.lora_alpha": 2}
    save_file(tensors, file, metadata={reading.HEADER: json.dumps(header)})
    adapter = files.load(model, file)
    assert adapter.scales() == {name: 3.0}


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "", "a\0b", "a\nb", "..", "C:\\x", "..\\x", "out/x"]
)
def test_names_out_of_files_stay_inside(name: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    with pytest.raises(DataError, match=r"^list\.txt: .*; name a file below"):
        inside(tmp_path / "root", name, DataError, "list.txt")
    assert inside(tmp_path / "root", "a/b.png") == tmp_path / "root" / "a" / "b.png"


def test_a_run_cannot_be_named_out_of_its_folder(tmp_path: Path) -> None:
    for name in ("../x", "/tmp/x", "a/b", "..", ".hidden", "-x", "a\nb"):
        with pytest.raises(UsageError):
            Store(tmp_path).create(make(flags={"run": name}))
    assert not list(tmp_path.iterdir())


def test_a_config_does_not_choose_where_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, away = tmp_path / "here", tmp_path / "away"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "theirs.toml").write_text(f'runs = "{away}"')
    with pytest.raises(UsageError, match="neither here nor beside it"):
        flags.read(["theirs.toml"])
    assert flags.read(["theirs.toml", "--runs", str(away)])[0].runs == away
    run = Store(away).create(make(flags={"run": "a"}))
    assert flags.read([str(run.config_file)])[0].runs == away


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    return folder


def test_captions_do_not_leave_the_data_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the password is violet")
    (data / "a.txt").symlink_to(tmp_path / "secret.txt")
    rows = [{"file_name": name, "text": "x"} for name in ("../secret.txt", str(tmp_path / "secret.txt"), "a\0.png")]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listing = Pictures(folder=data).listing()
    assert [found.caption for found in listing.found] == [""]
    reasons = " ".join(rejected.reason for rejected in listing.rejected)
    assert "a link that leads out of the folder" in reasons
    assert reasons.count("points outside the folder") == 2
    assert "violet" not in str(listing)


def test_a_set_of_links_may_have_its_captions(data: Path, tmp_path: Path) -> None:
    (data / "a.txt").write_text("a fox")
    links = tmp_path / "links"
    links.mkdir()
    for name in ("a.png", "a.txt"):
        (links / name).symlink_to(data / name)
    assert [found.caption for found in Pictures(folder=links).listing().found] == ["a fox"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], *extra: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


NOTHING = zlib.compress(bytes(3 * 10**7))
BOMBS = {
    "pixels.png": png((60000, 60000)),
    "text.png": png((8, 8), chunk(b"zTXt", b"a\0\0" + NOTHING)),
    "profile.png": png((8, 8), chunk(b"iCCP", b"a\0\0" + NOTHING)),
    "exif.png": png((8, 8), chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff\xff" + bytes(10**6))),
    "data.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    + chunk(b"IDAT", NOTHING) + chunk(b"IEND", b""),
    "frames.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b",",
    "grey.pgm": b"P5 99999 99999 255\n" + bytes(100),
    "huge.tif": b"II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHII", 256, 4, 1, 99999, 257, 4, 1, 99999) + bytes(4),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_picture_bombs_cost_nothing(name: str, tmp_path: Path) -> None:
    import resource

    path, began = tmp_path / name, time.monotonic()
    path.write_bytes(BOMBS[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = check(path)
    assert isinstance(found, str) or found.size == (8, 8)
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # kB


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        "a = " + "{a=" * 2000,
        "x." * 5000 + "a = 1",
        "seed = " + "9" * 5000,
        "[a]\na=1\n[a]",
        "a = 1e999",
    ],
)
def test_hostile_configs_are_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(text)
    assert cli.run(["train", "x.toml", "--dry-run"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert len(err) < 1000


SECRETS = {
    "token hf_AbCdEfGhIjKlMnOpQrStUvWx refused": "AbCdEf",
    "https://anna:s3cr3t-pass@host/x": "s3cr3t",
    "https://host/x?token=abcdefgh1234&a=1": "abcdefgh1234",
    "http://judge:8/score?key=abcdefgh1234": "abcdefgh1234",
    "http://judge:8/score?style=ink&apikey=abcdefgh1234": "abcdefgh1234",
    "('2*https://judge/score?X-Api-Key=abcdefgh1234',)": "abcdefgh1234",
    "http://judge:8/score?my_secret=abcdefgh1234#top": "abcdefgh1234",
    "Authorization: Bearer abcdef.ghijkl-mnop": "ghijkl",
    "WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567": "0123456789",
    "id AKIAABCDEFGHIJKLMNOP": "AKIAA",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789": "abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijk": "eyJz",
}


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_known_by_their_looks(text: str) -> None:
    assert HIDDEN in redact(text)
    assert SECRETS[text] not in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", ["http://judge/a?monkey=3&style=ink", "is it key=value?", "a red fox? token!"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_ordinary_words_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-value")
    monkeypatch.setenv("MY_TOKEN", "short")
    for text in ("a short false-value", "step 3: loss 0.1, lr 1e-4", "http://host:80/path", "7e75a991c02f" * 3):
        assert redact(text) == text
    monkeypatch.setenv("WANDB_API_KEY", "a-key-that-looks-like-nothing")
    assert redact("x a-key-that-looks-like-nothing y") == f"x {HIDDEN} y"


def test_a_configs_paths_do_not_climb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = {
        "data.folder": 'trainer = "dreambooth"\n[dreambooth.data]\nfolder = "../secret"\n',
        "prior.folder": 'trainer = "dreambooth"\n[dreambooth.prior]\nfolder = "a/../../secret"\n',
        "model": 'trainer = "dreambooth"\nmodel = "../secret"\n',
    }
    for name, text in lines.items():
        (tmp_path / "c.toml").write_text(text)
        with pytest.raises(UsageError, match=rf"{name} = '.*' climbs out"):
            flags.read(["c.toml"])
    (tmp_path / "c.toml").write_text(lines["data.folder"])
    assert flags.read(["c.toml", "--data", "../mine"])[0].settings.data.folder == Path("../mine")
    (tmp_path / "c.toml").write_text(lines["data.folder"].replace("../secret", str(tmp_path / "mine")))
    assert flags.read(["c.toml"])[0].settings.data.folder == tmp_path / "mine"


def test_with_roots_nothing_outside_of_them_is_opened(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    Image.new("RGB", (16, 16)).save(away / "private.png")
    (data / "link.png").symlink_to(away / "private.png")
    (data / "links").symlink_to(away, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    before = Pictures(folder=data).listing()
    assert len(before.found) == 3
    monkeypatch.setenv("STUDIO_ROOTS", f"{data}:{tmp_path / 'runs'}".replace(":", os.pathsep))
    listing = Pictures(folder=data).listing()
    assert [found.path.name for found in listing.found] == ["a.png"]
    assert sorted(rejected.path.name for rejected in listing.rejected) == ["link.png", "links"]
    with pytest.raises(DataError, match="outside of .*STUDIO_ROOTS"):
        Pictures(folder=away).listing()
    for wrong in ({"model": str(away)}, {"runs": away}, {"settings": {"data": {"folder": away}}}):
        right = {"model": "toy", "runs": tmp_path / "runs", "settings": {"data": {"folder": data}}}
        with pytest.raises(UsageError, match="STUDIO_ROOTS"):
            trusted(make(flags={**right, **wrong}))
    assert trusted(make(flags=right)).model == "toy"
    with pytest.raises(ModelError, match="STUDIO_ROOTS"):
        backbone.load(str(away))
    assert Pictures(folder=assets.assets_folder() / "subjects" / "fox" / "train").listing().found


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("plan dreambooth --model toy --data AWAY", "data.folder"),
        ("plan dreambooth --model toy --data DATA --runs AWAY", "runs"),
        ("check-data DATA --model toy --contact-sheet AWAY/sheet.png", "--contact-sheet"),
        ("report one --out AWAY/x.zip", "--out"),
        ("evaluate one --out AWAY", "--out"),
        ("evaluate one --prompts AWAY/p.toml", "--prompts"),
        ("evaluate one --references AWAY", "--references"),
    ],
)
def test_with_roots_a_commands_files_lie_in_them_too(
    words: str,
    what: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    away, inside = tmp_path / "away", tmp_path / "inside"
    for folder in (away, inside):
        folder.mkdir()
    monkeypatch.chdir(inside)
    monkeypatch.setenv("STUDIO_ROOTS", os.pathsep.join(map(str, (data, inside))))
    assert cli.run(words.replace("DATA", str(data)).replace("AWAY", str(away)).split()) in (2, 3)
    out, err = capsys.readouterr()
    assert f"{what} = " in err
    assert "STUDIO_ROOTS" in err
    assert (out, err.count("\n")) == ("", 1)
    assert not [*away.iterdir(), *inside.iterdir()]


def test_a_secret_in_a_config_is_refused_before_anything_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
    for settings in ({"previews": {"prompts": [f"a fox {token}"]}}, {"data": {"folder": data, "trigger": token}}):
        with pytest.raises(UsageError, match="looks like a password or a token") as said:
            train(make(flags={"model": "toy", "runs": tmp_path / "runs", "settings": settings}))
        assert token not in str(said.value)
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv("WANDB_API_KEY", "correct horse battery staple")
    with pytest.raises(UsageError, match="data.class_word"):
        trusted(make(flags={"settings": {"data": {"class_word": "correct horse battery staple"}}}))
    saved = pictures.save(Image.new("RGB", (8, 8)), tmp_path / "a.png", prompt=f"a fox {token}")
    assert token.encode() not in saved.read_bytes()
