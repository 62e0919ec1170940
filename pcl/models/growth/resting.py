"""BatchNorm of which some channels must not change: those of finished tasks, and those that no task at hand uses.

They are normalised by their running statistics, which stay as they are, while the others are normalised by those of the
batch and move theirs, as always.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from pcl.models.growth.task_masks import TaskMasks


@contextmanager
def resting(root: nn.Module, channels: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block some channels of BatchNorm layers in training mode rest.

    Args:
        channels: by layer, ``(m,)`` bool, those that rest.
    """
    with ExitStack() as block:
        for name, rest in channels.items():
            norm: Any = root.get_submodule(name)
            if norm.training and norm.running_mean is not None:
                norm.forward = partial(_forward, norm, rest)  # hides that of its class
                block.callback(delattr, norm, "forward")
        yield


def channels_at_rest(
    backbone: nn.Module,
    rows: Mapping[str, str],
    used: Mapping[str, Tensor],
    tasks: Sequence[TaskMasks],
    *,
    locked: bool,
) -> dict[str, Tensor]:
    """By BatchNorm layer, the channels whose statistics must not move: those of finished tasks, and those that no task
    at hand uses.

    Args:
        backbone: of a growing model.
        rows: by layer, as ``backbone.`` and its name, the group of its channels; layers whose width is fixed are left
            out.
        used: by group, ``(m,)`` bool, what finished tasks use.
        tasks: the masks of the tasks at hand.
        locked: whether any task is finished.
    """
    found = {}
    for name, module in backbone.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        group = rows.get(f"backbone.{name}")
        if group is None:  # all tasks share it
            if locked:
                like = next(iter(used.values()))
                found[name] = torch.ones(module.num_features, dtype=torch.bool, device=like.device)
        elif locked or not all(masks.whole(group) for masks in tasks):
            found[name] = used[group] | ~torch.stack([masks.on(group) for masks in tasks]).any(dim=0)
    return found


def _forward(norm: _BatchNorm, rest: Tensor, x: Tensor) -> Tensor:
    if x.dim() < 2 or x.shape[1] != norm.num_features:  # which the operator below does not look at
        raise ValueError(f"BatchNorm: expected (B, {norm.num_features}, ...), got {tuple(x.shape)}")
    if x.numel() == x.shape[1]:
        raise ValueError(f"BatchNorm: expected more than 1 value per channel when training, got {tuple(x.shape)}")
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    weight = torch.ones_like(norm.running_mean) if norm.weight is None else norm.weight
    bias = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        moved = norm.running_mean.clone(), norm.running_var.clone()
        _, mean, inverse = torch.native_batch_norm(x, None, None, *moved, True, momentum, norm.eps)
        mean = torch.where(rest, norm.running_mean, mean)
        inverse = torch.where(rest, (norm.running_var + norm.eps).rsqrt(), inverse)
        for statistic, after in zip((norm.running_mean, norm.running_var), moved, strict=True):
            # through data: a pass of another task, whose backward is still to come, may have saved the buffer
            statistic.data.copy_(torch.where(rest, statistic, after))
    found: Tensor = _Normalised.apply(x, weight, bias, mean, inverse, rest, norm.eps)
    return found


class _Normalised(torch.autograd.Function):
    """y = (x - mean) * inverse * weight + bias per channel, in which mean and inverse are those of x, and depend on it,
    but in the channels that rest.

    With A = weight * inverse, u = (x - mean) * inverse, and k, l the means of g = dL/dy and of g u over a channel,

        dL/dx = A (g - k - u l),  A g where it rests,

    dL/dweight = sum g u, dL/dbias = sum g.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, rest: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, inverse, rest)
        ctx.eps = eps
        scale = weight * inverse
        return torch.addcmul(_along(bias - mean * scale, x), x, _along(scale, x)).to(x.dtype)  # rounded once

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, rest = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            g.contiguous(), x, weight, None, None, mean, inverse, True, ctx.eps, [True, True, True]
        )
        scale = torch.where(rest, weight * inverse, 0.0) * (len(mean) / x.numel())  # A / count where it rests
        slope = scale * of_weight * inverse
        of_x = of_x.addcmul(x, _along(slope, x)).add_(_along(scale * of_bias - mean * slope, x))  # + A (k + u l)
        return of_x.to(x.dtype), of_weight, of_bias, None, None, None, None


def _along(channels: Tensor, x: Tensor) -> Tensor:
    return channels.view(-1, *[1] * (x.dim() - 2))
