"""`semidefinite_solve`: the linear systems of the other ops' derivatives. The solver is csrc/cuda/linear.cuh."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._checks import threads_for
from pcl_kernels._registry import define


def _cpu(a: Tensor, b: Tensor, cutoff: float) -> Tensor:
    a, b = a.contiguous(), b.contiguous()
    x = torch.empty_like(b)
    rows, k = b.shape[-2:]
    count = a.numel() // (k * k)
    _C.semidefinite_solve(a.data_ptr(), b.data_ptr(), x.data_ptr(), cutoff, count, k, rows, threads_for(count, 2 * k))
    return x


def _fake(a: Tensor, b: Tensor, cutoff: float) -> Tensor:
    return b.new_empty(b.shape)


_op = define(
    "semidefinite_solve(Tensor a, Tensor b, float cutoff) -> Tensor",
    cpu=_cpu,
    fake=_fake,
    cuda="pcl_kernels.semidefinite_solve.cuda:semidefinite_solve",
)


def semidefinite_solve(a: Tensor, b: Tensor, cutoff: float) -> Tensor:
    """X with rows x_m = A⁺b_m, for positive semidefinite A; on CUDA without waiting for the host.

    a (k, k) or (B, k, k) and b (m, k) or (B, m, k), both contiguous float64, on one device. What elimination with
    the largest pivots leaves of A below `cutoff` times its largest diagonal entry counts as zero, so that A has a
    rank, and A⁺b is the shortest x with the least ‖Ax - b‖. Shapes are those of the ops that call it and are not
    checked again. Not differentiable.
    """
    out: Tensor = _op(a, b, cutoff)
    return out


def rank_cutoff(gram: Tensor) -> float:
    """The eigenvalue that rounding can make of a zero one, in a (..., k, k) matrix of `gram`'s dtype and unit
    diagonal."""
    return 4 * gram.shape[-1] * torch.finfo(gram.dtype).eps


def unit_scale(gram: Tensor, active: Tensor) -> Tensor:
    """(..., k): 1/‖g_i‖ for active tasks (1 where that is not finite), 0 for the others."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    return torch.where(active, torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal)).rsqrt(), 0.0)


def restricted(gram: Tensor, scale: Tensor) -> Tensor:
    """`gram` scaled on both sides, and the unit matrix where `scale` is 0, which keeps the rank whole."""
    return gram * scale.unsqueeze(-1) * scale.unsqueeze(-2) + torch.diag_embed((scale == 0).to(gram.dtype))
