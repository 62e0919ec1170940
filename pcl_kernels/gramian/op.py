"""The Gramian of task gradients: signature, checks, dispatch, autograd. The kernel is csrc/gramian.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._gradients import DTYPES, Grads, TaskGradients, operands, read
from pcl_kernels._registry import define, plain, unobserved
from pcl_kernels.combine.op import combine_tensors


def gramian(grads: Grads, *, out_dtype: torch.dtype | None = None) -> Tensor:
    """The Gramian G = J Jᵀ of k task gradients, G_ij = g_i · g_j.

    One pass over the bytes of the gradients where they lie; nothing is concatenated. Products and sums are
    float64 for every input dtype (products of float32, float16 and bfloat16 are exact there). Sums run over
    short chunks that are added pairwise, cut the same for every number of threads: the same input gives the
    same bits, however many threads work and in whichever of the three forms it comes.

    Args:
        grads: gradients of k ≥ 1 tasks, float16, bfloat16, float32 or float64: a `(k, m)` tensor, k tensors
            of one shape, or k lists of per-parameter tensors of any shapes, where None is a zero gradient.
            The k gradients of one parameter have one shape and dtype; dtypes may differ between parameters.
            Gradients whose memory layouts agree without gaps (all contiguous, all channels-last, ...) are
            read in place; otherwise the non-contiguous ones of that parameter are copied first.
        out_dtype: dtype of the result, default float64. A float32 Gramian of nearly parallel gradients is
            indefinite by rounding.

    Returns:
        `(k, k)`, symmetric to the bit, on the gradients' device. Differentiable: the gradient with respect to
        g_i is Σ_j (Ḡ + Ḡᵀ)_ij g_j, where Ḡ is the gradient with respect to G.

    Raises:
        TypeError: a task's gradients are no floating-point tensors, or dtypes differ between tasks.
        ValueError: no task, or lists, shapes or devices that do not match.

    Source: EMGD (arXiv 2401.01054), the matrix of the quadratic programs of Eq. 5 and 8.
    """
    if out_dtype is not None and out_dtype not in DTYPES:
        raise TypeError(
            f"gramian: out_dtype must be float16, bfloat16, float32 or float64; got {out_dtype}. "
            "Leave it out for float64"
        )
    usual = _C.read(grads, (), torch.is_grad_enabled(), False) if unobserved() else None
    gram = _dispatch(read(grads, "gramian")) if usual is None else _compiled(usual)
    return gram if out_dtype is None or out_dtype == torch.float64 else gram.to(out_dtype)


def _dispatch(grads: TaskGradients) -> Tensor:
    present = grads.present()
    if plain(*present):
        return _cpu(grads.tensors, grads.tasks)
    if not present:
        return torch.zeros(grads.tasks, grads.tasks, dtype=torch.float64)
    if torch.is_grad_enabled() and any(t.requires_grad for t in present):
        result: Tensor = _Gramian.apply(grads.tasks, *grads.tensors)
        return result
    gram: Tensor = _op(grads.tensors, grads.tasks)
    return gram


def _cpu(grads: Sequence[Tensor | None], tasks: int) -> Tensor:
    found = operands(grads, tasks)  # holds copies, which must live through the call
    return _compiled(found.compiled)


def _compiled(operands: Any) -> Tensor:
    k = operands.tasks
    gram = torch.empty(k, k, dtype=torch.float64)
    _C.gramian(operands, gram.data_ptr(), torch.get_num_threads())
    return gram


def _fake(grads: Sequence[Tensor | None], tasks: int) -> Tensor:
    device = next(t.device for t in grads if t is not None)
    return torch.empty(tasks, tasks, dtype=torch.float64, device=device)


_op = define(
    "gramian(Tensor?[] grads, int tasks) -> Tensor",
    cpu=_cpu,
    fake=_fake,
    cuda="pcl_kernels.gramian.triton:gramian",
)


class _Gramian(torch.autograd.Function):
    """∂/∂g_i Σ_ab Ḡ_ab g_a·g_b = Σ_j (Ḡ + Ḡᵀ)_ij g_j: one weighted sum a task, itself differentiable."""

    @staticmethod
    def forward(tasks: int, *tensors: Tensor | None) -> Tensor:
        gram: Tensor = _op(list(tensors), tasks)
        return gram

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.tasks = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, k = list(ctx.saved_tensors), ctx.tasks
        weights = (grad + grad.T).to(torch.float64)  # (k, k)
        out: list[Tensor | None] = [None] * len(tensors)
        for i in range(k):
            if any(ctx.needs_input_grad[1 + i :: k]):
                for p, d in enumerate(combine_tensors(tensors, weights[i], k)):
                    if ctx.needs_input_grad[1 + p * k + i]:
                        out[p * k + i] = d
        return (None, *out)
