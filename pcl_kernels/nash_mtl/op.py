"""`nash_mtl`: checks, dispatch, fake, autograd. The solver is csrc/nash_mtl.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._checks import check_gram, not_a_gramian, not_finite, threads_for
from pcl_kernels._registry import define, plain


def _cpu(gram: Tensor) -> tuple[Tensor, Tensor]:
    k, batch = gram.shape[-1], gram.shape[:-2]
    gram = gram.contiguous()
    out = torch.empty(gram.shape[:-1], dtype=torch.float64)
    status = torch.empty(batch, dtype=torch.int32)
    count = status.numel()
    failed = _C.nash_mtl(
        gram.data_ptr(),
        gram.dtype is torch.float32,
        out.data_ptr(),
        status.data_ptr(),
        count,
        k,
        threads_for(count, k),
    )
    if failed >= 0:
        where = f"gram[{failed // 8}]" if gram.dim() == 3 else "gram"
        raise not_finite(where) if failed % 8 == 2 else not_a_gramian(where)
    return out, status


def _fake(gram: Tensor) -> tuple[Tensor, Tensor]:
    return (
        gram.new_empty(gram.shape[:-1], dtype=torch.float64),
        gram.new_empty(gram.shape[:-2], dtype=torch.int32),
    )


_op = define("nash_mtl(Tensor gram) -> (Tensor, Tensor)", cpu=_cpu, fake=_fake)


class _Differentiable(torch.autograd.Function):
    """Implicit function theorem on Gα = 1/α: with (G + diag(1/α²))u = dL/dα, dL/dG = -(uαᵀ + αuᵀ)/2."""

    @staticmethod
    def forward(ctx: Any, gram: Tensor) -> tuple[Tensor, Tensor]:
        out, status = _op(gram)
        ctx.save_for_backward(gram, out)
        ctx.mark_non_differentiable(status)
        return out, status

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        gram, alpha = ctx.saved_tensors
        # in relative terms, u = diag(α)v: the matrix is at least the identity
        inner = gram.double() * alpha.unsqueeze(-1) * alpha.unsqueeze(-2)
        inner = inner + torch.eye(gram.shape[-1], dtype=torch.float64, device=gram.device)
        u = alpha * torch.linalg.solve(inner, (alpha * grad).unsqueeze(-1)).squeeze(-1)
        outer = u.unsqueeze(-1) * alpha.unsqueeze(-2)
        d_gram: Tensor = -0.5 * (outer + outer.transpose(-1, -2))
        return d_gram.to(gram.dtype)


def nash_mtl(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The bargaining weights α > 0 with Gα = 1/α, and whether they exist.

    Nash-MTL (Navon et al. 2022, Claim 3.1): every task gains the same, α_i g_iᵀd = 1 for d = Σ α_i g_i.
    A solution exists, and is unique, unless zero is in the convex hull of the gradients (Pareto stationary).

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric positive semidefinite; solved in float64.

    Returns:
        α, float64, (k,) or (B, k) on the device of `gram`, NaN where there is no solution, and a bool tensor,
        () or (B,), that is True where there is one. Differentiable in `gram`.

    Raises:
        TypeError, ValueError: wrong dtype or shape; on CPU also for NaN, Inf and a negative diagonal.
    """
    check_gram(gram)
    alpha, status = _cpu(gram) if plain(gram) else _Differentiable.apply(gram)
    return alpha, status == 0
