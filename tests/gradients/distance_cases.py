"""Networks that cover every layer type, and the distance whose gradient is wanted, by its definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcl import ResNet18
from pcl.gradients.sample_distance import Problem


class Through(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Branches(nn.Module):
    """Two paths that meet, in one of several ways."""

    def __init__(self, meet: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.meet, self.left, self.right = meet, nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.left(x))
        return self.meet(h, self.right(h))


class Attention(nn.Module):
    """Attention over positions, its projections being layers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(3, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        h = nn.functional.scaled_dot_product_attention(q, k, v)
        return (x + self.out(h)).flatten(1)


def dense(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), *layers, nn.Linear(5, 4))


def image(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), *layers, nn.Flatten())


def conv(*args: Any, **kwargs: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.Tanh(), nn.Conv2d(3, *args, **kwargs), nn.Softplus(), nn.Flatten())


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        f"activation {type(layer).__name__}": (lambda layer=layer: dense(layer), (6,))
        for layer in (
            *(nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.1), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.SiLU()),
            *(
                nn.ELU(),
                nn.Softplus(),
                nn.Mish(),
                nn.Hardtanh(),
                nn.ReLU6(),
                nn.Softmax(1),
                nn.Dropout(),
                nn.Identity(),
            ),
        )
    },
    "linear, no bias": (
        lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)),
        (6,),
    ),
    "linear, few positions": (
        lambda: nn.Sequential(nn.Linear(9, 40), nn.GELU(), nn.Linear(40, 30), nn.Flatten()),
        (2, 9),
    ),
    "linear, many positions": (
        lambda: nn.Sequential(nn.Linear(3, 2), nn.GELU(), nn.Linear(2, 2), nn.Flatten()),
        (9, 3),
    ),
    "linear, positions in rows": (lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Flatten()), (2, 2, 3)),
    "convolution, many positions": (lambda: conv(4, 3, padding=1), (2, 7, 6)),
    "convolution, few positions": (lambda: conv(30, 3, padding=1), (2, 3, 2)),
    "convolution, stride": (lambda: conv(4, (3, 2), stride=2, padding=(1, 0)), (2, 8, 7)),
    "convolution, stride beyond the kernel": (lambda: conv(4, 1, stride=2), (2, 7, 6)),
    "convolution, dilation": (lambda: conv(4, 3, dilation=(2, 1), padding=(2, 1), bias=False), (2, 6, 6)),
    "convolution, dilation, few positions": (
        lambda: conv(40, 3, dilation=2, stride=2, padding=1, bias=False),
        (2, 6, 6),
    ),
    "convolution, reflected": (lambda: conv(4, 3, padding=1, padding_mode="reflect"), (2, 6, 5)),
    "convolution 1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 5, 3, stride=2, padding=1), nn.GELU(), nn.Conv1d(5, 4, 2), nn.Flatten()),
        (2, 8),
    ),
    "batch norm 1d": (lambda: dense(nn.BatchNorm1d(5), nn.Tanh()), (6,)),
    "batch norm 2d": (lambda: image(nn.BatchNorm2d(5), nn.ReLU()), (2, 4, 5)),
    "batch norm, not affine": (lambda: image(nn.BatchNorm2d(5, affine=False), nn.Tanh()), (2, 4, 5)),
    "layer norm": (lambda: dense(nn.LayerNorm(5), nn.Tanh()), (6,)),
    "layer norm, several dimensions": (lambda: image(nn.LayerNorm((5, 3, 4)), nn.Tanh()), (2, 3, 4)),
    "layer norm, no bias": (lambda: dense(nn.LayerNorm(5, bias=False), nn.Tanh()), (6,)),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(2, 6, 2), nn.GroupNorm(3, 6), nn.SiLU(), nn.Flatten()), (2, 4, 4)),
    "max pooling": (lambda: image(nn.MaxPool2d(2)), (2, 4, 6)),
    "average pooling": (lambda: image(nn.Tanh(), nn.AvgPool2d(2)), (2, 4, 6)),
    "adaptive pooling": (lambda: image(nn.Tanh(), nn.AdaptiveAvgPool2d(1)), (2, 4, 6)),
    "residual": (lambda: Branches(lambda a, b: a + b), (6,)),
    "residual in place": (lambda: Branches(lambda a, b: b.__iadd__(a)), (6,)),
    "product": (lambda: Branches(lambda a, b: a * torch.sigmoid(b)), (6,)),
    "concatenation": (lambda: Branches(lambda a, b: torch.cat([a, b], dim=1)), (6,)),
    "one path unused": (lambda: Branches(lambda a, b: a), (6,)),
    "one path without gradient": (lambda: Branches(lambda a, b: a + b.detach()), (6,)),
    "matrix product": (lambda: Branches(lambda a, b: (a.view(-1, 2, 3) @ b.view(-1, 3, 2)).flatten(1)), (6,)),
    "scaled input": (lambda: nn.Sequential(Through(lambda x: (x - 0.3) / 0.5 * x), nn.Linear(6, 4)), (6,)),
    "attention": (Attention, (4, 3)),
    "residual network": (lambda: ResNet18(1, 2), (1, 8, 8)),
}


def make_problem(name: str, samples: int = 3, frozen: Sequence[int] = ()) -> Problem:
    """Logits of the network, cross-entropy, random direction with one None; parameters in ``frozen`` not shared."""
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model = build().double()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):  # statistics that are not 0 and 1
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if (
            isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm))
            and module.weight is not None
        ):
            module.weight.data.normal_()
    model.eval()
    x = torch.randn(samples, *shape, dtype=torch.float64)
    y = torch.arange(samples) % 2

    def losses(x: Tensor, rows: slice | Tensor) -> Tensor:
        return nn.functional.cross_entropy(3 * model(x), y[rows], reduction="none")

    shared = [p for i, p in enumerate(model.parameters()) if i not in frozen]
    direction = [None if i == 1 else 0.1 * torch.randn_like(p) for i, p in enumerate(shared)]
    return Problem(model, losses, x, shared, direction)


def distance(problem: Problem, x: Tensor, row: int) -> Tensor:
    """|g(x) - d|^2 of the one sample x ``(1, ...)`` that stands in ``row``."""
    loss = problem.losses(x, slice(row, row + 1)).sum()
    g = torch.autograd.grad(loss, list(problem.shared), allow_unused=True)
    zeros = [torch.zeros_like(p) for p in problem.shared]
    parts = zip(g, problem.direction, zeros, strict=True)
    return torch.stack([((z if p is None else p) - (z if d is None else d)).square().sum() for p, d, z in parts]).sum()


def central_differences(problem: Problem, pixels: int = 5, step: float = 1e-5) -> tuple[Tensor, Tensor]:
    """(which elements of x, ``(B, n)`` positions in a sample; the derivatives there)."""
    size = problem.x[0].numel()
    generator = torch.Generator().manual_seed(0)
    at = torch.stack([torch.randperm(size, generator=generator)[: min(pixels, size)] for _ in problem.x])
    found = torch.zeros(at.shape, dtype=torch.float64)
    for row, places in enumerate(at.tolist()):
        for i, place in enumerate(places):
            values = []
            for sign in (1, -1):
                moved = problem.x[row : row + 1].clone()
                moved.view(-1)[place] += sign * step
                values.append(distance(problem, moved, row))
            found[row, i] = (values[0] - values[1]) / (2 * step)
    return at, found
