"""Backbones: from an image batch in [0, 1] to a feature vector. Any ``nn.Module`` may stand in for them."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pcl.parts import all_are_heard, is_plain
from pcl_kernels import mlp


class Normalize(nn.Module):
    """(x - mean) / std per channel.

    Being the first layer of the backbone rather than a step of the loader, it leaves stored and edited samples
    in pixel units.

    Args:
        mean, std: one value per channel of x ``(B, C, H, W)``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class MLP(nn.Sequential):
    """Flatten, then a Linear and a ReLU for every entry of ``hidden``; features ``(B, hidden[-1])``.

    All layers run as one compiled op, :func:`pcl_kernels.mlp`, as long as nobody has changed them or listens to one.
    """

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in zip([inputs, *hidden], hidden, strict=False):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        super().__init__(*layers)

    def linear_layers(self) -> list[nn.Linear] | None:
        """The Linear layers, with a ReLU behind each; None where somebody has changed a layer or listens to one."""
        first, *others = self._modules.values()
        linear: list[Any] = others[::2]
        kinds = [nn.Linear, nn.ReLU] * len(linear)
        if not linear or len(kinds) != len(others) or not is_plain(first, nn.Flatten) or all_are_heard():
            return None
        return linear if all(map(is_plain, others, kinds)) else None

    def forward(self, x: Tensor) -> Tensor:
        layers = self.linear_layers() if type(x) is Tensor else None
        if layers is None:
            return cast(Tensor, super().forward(x))
        return mlp(x.flatten(1), [layer.weight for layer in layers], [layer.bias for layer in layers])


class ResNet18(nn.Module):
    """ResNet-18 for small images (3x3 stem, no pooling before the blocks); features ``(B, 8 * width)``.

    ``width=64`` is the standard network (He et al., 2016); ``width=20`` is the reduced one common in continual
    learning since GEM (Lopez-Paz and Ranzato, 2017).
    """

    def __init__(self, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv3x3(channels, width), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[nn.Module] = []
        width_in = width
        for stage in range(4):
            width_out = width * 2**stage
            blocks.append(_ResidualBlock(width_in, width_out, stride=1 if stage == 0 else 2))
            blocks.append(_ResidualBlock(width_out, width_out))
            width_in = width_out
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.stem(x))  # (B, 8 * width, H / 8, W / 8)
        return out.mean(dim=(2, 3))


class _ResidualBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv3x3(width_in, width_out, stride),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
            _conv3x3(width_out, width_out),
            nn.BatchNorm2d(width_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False), nn.BatchNorm2d(width_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


def _conv3x3(width_in: int, width_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
