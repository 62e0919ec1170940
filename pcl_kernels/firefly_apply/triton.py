"""The regrown tensors on a GPU: one launch per tensor, which reads every number that it needs once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcl_kernels._pointers import on
from pcl_kernels.combine.triton import _rounded
from pcl_kernels.firefly_apply.op import out_shape
from pcl_kernels.gramian.triton import TRITON_DTYPES

TILE = 1024  # elements of one row
#: other dtypes are copied as words of their size
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _regrow(old, below, right, out, rows, columns, row_scale, column_scale, height, width, inner, more, tall, wide,
            out_columns, HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr, ROW_SCALE: tl.constexpr,
            COLUMN_SCALE: tl.constexpr, DTYPE: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """One program for a tile of one row. An index outside of the blocks, -1 among them, gives zeros."""
    r = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * TILE + tl.arange(0, TILE)
    here = at < out_columns * inner
    c = at // inner
    rest = at % inner
    row = r + tl.zeros((TILE,), tl.int64)
    if HAS_ROWS:
        row = tl.load(rows + row)
    column = c.to(tl.int64)
    if HAS_COLUMNS:
        column = tl.load(columns + c, mask=here, other=-1)
    left = here & (column >= 0) & (column < width)
    beyond = here & (column >= width) & (column < width + wide)
    of_old = left & (row >= 0) & (row < height)
    of_below = left & (row >= height) & (row < height + more)
    of_right = beyond & (row >= 0) & (row < tall)
    x = tl.load(old + (row * width + column) * inner + rest, mask=of_old, other=0)
    y = tl.load(below + ((row - height) * width + column) * inner + rest, mask=of_below, other=0)
    z = tl.load(right + (row * wide + column - width) * inner + rest, mask=of_right, other=0)
    found = tl.where(of_right, z, tl.where(of_below, y, x))
    if ROW_SCALE or COLUMN_SCALE:
        factor = tl.full((TILE,), 1.0, tl.float64)
        if ROW_SCALE:
            factor *= tl.load(row_scale + r)
        if COLUMN_SCALE:
            factor *= tl.load(column_scale + c, mask=here, other=1.0)
        grown = _rounded(factor * found.to(tl.float64), DTYPE)
        found = tl.where(of_old | of_below | of_right, grown, found)  # zeros stay, whatever the scale
    tl.store(out + r * out_columns * inner + at, found, mask=here)


def firefly_apply(tensors: list[Tensor], *lists: list[Tensor | None]) -> list[Tensor]:
    """`op.firefly_apply` after its checks."""
    made = []
    for t, rows, columns, below, right, row_scale, column_scale in zip(tensors, *lists, strict=True):
        out = torch.empty(out_shape(t, rows, columns), dtype=t.dtype, device=t.device)
        made.append(out)
        if not out.numel():
            continue
        scales = [s if s is None else s.double() for s in (row_scale, column_scale)]
        read = [x if x is None else x.resolve_neg().contiguous() for x in (t, below, right, rows, columns, *scales)]
        blocks = [out if x is None else x for x in (*read[:3], out)]
        if t.dtype not in TRITON_DTYPES:
            blocks = [x.view(WORDS[t.element_size()]) for x in blocks]
        indices = [out if x is None else x for x in read[3:]]
        width, inner = t.shape[1] if t.dim() > 1 else 1, t.shape[2:].numel()
        out_columns = out.shape[1] if out.dim() > 1 else 1
        sizes = (
            len(t),
            width,
            inner,
            0 if below is None else len(below),
            *((0, 0) if right is None else right.shape[:2]),
        )
        flags = zip(("HAS_ROWS", "HAS_COLUMNS", "ROW_SCALE", "COLUMN_SCALE"), read[3:], strict=True)
        constants = {name: x is not None for name, x in flags}
        grid = (len(out), triton.cdiv(out_columns * inner, TILE))
        with on(t.device):
            _regrow[grid](
                *blocks, *indices, *sizes, out_columns, **constants, DTYPE=TRITON_DTYPES.get(t.dtype), TILE=TILE
            )
    return made
