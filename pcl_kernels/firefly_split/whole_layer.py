"""What layers of split neurons share that are one kernel each (linear.py, conv.py): dispatch and autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcl_kernels._registry import plain
from pcl_kernels.firefly_split.op import _backward_op, split

#: x, W, Δ, b, β, ε, s, t, mirror
Operands = tuple[
    Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None, Tensor | None, Tensor | None
]


@dataclass(frozen=True)
class WholeLayer:
    """A kind of layer. `options` are what its functions take beside the operands.

    Args:
        op: registered, `(*operands, activation, *options, keep)` to y and, with `keep`, [a; d].
        cpu: what it runs on the CPU.
        stacked: [a; d] by torch, from x, W, Δ, b, β and the options.
        backward: of a gradient of [a; d], x, W, Δ, which of the first five gradients are needed, and the options.
    """

    op: Callable[..., tuple[Tensor, Tensor]]
    cpu: Callable[..., tuple[Tensor, Tensor]]
    stacked: Callable[..., Tensor]
    backward: Callable[..., Sequence[Tensor | None]]

    def __call__(self, operands: Operands, activation: str, *options: Any) -> Tensor:
        """What `split` makes of [a; d]."""
        given = [t for t in operands if t is not None]
        if plain(*given):
            return self.cpu(*operands, activation, *options, False)[0]
        if torch.is_grad_enabled() and any(t.requires_grad for t in given):
            y: Tensor = _Differentiable.apply(self, activation, options, *operands)
            return y
        return self.op(*operands, activation, *options, False)[0]


def stacked_biases(bias: Tensor | None, delta_bias: Tensor | None) -> Tensor | None:
    """[b; β], zeros where one is missing."""
    if bias is None and delta_bias is None:
        return None
    first = torch.zeros_like(delta_bias) if bias is None else bias  # type: ignore[arg-type]
    return torch.cat([first, torch.zeros_like(first) if delta_bias is None else delta_bias])


class _Differentiable(torch.autograd.Function):
    """The compiled gradient behind the layer, and that of its kind through it."""

    @staticmethod
    def forward(
        ctx: Any, layer: WholeLayer, activation: str, options: tuple[Any, ...], *operands: Tensor | None
    ) -> Tensor:
        y, z = layer.op(*operands, activation, *options, True)
        ctx.save_for_backward(*operands, z)
        ctx.layer, ctx.activation, ctx.options = layer, activation, options
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *operands, z = ctx.saved_tensors
        layer, activation, options = ctx.layer, ctx.activation, ctx.options
        needs = (*ctx.needs_input_grad[3:-1], False)  # nothing follows from mirror
        if torch.is_grad_enabled():
            return None, None, None, *_again(layer, operands, activation, options, needs, grad)
        *of_layer, epsilon, scale, shift, mirror = operands
        vectors = epsilon, scale, shift
        dz, _, sums = _backward_op(z, None, *vectors, mirror, activation, grad)
        first = layer.backward(dz, *of_layer[:3], needs[:5], *options)
        last = (None if v is None else g.to(v.dtype) for v, g in zip(vectors, sums, strict=True))
        return None, None, None, *first, *last, None


def _again(
    layer: WholeLayer,
    operands: Sequence[Tensor | None],
    activation: str,
    options: tuple[Any, ...],
    needed: Sequence[bool],
    grad: Tensor,
) -> list[Tensor | None]:
    """The gradients of all operands, differentiable themselves."""
    # views, so that an operand that was made from another does not lead back to it
    again: list[Any] = [None if t is None else t.view_as(t) for t in operands]
    *of_layer, epsilon, scale, shift, mirror = again
    y = split(layer.stacked(*of_layer, *options), None, epsilon, scale, shift, mirror, activation)
    wanted = [t for t, n in zip(again, needed, strict=True) if n]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if n else None for n in needed]
