"""The weighted sum in plain float64 PyTorch: the truth that every kernel is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl_kernels._gradients import Grads


def combine(
    grads: Grads,
    weights: Tensor | Sequence[float],
    *,
    out: Tensor | Sequence[Tensor | None] | None = None,
    accumulate: bool = False,
) -> Tensor | list[Tensor | None]:
    """d_p = Σ_i w_i g_ip, summed in float64 and rounded to the gradients' dtype at the end."""
    listed = not isinstance(grads[0], Tensor)
    rows = [[g] if isinstance(g, Tensor) else list(g) for g in grads]
    given: list[Tensor | None] = [None] * len(rows[0])
    if out is not None:
        given = [out] if isinstance(out, Tensor) else list(out)
    sums: list[Tensor | None] = []
    for p, target in enumerate(given):
        column = [row[p] for row in rows]
        first = next((g for g in column if g is not None), target)
        if first is None:
            sums.append(None)
            continue
        total = torch.zeros_like(first, dtype=torch.float64)
        if target is not None and accumulate:
            total = target.to(torch.float64)
        for w, g in zip(weights, column, strict=True):
            if g is not None:
                total = total + w * g.to(torch.float64)
        total = total.to(first.dtype)
        sums.append(total if target is None else target.copy_(total))
    if listed:
        return sums
    assert sums[0] is not None
    return sums[0]
