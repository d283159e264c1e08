"""Files of strangers end in a value or in one of our one-line errors, whatever is in them.

120 fixed cases of each kind here. The long run, with fresh cases, is `STUDIO_FUZZ=10000 pytest tests/test_fuzz.py`;
`assets/benchmarks/fuzz.md` has its record.
"""

from __future__ import annotations

import json
import shutil
import time
import unicodedata
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from studio import registry
from studio.config import from_toml, make, to_toml
from studio.pipelines import backbone
from studio.pipelines.adapters import files, lora, lora_files
from studio.pipelines.data_check import check
from studio.pipelines.data_pictures import Pictures
from studio.pipelines.data_view import View
from studio.pipelines.errors import DataError, ModelError, UsageError
from tests.fuzzing import accept, anything, fuzz, mutated, pictures, reheaded

SEED = 20261121
KEYS = ["trainer", "model", "run", "runs", "seed", "steps", "lr", "data", "adapter", "folder", "targets", "rank", "x y"]
SMALL = b"""trainer = "dreambooth"
model = "toy"
seed = 3
[dreambooth]
lr = 1e-3
steps = 4
[dreambooth.adapter]
targets = "all"
rank = 2 # small
[dreambooth.data]
folder = "x"
"""
CAPTIONS = [b"a {trigger} dog\n", b"\xef\xbb\xbfein Hund", "ein Hund".encode("utf-16"), b"", b"a\x00b\x1b[31m"]
ROWS = [
    b'{"file_name": "a.png", "text": "a dog", "repeats": 2, "weight": 0.5}\n{"file_name": "../x"}\n',
    b'{"file_name": "a.png", "caption": "\\ud800 dog"}\n\n[1]\n',
]
TABLE = [b'file_name,text,weight\na.png,"a, dog",1\n', b"file_name;text\na.png;x\n"]
SIDES: Any = SimpleNamespace(pixels=8, multiple=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True, scope="module")
def quiet_and_quick() -> Iterator[None]:
    """Decoders may warn of what they read; a trainer's module is looked up once."""
    patch = pytest.MonkeyPatch()
    patch.setattr(registry, "trainer", lru_cache(registry.trainer))
    yield
    patch.undo()


settings_tree = st.dictionaries(
    st.sampled_from(KEYS), anything | st.dictionaries(st.sampled_from(KEYS), anything, max_size=4), max_size=5
)


@seed(SEED)
@fuzz
@given(content=mutated([SMALL] * 9 + [to_toml(make()).encode()]) | settings_tree)
def test_config_files(folder: Path, content: bytes | dict[str, Any]) -> None:
    path = folder / "config.toml"
    path.write_bytes(content if isinstance(content, bytes) else toml_of(content))
    config = accept(lambda: from_toml(path), UsageError)
    if config is not None:
        path.write_text(to_toml(config), encoding="utf-8")
        assert from_toml(path) == config


def toml_of(values: dict[str, Any]) -> bytes:
    """Values as a TOML text, near enough: what TOML has no word for, it has to refuse."""
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"[{json.dumps(key)}]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in value.items())]
    return "\n".join(lines).encode()


@seed(SEED)
@fuzz
@given(
    name=st.text(st.characters(blacklist_characters="/\0", codec="utf-8"), min_size=1, max_size=12),
    caption=mutated(CAPTIONS),
    rows=mutated(ROWS) | st.lists(anything).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    table=st.none() | mutated(TABLE),
)
def test_captions_and_metadata(folder: Path, name: str, caption: bytes, rows: bytes, table: bytes | None) -> None:
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    (data / "3_sks dog").mkdir(parents=True)
    for place in ("a.png", "3_sks dog/b.png"):
        (data / place).write_bytes(PICTURES["a.png"])
    (data / "a.txt").write_bytes(caption)
    (data / "metadata.jsonl").write_bytes(rows)
    if table is not None:
        (data / "3_sks dog" / "metadata.csv").write_bytes(table)
    if name.strip(".") and len(name.encode()) < 200:
        (data / "3_sks dog" / f"{name}.caption").write_bytes(caption)
    found: Any = accept(lambda: Pictures(folder=data).read(SIDES), DataError)
    if found is not None:
        assert all(speakable(example.caption) for example in found.examples)
        assert found.fingerprint()
        seen = {*(e.path for e in found.examples), *found.known, *(r.path for r in found.rejected)}
        assert {path for path in data.rglob("*") if path.is_file()} <= seen


def speakable(text: str) -> bool:
    """Whether a text is one line, can be encoded, and cannot steer a terminal."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)


@lru_cache(maxsize=1)
def adapters() -> tuple[Any, list[bytes]]:
    """The toy model, and adapter files of it in every format we read."""
    import tempfile

    model = backbone.load("toy")
    made = []
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.safetensors"
        for how in ({"rank": 2}, {"rank": 1, "dora": True}, {"rank": 2, "text_encoder": False, "rslora": True}):
            adapter = lora.Config(targets="attention", **how).build(model)
            made.append(files.save(model, adapter, path, {"trigger": "sks"}).read_bytes())
            if not lora_files.kohya_problem(model, adapter):
                made.append(lora_files.save_kohya(model, adapter, path).read_bytes())
            adapter.remove()
    return model, made


@seed(SEED)
@fuzz
@given(content=st.deferred(lambda: mutated(adapters()[1]) | reheaded(adapters()[1])))
def test_adapter_files(folder: Path, content: bytes) -> None:
    path, model = folder / "adapter.safetensors", adapters()[0]
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter: Any = accept(lambda: files.load(model, path), ModelError)
    if adapter is not None:
        assert all(tensor.isfinite().all() for tensor in adapter.state_dict().values())
        adapter.remove()
    assert model.adapter is None


PICTURES = pictures()


@seed(SEED)
@fuzz
@given(name=st.sampled_from(sorted(PICTURES)), content=mutated(list(PICTURES.values())), whole=st.booleans())
def test_picture_files(folder: Path, name: str, content: bytes, whole: bool) -> None:
    path, began = folder / name, time.monotonic()
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check(path)
        if isinstance(found, str):
            assert found.strip()
            assert "\n" not in found
        else:
            assert min(found.size) > 0
            example: Any = SimpleNamespace(path=path, content=found.content, size=found.size, mask=None)
            view = View(example, Pictures(), (8, 8), (0, 0, *found.size), False, "")
            pixels: Any = accept(view.pixels, DataError)
            assert pixels is None or pixels.isfinite().all()
    path.unlink()
    assert time.monotonic() - began < 20
