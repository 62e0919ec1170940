"""`cone_qp`: checks, dispatch, fake, autograd. The solver is csrc/cone_qp.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._checks import check_gram, check_vector, not_a_gramian, not_finite, threads_for
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
        threads_for(count, k),
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
        raise not_finite(f"gram{where} and b{where}")
    if reason == 3:
        raise not_a_gramian(f"gram{where}")
    raise ValueError(
        f"b{where}: expected a bounded problem, but the objective falls without end: some v >= 0 has Gv = 0 "
        "and vᵀb < 0. With b = Jh for a vector h this cannot happen; check that b and gram are of the same "
        "gradients"
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
    that conflicts with no g_i. GEM (Lopez-Paz and Ranzato 2017, Eq. 11) takes for h the current gradient and
    for J those of the memories; UPGrad (Quinton and Rey 2024) takes h = g_i, b = G[:, i]; DualProj the mean.

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric (only the symmetric part counts) and positive
            semidefinite; solved in float64.
        b: (k,) or (B, k), any floating dtype.

    Returns:
        v, float64, (k,) or (B, k) on the device of `gram`; a minimiser also for dependent and zero gradients,
        the same one every time. Differentiable in `gram` and `b`.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device; on CPU also for NaN, Inf, a negative diagonal,
            and a problem without a minimum.
    """
    check_gram(gram)
    check_vector("b", b, gram)
    b = b.to(_f64)
    if plain(gram, b):
        return _cpu(gram, b)[0]
    out: Tensor = _Differentiable.apply(gram, b)
    return out
