"""The integrated gradient of every neuron's step (dissertation, Eq. 5.5) in plain float64 PyTorch, point by point."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels.firefly_split.reference import firefly_split


def firefly_score(
    a: Tensor,
    d: Tensor,
    epsilon: Tensor,
    grad: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    mirror: Tensor | None = None,
    activation: str = "relu",
    points: int = 3,
) -> Tensor:
    """s_i = 1/n Σ_z <grad_i, dh_i/dζ_i> at ζ_i = (2z - 1) / (2n) ε_i, the derivative by autograd."""
    score = torch.zeros_like(epsilon, dtype=torch.float64)
    for z in range(1, points + 1):
        with torch.enable_grad():
            zeta = ((2 * z - 1) / (2 * points) * epsilon.detach().double()).requires_grad_()
            given = (None if v is None else v.detach().double() for v in (scale, shift))
            of_mirror = None if mirror is None else mirror.detach().double()
            h = firefly_split(
                a.detach().double(), d.detach().double(), zeta, *given, mirror=of_mirror, activation=activation
            )
            (slope,) = torch.autograd.grad(h, zeta, grad.detach().double())
        score += slope / points
    return score
