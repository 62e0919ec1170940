"""Linear layers with split neurons on the CPU: dispatch, fake, autograd; kernel csrc/firefly_linear.cpp.

One matrix product for [W; Δ] whose results are taken while they are in registers. Stacking the weights, writing the
pre-activations and reading them again took as long as a quarter of the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl_kernels import _C
from pcl_kernels._registry import define, plain, unobserved
from pcl_kernels.firefly_split.checks import ACTIVATIONS
from pcl_kernels.firefly_split.layout import addresses, held, wide
from pcl_kernels.firefly_split.op import _backward_op, split
from pcl_kernels.memory_edit.layout import threads_for


def usual(
    x: Tensor,
    weight: Tensor,
    delta: Tensor,
    bias: Tensor | None,
    delta_bias: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
) -> Tensor | None:
    """The layer where all is as usual (csrc/firefly_usual.hpp); None, and nothing done, where it is not."""
    if not (x.is_cpu and x.dim() and unobserved()):
        return None
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    tensors: list[object] = [x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror, y]
    options = ACTIVATIONS[activation], torch.is_grad_enabled(), torch.get_num_threads()
    return y if _C.firefly_linear_usual(tensors, *options) else None


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether these are float32 CPU tensors of a Linear layer, on a processor for which the kernel is written."""
    return (
        x.dtype == torch.float32
        and x.is_cpu
        and weight.dim() == 2
        and x.dim() > 0
        and min(x.numel(), weight.numel()) > 0
        and (
            torch.compiler.is_dynamo_compiling() or _C.isa() != "baseline"
        )  # a compiler cannot look into the extension
    )


def split_linear(
    x: Tensor,
    weight: Tensor,
    delta: Tensor,
    bias: Tensor | None,
    delta_bias: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
) -> Tensor:
    """What `split` makes of x `(B, n)` [W; Δ]ᵀ + [b; β]."""
    operands = x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror
    given = [t for t in operands if t is not None]
    if plain(*given):
        return _cpu(*operands, activation, False)[0]
    y: Tensor
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        y = _Differentiable.apply(*operands, activation)
    else:
        y, _ = _op(*operands, activation, False)
    return y


def _cpu(
    x: Tensor,
    weight: Tensor,
    delta: Tensor,
    bias: Tensor | None,
    delta_bias: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The result, and with `keep` [a; d], which the backward pass reads."""
    y, z = _fake(x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror, activation, keep)
    operands = [None if t is None else held(t).contiguous() for t in (x, weight, delta, bias, delta_bias)]
    vectors = [wide(v) for v in (epsilon, scale, shift, mirror)]
    _C.firefly_linear(
        [*x.shape, len(weight)],
        addresses(*operands),
        addresses(*vectors),
        ACTIVATIONS[activation],
        y.data_ptr(),
        z.data_ptr() if keep else 0,
        threads_for(x.numel() + 2 * weight.numel()),
    )
    return y, z


def _fake(
    x: Tensor,
    weight: Tensor,
    delta: Tensor,
    bias: Tensor | None,
    delta_bias: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), len(weight)), x.new_empty((len(x), 2 * len(weight)) if keep else (0,))


_op: Any = define(
    "firefly_linear(Tensor x, Tensor weight, Tensor delta, Tensor? bias, Tensor? delta_bias, Tensor epsilon, "
    "Tensor? scale, Tensor? shift, Tensor? mirror, str activation, bool keep) -> (Tensor, Tensor)",
    cpu=_cpu,
    fake=_fake,
)


def stacked_biases(bias: Tensor | None, delta_bias: Tensor | None) -> Tensor | None:
    """[b; β], zeros where one is missing."""
    if bias is None and delta_bias is None:
        return None
    first = torch.zeros_like(delta_bias) if bias is None else bias  # type: ignore[arg-type]
    return torch.cat([first, torch.zeros_like(first) if delta_bias is None else delta_bias])


class _Differentiable(torch.autograd.Function):
    """The compiled gradient behind the products and torch's products through them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        delta: Tensor,
        bias: Tensor | None,
        delta_bias: Tensor | None,
        epsilon: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        mirror: Tensor | None,
        activation: str,
    ) -> Tensor:
        operands = x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror
        y, z = _op(*operands, activation, True)
        ctx.save_for_backward(*operands, z)
        ctx.activation = activation
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, z = ctx.saved_tensors
        needs = (*ctx.needs_input_grad[: len(saved) - 1], False)  # nothing follows from mirror
        if torch.is_grad_enabled():
            return *_again(saved, ctx.activation, needs, grad), None
        x, weight, delta, _, _, *vectors, mirror = saved
        dz, _, sums = _backward_op(z, None, *vectors, mirror, ctx.activation, grad)
        of_a, of_d = dz.chunk(2, dim=1)
        return (
            torch.addmm(of_a @ weight, of_d, delta) if needs[0] else None,
            of_a.t() @ x if needs[1] else None,
            of_d.t() @ x if needs[2] else None,
            of_a.sum(0) if needs[3] else None,
            of_d.sum(0) if needs[4] else None,
            *(None if v is None else g.to(v.dtype) for v, g in zip(vectors, sums, strict=True)),
            None,
            None,
        )


def _again(
    saved: Sequence[Tensor | None], activation: str, needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The gradients of all operands, differentiable themselves."""
    # views, so that an operand that was made from another does not lead back to it
    again: list[Any] = [None if t is None else t.view_as(t) for t in saved]
    x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror = again
    z = F.linear(x, torch.cat([weight, delta]), stacked_biases(bias, delta_bias))
    y = split(z, None, epsilon, scale, shift, mirror, activation)
    wanted = [t for t, n in zip(again, needed, strict=True) if n]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if n else None for n in needed]
