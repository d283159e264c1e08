"""Laws of buckets and crops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from studio.pipelines import buckets
from studio.pipelines.errors import UsageError


@pytest.mark.parametrize(("resolution", "multiple"), [(32, 8), (64, 4), (64, 16), (512, 8), (512, 64), (1024, 16)])
def test_buckets_fit_the_model(resolution, multiple):
    sizes = buckets.sizes(resolution, multiple)
    assert (resolution, resolution) in sizes
    assert {(h, w) for w, h in sizes} == set(sizes)
    for width, height in sizes:
        assert width % multiple == height % multiple == 0
        assert width * height <= resolution**2
        assert max(width, height) <= 4 * min(width, height)
    if resolution >= 16 * multiple:
        assert all(w * h >= 0.8 * resolution**2 for w, h in sizes)


def test_off_is_one_square():
    assert buckets.sizes(512, 8, buckets=False) == ((512, 512),)


def test_resolution_must_divide():
    with pytest.raises(UsageError, match="use 496 or 512"):
        buckets.sizes(500, 16)
    with pytest.raises(UsageError, match="use 16$"):
        buckets.sizes(5, 16)


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (480, 640), (1, 1), (1, 5000), (5000, 1), (333, 777)])
def test_a_crop_has_one_scale_and_lies_inside(size):
    sizes = buckets.sizes(512, 8)
    bucket = buckets.nearest(size, sizes)
    gap = abs(math.log(bucket[0] / bucket[1]) - math.log(size[0] / size[1]))
    assert all(gap <= abs(math.log(w / h) - math.log(size[0] / size[1])) + 1e-9 for w, h in sizes)
    for at in [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]:
        left, top, right, bottom = buckets.crop_box(size, bucket, at)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        assert (right - left) / (bottom - top) == pytest.approx(bucket[0] / bucket[1])
        # as much as can be: one side is whole
        assert math.isclose(right - left, size[0]) or math.isclose(bottom - top, size[1])


def test_fit_is_cover_resize_then_crop():
    """A smooth ramp, cropped to its middle third: the values say which part was kept."""
    ramp = np.tile(np.linspace(0, 255, 300), (100, 1)).astype(np.uint8)
    values = buckets.fit(Image.fromarray(ramp), (50, 50), buckets.crop_box((300, 100), (50, 50)))
    assert values.shape == (1, 50, 50)
    expected = torch.linspace(1 / 3, 2 / 3, 50)
    assert torch.allclose(values[0], expected.expand(50, 50), atol=0.01)
