"""In which order the numbers of a `(B, C, ...)` tensor lie for kernels that walk channels and positions."""

from __future__ import annotations

import torch
from torch import Tensor


def layout(v: Tensor) -> tuple[Tensor, bool]:
    """The tensor in memory that the kernels can walk, and whether that is channels-last."""
    v = v.resolve_neg()
    if v.is_contiguous():
        return v, False
    return v.movedim(1, -1).contiguous().movedim(-1, 1), True


def like_layout(t: Tensor, channels_last: bool) -> Tensor:
    """Another tensor of the shape in the same order."""
    t = t.resolve_neg()
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else t.contiguous()


def image(like: Tensor, *shape: int) -> Tensor:
    """A new tensor of this shape in channels-last memory."""
    return like.new_empty(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def channels_last(t: Tensor) -> Tensor:
    """The tensor in channels-last memory."""
    return t.resolve_neg().movedim(1, -1).contiguous().movedim(-1, 1)


def threads_for(numbers: int) -> int:
    """Threads of torch's pool for a kernel that reads so many numbers: one for small work."""
    return torch.get_num_threads() if numbers >= 1 << 17 else 1
