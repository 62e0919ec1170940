"""CAGrad: conflict-averse gradient descent."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcl.weighting.base import Stateless
from pcl.weighting.preference import checked_preference, preference_vector
from pcl.weighting.scale import Scale, checked_scale, scaled
from pcl_kernels import cagrad_dual

_ROUNDING = 64 * torch.finfo(torch.float64).eps


class CAGrad(Stateless):
    """The direction near the mean gradient along which the task that gains least gains most (Liu, Liu, Jin, Stone and
    Liu, NeurIPS 2021, arXiv 2110.14048; Algorithm 2 and Eq. 3.8 to 3.10 of Bo Liu's dissertation, 2025).

    d maximises min_i <g_i, d> over the ball |d - g_0| <= c |g_0| around g_0 = sum_i p_i g_i, the mean (p_i = 1 / k) if
    no task is preferred. With the minimiser w of <g_w, g_0> + c |g_0| |g_w| over the simplex, g_w = sum_i w_i g_i,

        weight_i = p_i + c |g_0| / |g_w| w_i,

    and p_i where g_w is zero, up to rounding. c = 0 is the mean; for large c the direction turns to that of MGDA. For
    c < 1 it goes downhill on the (preferred) mean loss. The weights sum to more than 1, the more the larger c, so that
    weight decay, which does not grow with them, counts less: ``scale="unit"`` divides them by their sum.

    Args:
        c: radius of the ball in units of |g_0|, at least 0.
        scale: ``"paper"`` or ``"unit"``.
        preference: how much each task counts, by name; tasks not named count 1. None means all the same.

    Raises:
        ValueError: for a c that is negative or not finite, an unknown ``scale``, or a preference that is not a finite
            number above 0.
    """

    capturable = False

    def __init__(
        self,
        c: float = 0.5,
        *,
        scale: Scale = "paper",
        preference: Mapping[str, float] | None = None,
    ) -> None:
        if not 0 <= c < math.inf:
            raise ValueError(f"CAGrad c: expected a finite number of at least 0, got {c}")
        self.c = c
        self.scale = checked_scale(scale, "CAGrad")
        self.preference = checked_preference(preference, "CAGrad")

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        p = preference_vector(self.preference, tasks, gram)
        w = cagrad_dual(gram, self.c, p)
        mean_norm = (p @ gram @ p).clamp(min=0).sqrt()
        squared, lengths = w @ gram @ w, w @ gram.diagonal().sqrt()
        vanishes = squared <= _ROUNDING * lengths.square()  # and its direction is rounding
        longer = self.c * mean_norm / squared.clamp(min=0).sqrt()
        weights = p + torch.where(vanishes, 0.0, longer) * w
        return scaled(weights, self.scale)
