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
from pcl_kernels._registry import define, plain, unobserved
from pcl_kernels.firefly_split.checks import ACTIVATIONS
from pcl_kernels.firefly_split.layout import addresses, held, wide
from pcl_kernels.firefly_split.linear import stacked_biases
from pcl_kernels.firefly_split.op import _backward_op, split
from pcl_kernels.memory_edit.layout import threads_for

#: inputs times neurons up to which the transformed weights, 128 bytes for each, stay in the second-level cache
LARGEST = 8192


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
    padding: Any,
) -> Tensor | None:
    """The layer where all is as usual (csrc/firefly_usual.hpp); None, and nothing done, where it is not."""
    if not unobserved():
        return None
    y = _result(x, weight.shape[0], padding)
    tensors: list[object] = [x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror, y]
    options = list(padding), ACTIVATIONS[activation], torch.is_grad_enabled(), torch.get_num_threads()
    return y if _C.firefly_conv_usual(tensors, *options) else None


def suits(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> bool:
    """Whether this is a convolution of the kernel's kind, on float32 CPU tensors, and not too wide."""
    return (
        weight.shape[2:] == (3, 3)
        and x.dim() == 4
        and x.is_cpu
        and x.dtype == torch.float32
        and pair(stride) == pair(dilation) == (1, 1)
        and not isinstance(padding, str)
        and min(pair(padding)) >= 0
        and min(n + 2 * p - 2 for n, p in zip(x.shape[2:], pair(padding), strict=True)) > 0
        and min(x.numel(), weight.numel()) > 0
        and weight.shape[0] * weight.shape[1] <= LARGEST
    )


def pair(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def split_conv(
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
    padding: Sequence[int],
) -> Tensor:
    """What `split` makes of the convolution with [W; Δ], both `(m, n, 3, 3)`."""
    operands = x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror
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
    weight: Tensor,
    delta: Tensor,
    bias: Tensor | None,
    delta_bias: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    padding: Sequence[int],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The result, and with `keep` [a; d], which the backward pass reads."""
    given = (x, weight, delta, bias, delta_bias)
    y, z = _conv_fake(*given, epsilon, scale, shift, mirror, activation, padding, keep)
    last, weights_last = _channels_last(x), _channels_last(weight)
    orders = [torch.channels_last if of else torch.contiguous_format for of in (last, weights_last, weights_last)]
    orders += [torch.contiguous_format] * 2
    operands = [
        None if t is None else held(t).contiguous(memory_format=order) for t, order in zip(given, orders, strict=True)
    ]
    vectors = [wide(v) for v in (epsilon, scale, shift, mirror)]
    _C.firefly_conv(
        [*x.shape, y.shape[1], *padding],
        last,
        addresses(*operands),
        weights_last,
        addresses(*vectors),
        ACTIVATIONS[activation],
        y.data_ptr(),
        z.data_ptr() if keep else 0,
        threads_for(9 * y.numel()),
    )
    return y, z


def _conv_fake(
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
    padding: Sequence[int],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    m = len(weight)
    return _result(x, m, padding), _result(x, 2 * m, padding) if keep else x.new_empty(0)


def _result(x: Tensor, channels: int, padding: Sequence[int]) -> Tensor:
    """A new tensor for the convolution of x, in its memory order."""
    samples, _, height, width = x.shape
    size = (samples, channels, height + 2 * padding[0] - 2, width + 2 * padding[1] - 2)
    order = torch.channels_last if _channels_last(x) else torch.contiguous_format
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=order)


def _channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


_conv_op: Any = define(
    "firefly_conv(Tensor x, Tensor weight, Tensor delta, Tensor? bias, Tensor? delta_bias, Tensor epsilon, "
    "Tensor? scale, Tensor? shift, Tensor? mirror, str activation, int[] padding, bool keep) -> (Tensor, Tensor)",
    cpu=_conv_cpu,
    fake=_conv_fake,
)


class _Differentiable(torch.autograd.Function):
    """The compiled gradient behind the convolution and the library's through it."""

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
        padding: Sequence[int],
    ) -> Tensor:
        operands = x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror
        y, z = _conv_op(*operands, activation, padding, True)
        ctx.save_for_backward(*operands, z)
        ctx.options = (activation, list(padding))
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, z = ctx.saved_tensors
        activation, padding = ctx.options
        needs = (*ctx.needs_input_grad[: len(saved) - 1], False)  # nothing follows from mirror
        if torch.is_grad_enabled():
            return *_again(saved, activation, padding, needs, grad), None, None
        x, weight, delta, _, _, *vectors, mirror = saved
        m = len(weight)
        dz, _, sums = _backward_op(z, None, *vectors, mirror, activation, grad)
        of_x, of_weights, of_biases = torch.ops.aten.convolution_backward.default(
            *(dz, x, torch.cat([weight, delta]), [2 * m], [1, 1], padding, [1, 1], False, [0, 0], 1),
            [needs[0], needs[1] or needs[2], needs[3] or needs[4]],
        )
        halves = (h for pair in (of_weights, of_biases) for h in ((None, None) if pair is None else pair.split(m)))
        return (
            of_x,
            *(h if n else None for h, n in zip(halves, needs[1:5], strict=True)),
            *(None if v is None else g.to(v.dtype) for v, g in zip(vectors, sums, strict=True)),
            None,
            None,
            None,
        )


def _again(
    saved: Sequence[Tensor | None], activation: str, padding: list[int], needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The gradients of all operands, differentiable themselves."""
    # views, so that an operand that was made from another does not lead back to it
    again: list[Any] = [None if t is None else t.view_as(t) for t in saved]
    x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror = again
    z = F.conv2d(x, torch.cat([weight, delta]), stacked_biases(bias, delta_bias), 1, tuple(padding))
    y = split(z, None, epsilon, scale, shift, mirror, activation)
    wanted = [t for t, n in zip(again, needed, strict=True) if n]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if n else None for n in needed]
