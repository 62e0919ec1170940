"""Rows and columns of tensors chosen anew, in plain float64 PyTorch: the block matrix is written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def firefly_apply(
    tensors: Sequence[Tensor],
    rows: Any = None,
    columns: Any = None,
    *,
    extra_rows: Sequence[Tensor | None] | None = None,
    extra_columns: Sequence[Tensor | None] | None = None,
    row_scale: Any = None,
    column_scale: Any = None,
) -> list[Tensor]:
    """out[r, c, ...] = row_scale[r] column_scale[c] src(rows[r], columns[c], ...) of every tensor; see `op`."""

    def one(value: Any, i: int) -> Any:
        return value if value is None or isinstance(value, Tensor) else value[i]

    given = (rows, columns, extra_rows, extra_columns, row_scale, column_scale)
    return [_one(t.detach(), *(one(value, i) for value in given)) for i, t in enumerate(tensors)]


def _one(t: Tensor, rows: Any, columns: Any, below: Any, right: Any, row_scale: Any, column_scale: Any) -> Tensor:
    source = t.double() if t.is_floating_point() else t
    if below is not None:
        source = torch.cat([source, below.to(source.dtype)])
    there = torch.ones_like(source, dtype=torch.bool)  # false where zeros are meant
    if right is not None:
        corner = right.new_zeros(len(source) - len(right), *right.shape[1:])
        source = torch.cat([source, torch.cat([right, corner]).to(source.dtype)], dim=1)
        there = torch.cat([there, torch.cat([torch.ones_like(right), corner]).bool()], dim=1)
    factor = torch.ones((), dtype=torch.float64, device=t.device)
    for dim, index, scale in ((0, rows, row_scale), (1, columns, column_scale)):
        if dim < t.dim():
            own = torch.arange(t.shape[dim], device=t.device)
            source, there = (_picked(x, dim, own if index is None else index) for x in (source, there))
        if scale is not None:
            factor = factor * scale.double().view(-1, *[1] * (source.dim() - dim - 1))
    if row_scale is not None or column_scale is not None:
        source = torch.where(there, source * factor, 0.0)
    return source.to(t.dtype).contiguous()


def _picked(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Entries `index` along `dim`; zeros for -1, which stand at the end."""
    size = list(x.shape)
    size[dim] = 1
    return torch.cat([x, x.new_zeros(size)], dim=dim).index_select(dim, index % (x.shape[dim] + 1))
