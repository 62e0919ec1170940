"""Shortening a gradient that is too long."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl.gradients.result import Gradient


def clipped(gradients: Sequence[Tensor | None], norm: float) -> Gradient:
    """The gradient, multiplied by min(1, norm / |gradient|) with |.| over all its tensors; no wait for a GPU.

    New tensors; None stays None. A gradient whose norm is not finite becomes NaN.
    """
    present = [g for g in gradients if g is not None]
    if not present:
        return list(gradients)
    length = torch.stack([part.to(torch.float64) for part in torch._foreach_norm(present)]).norm()
    factor = torch.where(torch.isfinite(length), (norm / length).clamp(max=1.0), torch.nan)
    shorter = iter(torch._foreach_mul(present, factor.to(present[0].dtype)))
    return [None if g is None else next(shorter) for g in gradients]
