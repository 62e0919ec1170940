"""`cagrad_dual`: checks, dispatch, fake. The solver is csrc/cagrad_dual.cpp."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._checks import (
    check_gram,
    check_vector,
    direct_sizes,
    empty_rows,
    refusal,
    threads_for,
    vector_address,
)
from pcl_kernels._programs import Results, addresses, room
from pcl_kernels._registry import define, plain
from pcl_kernels._results import QPInfo


def _cpu(gram: Tensor, c: float, preference: Tensor | None) -> Results:
    """The registered op: float32/float64 gram (..., k, k), float64 preference (k,) or (..., k) -> w and its QPInfo."""
    k = gram.shape[-1]
    gram = gram.contiguous()
    preference = None if preference is None else preference.contiguous()
    results = room(gram)
    count = results[-1].numel()
    failed = _C.cagrad_dual(
        *(gram.data_ptr(), gram.dtype is torch.float32, c, *vector_address(preference, gram)),
        *addresses(results),
        *(count, k, threads_for(count, k)),
    )
    if failed >= 0:
        raise refusal(failed, gram, preference)
    return results


_op = define(
    "cagrad_dual(Tensor gram, float c, Tensor? preference) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_cpu,
    fake=room,
    cuda="pcl_kernels.cagrad_dual.cuda:cagrad_dual",
)


@overload
def cagrad_dual(
    gram: Tensor, c: float = ..., preference: Tensor | None = ..., *, return_info: Literal[False] = ...
) -> Tensor: ...
@overload
def cagrad_dual(
    gram: Tensor, c: float = ..., preference: Tensor | None = ..., *, return_info: Literal[True]
) -> tuple[Tensor, QPInfo]: ...
def cagrad_dual(
    gram: Tensor, c: float = 0.5, preference: Tensor | None = None, *, return_info: bool = False
) -> Tensor | tuple[Tensor, QPInfo]:
    """argmin over w >= 0, Σw = 1 of F(w) = wᵀb + r√(wᵀGw), with g₀ = Σ p_i g_i, b_i = g_i·g₀ and r = c‖g₀‖.

    The dual of CAGrad (Liu et al. 2021, Algorithm 1), whose update is g₀ + c‖g₀‖ g_w/‖g_w‖, g_w = Σ w_i g_i.
    Solved exactly, not by descent: the minimum is the root of a piecewise quadratic in one variable. Good to
    1e-13 of the largest ‖g_i‖² for independent gradients and 1e-10 for dependent ones. Where norms lie more
    than 1e12 apart only feasibility and a value no worse than that of any single task are sure.

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric positive semidefinite; solved in float64.
        c: radius of the ball around g₀, >= 0; CAGrad takes values in [0, 1).
        preference: p, (k,) or (B, k), positive, of sum 1; None means 1/k for every task.
        return_info: also return a `QPInfo` with the duality gap, the active set, the iterations (pivots of all
            the problems on the way) and the status. For every y with yᵀGy <= 1 the minimum is at least
            min_i (b + rGy)_i; the gap is F(w) above the better bound of y = w/√(wᵀGw) and the dual solution's. Where
            the gradients cancel, wᵀGw and with it the gap are known to the root of the rounding only, 1e-8 r‖g_i‖.

    Returns:
        w, float64, (k,) or (B, k) on the device of `gram`. Not differentiable: gradients stop here.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device, c negative or not finite; on CPU also for NaN, Inf, a
            negative diagonal and a preference that is not positive. On CUDA such problems get a NaN row and
            `Status.NOT_FINITE`.
    """
    observed = return_info or not (plain(gram) and (preference is None or plain(preference)))
    if not observed and 0 <= c < math.inf:
        direct = _direct(gram, c, preference)
        if direct is not None:
            return direct
    check_gram(gram)
    if preference is not None:
        check_vector("preference", preference, gram)
        preference = preference.detach().to(torch.float64)
    if not (math.isfinite(c) and c >= 0):
        raise ValueError(f"c: expected a finite number >= 0, got {c}. CAGrad takes values in [0, 1)")
    gram = gram.detach()
    out, *info = _op(gram, float(c), preference)
    return (out, QPInfo(*info)) if return_info else out


def _direct(gram: Tensor, c: float, preference: Tensor | None) -> Tensor | None:
    """The common case without evidence, for which buffers cost more than the solver; None: not that case."""
    sizes = direct_sizes(gram)
    if sizes is None:
        return None
    batch, k = sizes
    if preference is not None:
        fits = preference.shape in (gram.shape[-1:], gram.shape[:-1])
        if not fits or preference.dtype is not torch.float64 or not preference.is_contiguous():
            return None
    out = empty_rows(gram, batch, k)
    is_float, threads = gram.dtype is torch.float32, threads_for(batch, k)
    at, stride = vector_address(preference, gram)
    failed = _C.cagrad_dual(gram.data_ptr(), is_float, c, at, stride, out.data_ptr(), 0, 0, 0, 0, batch, k, threads)
    if failed >= 0:
        raise refusal(failed, gram, preference)
    return out
