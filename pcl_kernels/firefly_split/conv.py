"""3 x 3 convolutions of stride 1 with split neurons on the CPU: dispatch, fake, autograd; kernel csrc/firefly_conv.cpp.

The library's convolution is at the limit of the processor's multiplications, of which two copies and a stack have the
same number. Winograd's F(2x2, 3x3) needs 16 in place of 36. Its sums mix a patch of 4 x 4 inputs, so that roundings are
relative to the largest of the patch; NaN or infinity in it reaches all four outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl_kernels import _C
from pcl_kernels._registry import define, plain
from pcl_kernels.firefly_split.checks import ACTIVATIONS
from pcl_kernels.firefly_split.layout import addresses, wide
from pcl_kernels.firefly_split.op import _backward_op, split
from pcl_kernels.memory_edit.layout import threads_for

#: inputs times neurons up to which the transformed weights, 128 bytes for each, stay in the second-level cache
LARGEST = 8192


def suits(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> bool:
    """Whether this is a convolution of the kernel's kind, on float32 CPU tensors, and not too wide."""
    return (
        tuple(weight.shape[2:]) == (3, 3)
        and x.is_cpu
        and x.dtype == torch.float32
        and pair(stride) == pair(dilation) == (1, 1)
        and not isinstance(padding, str)
        and min(n + 2 * p - 2 for n, p in zip(x.shape[2:], pair(padding), strict=True)) > 0
        and min(x.numel(), weight.numel()) > 0
        and weight.shape[0] * weight.shape[1] <= LARGEST
    )


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def split_conv(
    x: Tensor,
    stacked: Tensor,
    biases: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    padding: Sequence[int],
) -> Tensor:
    """What `split` makes of the convolution with [W; Δ] `(2m, n, 3, 3)`."""
    operands = x, stacked, biases, epsilon, scale, shift, mirror
    given = [t for t in operands if t is not None]
    if plain(*given):
        return _conv_cpu(*operands, activation, padding, False)[0]
    y: Tensor
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        y = _Differentiable.apply(*operands, activation, padding)
    else:
        y, _ = _conv_op(*operands, activation, padding, False)
    return y


def _conv_cpu(
    x: Tensor,
    stacked: Tensor,
    biases: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    padding: Sequence[int],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The result, and with `keep` [a; d], which the backward pass reads."""
    y, z = _conv_fake(x, stacked, biases, epsilon, scale, shift, mirror, activation, padding, keep)
    last = _channels_last(x)
    x = x.resolve_neg().contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    stacked = stacked.resolve_neg().contiguous()
    biases = None if biases is None else biases.resolve_neg().contiguous()
    vectors = [wide(v) for v in (epsilon, scale, shift, mirror)]
    _C.firefly_conv(
        [*x.shape, y.shape[1], *padding],
        last,
        x.data_ptr(),
        stacked.data_ptr(),
        0 if biases is None else biases.data_ptr(),
        addresses(*vectors),
        ACTIVATIONS[activation],
        y.data_ptr(),
        z.data_ptr() if keep else 0,
        threads_for(9 * y.numel()),
    )
    return y, z


def _conv_fake(
    x: Tensor,
    stacked: Tensor,
    biases: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    padding: Sequence[int],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    size = [n + 2 * p - 2 for n, p in zip(x.shape[2:], padding, strict=True)]
    order = torch.channels_last if _channels_last(x) else torch.contiguous_format
    y = torch.empty((len(x), len(stacked) // 2, *size), device=x.device, memory_format=order)
    z = torch.empty((len(x), len(stacked), *size), device=x.device, memory_format=order) if keep else x.new_empty(0)
    return y, z


def _channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


_conv_op: Any = define(
    "firefly_conv(Tensor x, Tensor stacked, Tensor? biases, Tensor epsilon, Tensor? scale, Tensor? shift, "
    "Tensor? mirror, str activation, int[] padding, bool keep) -> (Tensor, Tensor)",
    cpu=_conv_cpu,
    fake=_conv_fake,
)


class _Differentiable(torch.autograd.Function):
    """The compiled gradient behind the convolution and the library's through it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        stacked: Tensor,
        biases: Tensor | None,
        epsilon: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        mirror: Tensor | None,
        activation: str,
        padding: Sequence[int],
    ) -> Tensor:
        y, z = _conv_op(x, stacked, biases, epsilon, scale, shift, mirror, activation, padding, True)
        ctx.save_for_backward(x, stacked, biases, epsilon, scale, shift, mirror, z)
        ctx.options = (activation, padding)
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, z = ctx.saved_tensors
        activation, padding = ctx.options
        x, stacked, biases, *vectors, mirror = saved
        if torch.is_grad_enabled():
            # views, so that an operand that was made from another does not lead back to it
            again: list[Any] = [None if t is None else t.view_as(t) for t in saved]
            pre_activations = F.conv2d(again[0], again[1], again[2], 1, tuple(padding))
            y = split(pre_activations, None, again[3], again[4], again[5], again[6], activation)
            wanted = [t for t, needed in zip(again, ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:6]), None, None, None
        dz, _, sums = _backward_op(z, None, *vectors, mirror, activation, grad)
        of_conv = torch.ops.aten.convolution_backward.default(
            *(
                dz,
                x,
                stacked,
                None if biases is None else [len(stacked)],
                [1, 1],
                list(padding),
                [1, 1],
                False,
                [0, 0],
                1,
            ),
            [bool(needed) for needed in ctx.needs_input_grad[:3]],
        )
        of_vectors = (None if v is None else g.to(v.dtype) for v, g in zip(vectors, sums, strict=True))
        return *of_conv, *of_vectors, None, None, None
