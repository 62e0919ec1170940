"""Thin networks for 28 x 28 images whose widths are a list of numbers, and how they are trained."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl.data.images import ImageData
from pcl.randomness import generator, seeded

CLASSES = 10
BATCH = 64
RATE = 0.02  # of Adam, at the start of every stage; it falls to 0 along a cosine


def _conv(before: int, after: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
    return [layer, nn.BatchNorm2d(after), nn.ReLU()]


def _depthwise(width: int, stride: int) -> list[nn.Module]:
    layer = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
    return [layer, nn.BatchNorm2d(width), nn.ReLU()]


def _head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]


def vgg(widths: Sequence[int]) -> nn.Sequential:
    """Five 3 x 3 convolutions with BatchNorm; a stride of 2 in the first, max pooling behind the third."""
    a, b, c, d, e = widths
    layers = [*_conv(1, a, stride=2), *_conv(a, b), *_conv(b, c), nn.MaxPool2d(2), *_conv(c, d), *_conv(d, e)]
    return nn.Sequential(*layers, *_head(e))


def mobilenet(widths: Sequence[int]) -> nn.Sequential:
    """A convolution and four pairs of a depthwise 3 x 3 and a 1 x 1 convolution, all with BatchNorm; a stride of 2 in
    the first and in the second depthwise one."""
    layers = _conv(1, widths[0], stride=2)
    for i, (before, after) in enumerate(pairwise(widths)):
        layers += [*_depthwise(before, stride=2 if i == 1 else 1), *_conv(before, after, 1)]
    return nn.Sequential(*layers, *_head(widths[-1]))


NETWORKS = {"vgg": vgg, "mobilenet": mobilenet}
LAYERS = 5  # numbers in the list, of either


def made(network: str, widths: Sequence[int], seed: int) -> nn.Sequential:
    """With first weights of their own for every list of widths."""
    with seeded(seed, network, *widths):
        return NETWORKS[network](widths)


def parameters(network: str, widths: Sequence[int]) -> int:
    """Number of parameters."""
    pairs = sum(before * after for before, after in pairwise(widths))
    around = 9 * widths[0] + 2 * sum(widths) + CLASSES * (widths[-1] + 1)
    return around + (9 * pairs if network == "vgg" else pairs + (9 + 2) * sum(widths[:-1]))


def layers_of(model: nn.Sequential) -> dict[str, nn.Conv2d]:
    """Those that the list of widths is of, by name."""
    return {name: layer for name, layer in model.named_children() if isinstance(layer, nn.Conv2d) and layer.groups == 1}


def widths_of(model: nn.Sequential) -> list[int]:
    """The list."""
    return [layer.out_channels for layer in layers_of(model).values()]


@dataclass(frozen=True)
class Images:
    """Standardised images ``(n, 1, 28, 28)`` float32 and labels ``(n,)``."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def standardised(data: ImageData, images: int) -> Images:
    """The first training images and all test images."""

    def floats(x: Tensor) -> Tensor:
        return (x.float() / 255 - 0.2860) / 0.3530  # mean and deviation of the training images of Fashion-MNIST

    return Images(floats(data.x_train[:images]), data.y_train[:images], floats(data.x_test), data.y_test)


def batches(data: Images, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end, in an order that is new in every pass."""
    draws = generator(seed, "width study", "batches")
    while True:
        for rows in torch.randperm(len(data.y), generator=draws).split(BATCH):
            if len(rows) == BATCH:
                yield data.x[rows], data.y[rows]


def cross_entropy(forward: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over a batch."""
    x, y = batch
    return F.cross_entropy(forward(x), y)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, source: Iterator[tuple[Tensor, Tensor]], steps: int
) -> None:
    """One stage: the rate falls from ``RATE`` to 0 along half a cosine."""
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE / 2 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        cross_entropy(model, next(source)).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Images) -> float:
    """Percent of the test images."""
    model.eval()
    right = sum(
        (model(x).argmax(1) == y).sum() for x, y in zip(data.x_test.split(500), data.y_test.split(500), strict=True)
    )
    return 100 * float(right) / len(data.y_test)
