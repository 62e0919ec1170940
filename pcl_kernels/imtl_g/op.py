"""`imtl_g`: checks, dispatch, fake, autograd. The solver is csrc/cuda/imtl_g.cuh."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._checks import check_gram
from pcl_kernels._registry import define, plain
from pcl_kernels._results import SystemInfo
from pcl_kernels._systems import fake, solve, solve_directly
from pcl_kernels.semidefinite_solve.op import rank_cutoff, semidefinite_solve, unit_scale

_cpu = partial(solve, _C.imtl_g)
_direct = partial(solve_directly, _C.imtl_g)

_op = define(
    "imtl_g(Tensor gram) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu,
    fake=fake,
    cuda="pcl_kernels.imtl_g.cuda:imtl_g",
)


class _Differentiable(torch.autograd.Function):
    """With n_i = ‖g_i‖, C_ij = G_ij/(n_i n_j) and y = C⁺1, α is a = y/n over Σa.

    For dL/dy = v, p = C⁺v and the projection P = 1 - CC⁺, at constant rank (Golub and Pereyra 1973):
    dL/dC = -p yᵀ + (C⁺p)(P1)ᵀ + (Pv)(C⁺y)ᵀ.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, residual, status = _op(gram)
        ctx.save_for_backward(gram, out)
        ctx.mark_non_differentiable(residual, status)
        return out, residual, status

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        gram, alpha = ctx.saved_tensors
        g = 0.5 * (gram.double() + gram.double().transpose(-1, -2))
        some = g.diagonal(dim1=-2, dim2=-1) > 0
        scale, one = unit_scale(g, some), some.double()
        cosines = g * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        y = _solve(cosines, one, gram)
        total = torch.where(some.any(-1, keepdim=True), (y * scale).sum(-1, keepdim=True), 1.0)
        d_a = (grad - (grad * alpha).sum(-1, keepdim=True)) / total
        v = d_a * scale
        p = _solve(cosines, v, gram)
        d_cosines = -_outer(p, y)
        d_cosines = d_cosines + _outer(_solve(cosines, p, gram), one - _times(cosines, y))
        d_cosines = d_cosines + _outer(v - _times(cosines, p), _solve(cosines, y, gram))
        d_cosines = 0.5 * (d_cosines + d_cosines.transpose(-1, -2))
        # n_i = √G_ii is in a = y/n, in row i and in column i of C
        d_log_norm = -d_a * y * scale - 2 * (d_cosines * cosines).sum(-1)
        d_gram = d_cosines * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        return (d_gram + torch.diag_embed(0.5 * d_log_norm * scale * scale)).to(gram.dtype)


def _solve(cosines: Tensor, b: Tensor, gram: Tensor) -> Tensor:
    return semidefinite_solve(cosines, b.unsqueeze(-2), rank_cutoff(gram)).squeeze(-2)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)


@overload
def imtl_g(gram: Tensor, *, return_info: Literal[False] = ...) -> Tensor: ...
@overload
def imtl_g(gram: Tensor, *, return_info: Literal[True]) -> tuple[Tensor, SystemInfo]: ...
def imtl_g(gram: Tensor, *, return_info: bool = False) -> Tensor | tuple[Tensor, SystemInfo]:
    """The weights α, Σα = 1, for which d = Σ α_i g_i has the same projection u_iᵀd on every u_i = g_i/‖g_i‖.

    IMTL-G (Liu et al. 2021, Eq. 6): with N = diag(‖g_i‖) the cosines are C = N⁻¹GN⁻¹, and α is N⁻¹C⁺1 divided
    by its sum. The pseudoinverse C⁺ covers dependent gradients: it gives the most equal projections they allow, by
    the shortest Nα.

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric (only the symmetric part counts) and positive
            semidefinite; solved in float64.
        return_info: also return a `SystemInfo` with the residual max_i |u_iᵀd - mean| over max_i Σ_j |α_j u_iᵀg_j|
            and the status: `Status.INEXACT` where dependent gradients allow no equal projections.

    Returns:
        α, float64, (k,) or (B, k) on the device of `gram`; entries may be negative. A row of NaN with
        `Status.NO_SOLUTION` where Σα would be zero, as for two opposite gradients. Zero gradients, which have no
        direction, get weight 0 and do not count; where all are zero every weight is 1/k. k = 1 gives 1.
        Differentiable in `gram`; for dependent gradients with their rank held fixed.

    Raises:
        TypeError, ValueError: wrong dtype or shape; on CPU also for NaN, Inf and a negative diagonal. On CUDA such
            problems get a NaN row and `Status.NOT_FINITE`.
    """
    if not return_info and plain(gram):
        direct = _direct(gram)
        if direct is not None:
            return direct
    check_gram(gram)
    out, *info = _cpu(gram) if plain(gram) else _Differentiable.apply(gram)
    return (out, SystemInfo(*info)) if return_info else out
