"""Gradients that the tests of weightings share, and how they ask for weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl import Weighting

NAMES = [f"t{i}" for i in range(20)]
SIZES = [1, 2, 5, 20]


def gradients(k: int, seed: int, *, width: int = 30, shared: float = 0.0, decades: float = 2.0) -> Tensor:
    """k gradients ``(k, width)`` with norms over some decades; ``shared`` pulls them into one direction."""
    draws = torch.Generator().manual_seed(seed)
    g = torch.randn(k, width, dtype=torch.float64, generator=draws)
    if shared:
        g = g + shared * torch.randn(width, dtype=torch.float64, generator=draws)
    return g * 10 ** (decades * torch.rand(k, 1, dtype=torch.float64, generator=draws))


def conflicting(k: int, seed: int) -> Tensor:
    """Gradients in few dimensions, so that many are opposed to each other."""
    return gradients(k, seed, width=3)


def weigh(weighting: Weighting, g: Tensor, names: Sequence[str] = NAMES) -> Tensor:
    """The weights of a step with these gradients and losses of 1."""
    return weighting(g @ g.T, torch.ones(len(g)), names[: len(g)])
