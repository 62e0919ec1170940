"""IMTL-G: impartial multi-task learning by gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl.weighting.base import Stateless
from pcl_kernels import imtl_g


class IMTLG(Stateless):
    """Weights of sum 1 for which the direction has the same projection on every task's unit gradient (Liu et al.,
    "Towards Impartial Multi-task Learning", ICLR 2021, Eq. 6; :func:`pcl_kernels.imtl_g`).

    Weights may be negative. Where no such weights exist, as for two opposite gradients, they are the mean's.
    """

    capturable = False

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        weights = imtl_g(gram)
        return torch.where(weights.isnan(), 1 / len(tasks), weights)
