"""`firefly_split_forward`: a layer whose neurons are all split, in one pass over its input by the library."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels.firefly_split import conv, linear
from pcl_kernels.firefly_split.checks import check_activation, check_channels, check_pair, check_tensor
from pcl_kernels.firefly_split.op import split
from pcl_kernels.firefly_split.reference import conv2d
from pcl_kernels.firefly_split.whole_layer import stacked_biases


def firefly_split_forward(
    x: Tensor,
    weight: Tensor,
    delta: Tensor,
    epsilon: Tensor,
    bias: Tensor | None = None,
    delta_bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    mirror: Tensor | None = None,
    activation: str = "relu",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """y = (act(s (a + ε d) + t) + act(s (a + mirror ε d) + t)) / 2 with a = W x + b and d = Δ x + β.

    One pass of the library over x with the stacked weights [W; Δ], then `firefly_split`. On float32 CPU tensors one
    kernel does all of a Linear layer (linear.py) and of thin 3 x 3 convolutions of stride 1 (conv.py, which says with
    which roundings).

    Args:
        x: `(..., n)` for a Linear layer, `(B, n, H, W)` for a convolution; float32, float64, float16 or bfloat16.
        weight: W `(m, n)` of a Linear layer or `(m, n, kh, kw)` of a convolution without groups; x's dtype.
        delta: Δ, of weight's shape and dtype.
        epsilon, scale, shift, mirror, activation: as for `firefly_split`.
        bias, delta_bias: b and β `(m,)` of x's dtype; 0 if None.
        stride, padding, dilation: those of the convolution, as `torch.nn.functional.conv2d` has them.

    Returns:
        `(..., m)` for a Linear layer, `(B, m, H', W')` for a convolution. Differentiable in every tensor but mirror.

    Raises:
        TypeError: for another dtype, or dtypes that differ.
        ValueError: for shapes or devices that do not match, or an activation that is not known.

    Source: Bo Liu's dissertation (2025), Sec. 5.2.2, f_{ε,δ}.
    """
    op = "firefly_split_forward"
    check_activation(op, activation)
    operands = x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror
    if isinstance(x, Tensor) and isinstance(weight, Tensor):
        usual: Tensor | None = None
        if weight.dim() == 2:
            usual = linear.usual(operands, activation)
        elif conv.suits(x, weight, stride, padding, dilation):
            usual = conv.usual(operands, activation, conv.pair(padding))
        if usual is not None:
            return usual
    check_tensor(op, "x", x)
    check_tensor(op, "weight", weight, x)
    if weight.dim() not in (2, 4):
        raise ValueError(
            f"{op}: weight: expected (m, n) of a Linear layer or (m, n, kh, kw) of a Conv2d, got {tuple(weight.shape)}"
        )
    inputs = x.shape[-1] if weight.dim() == 2 and x.dim() else x.shape[1] if x.dim() == 4 else None
    if inputs != weight.shape[1]:
        expected = f"(..., {weight.shape[1]})" if weight.dim() == 2 else f"(B, {weight.shape[1]}, H, W)"
        raise ValueError(
            f"{op}: x: expected shape {expected} for weight {tuple(weight.shape)}, got {tuple(x.shape)}. "
            "Groups are not supported"
        )
    check_pair(op, "delta", delta, "weight", weight)
    check_channels(
        op, weight.shape[0], x, epsilon=epsilon, scale=scale, shift=shift, mirror=mirror, bias=bias,
        delta_bias=delta_bias,
    )  # fmt: skip
    for name, value in (("bias", bias), ("delta_bias", delta_bias)):
        if value is not None:
            check_tensor(op, name, value, x)
    of_neurons = epsilon, scale, shift, mirror
    if weight.dim() == 2:
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        if linear.suits(rows, weight):
            y = linear.split_linear((rows, *operands[1:]), activation)
        else:
            y = split(linear.stacked(rows, weight, delta, bias, delta_bias), None, *of_neurons, activation)
        return y.view(*x.shape[:-1], len(weight))
    if conv.suits(x, weight, stride, padding, dilation):
        return conv.split_conv(operands, activation, conv.pair(padding))
    z = conv2d(x, torch.cat([weight, delta]), stacked_biases(bias, delta_bias), stride, padding, dilation)
    return split(z, None, *of_neurons, activation)
