"""`maxdo`: checks, dispatch, fake. The solver is csrc/cuda/maxdo_search.cuh."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._checks import check_gram, direct_sizes, empty_rows, refusal, threads_for
from pcl_kernels._programs import Results, addresses, room
from pcl_kernels._registry import define, plain
from pcl_kernels._results import QPInfo


def _cpu(gram: Tensor) -> Results:
    """The registered op: float32/float64 gram (..., k, k) -> w and its QPInfo."""
    k = gram.shape[-1]
    gram = gram.contiguous()
    results = room(gram)
    count = results[-1].numel()
    failed = _C.maxdo(
        *(gram.data_ptr(), gram.dtype is torch.float32, *addresses(results)),
        *(count, k, threads_for(count, k)),
    )
    if failed >= 0:
        raise refusal(failed, gram)
    return results


_op = define(
    "maxdo(Tensor gram) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_cpu,
    fake=room,
    cuda="pcl_kernels.maxdo.cuda:maxdo",
)


@overload
def maxdo(gram: Tensor, *, return_info: Literal[False] = ...) -> Tensor: ...
@overload
def maxdo(gram: Tensor, *, return_info: Literal[True]) -> tuple[Tensor, QPInfo]: ...
def maxdo(gram: Tensor, *, return_info: bool = False) -> Tensor | tuple[Tensor, QPInfo]:
    """argmin over w >= 0, Σw = 1 of P(w) = max_i ‖d - g_i‖²/‖g_i‖², d = Σ w_i g_i.

    Our reading of MaxDO (Lyu et al., ICCV 2023): the direction whose largest distance to a gradient, relative to that
    gradient's length, is least. It needs the Gramian alone, P(w) = 1 + max_i (wᵀGw - 2(Gw)_i)/G_ii, and is never above
    1, the value of d = 0. Solved exactly, by its dual: P(w) = 1 - min vᵀGv/((Σv)(δᵀv)) with δ = diag G, a search along
    one number over problems that :func:`simplex_qp` solves. Of a zero gradient no other d than zero has a ratio that is
    finite: zero gradients share the weight.

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric positive semidefinite; solved in float64.
        return_info: also return a `QPInfo` with the duality gap P(w) - 1 + wᵀGw/δᵀw, which bounds how far P(w) is above
            the minimum, plus what rounding may have hidden of it, 1e-16(2q + q²) for q = Σ_j w_j‖g_j‖/min_i ‖g_i‖; the
            active set; the iterations (pivots of all the problems on the way); and the status, `Status.INEXACT` for a
            gap above 1e-9. That happens where gradients cancel and others are more than 1e3 times shorter, so that
            rounding in the sum of the former counts beside the latter.

    Returns:
        w, float64, (k,) or (B, k) on the device of `gram`. Not differentiable: gradients stop here.

    Raises:
        TypeError, ValueError: wrong dtype or shape; on CPU also for NaN, Inf and a negative diagonal. On CUDA such
            problems get a NaN row and `Status.NOT_FINITE`.
    """
    if not return_info and plain(gram):
        direct = _direct(gram)
        if direct is not None:
            return direct
    check_gram(gram)
    out, *info = _op(gram.detach())
    return (out, QPInfo(*info)) if return_info else out


def _direct(gram: Tensor) -> Tensor | None:
    """The common case without evidence, for which buffers cost more than the solver; None: not that case."""
    sizes = direct_sizes(gram)
    if sizes is None:
        return None
    batch, k = sizes
    out = empty_rows(gram, batch, k)
    is_float, threads = gram.dtype is torch.float32, threads_for(batch, k)
    failed = _C.maxdo(gram.data_ptr(), is_float, out.data_ptr(), 0, 0, 0, 0, batch, k, threads)
    if failed >= 0:
        raise refusal(failed, gram)
    return out
