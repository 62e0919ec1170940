"""`nash_mtl`: checks, dispatch, fake, autograd. The solver is csrc/cuda/nash_mtl.cuh."""

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
from pcl_kernels.semidefinite_solve.op import semidefinite_solve

_cpu = partial(solve, _C.nash_mtl)
_direct = partial(solve_directly, _C.nash_mtl)

_op = define(
    "nash_mtl(Tensor gram) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu,
    fake=fake,
    cuda="pcl_kernels.nash_mtl.cuda:nash_mtl",
)


class _Differentiable(torch.autograd.Function):
    """Implicit function theorem on Gα = 1/α: with (G + diag(1/α²))u = dL/dα, dL/dG = -(uαᵀ + αuᵀ)/2."""

    @staticmethod
    def forward(ctx: Any, gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, residual, status = _op(gram)
        ctx.save_for_backward(gram, out)
        ctx.mark_non_differentiable(residual, status)
        return out, residual, status

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        gram, alpha = ctx.saved_tensors
        # in relative terms, u = diag(α)v: the matrix is at least the identity
        inner = gram.double() * alpha.unsqueeze(-1) * alpha.unsqueeze(-2)
        inner = inner + torch.eye(gram.shape[-1], dtype=torch.float64, device=gram.device)
        u = alpha * semidefinite_solve(inner, (alpha * grad).unsqueeze(-2), 0.0).squeeze(-2)
        outer = u.unsqueeze(-1) * alpha.unsqueeze(-2)
        d_gram: Tensor = -0.5 * (outer + outer.transpose(-1, -2))
        return d_gram.to(gram.dtype)


@overload
def nash_mtl(gram: Tensor, *, return_info: Literal[False] = ...) -> Tensor: ...
@overload
def nash_mtl(gram: Tensor, *, return_info: Literal[True]) -> tuple[Tensor, SystemInfo]: ...
def nash_mtl(gram: Tensor, *, return_info: bool = False) -> Tensor | tuple[Tensor, SystemInfo]:
    """The bargaining weights α > 0 with Gα = 1/α; NaN where there are none.

    Nash-MTL (Navon et al. 2022, Claim 3.1): every task gains the same, α_i g_iᵀd = 1 for d = Σ α_i g_i.
    A solution exists, and is unique, unless zero is in the convex hull of the gradients (Pareto stationary).

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric positive semidefinite; solved in float64.
        return_info: also return a `SystemInfo` with the residual max_i |α_i(Gα)_i - 1| and the status, which is
            `Status.NO_SOLUTION` at a stationary point. Near one, where gradients of unit norm cancel down to a length
            of δ, rounding leaves a residual of about 1e-16/δ².

    Returns:
        α, float64, (k,) or (B, k) on the device of `gram`, a row of NaN where there is no solution. Differentiable in
        `gram`.

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
