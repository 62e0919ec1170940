"""Weights that look at nothing: sum and mean."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl.weighting.base import Stateless


class Sum(Stateless):
    """weight_i = 1: the gradient of the sum of the losses."""

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        return torch.ones(len(tasks), dtype=torch.float64, device=gram.device)


class Mean(Stateless):
    """weight_i = 1 / k: AvgGrad (Lyu et al., arXiv 2401.01054, Eq. 2)."""

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        return torch.full((len(tasks),), 1 / len(tasks), dtype=torch.float64, device=gram.device)
