"""CAGrad: conflict-averse gradient descent."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl.weighting.base import Stateless
from pcl_kernels import cagrad_dual


class CAGrad(Stateless):
    """The direction near the mean gradient along which the task that gains least gains most (Liu, Liu, Jin, Stone and
    Liu, NeurIPS 2021, arXiv 2110.14048; Algorithm 2 and Eq. 3.8 to 3.10 of Bo Liu's dissertation, 2025).

    d maximises min_i <g_i, d> over the ball |d - g_0| <= c |g_0| around the mean g_0. With the minimiser w of
    <g_w, g_0> + c |g_0| |g_w| over the simplex, g_w = sum_i w_i g_i,

        weight_i = 1 / k + c |g_0| / |g_w| w_i,

    and 1 / k where g_w is zero. c = 0 is the mean; for large c the direction turns to that of MGDA. For c < 1 it
    goes downhill on the mean loss; the weights sum to more than 1.

    Args:
        c: radius of the ball in units of |g_0|, at least 0.

    Raises:
        ValueError: for c < 0.
    """

    capturable = False

    def __init__(self, c: float = 0.5) -> None:
        if not c >= 0:
            raise ValueError(f"CAGrad c: expected a number of at least 0, got {c}")
        self.c = c

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        k = len(tasks)
        w = cagrad_dual(gram, self.c)
        mean_norm = (gram.sum() / k**2).clamp(min=0).sqrt()
        norm = (w @ gram @ w).clamp(min=0).sqrt()
        longer = self.c * mean_norm / norm
        return 1 / k + torch.where(torch.isfinite(longer), longer, 0.0) * w
