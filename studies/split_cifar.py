"""CIFAR-100 cut into tasks at random, and thin convolutional backbones for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcl import Normalize
from pcl.data.images import ImageData
from pcl.randomness import generator

TASKS = 10
MEAN, DEVIATION = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of the training images
VGG16 = (2, 2, 3, 3, 3)  # convolutions between poolings


@dataclass(frozen=True)
class Task:
    """Images uint8 and labels of ten classes."""

    name: str
    classes: list[int]
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def cut(data: ImageData, seed: int, images: int) -> list[Task]:
    """Ten tasks of as many classes each, drawn by the seed; ``images`` training images a class, all test images."""
    draws = generator(seed, "split cifar")
    order = torch.randperm(len(data.classes), generator=draws)
    tasks = []
    for i, classes in enumerate(order.view(TASKS, -1).tolist()):
        rows = torch.cat([_drawn(data.y_train, c, images, draws) for c in classes])
        test = torch.isin(data.y_test, torch.tensor(classes)).nonzero()[:, 0]
        images_of = [data.x_train[rows], data.y_train[rows], data.x_test[test], data.y_test[test]]
        tasks.append(Task(f"task-{i + 1}", sorted(classes), *images_of))
    return tasks


def _drawn(y: Tensor, label: int, count: int, draws: torch.Generator) -> Tensor:
    rows = (y == label).nonzero()[:, 0]
    return rows[torch.randperm(len(rows), generator=draws)[:count]]


def thin(width: int) -> nn.Sequential:
    """Four 3 x 3 convolutions, a stride of 2 in the first and max pooling behind the second: for a CPU. Without
    BatchNorm, whose running statistics would follow the last task where all tasks share them."""
    layers: list[nn.Module] = [Normalize(MEAN, DEVIATION)]
    for i in range(4):
        layers += [nn.Conv2d(width if i else 3, width, 3, stride=1 if i else 2, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i == 1 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def vgg16(width: int) -> nn.Sequential:
    """VGG-16 with as many channels in every layer, with BatchNorm and without fully connected layers."""
    layers: list[nn.Module] = [Normalize(MEAN, DEVIATION)]
    before = 3
    for count in VGG16:
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten())


BACKBONES = {"thin": thin, "vgg16": vgg16}


def size(modules: Sequence[nn.Module]) -> int:
    """Number of parameters of all."""
    return sum(p.numel() for module in modules for p in module.parameters())
