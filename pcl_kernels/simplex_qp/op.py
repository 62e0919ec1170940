"""`simplex_qp`: checks, dispatch, fake, autograd. The solver is csrc/simplex_qp.cpp."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._checks import check_gram, check_vector, not_a_gramian, not_finite, threads_for
from pcl_kernels._programs import Results, addresses, room
from pcl_kernels._registry import define, plain
from pcl_kernels._results import QPInfo
from pcl_kernels.semidefinite_solve.op import rank_cutoff, restricted, semidefinite_solve, unit_scale

_f64, _f32 = torch.float64, torch.float32
_empty, _solve = torch.empty, _C.simplex_qp


def _cpu(gram: Tensor, sigma: Tensor | None) -> Results:
    """The registered op: contiguous float32/float64 gram (..., k, k) and float64 sigma (k,) or (..., k)."""
    k = gram.shape[-1]
    batch = gram.shape[:-2]
    gram = gram.contiguous()
    results = room(gram)
    sigma_at, sigma_stride = 0, 0
    if sigma is not None:
        sigma = sigma.contiguous()
        sigma_at, sigma_stride = sigma.data_ptr(), k if sigma.dim() == gram.dim() - 1 and batch else 0
    count = results[-1].numel()
    failed = _solve(
        *(gram.data_ptr(), gram.dtype is _f32, sigma_at, sigma_stride, *addresses(results)),
        *(count, k, threads_for(count, k)),
    )
    if failed >= 0:
        _refuse(failed, gram, sigma)
    return results


_op = define(
    "simplex_qp(Tensor gram, Tensor? sigma) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_cpu,
    fake=room,
    cuda="pcl_kernels.simplex_qp.cuda:simplex_qp",
)


def _refuse(failed: int, gram: Tensor, sigma: Tensor | None) -> None:
    """Raise for problem `failed // 8` of a batch; `failed % 8` is a Status of csrc/qp_info.hpp."""
    problem, reason = divmod(failed, 8)
    where = f"[{problem}]" if gram.dim() == 3 else ""
    if reason == 2:
        raise not_finite(f"gram{where}")
    if reason == 4:
        raise not_a_gramian(f"gram{where}")
    assert sigma is not None
    raise ValueError(
        f"sigma: expected positive finite normal numbers, got values between {sigma.min().item():g} and "
        f"{sigma.max().item():g}. Keep a small floor under it, such as 1e-12"
    )


class _Differentiable(torch.autograd.Function):
    """Implicit function theorem on the active set S, where λ solves G_SS λ = fσ, σᵀλ = 1 with f = λᵀGλ.

    With u, ν the solution of G_SS u + νσ = dL/dλ, σᵀu = 0 there: dL/dG = -(uλᵀ + λuᵀ)/2 and dL/dσ = f·u - ν·λ.
    For A = G_SS + σσᵀ, P = A⁺ dL/dλ and Q = A⁺σ that is ν = σᵀP/σᵀQ, u = P - νQ.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        out, gap, active, pivots, status = _op(gram, sigma)
        ctx.save_for_backward(gram, sigma, out, active)
        ctx.mark_non_differentiable(gap, active, pivots, status)
        return out, gap, active, pivots, status

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        gram, sigma, lam, active = ctx.saved_tensors
        g = gram.to(_f64)
        scale = unit_scale(g, active)
        s = sigma * scale
        size = s.norm(dim=-1, keepdim=True)
        s = s / size
        a = restricted(g, scale) + s.unsqueeze(-1) * s.unsqueeze(-2)
        right = torch.stack([grad * scale, s.expand(grad.shape)], -2)
        p, q = semidefinite_solve(a, right, rank_cutoff(gram)).unbind(-2)
        nu = (s * p).sum(-1, keepdim=True) / (s * q).sum(-1, keepdim=True)
        u = (p - nu * q) * scale
        outer = u.unsqueeze(-1) * lam.unsqueeze(-2)
        d_gram = -0.5 * (outer + outer.transpose(-1, -2))
        objective = (lam * (g @ lam.unsqueeze(-1)).squeeze(-1)).sum(-1, keepdim=True)
        d_sigma = objective * u - nu / size * lam
        if sigma.dim() < lam.dim():
            d_sigma = d_sigma.sum(0)
        return d_gram.to(gram.dtype), d_sigma


@overload
def simplex_qp(
    gram: Tensor, sigma: Tensor | None = ..., *, lower: Tensor | None = ..., return_info: Literal[False] = ...
) -> Tensor: ...
@overload
def simplex_qp(
    gram: Tensor, sigma: Tensor | None = ..., *, lower: Tensor | None = ..., return_info: Literal[True]
) -> tuple[Tensor, QPInfo]: ...
def simplex_qp(
    gram: Tensor, sigma: Tensor | None = None, *, lower: Tensor | None = None, return_info: bool = False
) -> Tensor | tuple[Tensor, QPInfo]:
    """The weights λ that minimise ‖Σ λ_i g_i‖² = λᵀGλ subject to Σ λ_iσ_i = 1 and λ >= 0 (or λ >= lower).

    With σ = 1 this is MGDA; with the σ of EMGD (Lyu et al., arXiv 2401.01054, Sec. IV) every task improves
    at least as σ_i·‖d‖² says, g_iᵀd >= σ_i‖d‖² for d = Σ λ_i g_i (Lemma 1).

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric (only the symmetric part counts) and positive
            semidefinite. Solved in float64 whatever its dtype; any scale, norms from 1e-150 to 1e150.
        sigma: (k,) or (B, k), positive; None means 1 for every task.
        lower: (k,) or (B, k), lower bounds with Σ lower_i·σ_i < 1; None means 0.
        return_info: also return a `QPInfo` with the duality gap 2(λᵀGλ - min_i (Gλ)_i/σ_i), the active set, the
            iterations and the status.

    Returns:
        λ, float64, (k,) or (B, k) on the device of `gram`. A minimiser also for dependent, equal, opposite
        and zero gradients, the same one every time: among equal gradients the first carries the weight, zero
        gradients share it. Differentiable in `gram`, `sigma` and `lower`. Where λ has kinks (a weight just
        reaches zero) the derivative is that of the side on which the active set stays; where λ is one of many
        (dependent active gradients) it is that of least norm, in units of the gradients' own lengths.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device; on CPU also for NaN, Inf, a negative diagonal, a
            sigma that is not positive, and bounds that leave nothing to choose. On CUDA such problems get NaN
            weights and `Status.NOT_FINITE`, because raising would wait for the device.
    """
    if lower is None and not return_info and (plain(gram) if sigma is None else plain(gram, sigma)):
        direct = _direct(gram, sigma)
        if direct is not None:
            return direct
    check_gram(gram)
    for name, value in (("sigma", sigma), ("lower", lower)):
        if value is not None:
            check_vector(name, value, gram)
    if sigma is None:
        sigma = gram.new_ones(gram.shape[-1], dtype=_f64)
    sigma = sigma.to(_f64)
    if lower is not None:
        return _bounded(gram, sigma, lower.to(_f64), return_info)
    out, *info = _Differentiable.apply(gram, sigma)
    return (out, QPInfo(*info)) if return_info else out


def _direct(gram: Tensor, sigma: Tensor | None) -> Tensor | None:
    """The common case past torch's dispatcher, which takes longer than the solver; None: not that case."""
    shape = gram.shape
    dtype = gram.dtype
    if len(shape) == 2:
        batch, (rows, k) = 1, shape
        threads = 1
    elif len(shape) == 3:
        batch, rows, k = shape
        threads = threads_for(batch, k)
    else:
        return None
    if rows != k or k == 0 or not gram.is_contiguous() or (dtype is not _f64 and dtype is not _f32):
        return None
    sigma_at = stride = 0
    if sigma is not None:
        if sigma.dtype is not _f64 or not sigma.is_contiguous():
            return None
        if sigma.shape == shape[:-1]:
            stride = k
        elif sigma.shape != shape[-1:]:
            return None
        sigma_at = sigma.data_ptr()
    out = _empty(k, dtype=_f64) if len(shape) == 2 else _empty((batch, k), dtype=_f64)
    failed = _solve(gram.data_ptr(), dtype is _f32, sigma_at, stride, out.data_ptr(), 0, 0, 0, 0, batch, k, threads)
    if failed >= 0:
        _refuse(failed, gram, sigma)
    return out


def _bounded(gram: Tensor, sigma: Tensor, lower: Tensor, return_info: bool) -> Tensor | tuple[Tensor, QPInfo]:
    """λ = lower + ρν with ρ = 1 - Σ lower·σ: ν solves the same problem for MᵀGM, M = ρI + lower·σᵀ."""
    rho = 1 - (lower * sigma).sum(-1, keepdim=True)
    if gram.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((rho > 0).all()):
        raise ValueError(
            f"lower: expected Σ lower·sigma < 1, got {1 - rho.min().item():g}. Lower the bounds, "
            "or divide them by that sum"
        )
    k = gram.shape[-1]
    eye = torch.eye(k, dtype=_f64, device=gram.device)
    m = rho.unsqueeze(-1) * eye + lower.unsqueeze(-1) * sigma.unsqueeze(-2)
    reduced = m.transpose(-1, -2) @ gram.to(_f64) @ m
    if not return_info:
        return lower + rho * simplex_qp(reduced, sigma)
    nu, info = simplex_qp(reduced, sigma, return_info=True)
    return lower + rho * nu, info
