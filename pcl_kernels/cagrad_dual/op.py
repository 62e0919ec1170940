"""`cagrad_dual`: checks, dispatch, fake. The solver is csrc/cagrad_dual.cpp."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._checks import check_gram, not_a_gramian, not_finite, threads_for
from pcl_kernels._registry import define, plain


def _cpu(gram: Tensor, c: float) -> Tensor:
    k, batch = gram.shape[-1], gram.shape[:-2]
    gram = gram.contiguous()
    out = torch.empty(gram.shape[:-1], dtype=torch.float64)
    status = torch.empty(batch, dtype=torch.int32)
    count = status.numel()
    failed = _C.cagrad_dual(
        gram.data_ptr(),
        gram.dtype is torch.float32,
        c,
        out.data_ptr(),
        status.data_ptr(),
        count,
        k,
        threads_for(count, k),
    )
    if failed >= 0:
        where = f"gram[{failed // 8}]" if gram.dim() == 3 else "gram"
        raise not_finite(where) if failed % 8 == 2 else not_a_gramian(where)
    return out


def _fake(gram: Tensor, c: float) -> Tensor:
    return gram.new_empty(gram.shape[:-1], dtype=torch.float64)


_op = define("cagrad_dual(Tensor gram, float c) -> Tensor", cpu=_cpu, fake=_fake)


def cagrad_dual(gram: Tensor, c: float = 0.5) -> Tensor:
    """argmin over w >= 0, Σw = 1 of wᵀb + c‖g₀‖√(wᵀGw), with g₀ = Σ g_i/k and b_i = g_i·g₀.

    The dual of CAGrad (Liu et al. 2021, Algorithm 1), whose update is g₀ + c‖g₀‖ g_w/‖g_w‖, g_w = Σ w_i g_i.
    Solved exactly, not by descent: the minimum is the root of a piecewise quadratic in one variable. Good to
    1e-13 of the largest ‖g_i‖² for independent gradients and 1e-10 for dependent ones. Where norms lie more
    than 1e12 apart only feasibility and a value no worse than that of any single task are sure.

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric positive semidefinite; solved in float64.
        c: radius of the ball around g₀, >= 0; CAGrad takes values in [0, 1).

    Returns:
        w, float64, (k,) or (B, k) on the device of `gram`. Not differentiable: gradients stop here.

    Raises:
        TypeError, ValueError: wrong dtype or shape, c negative or not finite; on CPU also for NaN, Inf and a
            negative diagonal.
    """
    check_gram(gram)
    if not (math.isfinite(c) and c >= 0):
        raise ValueError(f"c: expected a finite number >= 0, got {c}. CAGrad takes values in [0, 1)")
    gram = gram.detach()
    if plain(gram):
        return _cpu(gram, float(c))
    out: Tensor = _op(gram, float(c))
    return out
