"""Convolutions in one, two and three dimensions, with any stride, padding, dilation and number of groups."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl.gradients.rows import Rows
from pcl.gradients.rules.rule import ALL, Rule, Saved, Small, block_sums

_RUN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _pads_itself(layer: Any) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _prepare(layer: Any, x: Tensor) -> Tensor:
    if _pads_itself(layer) or layer.padding == "valid":
        return x
    if layer.padding == "same":
        total = [d * (size - 1) for d, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        both = [(t // 2, t - t // 2) for t in total]
    else:
        both = [(p, p) for p in layer.padding]
    sides = [side for pair in reversed(both) for side in pair]  # F.pad begins with the last axis
    return F.pad(x, sides, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def _padding(layer: Any) -> list[int]:
    return list(layer.padding) if _pads_itself(layer) else [0] * len(layer.kernel_size)


def _forward(layer: Any, x: Tensor, rows: Rows) -> tuple[Tensor, Saved]:
    run = _RUN[len(layer.kernel_size)]
    z = run(x, layer.weight, layer.bias, layer.stride, _padding(layer), layer.dilation, layer.groups)
    return z, (x.to(z.dtype),)


def _gradient(layer: Any, a: Tensor, delta: Tensor, weight: Tensor, of_weight: bool) -> Tensor:
    padding = _padding(layer)
    mask = [not of_weight, of_weight, False]
    rest = (layer.stride, padding, layer.dilation, False, [0] * len(padding), layer.groups, mask)
    found: Tensor = torch.ops.aten.convolution_backward(delta, a, weight, None, *rest)[int(of_weight)]
    return found


def _backward(layer: Any, saved: Saved, delta: Tensor, rows: Rows, needed: bool) -> tuple[Tensor | None, Small]:
    (a,) = saved
    small: Small = {}
    if layer.bias is not None:
        small["bias"] = block_sums(delta.flatten(2).sum(dim=2)[:, None], rows)
    if not needed:
        return None, small
    return _gradient(layer, a, delta, layer.weight.to(delta.dtype), of_weight=False), small


def _weight(layer: Any, a: Tensor, delta: Tensor, channels: slice) -> Tensor:
    # Only the shape of W matters here. A part of the channels is asked for only where there is one group.
    if channels != ALL:
        delta = delta[:, channels]
    weight = layer.weight[: delta.shape[1]].to(delta.dtype)
    return _gradient(layer, a, delta, weight, of_weight=True)


CONV = Rule(_forward, _backward, _weight, prepare=_prepare)
