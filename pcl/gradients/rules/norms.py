"""Normalisation layers, z = n(x) * W + c: their parameters are small, and their gradients sums over rows.

They run block by block. For BatchNorm that is a must: every task is normalised by its own batch, and running statistics
take the batches in the order of the tasks, as in one pass per task. For the others it costs nothing, and their
parameters' gradients come out task by task.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pcl.gradients.rows import Rows
from pcl.gradients.rules.rule import Rule, Saved, Small

aten = torch.ops.aten


def _named(layer: Any, gradients: list[tuple[Tensor, ...]]) -> Small:
    """Of (d x, d W, d c) for every block, those of the parameters that exist."""
    small: Small = {}
    for at, name in enumerate(("weight", "bias"), start=1):
        if getattr(layer, name, None) is not None:
            small[name] = [gradient[at] for gradient in gradients]
    return small


# ---- BatchNorm


def _batch_uncovered(layer: Any) -> str:
    if layer.training and not layer.track_running_stats and layer.running_mean is not None:
        return f"{layer} has running statistics that it neither uses nor updates"
    return ""


def _batch_forward(layer: Any, x: Tensor, rows: Rows) -> tuple[Tensor, Saved]:
    by_batch = _by_batch(layer)
    if by_batch and min(rows.sizes) * x[0, 0].numel() == 1:
        raise ValueError(f"{layer}: expected more than one value per channel of every task when training")
    means, scales = [], []
    z = torch.empty_like(x)
    for (_, block), (_, target) in zip(rows.of(x), rows.of(z), strict=True):
        found, mean, scale = aten.native_batch_norm(
            block,
            layer.weight,
            layer.bias,
            layer.running_mean,
            layer.running_var,
            by_batch,
            _count_batch(layer),
            layer.eps,
        )
        target.copy_(found)
        means.append(mean)
        scales.append(scale)
    return z, (x, *means, *scales)


def _by_batch(layer: Any) -> bool:
    return bool(layer.training or layer.running_mean is None)


def _count_batch(layer: Any) -> float:
    """The weight of the next batch in the running statistics."""
    if layer.training and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:  # the plain average of all batches
            return 1.0 / float(layer.num_batches_tracked)
    return 0.0 if layer.momentum is None else float(layer.momentum)


def _batch_backward(layer: Any, saved: Saved, delta: Tensor, rows: Rows, needed: bool) -> tuple[Tensor | None, Small]:
    x, *statistics = saved
    assert x is not None
    means, scales = statistics[: len(rows.sizes)], statistics[len(rows.sizes) :]
    fixed = (layer.weight, layer.running_mean, layer.running_var)
    rest = (_by_batch(layer), layer.eps, [needed, layer.weight is not None, layer.bias is not None])
    blocks = zip(rows.of(delta), rows.of(x), means, scales, strict=True)
    found = [
        aten.native_batch_norm_backward(d, block, *fixed, mean, scale, *rest)
        for (_, d), (_, block), mean, scale in blocks
    ]
    return torch.cat([f[0] for f in found]) if needed else None, _named(layer, found)


# ---- LayerNorm and GroupNorm: every row by itself


def _layer_forward(layer: nn.LayerNorm, x: Tensor, rows: Rows) -> tuple[Tensor, Saved]:
    z, mean, scale = aten.native_layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    return z, (x, mean, scale)


def _layer_backward(
    layer: nn.LayerNorm, saved: Saved, delta: Tensor, rows: Rows, needed: bool
) -> tuple[Tensor | None, Small]:
    mask = [needed, layer.weight is not None, layer.bias is not None]
    blocks = zip(rows.of(delta), *(rows.of(s) for s in saved if s is not None), strict=True)
    found = [
        aten.native_layer_norm_backward(d, x, layer.normalized_shape, mean, scale, layer.weight, layer.bias, mask)
        for (_, d), (_, x), (_, mean), (_, scale) in blocks
    ]
    return torch.cat([f[0] for f in found]) if needed else None, _named(layer, found)


def _group_forward(layer: nn.GroupNorm, x: Tensor, rows: Rows) -> tuple[Tensor, Saved]:
    x = x.contiguous()
    size, channels, positions = len(x), x.shape[1], x[0, 0].numel()
    z, mean, scale = aten.native_group_norm(
        x, layer.weight, layer.bias, size, channels, positions, layer.num_groups, layer.eps
    )
    return z, (x, mean, scale)


def _group_backward(
    layer: nn.GroupNorm, saved: Saved, delta: Tensor, rows: Rows, needed: bool
) -> tuple[Tensor | None, Small]:
    mask = [needed, layer.weight is not None, layer.bias is not None]
    blocks = zip(rows.of(delta.contiguous()), *(rows.of(s) for s in saved if s is not None), strict=True)
    found = [
        aten.native_group_norm_backward(
            d, x, mean, scale, layer.weight, len(x), x.shape[1], x[0, 0].numel(), layer.num_groups, mask
        )
        for (_, d), (_, x), (_, mean), (_, scale) in blocks
    ]
    return torch.cat([f[0] for f in found]) if needed else None, _named(layer, found)


BATCH_NORM = Rule(_batch_forward, _batch_backward, uncovered=_batch_uncovered)
LAYER_NORM = Rule(_layer_forward, _layer_backward)
GROUP_NORM = Rule(_group_forward, _group_backward)
