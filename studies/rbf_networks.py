"""RBF networks of one input (dissertation, Sec. 5.3.1, Eq. 5.11): the network, functions to learn, and training.

f(x) = sum_i w_i sigma(theta_i1 x + theta_i2) with sigma(t) = exp(-t^2 / 2). A network is a module of its own, so that
anything can grow it; those of many targets train at once, in closed form, as one set of tensors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcl.randomness import generator

NEURONS = 15  # of the functions to learn
POINTS = 1000
SPREADS = {"variance": math.sqrt(3), "deviation": 3.0}  # N(0, 3), read in two ways


class Gaussian(nn.Module):
    """exp(-t^2 / 2)."""

    def forward(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * t * t)


class RBF(nn.Module):
    """From ``(B, 1)`` to ``(B, 1)``.

    Args:
        theta: ``(m, 2)``.
        w: ``(m,)``.
    """

    def __init__(self, theta: Tensor, w: Tensor) -> None:
        super().__init__()
        with torch.device("meta"):
            self.inner, self.outer = nn.Linear(1, len(w)), nn.Linear(len(w), 1, bias=False)
        self.inner.weight, self.inner.bias = nn.Parameter(theta[:, :1].clone()), nn.Parameter(theta[:, 1].clone())
        self.outer.weight = nn.Parameter(w[None].clone())
        self.act = Gaussian()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.outer(self.act(self.inner(x)))
        return y

    @property
    def theta(self) -> Tensor:
        """A copy ``(m, 2)``."""
        return torch.cat([self.inner.weight, self.inner.bias[:, None]], dim=1).detach().clone()

    @property
    def w(self) -> Tensor:
        """A copy ``(m,)``."""
        return self.outer.weight[0].detach().clone()


@dataclass(frozen=True)
class Targets:
    """Points of T functions: x and y ``(T, n)`` float32."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


def draw_targets(numbers: Sequence[int], spread: str) -> Targets:
    """Functions by number: 15 neurons with weights from N(0, 3), ``spread`` a key of :data:`SPREADS`, at 1,000 points
    from U(-5, 5)."""
    x, y = [], []
    for number in numbers:
        draws = generator(number, "rbf target")
        drawn = SPREADS[spread] * torch.randn(NEURONS, 3, generator=draws, dtype=torch.float64)
        points = 10 * torch.rand(POINTS, generator=draws, dtype=torch.float64) - 5
        t = drawn[:, :1] * points + drawn[:, 1:2]
        x.append(points)
        y.append(drawn[:, 2] @ torch.exp(-0.5 * t * t))
    return Targets(torch.stack(x).float(), torch.stack(y).float())


def losses(networks: Sequence[RBF], targets: Targets) -> Tensor:
    """Mean squared errors ``(T,)`` float64."""
    theta, w = (part.double() for part in _stacked(networks))
    t = theta[..., :1] * targets.x.double()[:, None] + theta[..., 1:]
    y = torch.einsum("tm,tmn->tn", w, torch.exp(-0.5 * t * t))
    return (y - targets.y.double()).square().mean(dim=1)


def train(networks: Sequence[RBF], targets: Targets, iterations: int, rate: float) -> None:
    """In place, by Adam on the mean squared error of all points, for each network as if it were alone."""
    theta, w = _stacked(networks)
    there = (torch.arange(w.shape[1]) < torch.tensor([len(network.w) for network in networks])[:, None]).float()
    points = torch.stack([targets.x, torch.ones_like(targets.x)], dim=2)  # (T, n, 2)
    y, scale = targets.y[:, None], 2 / targets.x.shape[1]
    optimizer = torch.optim.Adam([theta, w], lr=rate, fused=True)
    for _ in range(iterations):
        t = theta @ points.mT  # (T, m, n)
        h = (t * t).mul_(-0.5).exp_()
        error = w[:, None] @ h - y  # (T, 1, n)
        w.grad = (h @ error.mT)[..., 0] * there * scale
        theta.grad = (t.mul_(h).mul_(error) @ points) * w[..., None] * -scale
        optimizer.step()
    for network, rows, weights in zip(networks, theta, w, strict=True):
        m = len(network.w)
        with torch.no_grad():
            network.inner.weight.copy_(rows[:m, :1])
            network.inner.bias.copy_(rows[:m, 1])
            network.outer.weight.copy_(weights[None, :m])


def _stacked(networks: Sequence[RBF]) -> tuple[Tensor, Tensor]:
    """theta ``(T, m, 2)`` and w ``(T, m)`` up to the largest width, with neurons of no weight to fill up."""
    pad = torch.nn.utils.rnn.pad_sequence
    return (
        pad([network.theta for network in networks], batch_first=True),
        pad([network.w for network in networks], batch_first=True),
    )
