"""Weighted sums and fused updates on a GPU: every byte is read once and written once.

All kernels walk the blocks of a pointer table (`_pointers.py`), one program a block, and add Σ w_i g_i in float64:
weights are float64, each element is rounded once. That is free where memory is the limit, on gaming cards too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._pointers import BLOCK, segments, upload

_TRITON_DTYPE = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


@triton.jit
def _place(table, segments, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    """This program's row of the table, its first element there, and its offsets with their mask."""
    block = tl.program_id(0)
    low = 0
    high = segments
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(table + middle * WIDTH) <= block:
            low = middle
        else:
            high = middle
    entry = table + low * WIDTH
    start = (block - tl.load(entry)) * BLOCK
    offsets = tl.arange(0, BLOCK)
    size = tl.load(entry + 1)
    if ALIGNED:
        size = tl.multiple_of(size, 8)
    return entry + 2, start, offsets, offsets < size - start


@triton.jit
def _tensor(entry, slot, start, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """A pointer to element `start` of the tensor in `slot` of a table row."""
    pointer = tl.load(entry + slot).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer + start


@triton.jit
def _weighted(entry, weights, start, offsets, here, FIRST: tl.constexpr, TASKS: tl.constexpr, DTYPE: tl.constexpr,
              BLOCK: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """Σ w_i g_i over slots FIRST.. of a table row, in float64; an address of 0 adds nothing."""
    total = tl.zeros((BLOCK,), tl.float64)
    for i in range(TASKS):
        present = tl.load(entry + FIRST + i) != 0
        gradient = _tensor(entry, FIRST + i, start, DTYPE, ALIGNED)
        total += tl.load(weights + i) * tl.load(gradient + offsets, mask=here & present, other=0.0).to(tl.float64)
    return total


@triton.jit
def _combine(table, weights, segments, TASKS: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
             ALIGNED: tl.constexpr, ADD: tl.constexpr):  # fmt: skip
    """Slots: out, then the gradients."""
    entry, start, offsets, here = _place(table, segments, TASKS + 3, BLOCK, ALIGNED)
    total = _weighted(entry, weights, start, offsets, here, 1, TASKS, DTYPE, BLOCK, ALIGNED)
    out = _tensor(entry, 0, start, DTYPE, ALIGNED) + offsets
    if ADD:
        total += tl.load(out, mask=here).to(tl.float64)
    tl.store(out, total.to(DTYPE), mask=here)
