"""Small networks of every kind that may grow, lived in, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import pcl
from tests.models import rebuild_cases

Net = tuple[nn.Module, tuple[int, ...]]  # network, shape of a sample


class Heads(nn.Module):
    """Features with an activation of one's own, exp(-t^2 / 2), and two heads whose logits are both given."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(5, 6), nn.BatchNorm1d(6)
        self.a, self.b = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.norm(self.body(x))
        h = torch.exp(-(h**2) / 2)
        return {"a": self.a(h), "b": self.b(h)}


class Functional(nn.Module):
    """Layers joined by functions and methods: a gate, work in place, means over positions, a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.third, self.last = nn.Conv2d(4, 5, 3, stride=2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        h = h * torch.sigmoid(h)
        h = self.second(h).add_(h)
        samples, _, _, _ = h.shape
        h = torch.nn.functional.max_pool2d(h, 2)
        h.clamp_(max=0.5)
        h = torch.tanh(self.third(h)).mean((2, 3), keepdim=True)
        y: Tensor = self.last(h.view(samples, -1))
        return y


def vgg() -> Net:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)),
    ), (2, 8, 8)


def mobile() -> Net:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    ), (2, 6, 6)


def resnet() -> Net:
    return nn.Sequential(pcl.Normalize([0.5] * 2, [0.5] * 2), pcl.ResNet18(2, 2), nn.Linear(16, 3)), (2, 8, 8)


def smooth() -> Net:
    """What a fast path has, but no kinks."""
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.GELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(4, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 3)),
    ), (2, 8, 8)


def _of_cases(name: str) -> Callable[[], Net]:
    return lambda: rebuild_cases.CASES[name]()[::2]  # type: ignore[return-value]


NETS: dict[str, Callable[[], Net]] = {
    "vgg": vgg,
    "mobile": mobile,
    "resnet": resnet,
    "smooth": smooth,
    "heads": lambda: (Heads(), (5,)),
    "functional": lambda: (Functional(), (2, 7, 7)),
    "backbone": lambda: (nn.Sequential(pcl.MLP(5, [6, 4]), nn.Linear(4, 3)), (5,)),
    **{name: _of_cases(name) for name in rebuild_cases.CASES},
}
#: of these, networks without kinks
SMOOTH = ("smooth", "heads", "layer_normed", "smooth_tied")


class SmoothTied(rebuild_cases.Tied):
    """As Tied, without a kink."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + torch.sigmoid(self.inner(x))
        y: Tensor = self.out(torch.tanh(x + torch.tanh(self.outer(x))))
        return y


NETS["smooth_tied"] = lambda: (SmoothTied(), (5,))


def made(name: str, samples: int = 7) -> tuple[nn.Module, Tensor]:
    """Network in evaluation mode with lived-in norms, and samples."""
    torch.manual_seed(0)
    net, shape = NETS[name]()
    net.double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            for key, tensor in [*module.named_buffers(recurse=False), *module.named_parameters(recurse=False)]:
                if tensor.dim() == 1:
                    tensor.data.copy_(torch.rand_like(tensor) + (0.5 if key in ("weight", "running_var") else 0))
    return net.eval(), torch.randn(samples, *shape, dtype=torch.float64)


def flat(outputs: Any) -> Tensor:
    """All outputs of a network, side by side."""
    return torch.cat([*outputs.values()], dim=1) if isinstance(outputs, dict) else outputs


def squared_error(f: Callable[[Tensor], Any], batch: Tensor) -> Tensor:
    """An objective whose targets lie beyond what the network gives."""
    found = flat(f(batch))
    target = torch.linspace(-2, 2, found.numel(), dtype=found.dtype).view_as(found)
    return (found - target).square().mean()
