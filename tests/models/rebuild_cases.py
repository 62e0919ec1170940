"""Small networks with their groups written by hand, and plans for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pcl.models.growth.graph import Group, Reader
from pcl.models.growth.plan import GroupGrowth
from pcl.models.growth.residual_layer import ResidualLayer

Case = tuple[nn.Module, list[Group], tuple[int, ...]]  # network, groups, shape of a sample


def mlp() -> Case:
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 3))
    groups = [Group("0", 6, ("0",), (), (Reader("2"),)), Group("2", 4, ("2",), (), (Reader("4"),))]
    return net, groups, (5,)


def normed() -> Case:
    """BatchNorm1d, with and without what it may lack."""
    net = nn.Sequential(
        *(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 4)),
        *(nn.GELU(), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 2)),
    )
    groups = [Group("0", 6, ("0",), ("1", "3"), (Reader("4"),)), Group("4", 4, ("4",), ("6",), (Reader("7"),))]
    return net, groups, (5,)


def images() -> Case:
    """Convolutions, depthwise and of stride 2; BatchNorm2d; pooling; a flatten, behind which a neuron has 4 columns."""
    net = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, stride=2, padding=1)),
        *(nn.SiLU(), nn.Conv2d(6, 6, 1, groups=6, bias=False), nn.Flatten(), nn.Linear(24, 3)),
    )
    groups = [Group("0", 4, ("0",), ("1", "3"), (Reader("5"),)), Group("5", 6, ("5",), ("7",), (Reader("9", 4),))]
    return net, groups, (2, 8, 8)


def layer_normed() -> Case:
    net = nn.Sequential(
        *(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4)),
        *(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 3)),
    )
    groups = [Group("0", 6, ("0",), ("1",), (Reader("3"),)), Group("3", 4, ("3",), ("4",), (Reader("5"),))]
    return net, groups, (5,)


class Tied(nn.Module):
    """x <- x + relu(inner(x)), twice: one width with three producers, and layers that make and read it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(5, 6), nn.Linear(6, 2)
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + torch.relu(self.inner(x))
        y: Tensor = self.out(x + torch.tanh(self.outer(x)))
        return y


def tied() -> Case:
    readers = (Reader("inner"), Reader("outer"), Reader("out"))
    return Tied(), [Group("stem", 6, ("stem", "inner", "outer"), (), readers)], (5,)


def residual() -> Case:
    """Residual layers, the second without a neuron, in a width that grows too."""
    net = nn.Sequential(nn.Linear(5, 4), ResidualLayer(4, 3), ResidualLayer(4), nn.Linear(4, 2))
    hidden = [Group(f"{n}.inner", w, (f"{n}.inner",), (), (Reader(f"{n}.outer"),)) for n, w in ((1, 3), (2, 0))]
    readers = (Reader("1.inner"), Reader("2.inner"), Reader("3"))
    return net, [Group("0", 4, ("0", "1.outer", "2.outer"), (), readers), *hidden], (5,)


def residual_images() -> Case:
    net = nn.Sequential(
        *(nn.Conv2d(2, 3, 3), ResidualLayer(3, 0, 3, torch.tanh), ResidualLayer(3, 2, 1), nn.Flatten()),
        nn.Linear(12, 2),
    )
    hidden = [Group(f"{n}.inner", w, (f"{n}.inner",), (), (Reader(f"{n}.outer"),)) for n, w in ((1, 0), (2, 2))]
    readers = (Reader("1.inner"), Reader("2.inner"), Reader("4", 4))
    return net, [Group("0", 3, ("0", "1.outer", "2.outer"), (), readers), *hidden], (2, 4, 4)


CASES: dict[str, Callable[[], Case]] = {
    case.__name__: case for case in (mlp, normed, images, layer_normed, tied, residual, residual_images)
}


def made(name: str, seed: int = 0) -> tuple[nn.Module, dict[str, Group], Tensor]:
    """Network in float64 and evaluation mode with lived-in statistics, groups, samples."""
    torch.manual_seed(seed)
    net, groups, shape = CASES[name]()
    net.double()
    for module in net.modules():
        for key, tensor in [*module.named_buffers(recurse=False), *module.named_parameters(recurse=False)]:
            if tensor.dim() == 1 and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
                tensor.data.copy_(torch.rand_like(tensor) + (0.5 if key in ("weight", "running_var") else 0))
    return net.eval(), {group.name: group for group in groups}, torch.randn(7, *shape, dtype=torch.float64)


def plan_for(
    net: nn.Module, groups: dict[str, Group], step: float = 0.0, *, new: int = 2, split: int = 2, copied: int = 0
) -> dict[str, GroupGrowth]:
    """Some neurons split along random directions, new ones with random rows and columns of the size of the step."""
    plan = {}
    for name, group in groups.items():
        order = torch.randperm(group.width)
        growth = GroupGrowth(order[:split], order[split : split + copied], new)
        for producer in group.producers:
            layer: Any = net.get_submodule(producer)
            old = (layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
            delta = [t if t is None else torch.randn_like(t) for t in old]

            def moved(index: Tensor, by: float, old: Any = old, delta: Any = delta) -> Any:
                return tuple(t if t is None else (t + by * d)[index] for t, d in zip(old, delta, strict=True))

            growth.rows_plus[producer] = moved(growth.split, step)
            growth.rows_minus[producer] = moved(growth.split, -step)
            growth.rows_copied[producer] = moved(growth.copied, step)
        for layer_name in (*group.producers, *group.channelwise):
            layer = net.get_submodule(layer_name)
            if isinstance(layer, nn.Linear | nn.Conv2d):
                shape = layer.weight.shape[1:]
                bias = None if layer.bias is None else torch.randn(new, dtype=torch.float64)
                growth.rows_new[layer_name] = torch.randn(new, *shape, dtype=torch.float64), bias
            else:
                keys = [
                    k for k in ("weight", "bias", "running_mean", "running_var") if getattr(layer, k, None) is not None
                ]
                growth.norms_new[layer_name] = {key: torch.rand(new, dtype=torch.float64) + 0.5 for key in keys}
        for reader in group.readers:
            weight: Any = net.get_submodule(reader.layer).weight
            shape = (len(weight), new * reader.repeat, *weight.shape[2:])
            growth.columns_new[reader.layer] = step * torch.randn(shape, dtype=torch.float64)
        plan[name] = growth
    return plan


def train(net: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """In evaluation mode: in front of statistics of the batch biases have no gradient, and moments would be noise."""
    for step in range(steps):
        optimizer.zero_grad()
        net(x[step : step + 4]).square().sum().backward()
        optimizer.step()


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert found.shape == expected.shape
    found, expected = found.detach(), expected.detach()
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    assert ((found - expected).abs() <= tolerance * scale).all()
