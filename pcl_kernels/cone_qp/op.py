"""`cone_qp`: checks, dispatch, fake, autograd. The solver is csrc/cone_qp.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._registry import define, plain

_f64, _f32 = torch.float64, torch.float32


def _cpu(gram: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The registered op: float32/float64 gram (..., k, k) and float64 b (k,) or (..., k) -> v, status."""
    k, batch = gram.shape[-1], gram.shape[:-2]
    gram, b = gram.contiguous(), b.contiguous()
    out = torch.empty(gram.shape[:-1], dtype=_f64)
    pivots = torch.empty(batch, dtype=torch.int32)
    status = torch.empty(batch, dtype=torch.int32)
    count = status.numel()
    failed = _C.cone_qp(
        gram.data_ptr(),
        gram.dtype is _f32,
        b.data_ptr(),
        k if b.dim() == gram.dim() - 1 and batch else 0,
        out.data_ptr(),
        pivots.data_ptr(),
        status.data_ptr(),
        count,
        k,
        torch.get_num_threads() if count > 16 and count * (k + 4) ** 2 > 20_000 else 1,
    )
    if failed >= 0:
        _refuse(failed, gram, b)
    return out, status


def _fake(gram: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return gram.new_empty(gram.shape[:-1], dtype=_f64), gram.new_empty(gram.shape[:-2], dtype=torch.int32)


_op = define("cone_qp(Tensor gram, Tensor b) -> (Tensor, Tensor)", cpu=_cpu, fake=_fake)


def _refuse(failed: int, gram: Tensor, b: Tensor) -> None:
    """Raise for problem `failed // 8` of a batch; `failed % 8` is a ConeStatus of csrc/cone_qp.cpp."""
    problem, reason = divmod(failed, 8)
    where = f"[{problem}]" if gram.dim() == 3 else ""
    if reason == 2:
        raise ValueError(
            f"gram{where} and b{where}: expected finite numbers, got NaN or Inf. A gradient overflowed or is "
            "undefined; look for the loss that is not finite, or skip this step"
        )
    if reason == 3:
        raise ValueError(
            f"gram{where}: expected a Gramian, whose diagonal holds squared norms, got a negative number there. "
            "Pass J @ J.T, not J or another matrix"
        )
    raise ValueError(
        f"b{where}: expected a bounded problem, but the objective falls without end: some v >= 0 has Gv = 0 and "
        "vᵀb < 0. With b = Jh for a vector h this cannot happen; check that b and gram are of the same gradients"
    )


class _Differentiable(torch.autograd.Function):
    """Implicit function theorem on the active set S, where G_SS v_S = -b_S.

    With u_S = G_SS⁻¹ dL/dv_S: dL/db = -u and dL/dG = -(uvᵀ + vuᵀ)/2.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, b: Tensor) -> Tensor:
        out: Tensor = _op(gram, b)[0]
        ctx.save_for_backward(gram, b, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gram, b, v = ctx.saved_tensors
        mask = (v > 0).double()
        g = gram.double()
        scale = torch.where(v > 0, g.diagonal(dim1=-2, dim2=-1), torch.ones_like(v)).rsqrt()
        inner = g * (mask * scale).unsqueeze(-1) * (mask * scale).unsqueeze(-2) + torch.diag_embed(1 - mask)
        right = (grad * mask * scale).unsqueeze(-1)
        u = (torch.linalg.pinv(inner, hermitian=True) @ right).squeeze(-1) * mask * scale
        outer = u.unsqueeze(-1) * v.unsqueeze(-2)
        d_gram = -0.5 * (outer + outer.transpose(-1, -2))
        d_b = -u if b.dim() == v.dim() else -u.sum(0)
        return d_gram.to(gram.dtype), d_b


def cone_qp(gram: Tensor, b: Tensor) -> Tensor:
    """argmin of 1/2 vᵀGv + vᵀb over v >= 0.

    With b = Jh this projects a vector h on the dual cone of the gradients: h + Jᵀv is the closest vector to h
    that conflicts with no g_i. GEM (Lopez-Paz and Ranzato 2017, Eq. 11) takes h the current gradient and J the
    memories'; UPGrad and DualProj (Quinton and Rey 2024) take h = g_i, b = G[:, i], and h = the mean.

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric (only the symmetric part counts) and positive
            semidefinite; solved in float64.
        b: (k,) or (B, k), any floating dtype.

    Returns:
        v, float64, (k,) or (B, k) on the device of `gram`; a minimiser also for dependent and zero gradients,
        the same one every time. Differentiable in `gram` and `b`.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device; on CPU also for NaN, Inf, a negative diagonal, and
            a problem without a minimum.
    """
    _check(gram, b)
    b = b.to(_f64)
    if plain(gram, b):
        return _cpu(gram, b)[0]
    out: Tensor = _Differentiable.apply(gram, b)
    return out


def _check(gram: Tensor, b: Tensor) -> None:
    for name, value in (("gram", gram), ("b", b)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}. Convert with torch.as_tensor")
    shape = tuple(gram.shape)
    if gram.dim() not in (2, 3) or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ValueError(f"gram: expected shape (k, k) or (B, k, k) with k >= 1, got {shape}. Pass J @ J.T")
    if gram.dtype not in (_f32, _f64):
        raise TypeError(f"gram: expected float32 or float64, got {gram.dtype}. Convert it with gram.double()")
    if tuple(b.shape) not in (shape[-1:], shape[:-1]):
        raise ValueError(f"b: expected shape {shape[:-1]} to go with gram {shape}, got {tuple(b.shape)}")
    if not b.dtype.is_floating_point:
        raise TypeError(f"b: expected a floating dtype, got {b.dtype}. Convert it with b.double()")
    if b.device != gram.device:
        raise ValueError(f"b: expected device {gram.device} as gram, got {b.device}. Move it with .to(gram.device)")
