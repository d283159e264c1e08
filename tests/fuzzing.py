"""What fuzz tests share: how many cases, mutations of bytes, and mutations of a safetensors header."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("STUDIO_FUZZ", "120"))
Edit = Callable[[bytes], bytes]

fuzz = settings(
    max_examples=CASES,
    derandomize=CASES <= 1000,  # the same cases on every machine; the long run draws new ones
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
places = st.integers(0, 2**20)


def flip(place: int, bit: int) -> Edit:
    return lambda data: (
        data[: (i := place % len(data))] + bytes([data[i] ^ (1 << bit)]) + data[i + 1 :] if data else data
    )


def put(place: int, new: bytes) -> Edit:
    return lambda data: data[: (i := place % (len(data) + 1))] + new + data[i + len(new) :]


def insert(place: int, new: bytes) -> Edit:
    return lambda data: data[: (i := place % (len(data) + 1))] + new + data[i:]


def cut(place: int, length: int) -> Edit:
    return lambda data: data[: (i := place % (len(data) + 1))] + data[i + length :]


def stop(place: int) -> Edit:
    return lambda data: data[: place % (len(data) + 1)]


edits = st.one_of(
    st.builds(flip, places, st.integers(0, 7)),
    st.builds(put, places, st.binary(min_size=1, max_size=8)),
    st.builds(insert, places, st.binary(min_size=1, max_size=16)),
    st.builds(cut, places, st.integers(1, 64)),
    st.builds(stop, places),
)


def mutated(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """A valid file with one to four edits, two files spliced, or plain noise."""

    def edited(seed: bytes, changes: list[Edit]) -> bytes:
        for change in changes:
            seed = change(seed)
        return seed

    def spliced(one: bytes, other: bytes, place: int) -> bytes:
        return one[: place % (len(one) + 1)] + other[place % (len(other) + 1) :]

    chosen = st.sampled_from(list(seeds))
    return st.one_of(
        st.builds(edited, chosen, st.lists(edits, min_size=1, max_size=4)),
        st.builds(spliced, chosen, chosen, places),
        st.binary(max_size=256),
    )


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors' bytes of a safetensors file."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(header: Any, body: bytes, length: int | None = None) -> bytes:
    """A safetensors file; length: what it says its header's length is."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@st.composite
def reheaded(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A safetensors file whose header was changed as JSON: types, shapes, offsets, names, metadata."""
    header, body = header_of(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(sorted(header)))
        entry = header[key]
        kind = draw(st.sampled_from(["drop", "replace", "rename", "field", "field", "field", "field"]))
        if kind == "drop":
            header.pop(key)
        elif kind == "replace":
            header[key] = draw(anything)
        elif kind == "rename":
            other = draw(st.sampled_from([*sorted(header), "unet.", "lora_A.weight", "x"]))
            header[draw(st.sampled_from([key + ".x", key[1:], other, draw(st.text(max_size=8))]))] = header.pop(key)
        elif isinstance(entry, dict) and entry:
            field = draw(st.sampled_from(sorted(entry)))
            entry[field] = draw(changed(field, entry[field]))
        if not header:
            break
    return with_header(header, body, draw(st.none() | st.integers(0, 2**64 - 1)) if draw(st.booleans()) else None)


def changed(field: str, old: Any) -> st.SearchStrategy[Any]:
    """Another value for a field of a header's entry."""
    if field == "dtype":
        return (
            st.sampled_from(["F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "X"]) | anything
        )
    if field in ("shape", "data_offsets"):
        return st.lists(st.integers(-1, 40) | st.integers(-1, 2**64), max_size=5) | anything
    text = old if isinstance(old, str) else ""
    numbers = st.sampled_from(["-1", "0", "1e400", "null", "[]", "{}", "true", '"x"', "9" * 50, "NaN"])
    swapped = st.builds(lambda a, b: text.replace(a, b, 1), st.sampled_from(list(text[:200]) or ["x"]), numbers)
    nested = st.integers(1, 3).map(lambda n: "[" * 10**n)
    return st.one_of(swapped, nested, st.text(max_size=20), anything.map(json.dumps), anything)


def accept(target: Callable[[], object], allowed: type[Exception]) -> object | None:
    """The result, or None where an allowed error was raised: in one line that says something. All else is a bug."""
    try:
        return target()
    except allowed as error:
        said = str(error)
        assert said.strip()
        assert "\n" not in said.strip(), said
        assert len(said) < 3000, said
        return None


def pictures() -> dict[str, bytes]:
    """Tiny valid pictures of every kind: modes, transparency, EXIF, text, palettes, many frames."""
    from io import BytesIO

    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8))
    exif, text = Image.Exif(), PngInfo()
    exif[0x0112] = 6
    text.add_text("prompt", "a cat " * 20, zip=True)
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("a.png", noise.convert("RGBA"), {"pnginfo": text}),
        ("b.png", noise.convert("P"), {"transparency": 3}),
        ("c.png", Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10) * 500), {}),
        ("d.jpg", noise, {"exif": exif, "quality": 60}),
        ("e.jpg", noise.convert("CMYK"), {"progressive": True}),
        ("f.gif", noise.convert("P"), {"save_all": True, "append_images": [noise.convert("P").rotate(90)] * 2}),
        ("g.tif", noise, {"save_all": True, "append_images": [noise.rotate(90)], "compression": "tiff_lzw"}),
        ("h.tif", noise.convert("F"), {}),
        ("i.webp", noise.convert("RGBA"), {"lossless": True}),
        ("j.bmp", noise, {}),
        ("k.ppm", noise, {}),
        ("l.tga", noise, {"compression": "tga_rle"}),
        ("m.jp2", noise, {}),
        ("n.avif", noise, {}),
    ]
    made = {}
    for name, image, how in kinds:
        file = BytesIO()
        image.save(file, format={"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(Path(name).suffix[1:]) or
                   Path(name).suffix[1:].upper(), **how)  # fmt: skip
        made[name] = file.getvalue()
    return made
