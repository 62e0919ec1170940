"""Weights that look at nothing: sum and mean."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl.weighting.base import Needs, Stateless


class Sum(Stateless):
    """weight_i = 1: the gradient of the sum of the losses."""

    needs: Needs = "losses"

    def __call__(self, gram: Tensor | None, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        return torch.ones(len(tasks), dtype=torch.float64, device=losses.device)


class Mean(Stateless):
    """weight_i = 1 / k: AvgGrad (Lyu et al., arXiv 2401.01054, Eq. 2)."""

    needs: Needs = "losses"

    def __call__(self, gram: Tensor | None, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        return torch.full((len(tasks),), 1 / len(tasks), dtype=torch.float64, device=losses.device)
