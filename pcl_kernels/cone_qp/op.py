"""`cone_qp`: checks, dispatch, fake, autograd. The solver is csrc/cone_qp.cpp."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._checks import (
    check_gram,
    check_vector,
    direct_sizes,
    empty_rows,
    not_a_gramian,
    not_finite,
    threads_for,
)
from pcl_kernels._programs import Results, addresses, room
from pcl_kernels._registry import define, plain
from pcl_kernels._results import QPInfo
from pcl_kernels.semidefinite_solve.op import rank_cutoff, restricted, semidefinite_solve, unit_scale

_f64, _f32 = torch.float64, torch.float32


def _cpu(gram: Tensor, b: Tensor) -> Results:
    """The registered op: float32/float64 gram (..., k, k) and float64 b (k,) or (..., k) -> v and its QPInfo."""
    k, batch = gram.shape[-1], gram.shape[:-2]
    gram, b = gram.contiguous(), b.contiguous()
    results = room(gram)
    count = results[-1].numel()
    failed = _C.cone_qp(
        *(gram.data_ptr(), gram.dtype is _f32, b.data_ptr(), k if b.dim() == gram.dim() - 1 and batch else 0),
        *addresses(results),
        *(count, k, threads_for(count, k)),
    )
    if failed >= 0:
        raise _refusal(failed, gram, b)
    return results


_op = define(
    "cone_qp(Tensor gram, Tensor b) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_cpu,
    fake=room,
    cuda="pcl_kernels.cone_qp.cuda:cone_qp",
)


def _refusal(failed: int, gram: Tensor, b: Tensor) -> ValueError:
    """What is wrong with problem `failed // 8` of a batch; `failed % 8` is a Status of csrc/qp_info.hpp."""
    problem, reason = divmod(failed, 8)
    where = f"[{problem}]" if gram.dim() == 3 else ""
    if reason == 2:
        return not_finite(f"gram{where} and b{where}")
    if reason == 4:
        return not_a_gramian(f"gram{where}")
    return ValueError(
        f"b{where}: expected a bounded problem, but the objective falls without end: some v >= 0 has Gv = 0 "
        "and vᵀb < 0. With b = Jh for a vector h this cannot happen; check that b and gram are of the same "
        "gradients"
    )


class _Differentiable(torch.autograd.Function):
    """Implicit function theorem on the active set S, where G_SS v_S = -b_S.

    With u_S = G_SS⁺ dL/dv_S: dL/db = -u and dL/dG = -(uvᵀ + vuᵀ)/2.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, b: Tensor) -> Results:
        out, gap, active, pivots, status = _op(gram, b)
        ctx.save_for_backward(gram, b, out, active)
        ctx.mark_non_differentiable(gap, active, pivots, status)
        return out, gap, active, pivots, status

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        gram, b, v, active = ctx.saved_tensors
        g = gram.to(_f64)
        scale = unit_scale(g, active)
        right = (grad * scale).unsqueeze(-2)
        u = scale * semidefinite_solve(restricted(g, scale), right, rank_cutoff(gram)).squeeze(-2)
        outer = u.unsqueeze(-1) * v.unsqueeze(-2)
        d_gram = -0.5 * (outer + outer.transpose(-1, -2))
        d_b = -u if b.dim() == v.dim() else -u.sum(0)
        return d_gram.to(gram.dtype), d_b


@overload
def cone_qp(gram: Tensor, b: Tensor, *, return_info: Literal[False] = ...) -> Tensor: ...
@overload
def cone_qp(gram: Tensor, b: Tensor, *, return_info: Literal[True]) -> tuple[Tensor, QPInfo]: ...
def cone_qp(gram: Tensor, b: Tensor, *, return_info: bool = False) -> Tensor | tuple[Tensor, QPInfo]:
    """argmin of 1/2 vᵀGv + vᵀb over v >= 0.

    With b = Jh this projects a vector h on the dual cone of the gradients: h + Jᵀv is the closest vector to h
    that conflicts with no g_i. GEM (Lopez-Paz and Ranzato 2017, Eq. 11) takes for h the current gradient and
    for J those of the memories; UPGrad (Quinton and Rey 2024) takes h = g_i, b = G[:, i]; DualProj the mean.

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric (only the symmetric part counts) and positive
            semidefinite; solved in float64.
        b: (k,) or (B, k), any floating dtype.
        return_info: also return a `QPInfo` with a gap, the active set, the iterations and the status. With
            w = Gv + b and ℓ the largest of ‖g_i‖v_i and |b_i|/‖g_i‖, the gap is
            Σ v_i·max(w_i, 0) + 2ℓ Σ max(-w_i, 0)/‖g_i‖: no v' >= 0 with ‖g_i‖v'_i <= 2ℓ is better by more.

    Returns:
        v, float64, (k,) or (B, k) on the device of `gram`; a minimiser also for dependent and zero gradients,
        the same one every time. Differentiable in `gram` and `b`; at kinks and for dependent active gradients as
        `simplex_qp` is.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device; on CPU also for NaN, Inf, a negative diagonal, and a
            problem without a minimum. On CUDA such problems get a NaN row and `Status.NOT_FINITE` or, without a
            minimum, `Status.NO_SOLUTION`.
    """
    if not return_info and plain(gram, b):
        direct = _direct(gram, b)
        if direct is not None:
            return direct
    check_gram(gram)
    check_vector("b", b, gram)
    b = b.to(_f64)
    out, *info = _cpu(gram, b) if plain(gram, b) else _Differentiable.apply(gram, b)
    return (out, QPInfo(*info)) if return_info else out


def _direct(gram: Tensor, b: Tensor) -> Tensor | None:
    """The common case without evidence, for which buffers cost more than the solver; None: not that case."""
    sizes = direct_sizes(gram)
    if sizes is None or b.dtype is not _f64 or not b.is_contiguous():
        return None
    batch, k = sizes
    shape = gram.shape
    if b.shape == shape[:-1]:
        stride = k
    elif b.shape == shape[-1:]:
        stride = 0
    else:
        return None
    out = empty_rows(gram, batch, k)
    is_float, threads = gram.dtype is _f32, threads_for(batch, k)
    failed = _C.cone_qp(gram.data_ptr(), is_float, b.data_ptr(), stride, out.data_ptr(), 0, 0, 0, 0, batch, k, threads)
    if failed >= 0:
        raise _refusal(failed, gram, b)
    return out
