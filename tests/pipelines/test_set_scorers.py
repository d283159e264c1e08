"""Laws of the scorers of sets, LPIPS, Vendi, Frechet distance, KID, and of JPEG size; each beside its reference."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from studio.pipelines import hub, pickles
from studio.pipelines.assets import assets_folder
from studio.pipelines.encoders import published
from studio.pipelines.encoders.perceptual import LAYERS, Name, Perceptual, empty, perceptual
from studio.pipelines.errors import DataError, ModelError
from studio.pipelines.scorers import frechet, jpeg, lpips, vendi
from tests import set_models
from tests.scorer_cases import pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the random weights are."""
    return tmp_path_factory.mktemp("sets")


def look(place: Path, name: Name = "alex") -> Perceptual:
    """LPIPS's network with random weights."""
    return perceptual(name, set_models.backbone(place, name), CPU, torch.float32)


def unit(count: int, width: int, seed: int = 0) -> Tensor:
    """Unit features."""
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_lpips_is_the_package_s_number(place: Path, name: Name, monkeypatch: pytest.MonkeyPatch):
    import lpips as package

    net = empty(name)
    tensors = load_file(set_models.backbone(place, name))
    net.load_state_dict({key.removeprefix("features."): value for key, value in tensors.items()}, assign=True)
    stand_in = SimpleNamespace(**{made: lambda **_: SimpleNamespace(features=net) for made in ("alexnet", "vgg16")})
    monkeypatch.setattr(package.pretrained_networks, "tv", stand_in)
    theirs = package.LPIPS(net=name, pnet_rand=True, verbose=False)
    a, b = pictures(3, 64, seed=1), pictures(3, 64, seed=2)
    with torch.no_grad():
        wanted = theirs(a, b, normalize=True).flatten()
        ours = look(place, name)
        found = ours.distance(ours.features(a), ours.features(b))
    assert wanted.min() > 0.01
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_lpips_heads_are_the_package_s():
    import lpips as package

    heads = load_file(assets_folder() / "lpips" / "heads.safetensors")
    assert len(heads) == sum(len(layers) for layers in LAYERS.values())
    for name in LAYERS:
        folder = Path(package.__file__).parent / "weights" / "v0.1"
        theirs = torch.load(folder / f"{name}.pth", map_location="cpu", weights_only=True)
        for number in range(5):
            assert torch.equal(heads[f"{name}.{number}"], theirs[f"lin{number}.model.1.weight"].flatten())


def test_lpips_of_a_picture_and_itself_is_zero_and_has_no_direction(place: Path):
    net, x = look(place), pictures(4, 48)
    features = net.features(x)
    assert torch.equal(net.distance(features, features), torch.zeros(4))
    back = [layer.flip(0) for layer in features]
    torch.testing.assert_close(net.distance(features, back), net.distance(back, features), atol=1e-6, rtol=0)


def test_lpips_diversity_is_the_mean_over_pairs_of_a_prompt(place: Path):
    (scorer,) = lpips.build(lpips.Config(weights=set_models.backbone(place), batch=2), CPU, torch.float32)
    x, prompts = pictures(6, 40), ["a", "b", "a", "a", "b", "alone"]
    found = scorer(x, prompts)
    net = look(place)

    def pair(i: int, j: int) -> float:
        return float(net.distance(net.features(x[i : i + 1]), net.features(x[j : j + 1])))

    group = [0, 2, 3]
    every = [pair(i, j) for i in group for j in group if i < j]
    assert float(found[group].mean()) == pytest.approx(sum(every) / 3, rel=1e-4)
    assert float(found[0]) == pytest.approx((pair(0, 2) + pair(0, 3)) / 2, rel=1e-4)
    assert float(found[1]) == pytest.approx(pair(1, 4), rel=1e-4) == pytest.approx(float(found[4]), rel=1e-6)
    assert math.isnan(found[5])
    equal = scorer(x[:1].expand(3, -1, -1, -1), ["a"] * 3)
    torch.testing.assert_close(equal, torch.zeros(3), atol=1e-9, rtol=0)


def test_lpips_says_which_pictures_are_too_small(place: Path):
    (scorer,) = lpips.build(lpips.Config(weights=set_models.backbone(place)), CPU, torch.float32)
    with pytest.raises(DataError, match="32 px a side or more, these have 24"):
        scorer(pictures(2, 24), ["a", "a"])


def test_weights_of_another_network_are_refused(place: Path):
    with pytest.raises(ModelError, match="no fitting .* for LPIPS's vgg network"):
        perceptual("vgg", set_models.backbone(place, "alex"), CPU, torch.float32)


def test_published_weights_are_known_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    hub.reachable.cache_clear()
    url = "https://example.invalid/net-{}.pth"
    with pytest.raises(ModelError, match="no network; connect, name a file with them, or leave the scorer out"):
        published.weights(url.format("00000000"), "a net")
    stream = io.BytesIO()
    torch.save({"features.0.weight": torch.ones(2)}, stream)
    name = hashlib.sha256(stream.getvalue()).hexdigest()[:8]
    file = tmp_path / "checkpoints" / f"net-{name}.pth"
    file.parent.mkdir()
    file.write_bytes(stream.getvalue())
    assert torch.equal(published.weights(url.format(name), "a net")["features.0.weight"], torch.ones(2))
    assert not pickles.may()
    file.write_bytes(stream.getvalue() + b"x")
    with pytest.raises(ModelError, match="damaged, its hash is not the one in its name"):
        published.weights(url.format(name), "a net")


def test_a_download_that_breaks_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise TimeoutError("timed out")

    monkeypatch.setattr(published, "urlopen", lambda url, timeout: Broken())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda: True)
    with pytest.raises(ModelError, match="did not come .timed out."):
        published.weights("https://example.invalid/net-00000000.pth", "a net")
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(("count", "width"), [(2, 8), (9, 8), (8, 8), (40, 6)])
def test_vendi_lies_between_one_and_the_number_of_pictures(count: int, width: int):
    x = unit(count, width)
    found = vendi.vendi(x)
    assert 1 <= found <= min(count, width) + 1e-9
    values = np.linalg.eigvalsh((x @ x.T).double().numpy() / count)
    values = values[values > 1e-12]
    assert found == pytest.approx(math.exp(-(values * np.log(values)).sum()), rel=1e-4)
    assert vendi.vendi(torch.cat([x, x, x])) == pytest.approx(found, rel=1e-6)
    assert vendi.vendi(x.flip(0)) == pytest.approx(found, rel=1e-6)
    assert vendi.vendi(x[:1].expand(count, -1)) == pytest.approx(1, rel=1e-6)


def test_vendi_counts_pictures_that_have_nothing_in_common():
    assert vendi.vendi(torch.eye(7)) == pytest.approx(7)
    assert vendi.vendi(torch.eye(7)[[0, 0, 0, 1, 1, 1]]) == pytest.approx(2)


def gaussian(mean: Tensor, spreads: Tensor, count: int, seed: int) -> Tensor:
    """Rows whose mean and (diagonal) covariance are exactly these."""
    rows = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows - rows.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(rows.T @ rows / (count - 1)), rows.T, upper=False).T
    return white * spreads + mean


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    means, spreads = torch.randn(2, 6, dtype=torch.float64), torch.rand(2, 6, dtype=torch.float64) + 0.1
    x, y = (gaussian(means[i], spreads[i], 50 + i, i) for i in (0, 1))
    wanted = (means[0] - means[1]).square().sum() + (spreads[0] - spreads[1]).square().sum()
    assert frechet.frechet(x, y) == pytest.approx(float(wanted), rel=1e-8)
    assert frechet.frechet(y, x) == pytest.approx(frechet.frechet(x, y), rel=1e-9)


@pytest.mark.parametrize(("count", "other"), [(200, 90), (10, 90), (10, 7)])
def test_the_frechet_distance_is_torchmetrics_formula(count: int, other: int):
    from torchmetrics.image.fid import _compute_fid

    x, y = torch.randn(count, 16, dtype=torch.float64), 1.5 * torch.randn(other, 16, dtype=torch.float64) + 0.3
    wanted = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert frechet.frechet(x, y) == pytest.approx(float(wanted), rel=1e-4)
    assert frechet.frechet(x, x) < 1e-9


def test_kid_is_torchmetrics_formula():
    from torchmetrics.image.kid import poly_mmd

    x, y = torch.randn(30, 12), torch.randn(40, 12) + 0.4
    assert float(frechet.mmd(x, y[:30])) == pytest.approx(float(poly_mmd(x.double(), y[:30].double())), rel=1e-6)
    assert frechet.kid(x, y).value == pytest.approx(float(frechet.mmd(x, y)))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_kid_is_unbiased_and_its_error_is_its_spread(shift: float):
    draw = torch.Generator().manual_seed(3)
    sets = (torch.randn(60, 8, generator=draw) for _ in range(60))
    found = [frechet.kid(x[:30], x[30:] + shift, subsets=40) for x in sets]
    values, errors = (torch.tensor(column) for column in zip(*found, strict=True))
    if shift:
        assert (values > 2 * errors).all(), "two sets that differ are told apart"
    else:
        assert values.min() < 0 < values.max(), "of two halves of one set it falls on both sides of 0"
        assert abs(values.mean()) < 3 * values.std() / 60**0.5
    assert 0.6 < errors.mean() / values.std() < (1.7 if shift else 3.5)  # at 0 a jackknife is too careful


def test_kid_of_large_sets_averages_subsets():
    x, y = torch.randn(80, 8), torch.randn(80, 8) + 0.5
    whole, parts = frechet.kid(x, y), frechet.kid(x, y, subsets=300, most=20)
    assert parts.value == pytest.approx(whole.value, abs=4 * whole.error)
    assert parts == frechet.kid(x, y, subsets=300, most=20), "the subsets are seeded"


def test_a_frechet_distance_of_few_pictures_is_refused_but_for_a_flag(place: Path):
    settings = set_models.frechet(place)
    x, references = pictures(6, 32), list(pictures(5, 32, seed=3))
    strict, kid = frechet.build(frechet.Config(**{**settings, "few": False}), CPU, torch.float32)
    with pytest.raises(DataError, match="over 32 features needs 32 pictures a side or more, there are 6 and 5"):
        strict(x, (), references)
    loose, _ = frechet.build(frechet.Config(**settings), CPU, torch.float32)
    assert float(loose(x, (), references)[0]) > 0
    low, high = kid.interval(x, references)  # type: ignore[attr-defined]
    assert low < float(kid(x, (), references)[0]) < high
    with pytest.raises(DataError, match="kid needs two pictures"):
        kid(x, (), references[:1])


def test_the_embedded_judges_can_be_the_view():
    found = frechet.build(frechet.Config(family="embedded"), CPU, torch.float32)
    assert all(scorer.about.encoder.startswith("embedded judges") for scorer in found)
    assert "inception" not in " ".join(scorer.about.group.lower() for scorer in found)


def blurred(picture: Tensor, steps: int) -> Tensor:
    """A picture blurred more and more, `[steps, 3, h, w]`."""
    ladder = [picture]
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    weight = (kernel[:, None] * kernel).expand(3, 1, 5, 5)
    for _ in range(steps - 1):
        ladder.append(F.conv2d(F.pad(ladder[-1][None], (2, 2, 2, 2), "replicate"), weight, groups=3)[0])
    return torch.stack(ladder)


def ranks(values: Tensor) -> Tensor:
    """Places in order of size."""
    return values.argsort().argsort().double()


def test_jpeg_size_is_the_bytes_pillow_writes():
    picture = pictures(1, 53)[0]
    file = io.BytesIO()
    Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95)
    size, _ = jpeg.build(jpeg.Config(), CPU, torch.float32)
    assert size(picture[None]).tolist() == [pytest.approx(len(file.getvalue()) / 1000)]
    assert size.about.unit == "kB"


def test_jpeg_size_falls_as_a_picture_is_blurred_and_soft_bits_rank_as_it_does():
    ladder = torch.cat([blurred(picture, 8) for picture in pictures(4, 96)])
    size, soft = (scorer(ladder) for scorer in jpeg.build(jpeg.Config(), CPU, torch.float32))
    assert (size.view(4, 8).diff(dim=1) < 0).all()
    assert (soft.view(4, 8).diff(dim=1) < 0).all()
    assert torch.corrcoef(torch.stack([ranks(size), ranks(soft)]))[0, 1] >= 0.95


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
def test_quantisation_tables_are_libjpeg_s(quality: int):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        theirs = image.quantization  # type: ignore[attr-defined]
    for number, values in enumerate((jpeg.BRIGHT, jpeg.COLOUR)):
        assert jpeg.table(values, quality).flatten().int().tolist() == list(theirs[number])


def test_the_cosines_are_orthonormal_and_a_flat_picture_costs_its_mean_alone():
    torch.testing.assert_close(jpeg.cosines() @ jpeg.cosines().T, torch.eye(8), atol=1e-6, rtol=0)
    flat = torch.full((1, 3, 32, 32), 128 / 255)
    assert float(jpeg.soft_bits(flat)) < 1e-3 < float(jpeg.soft_bits(flat + 0.3))
