"""3 x 3 convolutions of stride 1 with split neurons on the CPU: reading, fake, gradient; kernel csrc/firefly_conv.cpp.

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
from pcl_kernels._registry import define, unobserved
from pcl_kernels.firefly_split.checks import ACTIVATIONS
from pcl_kernels.firefly_split.layout import addresses, held, wide
from pcl_kernels.firefly_split.whole_layer import Operands, WholeLayer, stacked_biases
from pcl_kernels.memory_edit.layout import threads_for

#: inputs times neurons up to which the transformed weights, 128 bytes for each, stay in the second-level cache
LARGEST = 8192


def usual(operands: Operands, activation: str, padding: Sequence[int]) -> Tensor | None:
    """The layer where all is as usual (csrc/firefly_usual.hpp); None, and nothing done, where it is not."""
    if not unobserved():
        return None
    x, weight = operands[:2]
    y = _result(x, weight.shape[0], padding)
    options = list(padding), ACTIVATIONS[activation], torch.is_grad_enabled(), threads_for(9 * y.numel())
    return y if _C.firefly_conv_usual([*operands, y], *options) else None


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


def stacked(
    x: Tensor, weight: Tensor, delta: Tensor, bias: Tensor | None, delta_bias: Tensor | None, padding: Sequence[int]
) -> Tensor:
    """[a; d] `(B, 2m, H', W')` by torch."""
    return F.conv2d(x, torch.cat([weight, delta]), stacked_biases(bias, delta_bias), 1, tuple(padding))


def _cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    *operands, activation, padding, keep = arguments
    y, z = _fake(*arguments)
    x, weight = operands[:2]
    last, weights_last = _channels_last(x), _channels_last(weight)
    orders = [torch.channels_last if of else torch.contiguous_format for of in (last, weights_last, weights_last)]
    orders += [torch.contiguous_format] * 2
    of_layer = [
        None if t is None else held(t).contiguous(memory_format=order)
        for t, order in zip(operands[:5], orders, strict=True)
    ]
    vectors = [wide(v) for v in operands[5:]]
    _C.firefly_conv(
        [*x.shape, y.shape[1], *padding],
        last,
        addresses(*of_layer),
        weights_last,
        addresses(*vectors),
        ACTIVATIONS[activation],
        y.data_ptr(),
        z.data_ptr() if keep else 0,
        threads_for(9 * y.numel()),
    )
    return y, z


def _fake(x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    m, (padding, keep) = len(weight), others[-2:]
    return _result(x, m, padding), _result(x, 2 * m, padding) if keep else x.new_empty(0)


def _result(x: Tensor, channels: int, padding: Sequence[int]) -> Tensor:
    """A new tensor for the convolution of x, in its memory order."""
    samples, _, height, width = x.shape
    size = (samples, channels, height + 2 * padding[0] - 2, width + 2 * padding[1] - 2)
    order = torch.channels_last if _channels_last(x) else torch.contiguous_format
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=order)


def _channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _backward(
    dz: Tensor, x: Tensor, weight: Tensor, delta: Tensor, needs: Sequence[bool], padding: Sequence[int]
) -> tuple[Tensor | None, ...]:
    m = len(weight)
    of_x, of_weights, of_biases = torch.ops.aten.convolution_backward.default(
        *(dz, x, torch.cat([weight, delta]), [2 * m], [1, 1], list(padding), [1, 1], False, [0, 0], 1),
        [needs[0], needs[1] or needs[2], needs[3] or needs[4]],
    )
    halves = [h for both in (of_weights, of_biases) for h in ((None, None) if both is None else both.split(m))]
    return of_x, *(h if n else None for h, n in zip(halves, needs[1:], strict=True))


_op = define(
    "firefly_conv(Tensor x, Tensor weight, Tensor delta, Tensor? bias, Tensor? delta_bias, Tensor epsilon, "
    "Tensor? scale, Tensor? shift, Tensor? mirror, str activation, int[] padding, bool keep) -> (Tensor, Tensor)",
    cpu=_cpu,
    fake=_fake,
)

#: x `(B, n, H, W)`, W and Δ `(m, n, 3, 3)`; padding is the option
split_conv = WholeLayer(_op, _cpu, stacked, _backward)
