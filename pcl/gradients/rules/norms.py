"""Normalisation layers, z = n(x) * W + c: their parameters are small, and their gradients sums over rows.

They run block by block. For BatchNorm that is a must: every task is normalised by its own batch, and running statistics
take the batches in the order of the tasks, as in one pass per task. For the others it costs nothing, and their
parameters' gradients come out task by task.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pcl.gradients.rows import Rows
from pcl.gradients.rules.rule import Rule, Saved, Small

aten = torch.ops.aten


def _gathered(
    layer: Any, x: Tensor, rows: Rows, needed: bool, blocks: Iterable[tuple[Tensor, ...]]
) -> tuple[Tensor | None, Small]:
    """From (d x, d W, d c) of every block, d x of all and the gradients of the parameters that exist."""
    dx = torch.empty_like(x) if needed else None
    targets = [None] * len(rows.sizes) if dx is None else dx.split(rows.sizes)
    small: Small = {name: [] for name in ("weight", "bias") if getattr(layer, name, None) is not None}
    for target, (of_x, *of_parameters) in zip(targets, blocks, strict=True):
        if target is not None:
            target.copy_(of_x)  # at once, while it is in the cache
        for name, gradient in zip(("weight", "bias"), of_parameters, strict=True):
            if name in small:
                small[name].append(gradient)
    return dx, small


def _mask(layer: Any, needed: bool) -> list[bool]:
    return [needed, layer.weight is not None, layer.bias is not None]


# ---- BatchNorm


def _batch_uncovered(layer: Any) -> str:
    if layer.training and not layer.track_running_stats and layer.running_mean is not None:
        return f"{layer} has running statistics that it neither uses nor updates"
    return ""


def _batch_forward(layer: Any, x: Tensor, rows: Rows) -> tuple[Tensor, Saved]:
    by_batch = _by_batch(layer)
    if by_batch and min(rows.sizes) * x[0, 0].numel() == 1:
        raise ValueError(f"{layer}: expected more than one value per channel of every task when training")
    z = torch.empty_like(x)
    statistics = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    # in training mean and 1 / deviation of every block; nothing otherwise
    means, scales = (x.new_empty(len(rows.sizes), x.shape[1] if by_batch else 0, dtype=_wide(x)) for _ in range(2))
    for block, out, mean, scale in zip(x.split(rows.sizes), z.split(rows.sizes), means, scales, strict=True):
        rest = (by_batch, _count_batch(layer), layer.eps)
        aten.native_batch_norm.out(block, *statistics, *rest, out=out, save_mean=mean, save_invstd=scale)
    return z, (x, means, scales)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


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
    x, means, scales = saved
    fixed = (layer.weight, layer.running_mean, layer.running_var)
    rest = (_by_batch(layer), layer.eps, _mask(layer, needed))
    blocks = zip(delta.split(rows.sizes), x.split(rows.sizes), means, scales, strict=True)
    found = (aten.native_batch_norm_backward(d, block, *fixed, mean, scale, *rest) for d, block, mean, scale in blocks)
    return _gathered(layer, x, rows, needed, found)


# ---- LayerNorm and GroupNorm: every row by itself


def _as_computed(x: Tensor) -> Tensor:
    """Autocast runs both in float32 on a GPU, and leaves them as they are on a CPU."""
    return x.float() if x.is_cuda and torch.is_autocast_enabled("cuda") else x


def _layer_forward(layer: nn.LayerNorm, x: Tensor, rows: Rows) -> tuple[Tensor, Saved]:
    x = _as_computed(x)
    z, mean, scale = aten.native_layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    return z, (x, mean, scale)


def _layer_backward(
    layer: nn.LayerNorm, saved: Saved, delta: Tensor, rows: Rows, needed: bool
) -> tuple[Tensor | None, Small]:
    x, mean, scale = saved
    rest = (layer.weight, layer.bias, _mask(layer, needed))
    found = (
        aten.native_layer_norm_backward(d, a, layer.normalized_shape, m, s, *rest)
        for d, a, m, s in zip(*(t.split(rows.sizes) for t in (delta, x, mean, scale)), strict=True)
    )
    return _gathered(layer, x, rows, needed, found)


def _group_forward(layer: nn.GroupNorm, x: Tensor, rows: Rows) -> tuple[Tensor, Saved]:
    x = _as_computed(x).contiguous()
    size, channels, positions = len(x), x.shape[1], x[0, 0].numel()
    z, mean, scale = aten.native_group_norm(
        x, layer.weight, layer.bias, size, channels, positions, layer.num_groups, layer.eps
    )
    return z, (x, mean, scale)


def _group_backward(
    layer: nn.GroupNorm, saved: Saved, delta: Tensor, rows: Rows, needed: bool
) -> tuple[Tensor | None, Small]:
    x, mean, scale = saved
    channels, positions = x.shape[1], x[0, 0].numel()
    found = (
        aten.native_group_norm_backward(
            d, a, m, s, layer.weight, len(a), channels, positions, layer.num_groups, _mask(layer, needed)
        )
        for d, a, m, s in zip(*(t.split(rows.sizes) for t in (delta.contiguous(), x, mean, scale)), strict=True)
    )
    return _gathered(layer, x, rows, needed, found)


BATCH_NORM = Rule(_batch_forward, _batch_backward, uncovered=_batch_uncovered)
LAYER_NORM = Rule(_layer_forward, _layer_backward)
GROUP_NORM = Rule(_group_forward, _group_backward)
