"""MGDA: the shortest convex combination of the task gradients."""

from collections.abc import Sequence

from torch import Tensor

from pcl.weighting.base import Stateless
from pcl_kernels import simplex_qp


class MGDA(Stateless):
    """argmin |sum_i w_i g_i|^2 subject to sum_i w_i = 1, w >= 0 (Désidéri 2012; Sener and Koltun 2018;
    Lyu et al., arXiv 2401.01054, Eq. 5).

    Unless the point is Pareto critical, no task's loss rises along the direction, to first order.
    """

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        return simplex_qp(gram)
