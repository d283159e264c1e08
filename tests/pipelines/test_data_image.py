"""Laws of opening a picture: upright, and RGB whatever it was."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from studio.pipelines import data_check, data_image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    upright = np.zeros((48, 80, 3), np.uint8)
    upright[:, :40, 0] = upright[:24, :, 1] = 255
    stored = Image.fromarray(upright)
    undo = {
        2: (0,),
        3: (3,),
        4: (1,),
        5: (5,),
        6: (2,),
        7: (6,),
        8: (4,),
    }  # PIL transpositions that un-turn it
    for method in undo.get(orientation, ()):
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    checked = data_check.check(tmp_path / "a.png")
    assert not isinstance(checked, str)
    assert checked.size == (80, 48)
    image = data_image.rgb(data_image.decode((tmp_path / "a.png").read_bytes()))
    assert (np.asarray(image) == upright).all()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "tRNS", "I;16", "L", "1", "CMYK", "GIF", "F"])
def test_every_mode_becomes_rgb(tmp_path, kind):
    """A half of each picture is the background or white, the other half as dark as painted."""
    left = np.zeros((8, 8), np.uint8)
    left[:, 4:] = 255
    grey = Image.fromarray(left)
    alpha = Image.merge("LA", (Image.new("L", (8, 8)), Image.fromarray(255 - left)))
    frames = {"save_all": True, "append_images": [Image.new("L", (8, 8), 99)]}
    image, name, options, expected = {
        "RGBA": (alpha.convert("RGBA"), "a.png", {}, "red"),
        "LA": (alpha, "a.png", {}, "red"),
        "P": (alpha.convert("RGBA").quantize(8), "a.png", {}, "red"),
        "tRNS": (grey.convert("P"), "a.png", {"transparency": 255}, "red"),
        "I;16": (Image.fromarray(left.astype(np.uint16) * 257), "a.png", {}, "white"),
        "L": (grey, "a.png", {}, "white"),
        "1": (grey.convert("1"), "a.png", {}, "white"),
        "CMYK": (grey.convert("RGB").convert("CMYK"), "a.tif", {}, "white"),
        "GIF": (grey, "a.gif", frames, "white"),
        "F": (Image.fromarray(left.astype(np.float32) / 255), "a.tif", {}, "white"),
    }[kind]
    image.save(tmp_path / name, **options)
    result = data_image.rgb(data_image.decode((tmp_path / name).read_bytes()), "red")
    assert result.mode == "RGB"
    assert result.getpixel((1, 1)) == (0, 0, 0)
    assert result.getpixel((6, 6)) == {"red": (255, 0, 0), "white": (255, 255, 255)}[expected]


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp", "bmp", "tif"])
def test_damaged_bytes_never_raise(tmp_path, kind):
    """Whatever is broken in a file: it is read, or there is a reason on one line."""
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(60):
        data = whole.copy()
        data[rng.integers(0, len(data), 6)] = rng.integers(0, 255, 6)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)].tobytes())
        result = data_check.check_all([path])[0]
        assert isinstance(result, data_check.Checked) or (result and "\n" not in result)
