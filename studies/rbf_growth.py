"""Ways to grow RBF networks by a neuron (dissertation, Sec. 5.3.1), each for all targets at once.

A split replaces neuron i by two of half its weight, at theta_i + eps v and theta_i - eps v. It changes the loss by
eps^2 / 2 v' S_i v + O(eps^4), for the first order cancels, with the splitting matrix (Liu et al. 2019, *Splitting
steepest descent*) S_i = E[2 (f(x) - y) w_i sigma''(theta_i x~) x~ x~'], x~ = (x, 1), sigma''(t) = (t^2 - 1) sigma(t).
The steepest split is that of the smallest eigenvalue of all S_i, along its eigenvector; no split lowers the loss where
none is negative, and the network stays as it is.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl import Budget, Firefly
from pcl.randomness import drawn_seed, generator
from studies.rbf_networks import RBF, Targets, losses, train

STEP = 0.1  # eps, of every split
NEW_SPREAD = 0.1**0.5  # new neurons are from N(0, 0.1)
TRIALS = 3  # of random search, as in the paper

Grow = Callable[[Sequence[RBF], Targets, torch.Generator], list[RBF]]
"""From networks in the order of their targets to grown ones."""


def split(network: RBF, neuron: int, direction: Tensor, step: float = STEP) -> RBF:
    """With neuron split along a unit vector ``(2,)``."""
    theta, w = network.theta, network.w
    offset = step * direction.to(theta)
    w[neuron] /= 2
    minus = theta[neuron] - offset
    theta[neuron] += offset
    return RBF(torch.cat([theta, minus[None]]), torch.cat([w, w[neuron : neuron + 1]]))


def with_new(network: RBF, drawn: Tensor) -> RBF:
    """With a neuron more, ``(3,)``: both of theta, and w."""
    return RBF(torch.cat([network.theta, drawn[None, :2]]), torch.cat([network.w, drawn[2:]]))


def splitting_matrices(network: RBF, x: Tensor, y: Tensor) -> Tensor:
    """S ``(m, 2, 2)`` float64 of the mean squared error at the points ``(n,)``."""
    theta, w, x, y = (part.double() for part in (network.theta, network.w, x, y))
    points = torch.stack([x, torch.ones_like(x)])  # (2, n)
    t = theta @ points  # (m, n)
    h = torch.exp(-0.5 * t * t)
    each = 2 * (w @ h - y) * w[:, None] * (t * t - 1) * h
    return torch.einsum("mn,an,bn->mab", each, points, points) / len(x)


def steepest_split(networks: Sequence[RBF], targets: Targets, draws: torch.Generator) -> list[RBF]:
    """Splitting steepest descent."""
    grown = []
    for network, x, y in zip(networks, targets.x, targets.y, strict=True):
        values, vectors = torch.linalg.eigh(splitting_matrices(network, x, y))  # (m, 2) rising, (m, 2, 2)
        neuron = int(values[:, 0].argmin())
        lowers = bool(values[neuron, 0] < 0)
        grown.append(split(network, neuron, vectors[neuron, :, 0]) if lowers else network)
    return grown


@dataclass(frozen=True)
class RandomSearch:
    """The best of ``TRIALS`` random growths after some training.

    Args:
        new: so many new neurons are among what is drawn from, beside the splits of all there are.
        iterations, rate: of training a trial.
    """

    new: int
    iterations: int
    rate: float

    def __call__(self, networks: Sequence[RBF], targets: Targets, draws: torch.Generator) -> list[RBF]:
        trials = []
        for _ in range(TRIALS):
            trials.append([self._grown(network, draws) for network in networks])
            train(trials[-1], targets, self.iterations, self.rate)
        best = torch.stack([losses(grown, targets) for grown in trials]).argmin(dim=0).tolist()
        return [trials[trial][i] for i, trial in enumerate(best)]

    def _grown(self, network: RBF, draws: torch.Generator) -> RBF:
        width = len(network.w)
        chosen = int(torch.randint(width + self.new, (), generator=draws))
        if chosen >= width:
            return with_new(network, NEW_SPREAD * torch.randn(3, generator=draws))
        direction = torch.randn(2, generator=draws)
        return split(network, chosen, direction / direction.norm())


@dataclass(frozen=True)
class LibraryFirefly:
    """:class:`pcl.Firefly`, one network after the other.

    Args:
        new: so many new neurons are among the candidates.
        steps: of training the candidates before they are scored.
    """

    new: int
    steps: int

    def __call__(self, networks: Sequence[RBF], targets: Targets, draws: torch.Generator) -> list[RBF]:
        for network, x, y in zip(networks, targets.x, targets.y, strict=True):
            firefly = Firefly(step=STEP, new=self.new, steps=self.steps, seed=drawn_seed(draws))
            firefly.grow(network, itertools.repeat((x[:, None], y[:, None])), squared_error, Budget(neurons=1))
        return list(networks)


def squared_error(forward: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """The objective, on points and values ``(n, 1)``."""
    x, y = batch
    return F.mse_loss(forward(x), y)


def first_networks(numbers: Sequence[int], width: int) -> list[RBF]:
    """A network for every target, by number, all of it from N(0, 1); the same for every method."""
    drawn = [torch.randn(width, 3, generator=generator(number, "first rbf network", width)) for number in numbers]
    return [RBF(each[:, :2], each[:, 2]) for each in drawn]
