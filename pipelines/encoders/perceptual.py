"""LPIPS: the distance of two pictures by weighted features of an ImageNet network (Zhang et al., arXiv:1801.03924).

The heads (version 0.1) come with the studio; the networks' weights are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from studio.pipelines import pickles
from studio.pipelines.assets import assets_folder
from studio.pipelines.encoders.files import load_or_refuse
from studio.pipelines.encoders.published import weights
from studio.pipelines.errors import DataError, ModelError

Name = Literal["alex", "vgg"]
LAYERS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}  # the ReLUs whose outputs are compared
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # for pictures in -1..1
LEAST = 32  # pixels a side; AlexNet has nothing left of a smaller picture
TINY = 1e-10


class Perceptual(nn.Module):
    """The network up to its last compared layer, and one weight per channel of each."""

    def __init__(self, net: nn.Sequential, layers: Sequence[int], heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.net, self.layers = net[: layers[-1] + 1], frozenset(layers)
        for number, head in enumerate(heads):
            self.register_buffer(f"head{number}", head.view(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))

    def features(self, pictures: Tensor, batch: int = 16) -> list[Tensor]:
        """Per layer `[B, C, h, w]` float32 of unit length over C, for pictures `[B, 3, H, W]` in 0..1.

        Raises DataError for pictures under 32 px a side.
        """
        if min(pictures.shape[-2:]) < LEAST:
            raise DataError(f"LPIPS needs pictures of {LEAST} px a side or more, these have {min(pictures.shape[-2:])}")
        found = [self.layer_outputs(chunk) for chunk in pictures.split(batch)]
        return [torch.cat(layer) for layer in zip(*found, strict=True)]

    def layer_outputs(self, pictures: Tensor) -> list[Tensor]:
        """The unit features of one batch."""
        shift, scale = self.get_buffer("shift"), self.get_buffer("scale")
        x, found = ((pictures.to(shift) * 2 - 1) - shift) / scale, []
        for number, layer in enumerate(self.net):
            x = layer(x)
            if number in self.layers:
                y = x.float()
                found.append(y / (torch.linalg.vector_norm(y, dim=1, keepdim=True) + TINY))
        return found

    def distance(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """`[B]` distances between features, rows broadcast; 0 for equal ones."""
        parts = [
            ((a - b).square() * self.get_buffer(f"head{number}").float()).sum(1).mean((1, 2))
            for number, (a, b) in enumerate(zip(first, second, strict=True))
        ]
        return torch.stack(parts).sum(0)


@cache
def perceptual(name: Name, file: Path | None, device: torch.device, dtype: torch.dtype) -> Perceptual:
    """LPIPS's network, frozen, made once per process. file: with the backbone's weights, None for torchvision's own.

    Raises ModelError when the weights cannot be had, or are another network's.
    """
    net = empty(name)
    tensors = load_or_refuse(f"LPIPS {name}", lambda: read(file) if file else published(name))
    wanted = net.state_dict()
    tensors = {key: value.float() for raw, value in tensors.items() if (key := raw.removeprefix("features.")) in wanted}
    lacking = [key for key in wanted if key not in tensors or tensors[key].shape != wanted[key].shape]
    if lacking:
        raise ModelError(f"{file or name}: no fitting {lacking[0]} for LPIPS's {name} network; name its own file")
    net.load_state_dict(tensors, assign=True)
    heads = load_or_refuse("LPIPS's heads", lambda: load_file(assets_folder() / "lpips" / "heads.safetensors"))
    model = Perceptual(net, LAYERS[name], [heads[f"{name}.{number}"] for number in range(len(LAYERS[name]))])
    return model.to(device, dtype).eval().requires_grad_(False)


def empty(name: Name) -> nn.Sequential:
    """The convolutions of a backbone, without memory for its weights."""
    from torchvision.models import alexnet, vgg16

    with torch.device("meta"):
        net: nn.Sequential = {"alex": alexnet, "vgg": vgg16}[name](weights=None).features
    for layer in net:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # features that are kept must not change
    return net


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that a person named. Raises ModelError; pickles only where they are allowed."""
    if not file.is_file():
        raise ModelError(f"{file}: no such file; name one with LPIPS's backbone, or leave the scorer out")
    return pickles.load(file) if pickles.is_pickle(file) else load_file(file)


def published(name: Name) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of a backbone. Raises ModelError."""
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    kind = AlexNet_Weights if name == "alex" else VGG16_Weights
    return weights(kind.IMAGENET1K_V1.url, f"LPIPS's backbone {name}")
