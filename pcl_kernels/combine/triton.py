"""Weighted sums and fused updates on a GPU: every byte is read once and written once.

All kernels walk the blocks of a pointer table (`_pointers.py`), one program a block. Weights, sums and
steps are float64 and each element is rounded once. Where memory is the limit that is free, for the plain
weighted sum on gaming cards too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcl_kernels._gradients import aligned
from pcl_kernels._pointers import BLOCK, on, segments
from pcl_kernels.gramian.triton import TRITON_DTYPES


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
def _weighted(entry, weights, start, offsets, here, FIRST: tl.constexpr, TASKS: tl.constexpr,
              DTYPE: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """Σ w_i g_i over slots FIRST.. of a table row, in float64; an address of 0 adds nothing."""
    total = tl.zeros((BLOCK,), tl.float64)
    for i in range(TASKS):
        if tl.load(entry + FIRST + i) != 0:
            gradient = _tensor(entry, FIRST + i, start, DTYPE, ALIGNED)
            total += tl.load(weights + i) * tl.load(gradient + offsets, mask=here, other=0.0).to(tl.float64)
    return total


@triton.jit
def _rounded(x, DTYPE: tl.constexpr):
    """x in DTYPE, rounded once. bfloat16 is reached from float64 by way of float32 rounded to odd."""
    if x.dtype == tl.float64 and DTYPE == tl.bfloat16:
        nearest = x.to(tl.float32)
        lost = x - nearest.to(tl.float64)
        word = nearest.to(tl.int32, bitcast=True)
        outward = (lost > 0) == (nearest > 0)
        odd = tl.where((lost != 0) & (word % 2 == 0), tl.where(outward, word + 1, word - 1), word)
        high = (odd + 0x7FFF + ((odd >> 16) & 1)) >> 16
        return tl.where(x == x, high, 0x7FC0).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)


@triton.jit
def _combine(table, weights, segments, TASKS: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
             ALIGNED: tl.constexpr, ADD: tl.constexpr):  # fmt: skip
    """Slots: out, then the gradients."""
    entry, start, offsets, here = _place(table, segments, TASKS + 3, BLOCK, ALIGNED)
    total = _weighted(entry, weights, start, offsets, here, 1, TASKS, DTYPE, BLOCK, ALIGNED)
    out = _tensor(entry, 0, start, DTYPE, ALIGNED) + offsets
    if ADD:
        total += tl.load(out, mask=here).to(tl.float64)
    tl.store(out, _rounded(total, DTYPE), mask=here)


@triton.jit
def _sgd(table, weights, settings, segments, TASKS: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
         ALIGNED: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr):  # fmt: skip
    """Slots: parameter, buffer (if MOMENTUM), gradients. Settings: lr, momentum, 1 - dampening, decay."""
    SLOTS: tl.constexpr = 2 if MOMENTUM else 1
    entry, start, offsets, here = _place(table, segments, 2 + SLOTS + TASKS, BLOCK, ALIGNED)
    total = _weighted(entry, weights, start, offsets, here, SLOTS, TASKS, DTYPE, BLOCK, ALIGNED)
    at = _tensor(entry, 0, start, DTYPE, ALIGNED) + offsets
    parameter = tl.load(at, mask=here).to(tl.float64)
    change = total + tl.load(settings + 3) * parameter
    if MOMENTUM:
        momentum = tl.load(settings + 1)
        buffer_at = _tensor(entry, 1, start, DTYPE, ALIGNED) + offsets
        buffer = momentum * tl.load(buffer_at, mask=here).to(tl.float64) + tl.load(settings + 2) * change
        tl.store(buffer_at, _rounded(buffer, DTYPE), mask=here)
        change = change + momentum * buffer if NESTEROV else buffer
    tl.store(at, _rounded(parameter - tl.load(settings) * change, DTYPE), mask=here)


@triton.jit
def _adamw(table, weights, settings, segments, TASKS: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
           ALIGNED: tl.constexpr):  # fmt: skip
    """Slots: parameter, first and second moment, gradients.

    Settings: 1 - lr * decay, L2 penalty, beta1, beta2, lr / (1 - beta1^t), sqrt(1 - beta2^t), eps.
    """
    entry, start, offsets, here = _place(table, segments, 2 + 3 + TASKS, BLOCK, ALIGNED)
    total = _weighted(entry, weights, start, offsets, here, 3, TASKS, DTYPE, BLOCK, ALIGNED)
    at = _tensor(entry, 0, start, DTYPE, ALIGNED) + offsets
    first_at = _tensor(entry, 1, start, DTYPE, ALIGNED) + offsets
    second_at = _tensor(entry, 2, start, DTYPE, ALIGNED) + offsets
    beta1 = tl.load(settings + 2)
    beta2 = tl.load(settings + 3)
    parameter = tl.load(at, mask=here).to(tl.float64)
    gradient = total + tl.load(settings + 1) * parameter
    first = tl.load(first_at, mask=here).to(tl.float64)
    first += (gradient - first) * (1.0 - beta1)
    second = tl.load(second_at, mask=here).to(tl.float64)
    second = second * beta2 + (1.0 - beta2) * gradient * gradient
    tl.store(first_at, _rounded(first, DTYPE), mask=here)
    tl.store(second_at, _rounded(second, DTYPE), mask=here)
    scale = tl.sqrt(second) / tl.load(settings + 5) + tl.load(settings + 6)
    parameter = parameter * tl.load(settings) - tl.load(settings + 4) * first / scale
    tl.store(at, _rounded(parameter, DTYPE), mask=here)


def combine(grads: Sequence[Tensor | None], weights: Tensor, tasks: int) -> list[Tensor]:
    """Σ w_i g_i of every parameter p with a gradient, for `grads[p * tasks + i]`; weights float64."""
    parameters = [aligned(grads[p : p + tasks]) for p in range(0, len(grads), tasks)]
    firsts = [next((g for g in gradients if g is not None), None) for gradients in parameters]
    out = [None if first is None else torch.empty_like(first) for first in firsts]
    _launch(_combine, [[d, *g] for d, g in zip(out, parameters, strict=True)], weights, ADD=False)
    return [d for d in out if d is not None]


def combine_into(
    grads: Sequence[Tensor | None], weights: Tensor, tasks: int, out: Sequence[Tensor], accumulate: bool
) -> None:
    """`combine` into `out`, one tensor for every parameter with a gradient, or on top of its values."""
    _update(_combine, grads, weights, tasks, [out], ADD=accumulate)


def combine_sgd(
    grads: Sequence[Tensor | None],
    weights: Tensor,
    tasks: int,
    parameters: Sequence[Tensor],
    buffers: Sequence[Tensor] | None,
    settings: Tensor,
    nesterov: bool,
) -> None:
    """One step of `torch.optim.SGD` along Σ w_i g_i, for the parameters that have a gradient at all.

    settings: float64 tensor [lr, momentum, 1 - dampening, weight decay]. It is read on the device, so that a
    captured step follows it. Buffers of zeros and 1 - dampening = 1 make the first step.
    """
    written = [parameters] if buffers is None else [parameters, buffers]
    _update(_sgd, grads, weights, tasks, written, settings, MOMENTUM=buffers is not None, NESTEROV=nesterov)


def combine_adamw(
    grads: Sequence[Tensor | None],
    weights: Tensor,
    tasks: int,
    parameters: Sequence[Tensor],
    first_moments: Sequence[Tensor],
    second_moments: Sequence[Tensor],
    settings: Tensor,
) -> None:
    """Step t of `torch.optim.AdamW` along Σ w_i g_i (or of `Adam`, by an L2 penalty).

    settings: float64 tensor [1 - lr * decay, L2 penalty, beta1, beta2, lr / (1 - beta1^t), sqrt(1 -
    beta2^t), eps], read on the device.
    """
    _update(_adamw, grads, weights, tasks, [parameters, first_moments, second_moments], settings)


def _update(
    kernel: Any,
    grads: Sequence[Tensor | None],
    weights: Tensor,
    tasks: int,
    written: Sequence[Sequence[Tensor]],
    *operands: Tensor,
    **constants: Any,
) -> None:
    """Run `kernel`, which writes `written[...][n]` for the n-th parameter that has a gradient."""
    gradients = [grads[p : p + tasks] for p in range(0, len(grads), tasks)]
    used = [g for g in gradients if any(t is not None for t in g)]
    targets = list(zip(*written, strict=True))
    slots = [aligned([*target, *g]) for target, g in zip(targets, used, strict=True)]
    _launch(kernel, slots, weights, *operands, **constants)
    for target, slot in zip(targets, slots, strict=True):
        for original, copy in zip(target, slot, strict=False):
            if copy is not None and copy is not original:
                original.copy_(copy)


def _launch(
    kernel: Any,
    slots: Sequence[Sequence[Tensor | None]],
    weights: Tensor,
    *operands: Tensor,
    **constants: Any,
) -> None:
    """Run `kernel` over `slots[p]`, the tensors of parameter p in the order of the kernel's slots."""
    weights = weights.contiguous()
    with on(weights.device):
        for part in segments(slots):
            kernel[(part.blocks,)](
                *(part.table(weights.device), weights, *operands, part.count),
                TASKS=weights.numel(),
                DTYPE=TRITON_DTYPES[part.dtype],
                BLOCK=BLOCK,
                ALIGNED=part.aligned,
                num_warps=8,
                **constants,
            )
